"""Bootstrap intervals: resample units (clusters, or claims) with replacement, all statistics under the same weights.

Drawing as many of C units as there are, with replacement, gives each unit a whole-number weight; a replicate of a
statistic is its value under those weights. The weights depend on the seed and C alone, so everything that is computed
over the same units (all metrics of all methods of a task) is paired. Resampling whole patients keeps the dependence
between studies of a patient, which resampling single claims would lose (Davison & Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from conrad_bench.leaderboards.metrics import FloatArray, Statistic

LEVEL = 0.95
_BLOCK_CELLS = 2**20
"""Weights that are in memory at one time (8 MiB, and a few times that within a statistic)."""


def weight_blocks(units: int, replicates: int, seed: int, block: int) -> Iterator[FloatArray]:
    """Yield weights in blocks of shape (at most `block`, units); the block's size does not change the draws."""
    generator = np.random.default_rng(seed)
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        drawn = generator.integers(units, size=(size, units))
        drawn += units * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def bootstrap(statistics: Sequence[Statistic], units: int, replicates: int, seed: int, width: int = 0) -> FloatArray:
    """Return the replicates of each statistic under shared weights, shape (len(statistics), replicates).

    `width` is the largest number of claims in any of the samples; it bounds the memory of statistics that spread the
    weights over claims.
    """
    values = np.empty((len(statistics), replicates))
    done = 0
    for weights in weight_blocks(units, replicates, seed, max(1, _BLOCK_CELLS // max(units, width))):
        for row, statistic in zip(values, statistics, strict=True):
            row[done : done + len(weights)] = statistic(weights)
        done += len(weights)
    return values


def interval(replicates: FloatArray) -> tuple[float, float]:
    """Return the 95 % percentile interval of replicates (B,), over those that are defined.

    (NaN, NaN) where fewer than half of them are defined: an interval of a minority would describe other data.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined) or 2 * len(defined) < len(replicates):
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)
