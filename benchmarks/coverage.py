"""Do the intervals cover, and do the tests keep their level, when claims of one patient depend on each other?

    python benchmarks/coverage.py [--worlds 1000] [--replicates 400] [--seed 0] [--only cover,level]

Prints the tables of docs/statistics.md from worlds whose truth is known (benchmarks/worlds.py). The first three have
the shape of MIMIC-CXR's test split (2,347 studies of 289 patients), judged by patients, as the leaderboards do, and by
single studies, as is usual. Where the software gives no interval or p value, "none" counts that, and the share beside
it is of the worlds in which it gives one.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.special import ndtr
from worlds import (
    ICC,
    PATIENTS,
    STUDIES,
    both_sides,
    calibrated,
    continuous,
    mimic_patients,
    nearly_sure,
    normal,
    off_by,
    patients,
    stated,
    unlike_scales,
)

from conrad_bench.leaderboards.inference.bootstrap import Estimates, IntervalKind, bootstrap, interval
from conrad_bench.leaderboards.inference.certify import certify
from conrad_bench.leaderboards.inference.gaps import widest_gap
from conrad_bench.leaderboards.inference.null_band import null_band
from conrad_bench.leaderboards.metrics.base import CORRECTNESS, FloatArray, IntArray, Metric, Sample, signed_square
from conrad_bench.leaderboards.metrics.calibration import ECE, Brier, DebiasedECE, InTheLarge, Skill
from conrad_bench.leaderboards.metrics.discrimination import AUROC, Pearson

ICCS = (0.05, 0.1, 0.2)
METRICS: dict[str, Metric] = {"Brier": Brier(), "Pearson r": Pearson(), "AUROC": AUROC()}
TRUTH_PATIENTS = 400_000
Random = np.random.Generator


def table(*columns: str) -> None:
    """Print the head of a table."""
    print(f"\n| {' | '.join(columns)} |\n| {' | '.join(['---'] * len(columns))} |")


def row(*cells: str) -> None:
    """Print a line of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def share(hits: Iterable[bool | float]) -> str:
    """Return the share of those that are known, and how many are not, where some are."""
    found = np.array(list(hits), float)
    none = np.isnan(found).mean()
    if none == 1:
        return "none"
    return f"{np.nanmean(found):.3f}" + (f" (none: {none:.2f})" if none >= 0.005 else "")


def covered(estimate: dict[str, float], truth: float) -> float:
    """Tell whether an interval holds the truth; NaN where there is none."""
    return float("nan") if math.isnan(estimate["low"]) else float(estimate["low"] <= truth <= estimate["high"])


def rejected(p: float) -> float:
    """Tell whether p is below 0.05; NaN where there is none."""
    return float("nan") if math.isnan(p) else float(p < 0.05)


def by_both(confidence: FloatArray, correctness: FloatArray, unit: IntArray) -> dict[str, Sample]:
    """Return the claims with patients and with single studies as resampling units."""
    n = len(unit)
    return {
        "patients": Sample(confidence, correctness, unit, int(unit.max()) + 1),
        "studies": Sample(confidence, correctness, np.arange(n), n),
    }


def sample_of(unit: IntArray, confidence: FloatArray, correctness: FloatArray) -> Sample:
    """Return claims with patients as units."""
    return Sample(confidence, correctness, unit, int(unit.max()) + 1)


def truth_of(metric: Metric, draw: Callable[[Random, IntArray], tuple[FloatArray, FloatArray]], seed: int) -> float:
    """Return a metric in a world that is large enough."""
    random = np.random.default_rng((seed, 7))
    unit = np.repeat(np.arange(TRUTH_PATIENTS), 4)
    many = sample_of(unit, *draw(random, unit))
    return many.value(metric.statistic(many))


