"""Which threshold may be used: Learn then Test over patients, with correctness that may be continuous.

For a threshold t, `d` of a patient is the sum of (correctness - target) over the claims whose confidence is t or more.
Claims above t are supported at least as well as the target where the mean of d over patients is above 0; its opposite
is the null hypothesis of t. Thresholds are tested from the highest to the lowest, each at the whole level, until one
cannot be rejected (a fixed sequence: Angelopoulos et al. 2021, "Learn then Test", arXiv:2110.01052), so that the
probability that any threshold is certified wrongly is at most the level.

The test is Student's t over the patients who have claims above t, one more added who failed in all of them: without
that one, twenty patients who were all right would have no variance and certify anything. It is an approximation for few
patients, so the sequence begins at the highest threshold that keeps claims of `FEWEST` of them, which confidences alone
decide. benchmarks/coverage.py shows how often it is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import t as student

from conrad_bench.leaderboards.metrics.base import FloatArray, Sample

FEWEST = 20
"""Patients with claims above the first threshold."""
STEPS = 40
"""Thresholds that are tested at most."""


@dataclass(frozen=True)
class Tested:
    """A threshold of the sequence."""

    threshold: float
    kept: int
    """Claims at or above it."""
    patients: int
    """Those who have such claims."""
    correctness: float
    """The claims' mean."""
    p: float
    """Of the null hypothesis that the claims are not supported as well as the target."""


@dataclass(frozen=True)
class Certified:
    """What a sample certifies."""

    threshold: float | None
    """The lowest threshold of the sequence that is certified; None where the first is not."""
    tested: list[Tested] = field(default_factory=list)
    """The highest first; empty where fewer than `FEWEST` patients have claims."""


def certify(sample: Sample, target: float, level: float) -> Certified:
    """Return the lowest threshold above which claims are supported at least as well as `target`, at 1 - `level`.

    `target` and `level` in (0, 1). Raises ValueError for others.
    """
    if not (0 < target < 1 and 0 < level < 1):
        raise ValueError("target and level lie between 0 and 1")
    tested: list[Tested] = []
    found = None
    confidence = sample.stated()
    for threshold in _thresholds(confidence):
        kept = confidence >= threshold
        claims = np.bincount(sample.unit[kept], minlength=sample.units)
        patients = int((claims > 0).sum())
        if patients < FEWEST:
            continue
        sums = np.zeros(sample.units)
        np.add.at(sums, sample.unit[kept], sample.correctness[kept] - target)
        p = _p(sums[claims > 0], -target * float(claims[claims > 0].mean()))
        tested.append(Tested(threshold, int(kept.sum()), patients, float(sample.correctness[kept].mean()), p))
        if p > level:
            break
        found = threshold
    return Certified(found, tested)


def _thresholds(confidence: FloatArray) -> list[float]:
    """Return the confidences that are tested, the highest first; they do not depend on correctness."""
    values = np.unique(confidence)
    if len(values) > STEPS:
        at = np.linspace(0, len(confidence) - 1, STEPS).round().astype(int)
        values = np.unique(np.sort(confidence)[at])
    return [float(value) for value in values[::-1]]


def _p(sums: FloatArray, failed: float) -> float:
    """Return p of the null hypothesis that the mean of the patients' sums is at most 0."""
    d = np.append(sums, failed)
    error = float(d.std(ddof=1)) / np.sqrt(len(d))
    return float(student.sf(float(d.mean()) / error, len(d) - 1))
