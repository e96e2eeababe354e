"""Metrics of one method on one task, as functions of resampling weights.

A metric looks at a sample once and returns its *statistic*: a function from weights of the units (clusters, or claims),
shape (replicates, units), to values, shape (replicates,). All weights 1 give the value on the sample itself, bootstrap
weights give its replicates. What a metric fixes when it looks at the sample (the groups of ECE) is the same in every
replicate. A replicate in which a metric is undefined is NaN.

To add a metric: write its function and one entry in `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Statistic = Callable[[FloatArray], FloatArray]

MAX_LEVELS = 21
"""Up to this many distinct confidences, ECE groups by value; above, by bins."""
BINS = 10
"""Number of equal-width bins, closed on the right; the first one holds 0 too."""
_SCALE = 10**9
"""Confidences are compared as whole billionths, so that 3 * 0.1 and 0.3 are one level and bin edges are exact."""


class Sample:
    """Claims (or whole responses) of one method on one task: what every metric sees.

    confidence (n,) in [0, 1], or None for a method that states none; correctness (n,) in [0, 1]; unit (n,) the index of
    each claim's resampling unit among `units` of them, some of which may have no claim here. Rows are put into one
    canonical order, so that their order in a file cannot change a digit.
    """

    def __init__(self, confidence: FloatArray | None, correctness: FloatArray, unit: IntArray, units: int) -> None:
        keys = (correctness, unit) if confidence is None else (correctness, confidence, unit)
        order = np.lexsort(keys)
        self.confidence = None if confidence is None else confidence[order]
        self.correctness = correctness[order]
        self.unit = unit[order]
        self.units = units

    def __len__(self) -> int:
        return len(self.correctness)

    def take(self, rows: NDArray[np.bool_]) -> Sample:
        """Return the sample of the chosen rows (mask of shape (n,)) over the same units; itself when all are chosen."""
        if rows.all():
            return self
        confidence = None if self.confidence is None else self.confidence[rows]
        return Sample(confidence, self.correctness[rows], self.unit[rows], self.units)

    def stated(self) -> FloatArray:
        """Return the confidences (n,); raises ValueError for a method that states none."""
        if self.confidence is None:
            raise ValueError("this metric needs confidences, and the method states none")
        return self.confidence

    def totals(self, *terms: FloatArray) -> FloatArray:
        """Return the sum of each term (n,) over the claims of each unit, shape (units, number of terms)."""
        return np.stack([np.bincount(self.unit, term, self.units) for term in terms], axis=1)

    def value(self, statistic: Statistic) -> float:
        """Return a statistic's value on the sample itself, NaN where it is undefined."""
        return float(statistic(np.ones((1, self.units)))[0])


def levels(confidence: FloatArray) -> IntArray:
    """Return confidences (n,) as whole billionths, shape (n,)."""
    return np.rint(confidence * _SCALE).astype(np.int64)


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


def ece(sample: Sample) -> Statistic:
    """Expected calibration error: sum over groups of (share of claims) * |mean confidence - mean correctness|."""
    group = groups(sample.stated())
    size = int(group.max(initial=0)) + 1
    # The share times the difference of means is the summed residual over n.
    residual = sample.stated() - sample.correctness
    cells = np.bincount(sample.unit * size + group, residual, sample.units * size).reshape(sample.units, size)
    count = sample.totals(np.ones(len(sample)))[:, 0]
    return lambda weights: _ratio(np.abs(weights @ cells).sum(axis=1), weights @ count)


def brier(sample: Sample) -> Statistic:
    """Brier score: mean squared difference between confidence and correctness."""
    return _mean(sample, (sample.stated() - sample.correctness) ** 2)


def correctness(sample: Sample) -> Statistic:
    """Mean correctness."""
    return _mean(sample, sample.correctness)


def pearson(sample: Sample) -> Statistic:
    """Pearson correlation of confidence and correctness; undefined where either is constant."""
    # Centred and scaled to the range, a variance is at least of the order 1/n unless a replicate is constant.
    x, y = _centred(sample.stated()), _centred(sample.correctness)
    terms = sample.totals(np.ones(len(sample)), x, y, x * x, y * y, x * y)

    def statistic(weights: FloatArray) -> FloatArray:
        count, *sums = (weights @ terms).T
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = (_ratio(total, count) for total in sums)
        variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
        defined = (variance_x > 1e-12) & (variance_y > 1e-12)
        scale = np.sqrt(np.where(defined, variance_x * variance_y, np.nan))
        return np.clip((mean_xy - mean_x * mean_y) / scale, -1.0, 1.0)

    return statistic


