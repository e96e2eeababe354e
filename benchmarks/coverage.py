"""Do the intervals cover, and do the tests keep their level, when claims of one patient depend on each other?

    python benchmarks/coverage.py [--worlds 1000] [--replicates 1000] [--seed 0]

Worlds of the shape of MIMIC-CXR's test split (2,347 studies of 289 patients) are drawn, with a given intraclass
correlation (ICC) of correctness, and of confidence, within a patient. Each world is judged twice: by patients, as the
leaderboards do, and by single studies, as is usual. Prints the tables of docs/statistics.md.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
from scipy.special import ndtr, ndtri

from conrad_bench.leaderboards.inference.bootstrap import bootstrap, interval
from conrad_bench.leaderboards.inference.comparisons import permutation_p
from conrad_bench.leaderboards.inference.null_band import null_band
from conrad_bench.leaderboards.metrics.base import FloatArray, IntArray, Metric, Sample
from conrad_bench.leaderboards.metrics.calibration import ECE, Brier, DebiasedECE
from conrad_bench.leaderboards.metrics.discrimination import AUROC, Pearson

STUDIES, PATIENTS = 2_347, 289
ICCS = (0.05, 0.1, 0.2)
METRICS: dict[str, Metric] = {"Brier": Brier(), "Pearson r": Pearson(), "AUROC": AUROC()}
TRUTH_PATIENTS = 400_000


def patients(random: np.random.Generator) -> IntArray:
    """Return the patient of each study (STUDIES,): everyone has one, the others fall on few patients with many."""
    share = random.gamma(0.7, size=PATIENTS)
    extra = random.choice(PATIENTS, STUDIES - PATIENTS, p=share / share.sum())
    return np.sort(np.concatenate([np.arange(PATIENTS), extra]))


def normal(random: np.random.Generator, unit: IntArray, icc: float) -> FloatArray:
    """Return standard normal numbers (n,) with an intraclass correlation."""
    shared = random.standard_normal(int(unit.max()) + 1)[unit]
    return np.asarray(math.sqrt(icc) * shared + math.sqrt(1 - icc) * random.standard_normal(len(unit)))


def stated(random: np.random.Generator, unit: IntArray, icc: float, binary: bool) -> tuple[FloatArray, FloatArray]:
    """Return confidences in tenths, too high and correlated with correctness, and correctness; each (n,).

    Binary correctness cuts a normal number at 0, whose ICC is chosen so that the cut one has the one asked for.
    """
    latent = math.sin(math.pi / 2 * icc) if binary else icc
    right = normal(random, unit, latent)
    belief = 0.5 * right + math.sqrt(0.75) * normal(random, unit, latent)
    correctness = (right > 0).astype(float) if binary else ndtr(0.8 * right)
    return np.rint(10 * ndtr(0.7 * belief + 0.8)) / 10, correctness


def calibrated(random: np.random.Generator, unit: IntArray, icc: float, binary: bool) -> tuple[FloatArray, FloatArray]:
    """Return confidences in tenths and a correctness whose mean at each confidence is that confidence; each (n,)."""
    confidence = np.clip(np.rint(10 * ndtr(normal(random, unit, icc))), 2, 8) / 10
    if binary:
        return confidence, (normal(random, unit, math.sin(math.pi / 2 * icc)) < ndtri(confidence)).astype(float)
    # Sums of two uniform numbers: bounded, so that correctness stays in [0, 1] without a cut.
    shared, own = random.uniform(-1, 1, int(unit.max()) + 1)[unit], random.uniform(-1, 1, len(unit))
    return confidence, confidence + 0.14 * (math.sqrt(icc) * shared + math.sqrt(1 - icc) * own)


def samples(confidence: FloatArray, correctness: FloatArray, unit: IntArray) -> dict[str, Sample]:
    """Return the claims with patients and with single studies as resampling units."""
    n = len(unit)
    return {
        "patients": Sample(confidence, correctness, unit, int(unit.max()) + 1),
        "studies": Sample(confidence, correctness, np.arange(n), n),
    }


def cover(worlds: int, replicates: int, seed: int) -> None:
    """Print how often the 95 % intervals hold the truth, which a far larger world gives."""
    print(f"| ICC | metric | {' | '.join(f'by {by}' for by in ('patients', 'studies'))} |\n| --- | --- | --- | --- |")
    for icc in ICCS:
        for name, metric in METRICS.items():
            binary = metric.binary
            random = np.random.default_rng((seed, 7))
            unit = np.repeat(np.arange(TRUTH_PATIENTS), STUDIES // PATIENTS)
            many = Sample(*stated(random, unit, icc, binary), unit, TRUTH_PATIENTS)
            truth = many.value(metric.statistic(many))
            hits = dict.fromkeys(("patients", "studies"), 0)
            for world in range(worlds):
                random = np.random.default_rng((seed, world))
                unit = patients(random)
                for by, sample in samples(*stated(random, unit, icc, binary), unit).items():
                    drawn = bootstrap([metric.statistic(sample)], sample.units, replicates, world, len(sample))[0]
                    low, high = interval(drawn)
                    hits[by] += low <= truth <= high
            print(f"| {icc:g} | {name} | {' | '.join(f'{n / worlds:.3f}' for n in hits.values())} |", flush=True)


def null(worlds: int, replicates: int, seed: int) -> None:
    """Print how often a calibrated method's ECE lies in its null band, its p below 0.05, and the means of both ECEs."""
    print("\n| ICC | correctness | band by patients | band by studies | p < 0.05 by patients | by studies ", end="")
    print("| mean ECE | mean debiased ECE |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    for icc in ICCS:
        for binary in (True, False):
            inside = dict.fromkeys(("patients", "studies"), 0)
            small = dict.fromkeys(inside, 0)
            errors = []
            for world in range(worlds):
                random = np.random.default_rng((seed, world, 1))
                unit = patients(random)
                for by, sample in samples(*calibrated(random, unit, icc, binary), unit).items():
                    band = null_band(sample, replicates, world)
                    assert band is not None
                    ece = sample.value(ECE().statistic(sample))
                    inside[by] += band["low"] <= ece <= band["high"]
                    small[by] += band["p"] < 0.05
                    if by == "patients":
                        errors.append((ece, sample.value(DebiasedECE().statistic(sample))))
            cells = [f"{n / worlds:.3f}" for n in (*inside.values(), *small.values())]
            cells += [f"{mean:.4f}" for mean in np.mean(errors, axis=0)]
            print(f"| {icc:g} | {'binary' if binary else 'continuous'} | {' | '.join(cells)} |", flush=True)


def level(worlds: int, replicates: int, seed: int) -> None:
    """Print how often two methods that are equally good are found to differ at 0.05."""
    metrics: tuple[Metric, ...] = (ECE(), *METRICS.values())
    print(f"\n| ICC | {' | '.join(f'{m.label}, {by}' for by in ('patients', 'studies') for m in metrics)} |")
    print("| " + " | ".join(["---"] * (1 + 2 * len(metrics))) + " |")
    for icc in ICCS:
        rejected = np.zeros((2, len(metrics)))
        for world in range(worlds):
            random = np.random.default_rng((seed, world, 2))
            unit = patients(random)
            latent = math.sin(math.pi / 2 * icc)
            right = normal(random, unit, latent)
            beliefs = [0.5 * right + math.sqrt(0.75) * normal(random, unit, latent) for _ in range(2)]
            confidences = [np.rint(10 * ndtr(0.7 * belief + 0.8)) / 10 for belief in beliefs]
            both = [samples(confidence, (right > 0).astype(float), unit) for confidence in confidences]
            for i, by in enumerate(("patients", "studies")):
                pair = both[0][by], both[1][by]
                for j, metric in enumerate(metrics):
                    rejected[i, j] += permutation_p([pair], metric, pair[0].units, replicates, world)[0] < 0.05
        print(f"| {icc:g} | {' | '.join(f'{n / worlds:.3f}' for n in rejected.ravel())} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Coverage of intervals and level of tests for clustered claims.")
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.process_time()
    for table in (cover, null, level):
        table(arguments.worlds, arguments.replicates, arguments.seed)
    print(f"\n{arguments.worlds} worlds, {arguments.replicates} replicates, {time.process_time() - start:.0f} s of CPU")


if __name__ == "__main__":
    main()
