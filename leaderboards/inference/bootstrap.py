"""Bootstrap intervals and tests: resample units (clusters, or claims) with replacement, all under the same weights.

Drawing as many of C units as there are, with replacement, gives each unit a whole-number weight; a replicate of a
statistic is its value under those weights. The weights depend on the seed and C alone, so everything that is computed
over the same units (all metrics of all methods of a task) is paired. Resampling whole patients keeps the dependence
between studies of a patient, which resampling single claims would lose (Davison & Hinkley 1997, section 3.8).

A difference of two methods has the standard error of its replicates. Its interval and its p value are those of
Student's t with as many degrees of freedom as there are units, less one; so p is below 0.05 exactly where the interval
excludes 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from conrad_bench.leaderboards.metrics.base import (
    CORRECTNESS,
    FloatArray,
    Metric,
    OfSums,
    Sample,
    Statistic,
    signed_root,
    signed_square,
)

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
_JUDGE_REPLICATES = 400
"""Replicates that say how much judges' errors on single claims move a metric: a variance alone is taken of them."""
_ROUNDING = 1e-12
FEW_UNITS = 30
"""Below this effective number of units (`Sample.effective`) a reader is warned."""
LEAST_UNITS = 8
"""Below this effective number of units there is no interval and no p value: they would be far too small."""
_MANY_UNITS = 50
"""From this effective number of units on, basic and BCa intervals hold what they promise; below, percentiles do."""
Seeds = tuple[Sample, ...]
"""The samples of one method's training seeds, over the same units."""
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
    weights over claims. Statistics of sums share one product with the weights.
    """
    values = np.empty((len(statistics), replicates))
    of_sums = [(row, each) for row, each in zip(values, statistics, strict=True) if isinstance(each, OfSums)]
    others = [(row, each) for row, each in zip(values, statistics, strict=True) if not isinstance(each, OfSums)]
    terms = np.hstack([each.terms for _, each in of_sums]) if of_sums else np.empty((units, 0))
    ends = np.cumsum([each.terms.shape[1] for _, each in of_sums])
    few = block_size(units, width)
    done = 0
    for weights in weight_blocks(units, replicates, seed, block_size(units, terms.shape[1])):
        sums = weights @ terms
        for (row, statistic), end in zip(of_sums, ends, strict=True):
            row[done : done + len(weights)] = statistic.value(sums[:, end - statistic.terms.shape[1] : end])
        for start in range(0, len(weights) if others else 0, few):
            part = weights[start : start + few]
            for row, each in others:
                row[done + start : done + start + len(part)] = each(part)
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
    effective: float = math.inf,
) -> tuple[float, float]:
    """Return a 95 % interval of replicates (B,), over those that are defined.

    "percentile" takes their quantiles. "basic" mirrors these at the `value` on the sample. "bca" moves them for the
    bias of the replicates around `value` and for the skewness of the jackknife values `left_out` (units,) (Efron 1987);
    without the latter, or where all replicates lie on one side of the value, it is the percentile interval. All kinds
    are widened for few units, of which there are `effective` (`_tail`). (NaN, NaN) where fewer than half of the
    replicates are defined, since an interval of a minority would describe other data, and where all are equal: data
    that do not vary (every answer right) do not say how far the truth may lie from them.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined) or 2 * len(defined) < len(replicates) or np.ptp(defined) <= _ROUNDING:
        return float("nan"), float("nan")
    tail = _tail(effective)
    tails = (tail, 1 - tail)
    if kind == "bca" and left_out is not None:
        tails = _bca_tails(defined, value, left_out[~np.isnan(left_out)], tail)
    low, high = (float(end) for end in np.quantile(defined, tails))
    return (2 * value - high, 2 * value - low) if kind == "basic" else (low, high)


def _tail(units: float) -> float:
    """Return the tail of a 95 % interval of replicates over so many units.

    Replicates of a mean vary less than the mean does, by the factor n / (n - 1) in their variance, and know nothing of
    how uncertain that variance is, as t does. A smaller tail makes up for both (Hesterberg 2015: expanded percentiles).
    """
    from scipy.special import ndtr, ndtri

    tail = (1 - LEVEL) / 2
    return float(ndtr(widening(units) * ndtri(tail)))


def widening(units: float) -> float:
    """Return by how much replicates over so many units must be spread, for 95 % of them to reach as far as t does."""
    from scipy.special import ndtri, stdtrit

    if math.isinf(units):
        return 1.0
    tail = (1 - LEVEL) / 2
    return math.sqrt(units / (units - 1)) * float(stdtrit(units - 1, tail) / ndtri(tail)) if units > 1 else math.inf


def _bca_tails(replicates: FloatArray, value: float, left_out: FloatArray, tail: float) -> tuple[float, float]:
    """Return the tails of the bias-corrected and accelerated interval."""
    from scipy.special import ndtr, ndtri

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


