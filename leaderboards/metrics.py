"""What a metric is: a function of resampling weights, made from the claims of one method on one task.

A metric looks at a sample once and returns its *statistic*: a function from weights of the units (clusters, or claims),
shape (replicates, units), whole numbers, to values, shape (replicates,). All weights 1 give the value on the sample
itself, bootstrap weights give its replicates. What a metric fixes when it looks at the sample (the groups of ECE) is
the same in every replicate. A replicate in which a metric is undefined is NaN.

A metric is a plugin: a subclass of `Metric`, found by an entry point `conrad_bench.metrics` or a file. Those that come
with conrad-bench are in `calibration`, `discrimination` and `selective`; `catalogue` has their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Statistic = Callable[[FloatArray], FloatArray]

MAX_LEVELS = 21
"""Up to this many distinct confidences, ECE groups by value; above, by bins."""
BINS = 10
"""Number of equal-width bins, closed on the right; the first one holds 0 too."""
_SCALE = 10**9
"""Confidences are compared as whole billionths, so that 3 * 0.1 and 0.3 are one level and bin edges are exact."""
_DENSE_LEVELS = 48
"""Up to this many levels, sums by level are one product of matrices; above, claims are gathered one by one."""


@dataclass(frozen=True)
class Ranked:
    """Sums under weights for each distinct value of a key, the highest first; each of shape (levels, replicates)."""

    claims: FloatArray
    """Claims at the level."""
    correct: FloatArray
    """Sum of their correctness."""
    through: FloatArray
    """Claims down to this level, itself included."""
    correct_through: FloatArray
    """Sum of their correctness."""

    @cached_property
    def area(self) -> FloatArray:
        """The area under the risk-coverage curve (replicates,): the mean over k of the mean risk of the first k claims.

        A risk is 1 - correctness. It is the expected value over the orders of tied claims: the j-th of m claims with
        the mean risk r, behind b others with the summed risk e, brings it to (e + j r) / (b + j), and the sum of that
        over j is m r + (e - b r) (H(b + m) - H(b)) with harmonic numbers H.
        """
        if not len(self.claims):
            return np.full(self.claims.shape[1], np.nan)
        loss, lost = self.claims - self.correct, self.through - self.correct_through
        through = self.through.astype(np.int64)
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, through[-1].max(initial=0) + 1))])[through]
        rest = (lost - loss) - (self.through - self.claims) * (loss / np.maximum(self.claims, 1))
        rest[1:] *= np.diff(harmonic, axis=0)
        rest[0] *= harmonic[0]
        return ratio(loss.sum(axis=0) + rest.sum(axis=0), self.through[-1].copy())


class Ranking:
    """Claims in falling order of a key (n,), those with one key tied."""

    def __init__(self, key: FloatArray, correctness: FloatArray, unit: IntArray, units: int) -> None:
        distinct, level = np.unique(-rank_keys(key), return_inverse=True)
        order = np.argsort(level, kind="stable")
        self.size = len(distinct)
        self.unit, self.level, self.correctness = unit[order], level[order], correctness[order]
        self._ends = np.searchsorted(self.level, np.arange(self.size), side="right") - 1
        self._cells: tuple[FloatArray, FloatArray] | None = None
        if self.size <= _DENSE_LEVELS:
            cell = self.level * units + self.unit
            shape = (self.size, units)
            self._cells = (
                np.bincount(cell, minlength=self.size * units).reshape(shape).astype(np.float64),
                np.bincount(cell, self.correctness, self.size * units).reshape(shape).astype(np.float64),
            )
        self.order = order

    def sums(self, weights: FloatArray) -> Ranked:
        """Return counts and correctness by level under weights (replicates, units)."""
        if self._cells is not None:
            count, correct = self._cells[0] @ weights.T, self._cells[1] @ weights.T
            return Ranked(count, correct, np.cumsum(count, axis=0), np.cumsum(correct, axis=0))
        # Replicates lie next to each other, so that every step below runs along whole rows.
        count = np.ascontiguousarray(weights.T)[self.unit]
        correct = count * self.correctness[:, None]
        through, correct_through = np.cumsum(count, axis=0), np.cumsum(correct, axis=0)
        if self.size == len(self.unit):
            return Ranked(count, correct, through, correct_through)
        through, correct_through = through[self._ends], correct_through[self._ends]
        return Ranked(_steps(through), _steps(correct_through), through, correct_through)


def _steps(through: FloatArray) -> FloatArray:
    """Return the rows whose running sums these are, of the same shape."""
    found = through.copy()
    found[1:] -= through[:-1]
    return found


class Sample:
    """Claims (or whole responses) of one method on one task: what every metric sees.

    confidence (n,) in [0, 1], or None for a method that states none; correctness (n,) in [0, 1]; unit (n,) the index of
    each claim's resampling unit among `units` of them, some of which may have no claim here; example (n,), where
    samples are to be paired, the number of each claim's example. Rows are put into one canonical order, so that their
    order in a file cannot change a digit. Raises ValueError for NaN: whoever makes a sample says what is missing.
    """

    def __init__(
        self,
        confidence: FloatArray | None,
        correctness: FloatArray,
        unit: IntArray,
        units: int,
        example: IntArray | None = None,
    ) -> None:
        if np.isnan(correctness).any() or (confidence is not None and np.isnan(confidence).any()):
            raise ValueError("a sample has no place for NaN: leave out claims without a confidence or a correctness")
        keys = (correctness, unit) if confidence is None else (correctness, confidence, unit)
        order = np.lexsort(keys)
        self.confidence = None if confidence is None else confidence[order]
        self.correctness = correctness[order]
        self.unit = unit[order]
        self.units = units
        self.example = None if example is None else example[order]

    _last: ClassVar[dict[str, tuple[Sample, FloatArray, Ranked]]] = {}
    """Of which sample and weights `ranked` and `best` were asked last; one for all samples, since it can be large."""

    def __len__(self) -> int:
        return len(self.correctness)

    def take(self, rows: NDArray[np.bool_]) -> Sample:
        """Return the sample of the chosen rows (mask of shape (n,)) over the same units; itself when all are chosen."""
        if rows.all():
            return self
        confidence = None if self.confidence is None else self.confidence[rows]
        example = None if self.example is None else self.example[rows]
        return Sample(confidence, self.correctness[rows], self.unit[rows], self.units, example)

    def stated(self) -> FloatArray:
        """Return the confidences (n,); raises ValueError for a method that states none."""
        if self.confidence is None:
            raise ValueError("this metric needs confidences, and the method states none")
        return self.confidence

    def totals(self, *terms: FloatArray) -> FloatArray:
        """Return the sum of each term (n,) over the claims of each unit, shape (units, number of terms)."""
        return np.stack([np.bincount(self.unit, term, self.units) for term in terms], axis=1)

    def cells(self, group: IntArray, term: FloatArray) -> FloatArray:
        """Return the sum of a term (n,) over the claims of each unit in each group, shape (units, groups)."""
        size = int(group.max(initial=0)) + 1
        sums = np.bincount(self.unit * size + group, term, self.units * size)
        return sums.reshape(self.units, size).astype(np.float64)

    @cached_property
    def ranking(self) -> Ranking:
        """The claims from the most to the least confident one."""
        return Ranking(self.stated(), self.correctness, self.unit, self.units)

    def ranked(self, weights: FloatArray) -> Ranked:
        """Return the sums by confidence under weights (replicates, units).

        Many metrics want those of one and the same block of weights, so the last ones are kept. Weights must not be
        changed in place.
        """
        return self._kept("confidence", self.ranking, weights)

    @cached_property
    def best_ranking(self) -> Ranking:
        """The claims from the most to the least correct one."""
        return Ranking(self.correctness, self.correctness, self.unit, self.units)

    def best(self, weights: FloatArray) -> Ranked:
        """Return the sums by correctness under weights (replicates, units); the last ones are kept, too."""
        return self._kept("correctness", self.best_ranking, weights)

    def _kept(self, order: str, ranking: Ranking, weights: FloatArray) -> Ranked:
        last = Sample._last.get(order)
        if last is None or last[0] is not self or last[1] is not weights:
            last = Sample._last[order] = self, weights, ranking.sums(weights)
        return last[2]

    def value(self, statistic: Statistic) -> float:
        """Return a statistic's value on the sample itself, NaN where it is undefined."""
        return float(statistic(np.ones((1, self.units)))[0])


