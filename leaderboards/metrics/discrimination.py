"""Discrimination: whether higher confidences go with more correct claims, whatever their size."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from conrad_bench.leaderboards.metrics.base import (
    FloatArray,
    IntArray,
    Metric,
    OfSums,
    Sample,
    Statistic,
    centred,
    ratio,
)
from conrad_bench.leaderboards.metrics.ranking import Levels, Ranking, by_unit, parts


class Pearson(Metric):
    """Pearson correlation of confidence and correctness.

    Formula: cov(c, y) / (sd(c) sd(y)) over claims.
    Domain: confidence and correctness in [0, 1], neither constant; values in [-1, 1], higher is better.
    Reference: Pearson 1895, Note on regression and inheritance in the case of two parents, Proceedings of the Royal
    Society of London 58; ConRad, Table 1 (Correlation).

    >>> from conrad_bench import pearson
    >>> round(pearson([0.9, 0.2, 0.8, 0.4], [1, 0, 0.5, 0]).value, 4)
    0.922
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

        def value(sums: FloatArray) -> FloatArray:
            count, *totals = sums.T
            mean_x, mean_y, mean_xx, mean_yy, mean_xy = (ratio(total, count) for total in totals)
            variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
            defined = (variance_x > 1e-12) & (variance_y > 1e-12)
            scale = np.sqrt(np.where(defined, variance_x * variance_y, np.nan))
            return np.clip((mean_xy - mean_x * mean_y) / scale, -1.0, 1.0)

        return OfSums(terms, value)


class Spearman(Metric):
    """Spearman correlation: whether the order of confidences is that of correctness.

    Formula: Pearson's correlation of the ranks, ties at their mean rank. Every replicate is ranked anew.
    Domain: confidence and correctness in [0, 1], neither constant; values in [-1, 1], higher is better.
    Reference: Spearman 1904, The proof and measurement of association between two things, American Journal of
    Psychology 15.

    >>> from conrad_bench import spearman
    >>> round(spearman([0.9, 0.2, 0.8, 0.4], [1, 0, 0.5, 0]).value, 4)
    0.9487
    """

    name = "spearman"
    summary = "rank correlation of confidence and correctness"
    label = "Spearman rho"
    better = "higher"
    range = (-1.0, 1.0)
    source = "Spearman 1904; ties at their mean rank"

    def statistic(self, sample: Sample) -> Statistic:
        """Ranks under each of the weights."""
        # Claims go in the order of the ranking with more levels, so that the larger array of ranks is read in order.
        finer, other = sorted((sample.ranking, sample.best_ranking), key=lambda ranking: -ranking.size)
        level = other.rows()[finer.order]

        def statistic(weights: FloatArray) -> FloatArray:
            rank, spread = finer.ranks(weights)
            other_rank, other_spread = other.ranks(weights)
            together, copies = np.zeros(len(weights)), by_unit(weights)
            for part in parts(len(sample), len(weights)):
                together += np.einsum(
                    "ij,ij,ij->j",
                    copies.take(sample.unit[finer.order[part]], axis=0).astype(np.float64),
                    rank.take(finer.level[part], axis=0),
                    other_rank.take(level[part], axis=0),
                )
            return np.clip(ratio(together, np.sqrt(spread * other_spread)), -1.0, 1.0)

        return statistic


class Kendall(Metric):
    """Kendall's tau-b: pairs of claims in the same order by confidence and by correctness.

    Formula: (concordant - discordant pairs) / sqrt(pairs that differ in confidence * pairs that differ in correctness).
    Its replicates are linear in the weights (the infinitesimal jackknife's), since counting pairs in every replicate
    takes too long.
    Domain: confidence and correctness in [0, 1], neither constant; values in [-1, 1], higher is better.
    Reference: Kendall 1945, The treatment of ties in ranking problems, Biometrika 33; linearised as in Efron &
    Tibshirani 1993, An introduction to the bootstrap, section 21.3.

    >>> from conrad_bench import kendall
    >>> round(kendall([0.9, 0.2, 0.8, 0.4], [1, 0, 0.5, 0]).value, 4)
    0.9129
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
    """Somers' D of confidence given correctness: 2 AUROC - 1 for any correctness.

    Formula: (concordant - discordant pairs of claims) / pairs that differ in correctness. Linearised replicates as for
    Kendall's tau-b.
    Domain: confidence and correctness in [0, 1], correctness not constant; values in [-1, 1], higher is better.
    Reference: Somers 1962, A new asymmetric measure of association for ordinal variables, American Sociological Review
    27.

    >>> from conrad_bench import somers_d
    >>> round(somers_d([0.9, 0.2, 0.8, 0.4], [1, 0, 0.5, 0]).value, 4)
    1.0
    """

    name = "somers_d"
    summary = "Somers' D of confidence given correctness, 2 AUROC - 1 for any correctness; linearised replicates"
    label = "Somers' D"
    better = "higher"
    range = (-1.0, 1.0)
    source = "Somers 1962; linearised as in Efron & Tibshirani 1993, section 21.3"
    headline = True

    def statistic(self, sample: Sample) -> Statistic:
        """Tangents of two sums over pairs."""
        concordance, _, y = _pair_means(sample)
        return lambda weights: np.clip(ratio(concordance(weights), y(weights)), -1, 1)


class AUROC(Metric):
    """Area under the ROC curve: the chance that a correct claim has a higher confidence than a wrong one.

    Formula: (pairs of a correct and a wrong claim in this order + half of the tied ones) / all such pairs.
    Domain: confidence in [0, 1], correctness 0 or 1, both there; values in [0, 1], higher is better.
    Reference: Hanley & McNeil 1982, The meaning and use of the area under a receiver operating characteristic (ROC)
    curve, Radiology 143; ConRad, Table 2.

    >>> from conrad_bench import auroc
    >>> round(auroc([0.9, 0.2, 0.8, 0.4], [1, 0, 0, 1]).value, 4)
    0.75
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
        wins = sample.ranking.fold(_wins)
        sides = sample.totals(sample.correctness, 1 - sample.correctness)
        return lambda weights: ratio(wins(weights), np.prod(weights @ sides, axis=1))