def cover(worlds: int, replicates: int, seed: int) -> None:
    """Print how often the 95 % intervals hold the truth."""
    table("ICC", "metric", "by patients", "by studies")
    for icc in ICCS:
        for name, metric in METRICS.items():
            truth = truth_of(metric, lambda r, u, i=icc, m=metric: stated(r, u, i, m.binary), seed)
            hits: dict[str, list[float]] = {"patients": [], "studies": []}
            for world in range(worlds):
                random = np.random.default_rng((seed, world))
                unit = mimic_patients(random)
                for by, sample in by_both(*stated(random, unit, icc, metric.binary), unit).items():
                    found = Estimates([(sample, metric)], sample.units, replicates, world).of(sample, metric)
                    hits[by].append(covered(found, truth))
            row(f"{icc:g}", name, *map(share, hits.values()))


def null(worlds: int, replicates: int, seed: int) -> None:
    """Print how often a calibrated method's ECE lies in its null band, and its p is below 0.05."""
    table("ICC", "correctness", "band by patients", "band by studies", "p < 0.05 by patients", "by studies", "mean ECE")
    for icc in ICCS:
        for binary in (True, False):
            inside: dict[str, list[float]] = {"patients": [], "studies": []}
            small: dict[str, list[float]] = {"patients": [], "studies": []}
            eces = []
            for world in range(worlds):
                random = np.random.default_rng((seed, world, 1))
                unit = mimic_patients(random)
                for by, sample in by_both(*off_by(random, unit, 0, binary, icc), unit).items():
                    band = null_band(sample, replicates, world)
                    eces.append(sample.value(ECE().statistic(sample)))
                    known = isinstance(band, dict)
                    inside[by].append(float(band["low"] <= eces[-1] <= band["high"]) if known else float("nan"))
                    small[by].append(rejected(band["p"]) if known else float("nan"))
            cells = [*map(share, inside.values()), *map(share, small.values()), f"{np.mean(eces):.4f}"]
            row(f"{icc:g}", "binary" if binary else "continuous", *cells)


def level(worlds: int, replicates: int, seed: int) -> None:
    """Print how often two methods that are equally good are found to differ at 0.05."""
    metrics: tuple[Metric, ...] = (ECE(), DebiasedECE(), *METRICS.values())
    table("ICC", *(f"{m.label}, {by}" for by in ("patients", "studies") for m in metrics))
    for icc in ICCS:
        found: list[list[float]] = [[] for _ in range(2 * len(metrics))]
        for world in range(worlds):
            random = np.random.default_rng((seed, world, 2))
            unit = mimic_patients(random)
            latent = math.sin(math.pi / 2 * icc)
            right = normal(random, unit, latent)
            beliefs = [0.5 * right + math.sqrt(0.75) * normal(random, unit, latent) for _ in range(2)]
            confidences = [np.rint(10 * ndtr(0.7 * belief + 0.8)) / 10 for belief in beliefs]
            both = [by_both(confidence, (right > 0).astype(float), unit) for confidence in confidences]
            for i, by in enumerate(("patients", "studies")):
                p = compared(both[0][by], both[1][by], metrics, replicates, world)
                for j in range(len(metrics)):
                    found[i * len(metrics) + j].append(rejected(p[j]))
        row(f"{icc:g}", *map(share, found))


def compared(a: Sample, b: Sample, metrics: Sequence[Metric], replicates: int, seed: int) -> list[float]:
    """Return the p value of two methods' difference in each metric."""
    estimates = Estimates([(s, m) for m in metrics for s in (a, b)], a.units, replicates, seed)
    return [estimates.test(a, b, metric).p for metric in metrics]


def scales(worlds: int, replicates: int, seed: int) -> None:
    """Print how often methods differ at 0.05 whose confidences are on unlike scales, or err on opposite sides."""
    pairs: dict[str, tuple[Metric, Callable[[Random, IntArray], tuple[FloatArray, FloatArray, FloatArray]]]] = {
        "equal Pearson r, confidences around .9 and .55": (
            Pearson(),
            lambda r, u: unlike_scales(r, u, (0.3, 0.3), (0.9, 0.55)),
        ),
        "equal Pearson r, both around .9": (Pearson(), lambda r, u: unlike_scales(r, u, (0.3, 0.3), (0.9, 0.9))),
        "Pearson r .3 and .45, around .9 and .55": (
            Pearson(),
            lambda r, u: unlike_scales(r, u, (0.3, 0.45), (0.9, 0.55)),
        ),
        "equal ECE, +.1 and -.1": (ECE(), lambda r, u: both_sides(r, u, 0.1)),
        "equal cal. error, +.1 and -.1": (DebiasedECE(), lambda r, u: both_sides(r, u, 0.1)),
        "equal cal. error, +.03 and -.03": (DebiasedECE(), lambda r, u: both_sides(r, u, 0.03)),
    }
    table("two methods", *(f"{n} patients" for n in (30, 55, 261)))
    for name, (metric, draw) in pairs.items():
        cells = []
        for n in (30, 55, 261):
            found = []
            for world in range(worlds):
                random = np.random.default_rng((seed, world, 3))
                unit = patients(random, n, "equal" if n == 30 else "unequal")
                a, b, y = draw(random, unit)
                pair = sample_of(unit, a, y), sample_of(unit, b, y)
                found.append(rejected(compared(*pair, [metric], replicates, world)[0]))
            cells.append(share(found))
        row(name, *cells)


