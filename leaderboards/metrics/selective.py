"""Selective prediction: how wrong the claims are that are kept when the least confident ones are handed to a human.

The risk of a claim is 1 - correctness. Claims with one confidence have no order among themselves: every number here is
its expected value over their orders, in closed form.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pydantic import Field

from conrad_bench.leaderboards.metrics.base import FloatArray, Metric, Sample, Statistic, levels, ratio
from conrad_bench.leaderboards.metrics.ranking import Levels


def risk_coverage(sample: Sample) -> tuple[FloatArray, FloatArray]:
    """Return the risk-coverage curve: coverage k/n and the mean risk of the k most confident claims, k = 1 ... n.

    Both have shape (n,). The risk is the expectation over the orders of tied claims (Geifman & El-Yaniv 2017).
    """
    claims, correct = sample.ranking.sums(np.ones((1, sample.units)))
    k = np.arange(1, len(sample) + 1)
    ends = np.concatenate([[0.0], np.cumsum(claims)])
    loss = np.interp(k, ends, ends - np.concatenate([[0.0], np.cumsum(correct)]))
    return k / max(len(sample), 1), loss / k


def workload(sample: Sample) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the workload curve: of n responses, k/n are read, least confident first; k = 1 ... n. Each of shape (n,).

    The three are the share that is read, the share of the errors that reading catches, and the share that reading as
    much would catch if the responses with most errors came first; in random order it would be the share that is read.
    A response is as confident as its least confident claim; its errors are the sum of 1 - correctness over its claims.
    Among responses with one confidence the order is random, and the curve its expectation. All are NaN without errors.
    """
    responses, place = np.unique(np.asarray(sample.example), return_inverse=True)
    lowest = np.ones(len(responses))
    np.minimum.at(lowest, place, sample.stated())
    errors = np.bincount(place, 1.0 - sample.correctness, len(responses))
    k = np.arange(1, len(responses) + 1)
    level = np.unique(levels(lowest), return_inverse=True)[1]
    read = np.concatenate([[0], np.cumsum(np.bincount(level))])
    caught = np.concatenate([[0.0], np.cumsum(np.bincount(level, errors))])
    with np.errstate(invalid="ignore"):
        shares = np.interp(k, read, caught) / errors.sum(), np.cumsum(np.sort(errors)[::-1]) / errors.sum()
    return k / max(len(responses), 1), *shares


class AURC(Metric):
    """Area under the risk-coverage curve.

    Formula: mean over k of the mean risk (1 - correctness) of the k most confident claims, k = 1 ... n. It falls with
    better answers as well as with better confidences.
    Domain: confidence and correctness in [0, 1]; values in [0, 1], lower is better.
    Reference: Geifman, Uziel & El-Yaniv 2019, Bias-reduced uncertainty estimation for deep neural classifiers, ICLR;
    ties in closed form.

    >>> from conrad_bench import aurc
    >>> round(aurc([0.9, 0.2, 0.8, 0.4], [1, 0, 0, 1]).value, 4)
    0.3333
    """

    name = "aurc"
    summary = "area under the risk-coverage curve, expected over the orders of ties"
    label = "AURC"
    better = "lower"
    range = (0.0, 1.0)
    source = "Geifman, Uziel & El-Yaniv 2019; ties in closed form"

    def statistic(self, sample: Sample) -> Statistic:
        """Sums by confidence."""
        area = sample.ranking.fold(_area)
        return lambda weights: ratio(area(weights), weights @ sample.counts)


class ExcessAURC(Metric):
    """Excess AURC: what the order of the claims costs.

    Formula: AURC less that of the same claims in the best order, by their correctness; 0 for a perfect order.
    Domain: confidence and correctness in [0, 1]; values in [0, 1], lower is better.
    Reference: Geifman, Uziel & El-Yaniv 2019, Bias-reduced uncertainty estimation for deep neural classifiers, ICLR;
    ties in closed form.

    >>> from conrad_bench import eaurc
    >>> round(eaurc([0.9, 0.2, 0.8, 0.4], [1, 0, 0, 1]).value, 4)
    0.125
    """

    name = "eaurc"
    summary = "AURC less that of the best order of the same claims"
    label = "E-AURC"
    better = "lower"
    range = (0.0, 1.0)
    source = "Geifman, Uziel & El-Yaniv 2019; ties in closed form"

    def statistic(self, sample: Sample) -> Statistic:
        """Sums by confidence, and by correctness for the best order."""
        area, best = sample.ranking.fold(_area), sample.best_ranking.fold(_area)
        return lambda weights: np.maximum(ratio(area(weights) - best(weights), weights @ sample.counts), 0.0)


