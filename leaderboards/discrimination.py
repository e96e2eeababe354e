"""Discrimination: whether higher confidences go with more correct claims, whatever their size."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from conrad_bench.leaderboards.metrics import (
    FloatArray,
    IntArray,
    Metric,
    Sample,
    Statistic,
    centred,
    rank_keys,
    ratio,
)


class Pearson(Metric):
    """Pearson correlation of confidence and correctness; undefined where either is constant.

    In [-1, 1], higher is better.
    """

    name = "pearson"
    summary = "linear correlation of confidence and correctness"
    label = "Pearson r"
    better = "higher"
    range = (-1.0, 1.0)
    source = "ConRad, Table 1 (Correlation)"
    headline = True

    def statistic(self, sample: Sample) -> Statistic:
        """Sums, squares and products by unit."""
        # Centred and scaled to the range, a variance is at least of the order 1/n unless a replicate is constant.
        x, y = centred(sample.stated()), centred(sample.correctness)
        terms = sample.totals(np.ones(len(sample)), x, y, x * x, y * y, x * y)

        def statistic(weights: FloatArray) -> FloatArray:
            count, *sums = (weights @ terms).T
            mean_x, mean_y, mean_xx, mean_yy, mean_xy = (ratio(total, count) for total in sums)
            variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
            defined = (variance_x > 1e-12) & (variance_y > 1e-12)
            scale = np.sqrt(np.where(defined, variance_x * variance_y, np.nan))
            return np.clip((mean_xy - mean_x * mean_y) / scale, -1.0, 1.0)

        return statistic


class Spearman(Metric):
    """Spearman correlation: Pearson's of the ranks, ties at their mean rank; undefined where either is constant.

    In [-1, 1], higher is better. Every replicate is ranked anew.
    """

    name = "spearman"
    summary = "rank correlation of confidence and correctness"
    label = "Spearman rho"
    better = "higher"
    range = (-1.0, 1.0)
    source = "Spearman 1904; ties at their mean rank"

    def statistic(self, sample: Sample) -> Statistic:
        """Ranks under each of the weights."""
        by_confidence = sample.ranking
        by_correctness = sample.best_ranking
        # The level of correctness of each claim, in the order of the ranking by confidence.
        level = np.empty(len(sample), np.int64)
        level[by_correctness.order] = by_correctness.level
        level = level[by_confidence.order]

        def statistic(weights: FloatArray) -> FloatArray:
            x, y = sample.ranked(weights), sample.best(weights)
            if not len(x.claims):
                return np.full(len(weights), np.nan)
            # Ranks less their mean, which is half the total.
            total = x.through[-1]
            rank_x, rank_y = x.through - (x.claims + total) / 2, y.through - (y.claims + total) / 2
            if by_confidence.size == len(sample):
                claims, rank_of_x = x.claims, rank_x
            else:
                claims, rank_of_x = np.ascontiguousarray(weights.T)[by_confidence.unit], rank_x[by_confidence.level]
            together = np.einsum("ij,ij,ij->j", claims, rank_of_x, rank_y[level])
            spread_x = np.einsum("ij,ij,ij->j", x.claims, rank_x, rank_x)
            spread_y = np.einsum("ij,ij,ij->j", y.claims, rank_y, rank_y)
            return np.clip(ratio(together, np.sqrt(spread_x * spread_y)), -1.0, 1.0)

        return statistic


class Kendall(Metric):
    """Kendall's tau-b: concordant minus discordant pairs of claims, over the geometric mean of the untied ones.

    Undefined where either is constant. In [-1, 1], higher is better. Its replicates are linear in the weights (the
    infinitesimal jackknife's), since counting pairs in every replicate takes too long.
    """

    name = "kendall"
    summary = "Kendall's tau-b of confidence and correctness; interval by linearised replicates"
    label = "Kendall tau-b"
    better = "higher"
    range = (-1.0, 1.0)
    source = "Kendall 1945 (tau-b); linearised as in Efron & Tibshirani 1993, section 21.3"

    def statistic(self, sample: Sample) -> Statistic:
        """Tangents of the three sums over pairs."""
        concordance, x, y = _pair_means(sample)

        def statistic(weights: FloatArray) -> FloatArray:
            untied = np.sqrt(np.maximum(x(weights) * y(weights), 0))
            return np.clip(ratio(concordance(weights), untied), -1, 1)

        return statistic


class SomersD(Metric):
    """Somers' D: concordant minus discordant pairs of claims, over the pairs that differ in correctness.

    For binary correctness this is 2 AUROC - 1. Undefined where correctness is constant. In [-1, 1], higher is better.
    Linearised replicates as for Kendall's tau-b.
    """

    name = "somers_d"
    summary = "Somers' D of confidence given correctness, 2 AUROC - 1 for any correctness; linearised replicates"
    label = "Somers' D"
    better = "higher"
    range = (-1.0, 1.0)
    source = "Somers 1962; linearised as in Efron & Tibshirani 1993, section 21.3"

    def statistic(self, sample: Sample) -> Statistic:
        """Tangents of two sums over pairs."""
        concordance, _, y = _pair_means(sample)
        return lambda weights: np.clip(ratio(concordance(weights), y(weights)), -1, 1)


class AUROC(Metric):
    """Area under the ROC curve for binary correctness: the chance that a correct claim has the higher confidence.

    Ties count one half; undefined where one class is absent. In [0, 1], higher is better.
    """

    name = "auroc"
    summary = "area under the ROC curve (binary correctness)"
    label = "AUROC"
    better = "higher"
    range = (0.0, 1.0)
    source = "ConRad, Table 2; Mann-Whitney form with ties"
    headline = True
    binary = True
    worst_case = True

    def statistic(self, sample: Sample) -> Statistic:
        """Pairs of a correct and a wrong claim, from sums by confidence."""

        def statistic(weights: FloatArray) -> FloatArray:
            found = sample.ranked(weights)
            if not len(found.claims):
                return np.full(len(weights), np.nan)
            wins = np.einsum("ij,ij->j", found.claims - found.correct, found.correct_through - found.correct / 2)
            right = found.correct_through[-1]
            return ratio(wins, right * (found.through[-1] - right))

        return statistic

    def swapped(self, a: Sample, b: Sample) -> Statistic:
        """A quadratic form in the swaps, from the pairs of claims between any two units, where units are few."""
        if a.units > _FEW_UNITS or (len(a) + len(b)) * a.units > _MOST_CELLS:
            return super().swapped(a, b)
        aa, ab, ba, bb = (_wins(x, y) for x in (a, b) for y in (a, b))
        quadratic, one = aa - ab - ba + bb, np.ones(a.units)
        # With 1 - s for the units that stay: (1 - s) aa (1 - s) + (1 - s) ab s + s ba (1 - s) + s bb s, and its mirror.
        linear = [one @ ab + ba @ one - aa @ one - one @ aa, ab @ one + one @ ba - bb @ one - one @ bb]
        constant = aa.sum(), bb.sum()
        right = [side.totals(side.correctness)[:, 0] for side in (a, b)]
        wrong = [side.totals(1 - side.correctness)[:, 0] for side in (a, b)]

        def difference(swaps: FloatArray) -> FloatArray:
            both = np.einsum("ij,ij->i", swaps @ quadratic, swaps)
            areas = []
            for i in (0, 1):
                sums = [own[i].sum() + swaps @ (own[1 - i] - own[i]) for own in (right, wrong)]
                areas.append(ratio(both + swaps @ linear[i] + constant[i], sums[0] * sums[1]))
            return np.asarray(areas[0] - areas[1])

        return difference


class AUPRC(Metric):
    """Area under the precision-recall curve for binary correctness, as average precision: sum of precision * recall
    gained, over the distinct confidences as thresholds.

    Undefined where no claim is correct; a confidence without information has the share of correct claims. In [0, 1],
    higher is better.
    """

    name = "auprc"
    summary = "area under the precision-recall curve, as average precision (binary correctness)"
    label = "AUPRC"
    better = "higher"
    range = (0.0, 1.0)
    source = "Davis & Goadrich 2006; average precision over distinct thresholds"
    binary = True

    def statistic(self, sample: Sample) -> Statistic:
        """Precision and recall at each distinct confidence."""

        def statistic(weights: FloatArray) -> FloatArray:
            found = sample.ranked(weights)
            if not len(found.claims):
                return np.full(len(weights), np.nan)
            precision = np.divide(
                found.correct_through, found.through, out=np.zeros_like(found.through), where=found.through > 0
            )
            return ratio(np.einsum("ij,ij->j", precision, found.correct), found.correct_through[-1].copy())

        return statistic


_FEW_UNITS = 1_000
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
_MOST_CELLS = 2**24


def _wins(right: Sample, wrong: Sample) -> FloatArray:
    """Return how often a unit's correct claims have a higher confidence than a unit's wrong claims in another sample.

    Shape (units, units), ties counted one half.
    """
    good, bad = right.correctness == 1.0, wrong.correctness != 1.0
    confidence = rank_keys(wrong.stated()[bad])
    order = np.argsort(confidence, kind="stable")
    # For each number of wrong claims, the lowest ones: how many are in each unit.
    lowest = np.zeros((len(order) + 1, wrong.units))
    lowest[np.arange(1, len(order) + 1), wrong.unit[bad][order]] = 1
    np.cumsum(lowest, axis=0, out=lowest)
    own = rank_keys(right.stated()[good])
    below, through = (np.searchsorted(confidence[order], own, side=side) for side in _SIDES)
    found = np.zeros((right.units, wrong.units))
    np.add.at(found, right.unit[good], (lowest[below] + lowest[through]) / 2)
    return found


@lru_cache(maxsize=1)
def _pair_means(sample: Sample) -> tuple[Statistic, Statistic, Statistic]:
    """Return the means over pairs of claims of sign(x - x') sign(y - y'), of [x != x'] and of [y != y'].

    They are quadratic in the weights; these are their tangents at weights of 1.
    """
    x, y = (np.unique(values, return_inverse=True)[1].astype(np.int64) for values in _keys(sample))
    concordant = _lower(x, y) + _lower(-x, -y) - _lower(x, -y) - _lower(-x, y)
    count = np.ones(len(sample))
    n = max(len(sample), 1)

    def tangent(pairs: FloatArray) -> Statistic:
        terms, whole = sample.totals(2 * pairs / n, count), float(pairs.sum()) / n**2
        return lambda weights: ratio(*(weights @ terms).T) - whole

    untied = [n - np.bincount(values)[values].astype(np.float64) for values in (x, y)]
    return tangent(concordant.astype(np.float64)), tangent(untied[0]), tangent(untied[1])


def _keys(sample: Sample) -> tuple[FloatArray, FloatArray]:
    return rank_keys(sample.stated()), rank_keys(sample.correctness)


def _lower(x: IntArray, y: IntArray) -> IntArray:
    """Return for each claim how many have both a lower x and a lower y, shape (n,).

    Claims are sorted by x; then blocks of claims are merged as in merge sort, all blocks of a size at once, counting
    for each claim of a right block the claims of its left neighbour with a lower y.
    """
    n = len(x)
    # Among claims with one x those with a high y come first, so that none is below another.
    claim = np.lexsort((-y, x))
    rising = 2 * (y[claim] - y.min(initial=0))
    step = int(rising.max(initial=0)) + 2
    place = np.arange(n)
    found = np.zeros(n, np.int64)
    size = 1
    while size < n:
        left, pair = (place // size) % 2 == 0, place // (2 * size)
        # Of equal y the right block's come first, so that they are not counted. The blocks are sorted already, which a
        # stable sort makes use of.
        merged = np.argsort(pair * step + rising + left, kind="stable")
        claim, rising, from_left = claim[merged], rising[merged], left[merged]
        lefts = np.cumsum(from_left)
        lefts -= np.concatenate([[0], lefts])[pair * 2 * size]
        found[claim] += np.where(from_left, 0, lefts)
        size *= 2
    return found