FEW = (("equal", 3), ("equal", 5), ("equal", 10), ("equal", 30), ("unequal", 30), ("unequal", 55), ("half", 60))


def few(worlds: int, replicates: int, seed: int) -> None:
    """Print coverage and level with few patients, and with one who has half of the claims."""
    metrics: tuple[Metric, ...] = (CORRECTNESS, *METRICS.values())
    truths = [truth_of(m, lambda r, u: stated(r, u, ICC, True), seed) for m in metrics]
    table("patients", "effective", *(f"covered, {m.label}" for m in metrics), "p < 0.05, Brier", "p of calibration")
    for kind, n in FEW:
        hits: list[list[float]] = [[] for _ in metrics]
        small, null_small, effective = [], [], []
        for world in range(worlds):
            random = np.random.default_rng((seed, world, 4))
            unit = patients(random, n, kind)
            confidence, y = stated(random, unit, ICC, True)
            sample = sample_of(unit, confidence, y)
            estimates = Estimates([(sample, m) for m in metrics], n, replicates, world)
            for into, metric, truth in zip(hits, metrics, truths, strict=True):
                into.append(covered(estimates.of(sample, metric), truth))
            # Two methods that are equally good: each claim's confidence goes to one of them, and the other is right.
            swap = random.integers(2, size=len(y)) == 1
            pair = (np.where(swap, confidence, y), np.where(swap, y, confidence))
            small.append(rejected(compared(*(sample_of(unit, c, y) for c in pair), [Brier()], replicates, world)[0]))
            band = null_band(sample_of(unit, *off_by(random, unit, 0, True)), replicates, world)
            null_small.append(rejected(band["p"]) if isinstance(band, dict) else float("nan"))
            effective.append(sample.effective)
        name = f"{n}, one with half of the claims" if kind == "half" else f"{n}, {kind}"
        row(name, f"{np.mean(effective):.0f}", *map(share, hits), share(small), share(null_small))


def errors(worlds: int, replicates: int, seed: int) -> None:
    """Print the root of the mean debiased squared error, its coverage, and that of ECE's percentiles."""
    table(
        "patients", "correctness", "truth", "cal. error", "its interval covers", "mean ECE", "percentiles of ECE cover"
    )
    for n in (55, 261):
        for binary in (True, False):
            for truth in (0.0, 0.01, 0.03, 0.1):
                squares, hits, eces, theirs = [], [], [], []
                for world in range(worlds):
                    random = np.random.default_rng((seed, world, 5))
                    unit = patients(random, n)
                    sample = sample_of(unit, *off_by(random, unit, truth, binary))
                    found = Estimates([(sample, DebiasedECE())], n, replicates, world).of(sample, DebiasedECE())
                    squares.append(float(signed_square(np.array(found["value"]))))
                    hits.append(covered(found, truth))
                    ece = ECE().statistic(sample)
                    eces.append(sample.value(ece))
                    low, high = interval(bootstrap([ece], n, replicates, world)[0])
                    theirs.append(low <= truth <= high)
                mean = float(np.mean(squares))
                cells = [f"{math.copysign(math.sqrt(abs(mean)), mean):.4f}", share(hits), f"{np.mean(eces):.4f}"]
                row(str(n), "binary" if binary else "continuous", f"{truth:g}", *cells, share(theirs))


