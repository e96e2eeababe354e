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

from conrad_bench.leaderboards.metrics.ranking import FloatArray as FloatArray
from conrad_bench.leaderboards.metrics.ranking import IntArray as IntArray
from conrad_bench.leaderboards.metrics.ranking import Ranking

Statistic = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class OfSums:
    """A statistic that sees sums over units alone. Those of many such statistics are one product of matrices."""

    terms: FloatArray
    """What is summed, of each unit (units, k)."""
    value: Callable[[FloatArray], FloatArray]
    """From the sums under weights (replicates, k) to values (replicates,)."""

    def __call__(self, weights: FloatArray) -> FloatArray:
        """Return the values under weights (replicates, units)."""
        return self.value(weights @ self.terms)


MAX_LEVELS = 21
"""Up to this many distinct confidences, ECE groups by value, where values repeat; otherwise by bins."""
_REPEATS = 2
"""Values repeat where there are at least this many claims for each of them."""
BINS = 10
"""Number of equal-width bins, closed on the right; the first one holds 0 too."""
_SCALE = 10**9
"""Confidences are compared as whole billionths, so that 3 * 0.1 and 0.3 are one level and bin edges are exact."""


class Sample:
    """Claims (or whole responses) of one method on one task: what every metric sees.

    confidence (n,) in [0, 1], or None for a method that states none; correctness (n,) in [0, 1]; unit (n,) the index of
    each claim's resampling unit among `units` of them, some of which may have no claim here; example (n,), where
    samples are to be paired, the number of each claim's example; judged (n, judges), where correctness is the mean of
    several judges' scores, each of these. Rows are put into one canonical order, so that their
    order in a file cannot change a digit. Raises ValueError for NaN: whoever makes a sample says what is missing.
    """

    def __init__(
        self,
        confidence: FloatArray | None,
        correctness: FloatArray,
        unit: IntArray,
        units: int,
        example: IntArray | None = None,
        judged: FloatArray | None = None,
    ) -> None:
        if np.isnan(correctness).any() or (confidence is not None and np.isnan(confidence).any()):
            raise ValueError("a sample has no place for NaN: leave out claims without a confidence or a correctness")
        keys = (correctness, unit) if confidence is None else (correctness, confidence, unit)
        order = np.lexsort(keys if judged is None else (*judged.T, *keys))
        self.confidence = None if confidence is None else confidence[order]
        self.correctness = correctness[order]
        self.unit = unit[order]
        self.units = units
        self.example = None if example is None else example[order]
        self.judged = None if judged is None else judged[order]

    @classmethod
    def in_order(
        cls,
        confidence: FloatArray | None,
        correctness: FloatArray,
        unit: IntArray,
        units: int,
        example: IntArray | None = None,
        judged: FloatArray | None = None,
    ) -> Sample:
        """Return a sample of rows that are in the canonical order already, and without NaN."""
        sample = cls.__new__(cls)
        sample.confidence, sample.correctness = confidence, correctness
        sample.unit, sample.units, sample.example, sample.judged = unit, units, example, judged
        return sample

    def __len__(self) -> int:
        return len(self.correctness)

    def take(self, rows: NDArray[np.bool_]) -> Sample:
        """Return the sample of the chosen rows (mask of shape (n,)) over the same units; itself when all are chosen."""
        if rows.all():
            return self
        confidence = None if self.confidence is None else self.confidence[rows]
        example = None if self.example is None else self.example[rows]
        judged = None if self.judged is None else self.judged[rows]
        return Sample.in_order(confidence, self.correctness[rows], self.unit[rows], self.units, example, judged)

    def varies(self) -> bool:
        """Tell whether there are claims of more than one unit."""
        return len(self) > 0 and bool(self.unit[0] != self.unit[-1])

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
    def without_judge(self) -> tuple[Sample, ...]:
        """The sample as it is without each judge in turn, by the mean of the others; none where one scorer judged."""
        if self.judged is None:
            return ()
        judges = self.judged.shape[1]
        others = (self.judged.sum(axis=1, keepdims=True) - self.judged) / (judges - 1)
        means = np.clip(others, 0.0, 1.0).T
        return tuple(Sample(self.confidence, mean, self.unit, self.units, self.example) for mean in means)

    @cached_property
    def ranking(self) -> Ranking:
        """The claims from the most to the least confident one."""
        return Ranking(self.stated(), self.correctness, self.unit, self.units)

    @cached_property
    def best_ranking(self) -> Ranking:
        """The claims from the most to the least correct one."""
        return Ranking(self.correctness, self.correctness, self.unit, self.units)

    @cached_property
    def counts(self) -> FloatArray:
        """Number of claims of each unit, shape (units,)."""
        return np.bincount(self.unit, minlength=self.units).astype(np.float64)

    @cached_property
    def effective(self) -> float:
        """The effective number of units (`effective_number`)."""
        return effective_number(self.counts)

    @cached_property
    def groups(self) -> IntArray:
        """The group of ECE of each claim, shape (n,)."""
        return groups(self.stated())

    @cached_property
    def residuals(self) -> FloatArray:
        """Sum of confidence - correctness over the claims of each unit in each group of ECE, shape (units, groups)."""
        return self.cells(self.groups, self.stated() - self.correctness)

    @cached_property
    def _ones(self) -> FloatArray:
        # The same array every time, so that metrics share what they compute under these weights.
        return np.ones((1, self.units))

    def value(self, statistic: Statistic) -> float:
        """Return a statistic's value on the sample itself, NaN where it is undefined."""
        return float(statistic(self._ones)[0])


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
    compared: ClassVar[bool] = True
    """Whether methods are compared by it, if it is a headline metric; not where another one says the same."""
    confidence: ClassVar[bool] = True
    """Whether it needs confidences, or correctness alone."""
    binary: ClassVar[bool] = False
    """Whether it is defined for binary correctness only."""
    per: ClassVar[Literal["claim", "example"]] = "claim"
    """Whether a row of its sample is a claim, or an example with the quality of its whole response as correctness."""
    worst_case: ClassVar[bool] = False
    """Whether rows show it with each unparsed claim counted as confidence 1 with correctness 0."""
    interval: ClassVar[bool] = True
    """Whether it has an interval. Not where its replicates lie to one side of the value."""
    smooth: ClassVar[bool] = True
    """Whether it is a smooth function of means, so that a basic or BCa interval may be asked for."""
    squared: ClassVar[bool] = False
    """Whether it is the signed root of a squared error: inference is made on its signed square."""

    def statistic(self, sample: Sample) -> Statistic:
        """Return the statistic of a sample: weights (replicates, units) to values (replicates,)."""
        raise NotImplementedError