@dataclass(frozen=True)
class Difference:
    """A difference with its interval and its p value, all from one standard error; NaN where it cannot be told."""

    value: float
    low: float
    high: float
    error: float
    """The standard error."""
    p: float
    freedom: float
    """Degrees of freedom of t."""


def t_test(
    value: float,
    replicates: FloatArray,
    units: int,
    seeds: Sequence[tuple[float, int]] = (),
    judges: Sequence[tuple[float, int]] = (),
) -> Difference:
    """Return the test of a value against 0 by the standard error of its replicates (B,), t with `units` - 1.

    `seeds` has the variance of each mean over training seeds that is in the value, and their number: it is added to the
    squared standard error, and the degrees of freedom are those of such a sum (Satterthwaite 1946). `judges` has that
    of means over judges: they may be all that varies, so each part has its own t, and the squares of the half-widths
    are added (Banerjee 1961).

    Nothing is known where fewer than half of the replicates are defined, or where they are all the same without being
    0: data in which nothing varies do not say by how much the truth may lie elsewhere.
    """
    from scipy.special import stdtr, stdtrit

    none = float("nan")
    nothing = Difference(value, none, none, none, none, units - 1)
    defined = replicates[~np.isnan(replicates)]
    if math.isnan(value) or any(math.isnan(part) for part, _ in judges):
        return nothing
    if units < 2 or len(defined) < 2 or 2 * len(defined) < len(replicates):
        return nothing
    parts = [(float(defined.var(ddof=1)), units), *seeds]
    error = math.sqrt(sum(part for part, _ in parts))
    if error <= _ROUNDING:
        return Difference(0.0, 0.0, 0.0, 0.0, 1.0, units - 1) if abs(value) <= _ROUNDING else nothing
    freedom = error**4 / sum(part**2 / (n - 1) for part, n in parts)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(value) / error))
    between = [(part, n - 1) for part, n in judges if part > _ROUNDING**2]
    if between:
        spread = [(error**2, freedom), *between]
        half, p = _half_width(spread, 1 - LEVEL), _p_value(spread, abs(value))
        error = math.sqrt(sum(part for part, _ in spread))
    return Difference(value, value - half, value + half, error, p, freedom)


def _half_width(parts: Sequence[tuple[float, float]], p: float) -> float:
    """Return the half-width at a level of a sum with these (variance, degrees of freedom)."""
    from scipy.special import stdtrit

    return math.sqrt(sum(part * float(stdtrit(freedom, p / 2)) ** 2 for part, freedom in parts))


def _p_value(parts: Sequence[tuple[float, float]], size: float) -> float:
    """Return the level at which the half-width is as large as a value."""
    from scipy.optimize import brentq

    least = 1e-100
    if size <= 0 or _half_width(parts, least) <= size:
        return 1.0 if size <= 0 else 0.0
    return math.exp(brentq(lambda log: _half_width(parts, math.exp(log)) - size, math.log(least), 0.0))