class Metric(BaseModel):
    """A number about the claims of one method on one task. Its fields are its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `conrad-bench list metrics`."""
    label: ClassVar[str]
    """Column title. For mean correctness and quality the tables show the scorers' own labels instead."""
    better: ClassVar[Literal["lower", "higher", "zero"]]
    range: ClassVar[tuple[float, float]]
    source: ClassVar[str]
    headline: ClassVar[bool] = False
    """Whether the main table has a column of it, and methods are compared by it."""
    confidence: ClassVar[bool] = True
    """Whether it needs confidences, or correctness alone."""
    binary: ClassVar[bool] = False
    """Whether it is defined for binary correctness only."""
    per: ClassVar[Literal["claim", "example"]] = "claim"
    """Whether a row of its sample is a claim, or an example with the quality of its whole response as correctness."""
    worst_case: ClassVar[bool] = False
    """Whether rows show it with each unparsed claim counted as confidence 1 with correctness 0."""
    interval: ClassVar[bool] = True
    """Whether it is resampled. Not where a replicate's repeated claims would change what it measures."""
    smooth: ClassVar[bool] = True
    """Whether it is a smooth function of means, so that a BCa interval may be asked for."""

    def statistic(self, sample: Sample) -> Statistic:
        """Return the statistic of a sample: weights (replicates, units) to values (replicates,)."""
        raise NotImplementedError

    def swapped(self, a: Sample, b: Sample) -> Statistic:
        """Return the difference of two methods as a function of which units swap their claims.

        From swaps (replicates, units), 1 where a unit's claims of `a` and of `b` change places and 0 elsewhere, to the
        metric of the first side less that of the second, (replicates,). What the metric fixes when it looks at a sample
        comes from the claims of both together, so that it is the same under every swap.
        """
        statistic = self.statistic(beside(a, b))

        def difference(swaps: FloatArray) -> FloatArray:
            kept = 1 - swaps
            return np.asarray(statistic(np.hstack([kept, swaps])) - statistic(np.hstack([swaps, kept])))

        return difference