def bands(worlds: int, replicates: int, seed: int) -> None:
    """Print how often p of calibration is below 0.05 for calibrated methods, in unkind worlds."""
    draws: dict[str, Callable[[Random, IntArray], tuple[FloatArray, FloatArray]]] = {
        "tenths, binary": lambda r, u: off_by(r, u, 0, True),
        "tenths, continuous correctness": lambda r, u: off_by(r, u, 0, False),
        "continuous confidences": continuous,
        "c = .95": lambda r, u: nearly_sure(r, u, 0.95),
        "c = .99": lambda r, u: nearly_sure(r, u, 0.99),
        "c = .99, all right": lambda r, u: nearly_sure(r, u, 1.0),
    }
    shapes = (("equal", 22), ("equal", 30), ("unequal", 55), ("unequal", 261), ("half", 60))
    table("calibrated method", *(f"{n} patients, {kind}" for kind, n in shapes))
    for name, draw in draws.items():
        cells = []
        for kind, n in shapes:
            found = []
            for world in range(worlds):
                random = np.random.default_rng((seed, world, 6))
                unit = np.arange(22) if n == 22 else patients(random, n, kind)
                band = null_band(sample_of(unit, *draw(random, unit)), replicates, world)
                found.append(rejected(band["p"]) if isinstance(band, dict) else float("nan"))
            cells.append(share(found))
        row(name, *cells)


def kinds(worlds: int, replicates: int, seed: int) -> None:
    """Print coverage of the three kinds of intervals."""
    table("patients", "metric", *("percentile", "basic", "bca"))
    for kind, n in (("equal", 30), ("unequal", 55), ("unequal", 261)):
        for name, metric in METRICS.items():
            truth = truth_of(metric, lambda r, u, m=metric: stated(r, u, ICC, m.binary), seed)
            hits: dict[IntervalKind, list[float]] = {"percentile": [], "basic": [], "bca": []}
            for world in range(worlds):
                random = np.random.default_rng((seed, world, 8))
                unit = patients(random, n, kind)
                sample = sample_of(unit, *stated(random, unit, ICC, metric.binary))
                for which, into in hits.items():
                    found = Estimates([(sample, metric)], n, replicates, world, which).of(sample, metric)
                    into.append(covered(found, truth))
            row(f"{n}, {kind}", name, *map(share, hits.values()))


def gaps(worlds: int, replicates: int, seed: int) -> None:
    """Print how often the best and the worst of five equal subgroups differ at 0.05."""
    table("patients", "Brier", "cal. error", "mean correctness")
    metrics: tuple[Metric, ...] = (Brier(), DebiasedECE(), CORRECTNESS)
    for n in (150, 500):
        found: list[list[float]] = [[] for _ in metrics]
        for world in range(worlds):
            random = np.random.default_rng((seed, world, 9))
            unit = patients(random, n)
            confidence, y = stated(random, unit, ICC, True)
            part = random.choice(5, len(unit), p=(0.35, 0.25, 0.2, 0.1, 0.1))
            parts = [Sample(confidence[part == k], y[part == k], unit[part == k], n) for k in range(5)]
            estimates = Estimates([(s, m) for s in parts for m in metrics], n, replicates, world)
            for into, metric in zip(found, metrics, strict=True):
                values = np.array([estimates.mean((s,), metric) for s in parts])
                drawn = np.stack([estimates.replicates((s,), metric) for s in parts])
                into.append(rejected(widest_gap(values, drawn, [s.effective for s in parts]).p))
        row(str(n), *map(share, found))