class Estimates:
    """Values, intervals and tests from one set of weights, of metrics on samples over the same units."""

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
        resampled = {key: statistic for key, statistic in statistics.items() if key[1].interval or key[1].headline}
        width = max((len(sample) for sample, _ in resampled), default=0)
        drawn = bootstrap(list(resampled.values()), units, replicates, seed, width)
        self._drawn = dict(zip(resampled, drawn, strict=True))
        self._judged = {key: _judged(*key, units, replicates, seed) for key in resampled if key[0].judged is not None}
        self._left_out: dict[tuple[Sample, Metric], FloatArray] = {}
        if kind == "bca":
            smooth = {key: statistic for key, statistic in resampled.items() if key[1].smooth and key[1].interval}
            self._left_out = {key: jackknife(statistic, units) for key, statistic in smooth.items()}

    def of(self, samples: Sample | Seeds, metric: Metric = CORRECTNESS) -> Estimate:
        """Return a metric's value with its interval; few units say too little of how units vary.

        Of several training seeds, it is the mean of their values, and the interval knows how seeds differ. It knows how
        judges do, where several scored.
        """
        seeds = (samples,) if isinstance(samples, Sample) else samples
        key = seeds[0], metric
        value, low, high = self.mean(seeds, metric), float("nan"), float("nan")
        value = float(signed_root(np.array(value))) if metric.squared else value
        if metric.interval and not math.isnan(value) and min(each.effective for each in seeds) >= LEAST_UNITS:
            if metric.squared or len(seeds) > 1 or seeds[0].judged is not None:
                found = self._test([(1.0, seeds)], metric)
                least, most = metric.range
                value, low, high = found.value, max(found.low, least), min(found.high, most)
            else:
                kind = self._kind if metric.smooth and seeds[0].effective >= _MANY_UNITS else "percentile"
                low, high = interval(self._drawn[key], kind, value, self._left_out.get(key), seeds[0].effective)
        return {"value": value, "low": low, "high": high}

    def test(self, mine: Sample | Seeds, other: Sample | Seeds, metric: Metric = CORRECTNESS) -> Difference:
        """Return the first value (or mean over training seeds) less the second, with interval and p value.

        For a metric that is the root of a squared error, it is the signed root of the difference of the squared errors,
        and `error` is that of the difference of the squares.
        """
        sides = [(side,) if isinstance(side, Sample) else side for side in (mine, other)]
        return self._test([(1.0, sides[0]), (-1.0, sides[1])], metric)

    def _test(self, sides: Sequence[tuple[float, Seeds]], metric: Metric) -> Difference:
        """Return the test of a sum of means over seeds, each times 1 or -1."""
        value, replicates, seeds = 0.0, np.zeros(()), []
        everything = [each for _, samples in sides for each in samples]
        for sign, samples in sides:
            value += sign * self.mean(samples, metric)
            replicates = replicates + sign * self.replicates(samples, metric)
            if len(samples) > 1:
                spread = float(np.var([self.mean((each,), metric) for each in samples], ddof=1))
                seeds.append((spread / len(samples), len(samples)))
        if min(each.effective for each in everything) < LEAST_UNITS:
            replicates = np.full(replicates.shape, np.nan)
        judges = self._between_judges(sides, metric)
        found = t_test(value, replicates, min(map(_units, everything)), seeds, judges)
        if not metric.squared:
            return found
        value, low, high = (float(signed_root(np.array(end))) for end in (found.value, found.low, found.high))
        return Difference(value, low, high, found.error, found.p, found.freedom)

    def _between_judges(self, sides: Sequence[tuple[float, Seeds]], metric: Metric) -> list[tuple[float, int]]:
        """Return the variance of a sum of means over seeds that comes from the choice of judges, and their number.

        Of a function of the judges' mean score it is the jackknife's over judges (Efron & Tibshirani 1993, section
        11.2), for a mean over claims the variance of the judges' means over J; less what the judges' errors on single
        claims put into it, as replicates over units show: these vary with the units, and are in the units' part.
        """
        numbers = {len(each.without_judge) for _, samples in sides for each in samples}
        together = [sides] if len(numbers) == 1 else [[side] for side in sides]  # the same judges, or each side's own
        found = []
        for group in together:
            judges = len(group[0][1][0].without_judge)
            if judges:
                values = sum(sign * self._without_judge(samples, metric) for sign, samples in group)
                apart = np.asarray(values - np.mean(values, axis=0))
                known = apart[:, ~np.isnan(apart).any(axis=0)][:, 1:]
                noise = float(known.var(axis=1, ddof=1).sum()) if known.shape[1] > 1 else 0.0
                between = float((apart[:, 0] ** 2).sum()) - noise  # NaN where it is undefined without a judge
                found.append(((judges - 1) / judges * (0.0 if between < 0 else between), judges))
        return found

    def _without_judge(self, samples: Seeds, metric: Metric) -> FloatArray:
        """Return a mean over seeds without each judge (judges, 1 + replicates), on the samples and in replicates."""
        values = np.stack([self._judged[each, metric] for each in samples])
        return np.asarray((signed_square(values) if metric.squared else values).mean(axis=0))

    def mean(self, samples: Seeds, metric: Metric) -> float:
        """Return the mean over training seeds, of squares where a metric is a root of one."""
        values = np.array([self._values[each, metric] for each in samples])
        return float((signed_square(values) if metric.squared else values).mean())

    def replicates(self, samples: Seeds, metric: Metric) -> FloatArray:
        """Return the replicates of a mean over training seeds (replicates,), of squares where it is a root of one."""
        drawn = np.stack([self._drawn[each, metric] for each in samples])
        return np.asarray((signed_square(drawn) if metric.squared else drawn).mean(axis=0))

    def difference(self, mine: Sample | Seeds, other: Sample | Seeds, metric: Metric = CORRECTNESS) -> Estimate:
        """Return the first value less the second, with the interval of `test`."""
        found = self.test(mine, other, metric)
        return {"value": found.value, "low": found.low, "high": found.high}


def _judged(sample: Sample, metric: Metric, units: int, replicates: int, seed: int) -> FloatArray:
    """Return a metric without each judge in turn, (judges, 1 + replicates): on the sample, and its first replicates."""
    statistics = [metric.statistic(each) for each in sample.without_judge]
    values = [each.value(statistic) for each, statistic in zip(sample.without_judge, statistics, strict=True)]
    drawn = bootstrap(statistics, units, min(replicates, _JUDGE_REPLICATES), seed, len(sample))
    return np.column_stack([values, drawn])


def _units(sample: Sample) -> int:
    """Return the number of units that have claims."""
    return int(np.count_nonzero(sample.counts))