class AUGRC(Metric):
    """Area under the generalised risk-coverage curve: how often a claim is both wrong and kept.

    Formula: integral over coverages of (risk * coverage), by trapezoids: the risk of a claim that is both wrong and
    kept, averaged over thresholds. For binary correctness it is (1 - AUROC) p (1 - p) + (1 - p)^2 / 2 with the share p
    of correct claims.
    Domain: confidence and correctness in [0, 1]; values in [0, 0.5], lower is better.
    Reference: Traub et al. 2024, Overcoming common flaws in the evaluation of selective classification systems,
    NeurIPS.

    >>> from conrad_bench import augrc
    >>> round(augrc([0.9, 0.2, 0.8, 0.4], [1, 0, 0, 1]).value, 4)
    0.1875
    """

    name = "augrc"
    summary = "area under the generalised risk-coverage curve: how often a claim is kept and wrong"
    label = "AUGRC"
    better = "lower"
    range = (0.0, 0.5)
    source = "Traub et al. 2024"

    def statistic(self, sample: Sample) -> Statistic:
        """Sums by confidence."""
        before, loss = sample.ranking.fold(_loss_before), sample.totals(1 - sample.correctness)[:, 0]

        def statistic(weights: FloatArray) -> FloatArray:
            total = weights @ sample.counts
            # A claim's loss counts at every coverage from its own place on.
            return ratio(total * (weights @ loss) - before(weights), total**2)

        return statistic


class CoverageAtRisk(Metric):
    """Coverage at a risk: how many claims can be kept without being wrong too often.

    Formula: the largest share of claims, the most confident ones, whose mean risk (1 - correctness) is at most `risk`;
    0 where no claim can be kept.
    Domain: confidence and correctness in [0, 1]; values in [0, 1], higher is better.
    Reference: Geifman & El-Yaniv 2017, Selective classification for deep neural networks, NeurIPS; ties in closed form.

    >>> from conrad_bench import coverage_at_risk
    >>> round(coverage_at_risk([0.9, 0.2, 0.8, 0.4], [1, 0, 1, 0]).value, 4)
    0.5
    """

    name = "coverage_at_risk"
    summary = "largest share of claims that can be kept at a mean risk of at most 0.2 (option `risk`)"
    label = "coverage at risk"
    better = "higher"
    range = (0.0, 1.0)
    source = "Geifman & El-Yaniv 2017; ties in closed form"
    smooth = False

    risk: float = Field(default=0.2, ge=0, le=1)
    """The mean risk (1 - correctness) that is allowed."""

    def statistic(self, sample: Sample) -> Statistic:
        """The last place at which the risk is allowed, over all levels of confidence."""
        right = 1 - self.risk  # what a claim must have to leave the allowance as it is

        def kept(block: Levels) -> FloatArray:
            # What is left of the allowance above each level. The last level that is reached with some of it, or without
            # loss, is the last one of which claims can be kept.
            left = (block.correct_through - block.correct) - right * block.above
            reached = left >= -_ROUNDING
            last = len(left) - 1 - np.argmax(reached[::-1], axis=0)
            cell = last, np.arange(left.shape[1])
            claims, above, rest = block.claims[cell], block.above[cell], left[cell]
            takes = right * claims - block.correct[cell]
            fits = np.divide(rest * claims, takes, out=np.zeros_like(rest), where=takes > _ROUNDING) + _ROUNDING
            some = above + np.clip(np.floor(fits), 0, claims)
            return np.where(reached[cell], np.where(rest - takes >= -_ROUNDING, above + claims, some), 0.0)

        largest = sample.ranking.fold(kept, np.maximum)
        spare = sample.totals(sample.correctness - right)[:, 0]

        def statistic(weights: FloatArray) -> FloatArray:
            total = weights @ sample.counts
            return ratio(np.where(weights @ spare >= -_ROUNDING, total, largest(weights)), total)

        return statistic


_ROUNDING = 1e-9
"""Sums of losses that are less than this apart differ by rounding alone."""


def _area(block: Levels) -> FloatArray:
    """Sum the mean risks of the first k claims over all k.

    It is the expected value over the orders of tied claims: the j-th of m claims with the mean risk r, behind b others
    with the summed risk e, brings it to (e + j r) / (b + j), and the sum of that over j is
    m r + (e - b r) (H(b + m) - H(b)) with harmonic numbers H.
    """
    harmonic = _harmonic(1 << block.most.bit_length())
    first, through = (harmonic.take(claims.astype(np.int64)) for claims in (block.before, block.through))
    steps = np.diff(through, axis=0, prepend=first[None])
    lost = block.above - (block.correct_through - block.correct)
    rest = lost - block.above * (block.loss / np.maximum(block.claims, 1))
    return np.asarray(block.loss.sum(axis=0) + np.einsum("ij,ij->j", rest, steps))


@lru_cache(maxsize=4)
def _harmonic(size: int) -> FloatArray:
    """Return the harmonic numbers of 0 ... size - 1."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, size))])


def _loss_before(block: Levels) -> FloatArray:
    """Sum over claims of their risk times the claims before them, half of those of their own level among these."""
    return np.asarray(np.einsum("ij,ij->j", block.loss, block.through - block.claims / 2))
