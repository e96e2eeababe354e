"""The gap between the best and the worst of several subgroups: is there one, and how large?

The best and the worst are picked by looking, so the gap of equal subgroups is above 0. Its chance is that of the range
of the subgroups' errors: each replicate's deviations from their mean, largest less smallest, under weights that all
subgroups share (one patient may be in several). The same range gives the interval, which holds for every two of the
subgroups at once (Tukey's method by bootstrap; Hochberg & Tamhane 1987, chapter 3), so p is below 0.05 exactly where it
excludes 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conrad_bench.leaderboards.inference.bootstrap import LEVEL, widening
from conrad_bench.leaderboards.metrics.base import FloatArray


@dataclass(frozen=True)
class Gap:
    """The largest value less the smallest, with interval and p value; NaN where they cannot be told."""

    lowest: int
    """Place of the smallest value."""
    highest: int
    value: float
    low: float
    high: float
    p: float


def widest_gap(values: FloatArray, replicates: FloatArray, effective: Sequence[float]) -> Gap:
    """Return the gap between k > 1 values that are all defined, from their replicates (k, B) under shared weights.

    `effective` has each subgroup's effective number of units, for which its deviations are widened. p = (1 + replicates
    whose range reaches the gap) / (1 + B), of the replicates in which all k are defined, which must be half of them.
    """
    lowest, highest = int(np.argmin(values)), int(np.argmax(values))
    value = float(values[highest] - values[lowest])
    defined = replicates[:, ~np.isnan(replicates).any(axis=0)]
    drawn = defined.shape[1]
    # As many ranges as this may reach the gap where p is below 0.05.
    may = math.ceil((1 - LEVEL) * (1 + drawn) - 1) - 1
    if 2 * drawn < replicates.shape[1] or may < 0:
        return Gap(lowest, highest, value, float("nan"), float("nan"), float("nan"))
    wider = np.array([widening(units) for units in effective])
    ranges = np.ptp((defined - defined.mean(axis=1, keepdims=True)) * wider[:, None], axis=0)
    half = float(np.sort(ranges)[::-1][may])
    p = (1 + int(np.sum(ranges >= value))) / (1 + drawn)
    return Gap(lowest, highest, value, value - half, value + half, p)