class AUPRC(Metric):
    """Area under the precision-recall curve, as average precision.

    Formula: sum of precision * recall gained, over the distinct confidences as thresholds. A confidence without
    information has the share of correct claims.
    Domain: confidence in [0, 1], correctness 0 or 1, some of it 1; values in [0, 1], higher is better.
    Reference: Davis & Goadrich 2006, The relationship between precision-recall and ROC curves, ICML.

    >>> from conrad_bench import auprc
    >>> round(auprc([0.9, 0.2, 0.8, 0.4], [1, 0, 0, 1]).value, 4)
    0.8333
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
        precision, right = sample.ranking.fold(_precision), sample.totals(sample.correctness)[:, 0]
        return lambda weights: ratio(precision(weights), weights @ right)


def _wins(block: Levels) -> FloatArray:
    """Sum over wrong claims of the correct claims with a higher confidence, and half of those with the same one."""
    return np.asarray(np.einsum("ij,ij->j", block.loss, block.correct_through - block.correct / 2))


def _precision(block: Levels) -> FloatArray:
    """Sum over correct claims of the precision at their confidence as the threshold."""
    # Where no claim is at the level or above it, none is correct.
    precision = block.correct_through / np.maximum(block.through, 1)
    return np.asarray(np.einsum("ij,ij->j", precision, block.correct))


_PAIR_MEANS: WeakKeyDictionary[Sample, tuple[Statistic, Statistic, Statistic]] = WeakKeyDictionary()


def _pair_means(sample: Sample) -> tuple[Statistic, Statistic, Statistic]:
    """Return the means over pairs of claims of sign(x - x') sign(y - y'), of [x != x'] and of [y != y'].

    They are quadratic in the weights; these are their tangents at weights of 1. They are kept while the sample lives.
    """
    if sample in _PAIR_MEANS:
        return _PAIR_MEANS[sample]
    x, y = sample.ranking, sample.best_ranking
    concordant = _concordant(x, y)
    count = np.ones(len(sample))
    n = max(len(sample), 1)

    def tangent(pairs: FloatArray) -> Statistic:
        terms, whole = sample.totals(2 * pairs / n, count), float(pairs.sum()) / n**2
        return lambda weights: ratio(*(weights @ terms).T) - whole

    untied = [n - np.bincount(levels)[levels].astype(np.float64) for levels in (x.rows(), y.rows())]
    return tangent(concordant.astype(np.float64)), tangent(untied[0]), tangent(untied[1])


def _concordant(x: Ranking, y: Ranking) -> IntArray:
    """Return for each claim how many are concordant with it less how many are discordant, shape (n,).

    Of the claims that come before a claim by x, count those with a lower y less those with a higher one. The others
    follow from that and from the sizes of ties: lower and higher values of y alone give the sum over all x.
    """
    finer, other = sorted((x, y), key=lambda ranking: -ranking.size)
    first, second = finer.rows(), other.rows()
    order = np.argsort(first * other.size + second)
    first, second = first[order], second[order]
    new = np.ones(len(order), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    cell = np.cumsum(new) - 1
    claims = [np.bincount(values) for values in (first, second, cell)]
    below = np.cumsum(claims[1]) - claims[1]
    both = claims[0][first] + claims[1][second] - claims[2][cell]
    return _scattered(2 * _lower_before(second) + len(order) - 2 * below[second] - both, order)


def _lower_before(values: IntArray) -> IntArray:
    """Return for each value (n,), a whole number from 0, how many before it are lower less how many are higher.

    Bit by bit from the highest one: values that agree in all higher bits lie together, in their first order, and those
    with a 0 are counted as lower by those with a 1 behind them. Then they are parted, the zeros before the ones.
    """
    place = np.arange(len(values))
    found, at = np.zeros_like(place), place
    for bit in reversed(range(int(values.max(initial=0)).bit_length())):
        one = (values >> bit) & 1
        starts = np.flatnonzero(np.diff(values >> (bit + 1), prepend=-1))
        sizes = np.diff(starts, append=len(values))
        start = np.repeat(starts, sizes)
        ones = np.cumsum(one) - one
        ones -= ones[start]
        zeros = at - start - ones
        found += np.where(one, zeros, -ones)
        moved = start + np.where(one, np.repeat(sizes - np.add.reduceat(one, starts), sizes) + ones, zeros)
        values, place, found = (_scattered(each, moved) for each in (values, place, found))
    return _scattered(found, place)


def _scattered(values: IntArray, to: IntArray) -> IntArray:
    """Return values (n,) each at its place of `to` (n,), a permutation."""
    found = np.empty_like(values)
    found[to] = values
    return found