class Correctness(Metric):
    """Mean correctness of the claims, by the task's scorer.

    Formula: mean of y over claims.
    Domain: correctness in [0, 1]; values in [0, 1], higher is better.
    Reference: none; what correctness is, the scorer says.

    >>> from conrad_bench.leaderboards.functions import measure
    >>> round(measure(Correctness(), [0.9, 0.6, 0.8, 0.3], [1, 0, 1, 1]).value, 4)
    0.75
    """

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
    """Mean quality of whole responses, by the task's quality scorer.

    Formula: mean over examples of the score of the whole response, each example once.
    Domain: scores in [0, 1]; values in [0, 1], higher is better.
    Reference: ConRad, Table 2 (GREEN).

    >>> from conrad_bench.leaderboards.functions import measure
    >>> round(measure(Quality(), [0.9, 0.6], [0.5, 0.25]).value, 4)
    0.375
    """

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


def by_level(confidence: FloatArray) -> bool:
    """Tell whether ECE groups these confidences by distinct value or by bins.

    By value where there are at most `MAX_LEVELS` of them and they repeat: a group of one claim would have that claim's
    own error as its gap, however well calibrated the method is.
    """
    # Most continuous confidences show within the first hundred that they are.
    if len(np.unique(levels(confidence[:100]))) > MAX_LEVELS:
        return False
    distinct = len(np.unique(levels(confidence)))
    return distinct <= MAX_LEVELS and _REPEATS * distinct <= len(confidence)


def groups(confidence: FloatArray) -> IntArray:
    """Return the group of each confidence (n,), from 0 in rising order: its level, or its bin ((k/10, (k+1)/10])."""
    whole = levels(confidence)
    if by_level(confidence):
        return np.unique(whole, return_inverse=True)[1].astype(np.int64)
    width = _SCALE // BINS
    return np.maximum(-(-whole // width) - 1, 0)


def mass_groups(confidence: FloatArray) -> IntArray:
    """Return the group of each confidence (n,), from 0 in rising order: its level, or its bin of equal mass."""
    if by_level(confidence):
        return groups(confidence)
    _, level, count = np.unique(levels(confidence), return_inverse=True, return_counts=True)
    # Twice the middle rank of each level, in whole numbers: bins must not depend on rounding.
    middle = 2 * np.cumsum(count) - count
    return (BINS * middle // (2 * len(confidence)))[level].astype(np.int64)


def collapse(confidence: FloatArray) -> dict[str, float]:
    """Tell how far confidences (n,), n > 0, have collapsed: distinct ones, entropy in nats, share of the commonest."""
    counts = np.unique(levels(confidence), return_counts=True)[1]
    share = counts / counts.sum()
    entropy = -float(np.sum(share * np.log(share)))
    return {"distinct": len(counts), "entropy": entropy, "largest_mass": float(share.max())}


def effective_number(counts: FloatArray) -> float:
    """Return Kish's effective number of units of these sizes: (sum of sizes)^2 / sum of squared sizes, 0 for none.

    As many units of equal size would give a mean as precisely (Kish 1965, section 11.7).
    """
    squares = float(counts @ counts)
    return float(counts.sum()) ** 2 / squares if squares else 0.0


def mean_of(sample: Sample, term: FloatArray) -> Statistic:
    """Return the statistic that is the mean of a term (n,) over claims."""
    return OfSums(sample.totals(term, np.ones(len(sample))), lambda sums: ratio(sums[:, 0], sums[:, 1]))


def centred(values: FloatArray) -> FloatArray:
    """Return values minus their mean, over their range (zeros where the range is below a billionth)."""
    if not len(values) or np.ptp(values) < 1 / _SCALE:
        return np.zeros_like(values)
    return np.asarray((values - values.mean()) / np.ptp(values))


def signed_root(values: FloatArray) -> FloatArray:
    """Return the root of each value's size, with its sign."""
    return np.asarray(np.copysign(np.sqrt(np.abs(values)), values))


def signed_square(values: FloatArray) -> FloatArray:
    """Return what `signed_root` was taken of."""
    return np.asarray(values * np.abs(values))


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, with NaN where the denominator is 0."""
    return np.asarray(np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0))
