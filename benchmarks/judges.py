"""Do intervals cover what other judges would have said? Worlds of several judges whose truth is known.

    python benchmarks/judges.py [--worlds 1000] [--replicates 400] [--patients 100] [--seed 0]

Prints the table of docs/statistics.md, Several judges. Judges differ in severity (a deviation of 0.05), err on each
claim on their own (0.1), and in the last rows prefer one of two methods, more or less (0.03 for the one, against the
other). The truth is what such judges say on average of all patients: known for the mean correctness, the mean over the
worlds for Brier. "Patients alone" takes the judges' mean for given.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import numpy as np

from conrad_bench.leaderboards.inference.bootstrap import Estimates
from conrad_bench.leaderboards.metrics.base import CORRECTNESS, Metric, Sample
from conrad_bench.leaderboards.metrics.calibration import Brier

CLAIMS = 4
METRICS: tuple[Metric, ...] = (CORRECTNESS, Brier())


def world(random: np.random.Generator, patients: int, judges: int, preference: float) -> tuple[Sample, Sample]:
    """Return two methods on the same examples, equally good, judged by the same judges."""
    unit = np.repeat(np.arange(patients), CLAIMS)
    severity = random.normal(0, 0.05, judges)
    shared = random.normal(0, 0.07, patients)[unit]
    preferred = random.normal(0, preference, judges)
    methods = []
    for sign in (1, -1):
        quality = 0.5 + shared + random.normal(0, 0.05, len(unit))
        judged = np.clip(
            quality[:, None] + severity + sign * preferred + random.normal(0, 0.1, (len(unit), judges)), 0, 1
        )
        confidence = np.clip(quality + 0.05 + random.normal(0, 0.1, len(unit)), 0, 1)
        methods.append(Sample(confidence, judged.mean(axis=1), unit, patients, np.arange(len(unit)), judged))
    return methods[0], methods[1]


def given(sample: Sample) -> Sample:
    """Return a sample whose correctness is taken for given."""
    return Sample(sample.confidence, sample.correctness, sample.unit, sample.units, sample.example)


def simulate(
    judges: int, preference: float, worlds: int, replicates: int, patients: int, seed: int
) -> Iterator[tuple[dict[str, dict[str, float]], dict[str, dict[str, float]], float]]:
    """Yield, for each world, each metric's interval with the judges in it and by patients alone, and the p of a
    difference in mean correctness of two methods that are equally good."""
    random = np.random.default_rng(seed)
    for number in range(worlds):
        mine, other = world(random, patients, judges, preference)
        alone = given(mine)
        wanted = [(sample, metric) for sample in (mine, other, alone) for metric in METRICS]
        estimates = Estimates(wanted, patients, replicates, number)
        yield (
            {metric.name: estimates.of(mine, metric) for metric in METRICS},
            {metric.name: estimates.of(alone, metric) for metric in METRICS},
            estimates.test(mine, other, CORRECTNESS).p,
        )


def coverage(
    judges: int, preference: float, worlds: int, replicates: int = 400, patients: int = 100, seed: int = 0
) -> dict[str, tuple[float, ...]]:
    """Return how often each metric's interval holds the truth, with the judges in it and by patients alone; and under
    "level" how often two equally good methods differ at 0.05."""
    found = list(simulate(judges, preference, worlds, replicates, patients, seed))
    shares: dict[str, tuple[float, ...]] = {}
    for name in (metric.name for metric in METRICS):
        truth = 0.5 if name == CORRECTNESS.name else float(np.mean([judged[name]["value"] for judged, _, _ in found]))
        sides = [[each[name] for each in intervals] for *intervals, _ in found]
        held = np.array([[each["low"] <= truth <= each["high"] for each in both] for both in sides])
        shares[name] = tuple(float(share) for share in held.mean(axis=0))
    return {**shares, "level": (float(np.mean([p < 0.05 for *_, p in found])),)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Coverage of intervals over patients and judges.")
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| judges | preference | correctness | patients alone | Brier | patients alone | p < 0.05, equally good |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for preference, judges in itertools.product((0.0, 0.03), (2, 3, 5)):
        found = coverage(judges, preference, arguments.worlds, arguments.replicates, arguments.patients, arguments.seed)
        numbers = [*found["correctness"], *found["brier"], *found["level"]]
        print(f"| {judges} | {preference} | {' | '.join(f'{number:.3f}' for number in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
