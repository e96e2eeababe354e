"""Bootstrap intervals: resample units (clusters, or claims) with replacement, all statistics under the same weights.

Drawing as many of C units as there are, with replacement, gives each unit a whole-number weight; a replicate of a
statistic is its value under those weights. The weights depend on the seed and C alone, so everything that is computed
over the same units (all metrics of all methods of a task) is paired. Resampling whole patients keeps the dependence
between studies of a patient, which resampling single claims would lose (Davison & Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from conrad_bench.leaderboards.metrics.base import CORRECTNESS, FloatArray, Metric, Sample, Statistic

LEVEL = 0.95
IntervalKind = Literal["percentile", "basic", "bca"]
MOST_REPLICATES = 100_000
"""Intervals have settled long before; more is a slip of the pen, or a file that is meant to keep others busy."""
_BLOCK_CELLS, _MOST_CELLS = 2**17, 2**23
"""Weights of claims that are in memory at one time: 1 MiB, so that a statistic works within the processor's cache; 64
MiB at most for the sake of `_FEWEST` replicates."""
_FEWEST = 8
"""So many replicates at a time at least, so that what is read of each claim is used several times."""
_JACKKNIFE_GROUPS = 1000
"""Up to this many units the jackknife leaves out one at a time, above it that many groups of units."""
_ROUNDING = 1e-12
Estimate = dict[str, float]
"""A value with its interval: `value`, `low`, `high`; NaN where undefined."""


def weight_blocks(units: int, replicates: int, seed: int, block: int) -> Iterator[FloatArray]:
    """Yield weights in blocks of shape (at most `block`, units); the block's size does not change the draws."""
    generator = np.random.default_rng(seed)
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        drawn = generator.integers(units, size=(size, units))
        drawn += units * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def block_size(units: int, width: int = 0) -> int:
    """Return how many replicates to compute at a time, for `units` units and samples of at most `width` claims."""
    cells = max(units, width)
    return max(2, _BLOCK_CELLS // cells, min(_FEWEST, _MOST_CELLS // cells))


def bootstrap(statistics: Sequence[Statistic], units: int, replicates: int, seed: int, width: int = 0) -> FloatArray:
    """Return the replicates of each statistic under shared weights, shape (len(statistics), replicates).

    `width` is the largest number of claims in any of the samples; it bounds the memory of statistics that spread the
    weights over claims.
    """
    values = np.empty((len(statistics), replicates))
    done = 0
    for weights in weight_blocks(units, replicates, seed, block_size(units, width)):
        for row, statistic in zip(values, statistics, strict=True):
            row[done : done + len(weights)] = statistic(weights)
        done += len(weights)
    return values


def jackknife(statistic: Statistic, units: int) -> FloatArray:
    """Return a statistic without each unit in turn, shape (units,); without each of 1,000 groups where there are more.

    Leaving out groups of equal size, of every 1,000th unit, keeps the skewness that BCa asks of it (Efron & Tibshirani
    1993, section 11.5).
    """
    left_out = min(units, _JACKKNIFE_GROUPS)
    group = np.arange(units) % left_out
    step = block_size(units)
    blocks = [np.arange(start, min(start + step, left_out)) for start in range(0, left_out, step)]
    return np.concatenate([statistic((group != block[:, None]).astype(np.float64)) for block in blocks])


def interval(
    replicates: FloatArray,
    kind: IntervalKind = "percentile",
    value: float = float("nan"),
    left_out: FloatArray | None = None,
) -> tuple[float, float]:
    """Return a 95 % interval of replicates (B,), over those that are defined.

    "percentile" takes their quantiles. "basic" mirrors these at the `value` on the sample. "bca" moves them for the
    bias of the replicates around `value` and for the skewness of the jackknife values `left_out` (units,) (Efron 1987);
    without the latter, or where all replicates lie on one side of the value, it is the percentile interval. (NaN, NaN)
    where fewer than half of the replicates are defined: an interval of a minority would describe other data.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined) or 2 * len(defined) < len(replicates):
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    tails = (tail, 1 - tail)
    if kind == "bca" and left_out is not None:
        tails = _bca_tails(defined, value, left_out[~np.isnan(left_out)])
    low, high = (float(end) for end in np.quantile(defined, tails))
    return (2 * value - high, 2 * value - low) if kind == "basic" else (low, high)


def _bca_tails(replicates: FloatArray, value: float, left_out: FloatArray) -> tuple[float, float]:
    """Return the tails of the bias-corrected and accelerated interval."""
    from scipy.special import ndtr, ndtri

    tail = (1 - LEVEL) / 2
    # Ties with the value count one half: statistics of few distinct values have many. Sums in another order differ in
    # their last digits.
    below = float(np.mean(replicates < value - _ROUNDING) + np.mean(replicates <= value + _ROUNDING)) / 2
    if not 0 < below < 1 or len(left_out) < 2:
        return tail, 1 - tail
    influence = left_out.mean() - left_out
    spread = float((influence**2).sum()) ** 1.5
    acceleration = float((influence**3).sum()) / (6 * spread) if spread > 0 else 0.0
    bias = float(ndtri(below))
    ends = [bias + float(ndtri(end)) for end in (tail, 1 - tail)]
    low, high = (float(ndtr(bias + end / (1 - acceleration * end))) for end in ends)
    return low, high


class Estimates:
    """Values, and intervals from one set of weights, of metrics on samples over the same units."""

    def __init__(
        self,
        wanted: Iterable[tuple[Sample, Metric]],
        units: int,
        replicates: int,
        seed: int,
        kind: IntervalKind = "percentile",
    ) -> None:
        statistics = {key: key[1].statistic(key[0]) for key in wanted}
        self._kind = kind
        self._values = {key: key[0].value(statistic) for key, statistic in statistics.items()}
        resampled = {key: statistic for key, statistic in statistics.items() if key[1].interval}
        width = max((len(sample) for sample, _ in resampled), default=0)
        drawn = bootstrap(list(resampled.values()), units, replicates, seed, width)
        self._drawn = dict(zip(resampled, drawn, strict=True))
        self._left_out: dict[tuple[Sample, Metric], FloatArray] = {}
        if kind == "bca":
            smooth = {key: statistic for key, statistic in resampled.items() if key[1].smooth}
            self._left_out = {key: jackknife(statistic, units) for key, statistic in smooth.items()}

    def of(self, sample: Sample, metric: Metric = CORRECTNESS) -> Estimate:
        """Return a metric's value with its interval; one unit alone says nothing of how units vary."""
        key = sample, metric
        return self._estimate(sample, self._values[key], self._drawn.get(key), self._left_out.get(key))

    def difference(self, mine: Sample, other: Sample, metric: Metric = CORRECTNESS) -> Estimate:
        """Return the first value minus the second, with the interval of that difference under shared weights."""
        a, b = (mine, metric), (other, metric)
        left_out = self._left_out[a] - self._left_out[b] if a in self._left_out else None
        value = self._values[a] - self._values[b]
        return self._estimate(mine, value, self.differences(mine, other, metric), left_out)

    def differences(self, mine: Sample, other: Sample, metric: Metric) -> FloatArray:
        """Return the replicates of a difference, shape (replicates,)."""
        return np.asarray(self._drawn[mine, metric] - self._drawn[other, metric])

    def _estimate(
        self, sample: Sample, value: float, replicates: FloatArray | None, left_out: FloatArray | None
    ) -> Estimate:
        low, high = float("nan"), float("nan")
        if replicates is not None and not np.isnan(value) and sample.varies():
            low, high = interval(replicates, self._kind, value, left_out)
        return {"value": value, "low": low, "high": high}