def auroc(sample: Sample) -> Statistic:
    """Area under the ROC curve for binary correctness, ties counted one half; undefined where one class is absent."""
    confidence, right = sample.stated(), sample.correctness == 1.0
    order = np.argsort(confidence[~right], kind="stable")
    wrong_confidence, wrong_unit = confidence[~right][order], sample.unit[~right][order]
    right_unit = sample.unit[right]
    below = np.searchsorted(wrong_confidence, confidence[right], side="left")
    through = np.searchsorted(wrong_confidence, confidence[right], side="right")

    def statistic(weights: FloatArray) -> FloatArray:
        cumulative = np.zeros((len(weights), len(wrong_unit) + 1))
        np.cumsum(weights[:, wrong_unit], axis=1, out=cumulative[:, 1:])
        right_weights = weights[:, right_unit]
        wins = np.einsum("ij,ij->i", right_weights, cumulative[:, below] + cumulative[:, through]) / 2
        return _ratio(wins, right_weights.sum(axis=1) * cumulative[:, -1])

    return statistic


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as the tables and `conrad-bench list` show it."""

    name: str
    label: str
    """Column title. For mean correctness and quality the tables show the scorers' own labels instead."""
    better: Literal["lower", "higher"]
    range: tuple[float, float]
    source: str
    statistic: Callable[[Sample], Statistic]
    confidence: bool = True
    """Whether it needs confidences, or correctness alone."""
    binary: bool = False
    """Whether it is defined for binary correctness only."""
    per: Literal["claim", "example"] = "claim"
    """Whether a row of its sample is a claim, or an example with the quality of its whole response as correctness."""
    worst_case: bool = True
    """Whether counting an unparsed claim as confidence 1 with correctness 0 makes it worse, so that it is reported."""


METRICS: tuple[Metric, ...] = (
    Metric(
        "ece",
        "ECE",
        "lower",
        (0.0, 1.0),
        "Naeini et al. 2015; groups are the distinct confidences where there are at most 21",
        ece,
    ),
    Metric("pearson", "Pearson r", "higher", (-1.0, 1.0), "ConRad, Table 1 (Correlation)", pearson, worst_case=False),
    Metric("brier", "Brier", "lower", (0.0, 1.0), "Brier 1950, with correctness in [0, 1]", brier),
    Metric("auroc", "AUROC", "higher", (0.0, 1.0), "ConRad, Table 2; Mann-Whitney form with ties", auroc, binary=True),
    Metric(
        "correctness", "correctness", "higher", (0.0, 1.0), "mean of the task's scorer", correctness, confidence=False
    ),
)
CORRECTNESS = next(metric for metric in METRICS if metric.name == "correctness")
QUALITY = Metric(
    "quality",
    "quality",
    "higher",
    (0.0, 1.0),
    "ConRad, Table 2 (GREEN); mean over examples of the quality scorer's score of the whole response",
    correctness,
    confidence=False,
    per="example",
    worst_case=False,
)
COLUMNS = (*METRICS, QUALITY)
"""The metrics of claims, then that of whole responses, in the order of the tables' columns."""


def collapse(confidence: FloatArray) -> dict[str, float]:
    """Tell how far confidences (n,), n > 0, have collapsed: distinct ones, entropy in nats, share of the commonest."""
    counts = np.unique(levels(confidence), return_counts=True)[1]
    share = counts / counts.sum()
    entropy = -float(np.sum(share * np.log(share)))
    return {"distinct": len(counts), "entropy": entropy, "largest_mass": float(share.max())}


def _mean(sample: Sample, term: FloatArray) -> Statistic:
    terms = sample.totals(term, np.ones(len(sample)))
    return lambda weights: _ratio(*(weights @ terms).T)


def _centred(values: FloatArray) -> FloatArray:
    """Return values minus their mean, over their range (zeros where the range is below a billionth)."""
    if not len(values) or np.ptp(values) < 1 / _SCALE:
        return np.zeros_like(values)
    return np.asarray((values - values.mean()) / np.ptp(values))


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, with NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