def seeds(worlds: int, replicates: int, seed: int) -> None:
    """Print how often the interval of a mean over training seeds holds the mean over all of them."""
    spread = 0.03  # of what a seed adds to every confidence; the standard error over patients is about 0.02
    metrics: tuple[Metric, ...] = (InTheLarge(), Brier(), DebiasedECE())
    least = truth_of(Brier(), lambda r, u: off_by(r, u, 0, True), seed)
    truths = (0.1, least + 0.1**2 + spread**2, math.sqrt(0.1**2 + spread**2))
    table("training seeds", *(f"covered, {m.label}" for m in metrics), "p < 0.05, two such methods, Brier")
    for number in (1, 2, 3, 5):
        hits: list[list[float]] = [[] for _ in metrics]
        small = []
        for world in range(worlds):
            random = np.random.default_rng((seed, world, 10))
            unit = patients(random, 261)
            confidence, y = off_by(random, unit, 0.1, True)
            shifts = spread * random.standard_normal((2, number))
            mine, other = (tuple(sample_of(unit, confidence + s, y) for s in of_method) for of_method in shifts)
            wanted = [(sample, m) for sample in (*mine, *other) for m in metrics]
            estimates = Estimates(wanted, 261, replicates, world)
            for into, metric, truth in zip(hits, metrics, truths, strict=True):
                into.append(covered(estimates.of(mine, metric), truth))
            small.append(rejected(estimates.test(mine, other, Brier()).p))
        row(str(number), *map(share, hits), share(small))


def gain(worlds: int, replicates: int, seed: int) -> None:
    """Print how often the interval of skill holds the truth: of confidences as stated, and of gentler ones."""
    skill = Skill()
    table("correctness", "confidences", "skill", "30 patients", "100 patients", "289 patients (MIMIC-CXR)")
    for binary, slope in ((True, 1.0), (True, 0.3), (False, 1.0), (False, 0.3)):
        truth = truth_of(skill, lambda r, u, b=binary, s=slope: gentler(r, u, b, s), seed)
        cells = []
        for number in (30, 100, PATIENTS):
            hits = []
            for world in range(worlds):
                random = np.random.default_rng((seed, world, 11))
                unit = mimic_patients(random) if number == PATIENTS else patients(random, number)
                sample = sample_of(unit, *gentler(random, unit, binary, slope))
                found = Estimates([(sample, skill)], sample.units, replicates, world).of(sample, skill)
                hits.append(covered(found, truth))
            cells.append(share(hits))
        names = "binary" if binary else "continuous", "as stated" if slope == 1 else "gentler"
        row(*names, f"{truth:.3f}", *cells)


def gentler(random: Random, unit: IntArray, binary: bool, slope: float) -> tuple[FloatArray, FloatArray]:
    """Return confidences as `stated`, drawn towards 0.5, and correctness; each (n,)."""
    confidence, correctness = stated(random, unit, ICC, binary)
    return 0.5 + slope * (confidence - 0.5), correctness


def certain(worlds: int, _replicates: int, seed: int) -> None:
    """Print how often a threshold is certified (target .85, probability .9), and how often wrongly."""
    iccs = (0.0, 0.3, 0.6, 0.9)
    table("patients", "claims of each", "correctness", *(f"wrong at ICC {icc:g}" for icc in iccs), "certified")
    for number, kind, binary in itertools.product((60, 200), ("equal", "unequal", "half"), (True, False)):
        found: dict[float, list[float | None]] = {icc: [] for icc in iccs}
        for icc, world in itertools.product(iccs, range(worlds)):
            random = np.random.default_rng((seed, world, 12))
            unit = patients(random, number, kind)
            sample = sample_of(unit, *calibrated(random, unit, icc, binary))
            found[icc].append(certify(sample, 0.85, 0.1).threshold)
        wrong = [share(t is not None and t < 0.7 for t in found[icc]) for icc in iccs]
        often = share(t is not None for each in found.values() for t in each)
        row(str(number), kind, "binary" if binary else "continuous", *wrong, often)


TABLES = (cover, null, level, scales, few, errors, bands, kinds, gaps, seeds, gain, certain)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Coverage of intervals and level of tests for clustered claims.")
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(each.__name__ for each in TABLES))
    arguments = parser.parse_args()
    print(f"{STUDIES:,} studies of {PATIENTS} patients in the first tables; {arguments.worlds} worlds")
    for each in TABLES:
        if each.__name__ in arguments.only.split(","):
            start = time.process_time()
            print(f"\n{each.__doc__}")
            each(arguments.worlds, arguments.replicates, arguments.seed)
            print(f"\n{each.__name__}: {time.process_time() - start:.0f} s of CPU")


if __name__ == "__main__":
    main()