class Correctness(Metric):
    """Mean correctness: the mean of the task's scorer over claims. In [0, 1], higher is better."""

    name = "correctness"
    summary = "mean correctness of the claims"
    label = "correctness"
    better = "higher"
    range = (0.0, 1.0)
    source = "mean of the task's scorer"
    headline = True
    confidence = False
    worst_case = True

    def statistic(self, sample: Sample) -> Statistic:
        """A mean over claims."""
        return mean_of(sample, sample.correctness)


class Quality(Metric):
    """Mean over examples of the quality scorer's score of the whole response. In [0, 1], higher is better."""

    name = "quality"
    summary = "mean quality of whole responses"
    label = "quality"
    better = "higher"
    range = (0.0, 1.0)
    source = "ConRad, Table 2 (GREEN); mean over examples of the quality scorer's score of the whole response"
    headline = True
    confidence = False
    per = "example"

    def statistic(self, sample: Sample) -> Statistic:
        """A mean over examples."""
        return mean_of(sample, sample.correctness)


CORRECTNESS = Correctness()


def levels(confidence: FloatArray) -> IntArray:
    """Return confidences (n,) as whole billionths, shape (n,)."""
    return np.rint(confidence * _SCALE).astype(np.int64)


def rank_keys(values: FloatArray) -> FloatArray:
    """Return values (n,) to twelve significant digits: 3 * 0.1 ties with 0.3, and 1e-30 does not tie with 0."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, 40)), exponent - 40))


def by_level(confidence: FloatArray) -> bool:
    """Tell whether ECE groups these confidences by distinct value (at most `MAX_LEVELS` of them) or by bins."""
    return len(np.unique(levels(confidence))) <= MAX_LEVELS


def groups(confidence: FloatArray) -> IntArray:
    """Return the group of each confidence (n,), from 0 in rising order: its level, or its bin ((k/10, (k+1)/10])."""
    whole = levels(confidence)
    if by_level(confidence):
        return np.unique(whole, return_inverse=True)[1].astype(np.int64)
    width = _SCALE // BINS
    return np.maximum(-(-whole // width) - 1, 0)


def collapse(confidence: FloatArray) -> dict[str, float]:
    """Tell how far confidences (n,), n > 0, have collapsed: distinct ones, entropy in nats, share of the commonest."""
    counts = np.unique(levels(confidence), return_counts=True)[1]
    share = counts / counts.sum()
    entropy = -float(np.sum(share * np.log(share)))
    return {"distinct": len(counts), "entropy": entropy, "largest_mass": float(share.max())}


def beside(a: Sample, b: Sample) -> Sample:
    """Return the claims of both samples over twice the units, those of the second behind those of the first."""
    confidence = None if a.confidence is None or b.confidence is None else np.concatenate([a.confidence, b.confidence])
    unit = np.concatenate([a.unit, b.unit + a.units])
    return Sample(confidence, np.concatenate([a.correctness, b.correctness]), unit, 2 * a.units)


def mean_of(sample: Sample, term: FloatArray) -> Statistic:
    """Return the statistic that is the mean of a term (n,) over claims."""
    terms = sample.totals(term, np.ones(len(sample)))
    return lambda weights: ratio(*(weights @ terms).T)


def centred(values: FloatArray) -> FloatArray:
    """Return values minus their mean, over their range (zeros where the range is below a billionth)."""
    if not len(values) or np.ptp(values) < 1 / _SCALE:
        return np.zeros_like(values)
    return np.asarray((values - values.mean()) / np.ptp(values))


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, with NaN where the denominator is 0."""
    return np.asarray(np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0))
