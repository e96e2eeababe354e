"""Calibration: how far stated confidences lie from the correctness that they promise.

Correctness may be any number in [0, 1]. Groups, bins and bandwidths are those of the sample itself and stay fixed under
resampling.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from pydantic import Field

from conrad_bench.leaderboards.metrics.base import (
    BINS,
    FloatArray,
    IntArray,
    Metric,
    OfSums,
    Sample,
    Statistic,
    by_level,
    groups,
    levels,
    mean_of,
    ratio,
    signed_root,
)


class ECE(Metric):
    """Expected calibration error: sum over groups of (share of claims) * |mean confidence - mean correctness|.

    Groups are the distinct confidences where there are at most 21 of them and they repeat (two claims each on average),
    otherwise 10 equal-width bins closed on the right. In [0, 1], lower is better. It is biased upwards, and its
    replicates more so: the interval to read is that of `DebiasedECE`.
    """

    name = "ece"
    summary = "expected calibration error: by distinct confidence (at most 21), else 10 equal-width bins"
    label = "ECE"
    better = "lower"
    range = (0.0, 1.0)
    source = "Naeini et al. 2015; groups are the distinct confidences where there are at most 21, and they repeat"
    headline = True
    worst_case = True
    interval = False

    def statistic(self, sample: Sample) -> Statistic:
        """Sums of residuals by unit and group."""
        return _grouped_error(sample, sample.residuals)


class EqualMassECE(Metric):
    """ECE over 10 bins of about equally many claims; by distinct confidence where ECE groups so.

    Claims with one confidence are in one bin: the bin of the middle of their ranks. In [0, 1], lower is better.
    """

    name = "ece_mass"
    summary = "ECE by distinct confidence (at most 21), else 10 bins of equal mass"
    label = "ECE (equal mass)"
    better = "lower"
    range = (0.0, 1.0)
    source = "Nguyen & O'Connor 2015 (adaptive bins)"
    interval = False

    def statistic(self, sample: Sample) -> Statistic:
        """Sums of residuals by unit and bin."""
        group = mass_groups(sample.stated())
        return _grouped_error(sample, sample.cells(group, sample.stated() - sample.correctness))


class DebiasedECE(Metric):
    """Calibration error without its bias: the signed root of the mean squared gap, less what chance adds to it.

    In each group, the squared gap of mean confidence and mean correctness is too large by the variance s^2 of that gap.
    With the residual sums R_u (confidence - correctness) and claims n_u of its units, (R^2 - sum R_u^2) / (n^2 - sum
    n_u^2) is free of it: products of different units alone, whatever the dependence within a unit. (With one claim a
    unit this is gap^2 - s^2 / n.) Groups of one unit are left out. The mean over claims is 0 on average for calibrated
    confidences, so it may be negative; shown is the root of its size with its sign. In [-1, 1], lower is better.
    """

    name = "ece_debiased"
    summary = "calibration error (root mean square over the groups of ECE) without its upward bias; may be negative"
    label = "cal. error"
    better = "lower"
    range = (-1.0, 1.0)
    source = "Kumar, Liang & Ma 2019, section 5, with units in the place of claims"
    headline = True
    squared = True

    def statistic(self, sample: Sample) -> Statistic:
        """Sums of residuals and claims by unit and group, and their squares."""
        residual, claims = sample.residuals, sample.cells(sample.groups, np.ones(len(sample)))
        known = np.count_nonzero(claims, axis=0) > 1
        residual, claims = residual[:, known], claims[:, known]
        terms = np.hstack([residual, claims, residual**2, claims**2])

        def value(sums: FloatArray) -> FloatArray:
            gap, n, squares, pairs = np.split(sums, 4, axis=1)
            size = n**2 - pairs
            error = np.divide(n * (gap**2 - squares), size, out=np.zeros_like(size), where=size > 0.5)
            return signed_root(ratio(error.sum(axis=1), n.sum(axis=1)))

        return OfSums(terms, value)


class MaximumError(Metric):
    """Maximum calibration error: the largest |mean confidence - mean correctness| of a group of ECE.

    A group of a single claim counts as much as any other, so this is a warning, not a score. In [0, 1], lower is
    better.
    """

    name = "mce"
    summary = "maximum calibration error: the largest gap of a group of ECE"
    label = "MCE"
    better = "lower"
    range = (0.0, 1.0)
    source = "Naeini et al. 2015"
    interval = False

    def statistic(self, sample: Sample) -> Statistic:
        """Sums of residuals and claims by unit and group."""
        residual, count = sample.residuals, sample.cells(sample.groups, np.ones(len(sample)))

        def statistic(weights: FloatArray) -> FloatArray:
            claims = weights @ count
            gaps = np.divide(np.abs(weights @ residual), claims, out=np.zeros_like(claims), where=claims > 0)
            return np.where(claims.any(axis=1), gaps.max(axis=1), np.nan)

        return statistic


class SmoothECE(Metric):
    """Smooth ECE: the mean absolute residual (confidence - correctness) after smoothing along the confidence.

    The kernel is a Gaussian reflected at 0 and 1, its width the one at which the error equals the width, found on the
    sample and fixed under resampling. There are no bins to choose. In [0, 1], lower is better.
    """

    name = "smece"
    summary = "smooth ECE: residuals smoothed at the width that equals the error; no bins"
    label = "smECE"
    better = "lower"
    range = (0.0, 1.0)
    source = "Blasiok & Nakkiran 2024, as the package relplot computes it"
    interval = False

    def statistic(self, sample: Sample) -> Statistic:
        """Sums by unit of residuals times cosines, in which smoothing is a product."""
        x, residual = sample.stated(), sample.stated() - sample.correctness
        width = _smooth_width(x, residual)
        # Reflected Gaussian smoothing multiplies the k-th cosine of a function on [0, 1] by exp(-(pi k width)^2 / 2).
        terms = np.empty((sample.units, _modes(width)))
        for k in range(_modes(width)):
            terms[:, k] = np.bincount(sample.unit, residual * np.cos(math.pi * k * x), sample.units)
        smooth = _smoother(width)
        return lambda weights: ratio(np.abs(weights @ terms @ smooth).mean(axis=1), weights @ sample.counts)


class Brier(Metric):
    """Brier score: mean squared difference between confidence and correctness. In [0, 1], lower is better; proper."""

    name = "brier"
    summary = "mean squared difference between confidence and correctness"
    label = "Brier"
    better = "lower"
    range = (0.0, 1.0)
    source = "Brier 1950, with correctness in [0, 1]"
    headline = True
    worst_case = True

    def statistic(self, sample: Sample) -> Statistic:
        """A mean over claims."""
        return mean_of(sample, (sample.stated() - sample.correctness) ** 2)


class Skill(Metric):
    """Brier skill score: 1 - Brier / UNC, what a method gains over always stating the mean correctness of its claims.

    1 is perfect, 0 is no better than that constant, below 0 is worse; undefined where all claims are equally correct.
    In (-inf, 1], higher is better.
    """

    name = "skill"
    summary = "1 - Brier / UNC: the gain over always stating the mean correctness; 0 or less is useless"
    label = "skill"
    better = "higher"
    range = (-math.inf, 1.0)
    source = "Murphy 1973 (Brier skill score against the sample's own mean)"
    headline = True
    compared = False  # on the same claims it orders methods as Brier does

    def statistic(self, sample: Sample) -> Statistic:
        """Squared errors, and sums and squares of correctness, by unit."""
        y = sample.correctness - (sample.correctness.mean() if len(sample) else 0.0)
        error = (sample.stated() - sample.correctness) ** 2
        terms = sample.totals(error, y * y, y, np.ones(len(sample)))

        def value(sums: FloatArray) -> FloatArray:
            errors, squares, total, count = sums.T
            spread = squares - ratio(total**2, count)
            known = spread > 1e-12 * np.maximum(count, 1)
            return np.asarray(1 - np.divide(errors, spread, out=np.full(spread.shape, np.nan), where=known))

        return OfSums(terms, value)


class BrierMiscalibration(Metric):
    """MCB: what the Brier score loses by miscalibration, its value less that of the isotonically recalibrated claims.

    Brier = MCB - DSC + UNC. In [0, 1], lower is better. No interval: a replicate's repeated claims let the isotonic fit
    follow them, so that replicates lie above the value.
    """

    name = "brier_mcb"
    summary = "MCB of the Brier score: the loss by miscalibration (CORP, isotonic)"
    label = "Brier MCB"
    better = "lower"
    range = (0.0, 1.0)
    source = "Dimitriadis, Gneiting & Jordan 2021 (CORP)"
    interval = False

    def statistic(self, sample: Sample) -> Statistic:
        """One isotonic fit for each replicate."""
        score = Brier().statistic(sample)
        return lambda weights: np.maximum(score(weights) - _recalibrated(sample, weights), 0.0)


class BrierDiscrimination(Metric):
    """DSC: what the Brier score gains by discrimination, UNC less the score of the isotonically recalibrated claims.

    In [0, 0.25], higher is better. No interval, for the reason given at MCB.
    """

    name = "brier_dsc"
    summary = "DSC of the Brier score: the gain by discrimination (CORP, isotonic)"
    label = "Brier DSC"
    better = "higher"
    range = (0.0, 0.25)
    source = "Dimitriadis, Gneiting & Jordan 2021 (CORP)"
    interval = False

    def statistic(self, sample: Sample) -> Statistic:
        """One isotonic fit for each replicate."""
        spread = BrierUncertainty().statistic(sample)
        return lambda weights: np.maximum(spread(weights) - _recalibrated(sample, weights), 0.0)


class BrierUncertainty(Metric):
    """UNC: the variance of correctness, the Brier score of stating the mean correctness always.

    In [0, 0.25]. It belongs to the answers, not to the confidences; lower means that they differ less.
    """

    name = "brier_unc"
    summary = "UNC of the Brier score: the variance of correctness"
    label = "Brier UNC"
    better = "lower"
    range = (0.0, 0.25)
    source = "Dimitriadis, Gneiting & Jordan 2021 (CORP)"
    confidence = False

    def statistic(self, sample: Sample) -> Statistic:
        """Sums and squares by unit."""
        y = sample.correctness - (sample.correctness.mean() if len(sample) else 0.0)
        terms = sample.totals(y * y, y, np.ones(len(sample)))

        def value(sums: FloatArray) -> FloatArray:
            squares, total, count = sums.T
            return np.maximum(ratio(squares, count) - ratio(total, count) ** 2, 0.0)

        return OfSums(terms, value)


class LogScore(Metric):
    """Log score: mean of -(y ln c + (1 - y) ln(1 - c)), soft-label cross-entropy in nats; lower is better; proper.

    Confidences c are first clipped to [clip, 1 - clip], as in ConRad's reward: a stated 0 or 1 is not infinitely wrong.
    """

    name = "log_score"
    summary = "soft-label cross-entropy in nats, confidences clipped to [0.01, 0.99]"
    label = "log score"
    better = "lower"
    range = (0.0, math.inf)
    source = "Good 1952; clipped as in ConRad, equation 2"

    clip: float = Field(default=0.01, gt=0, lt=0.5)
    """Confidences are moved to [clip, 1 - clip]."""

    def statistic(self, sample: Sample) -> Statistic:
        """A mean over claims."""
        c, y = np.clip(sample.stated(), self.clip, 1 - self.clip), sample.correctness
        return mean_of(sample, -(y * np.log(c) + (1 - y) * np.log1p(-c)))


class InTheLarge(Metric):
    """Calibration in the large: mean confidence minus mean correctness, above 0 for overconfidence. In [-1, 1]."""

    name = "in_the_large"
    summary = "mean confidence minus mean correctness; above 0: overconfident"
    label = "in the large"
    better = "zero"
    range = (-1.0, 1.0)
    source = "Van Calster et al. 2019 (calibration-in-the-large)"

    def statistic(self, sample: Sample) -> Statistic:
        """A mean over claims."""
        return mean_of(sample, sample.stated() - sample.correctness)


def mass_groups(confidence: FloatArray) -> IntArray:
    """Return the group of each confidence (n,), from 0 in rising order: its level, or its bin of equal mass."""
    if by_level(confidence):
        return groups(confidence)
    _, level, count = np.unique(levels(confidence), return_inverse=True, return_counts=True)
    # Twice the middle rank of each level, in whole numbers: bins must not depend on rounding.
    middle = 2 * np.cumsum(count) - count
    return (BINS * middle // (2 * len(confidence)))[level].astype(np.int64)


def _grouped_error(sample: Sample, residuals: FloatArray) -> Statistic:
    # The share times the difference of means is the summed residual over n.
    terms = np.column_stack([residuals, sample.counts])
    return OfSums(terms, lambda sums: ratio(np.abs(sums[:, :-1]).sum(axis=1), sums[:, -1]))


def _recalibrated(sample: Sample, weights: FloatArray) -> FloatArray:
    """Return the Brier score (replicates,) after isotonic regression of correctness on confidence."""
    from scipy.optimize import isotonic_regression

    squares = weights @ sample.totals(sample.correctness**2)[:, 0]
    scores = np.full(len(weights), np.nan)
    claims, corrects = sample.ranking.sums(weights)
    for i in range(len(weights)):
        count, correct = claims[:, i], corrects[:, i]
        there = count > 0
        if there.any():
            means = correct[there] / count[there]
            fit = isotonic_regression(means, weights=count[there], increasing=False).x
            # Pooled means: the squared error is the sum of squares less that of the fit.
            scores[i] = (squares[i] - np.sum(count[there] * fit**2)) / count.sum()
    return np.asarray(np.maximum(scores, 0.0))


_SMALLEST_WIDTH = 0.001
_GRID = 4096


def _modes(width: float) -> int:
    """Return how many cosines a width leaves above a millionth."""
    return 1 + math.ceil(math.sqrt(2 * math.log(1e6)) / (math.pi * width))


@lru_cache(maxsize=16)
def _smoother(width: float) -> FloatArray:
    """Return the matrix (modes, points) from sums of cosines to the smoothed function at points of [0, 1]."""
    modes = _modes(width)
    points = (np.arange(max(200, math.ceil(4 / width))) + 0.5) / max(200, math.ceil(4 / width))
    k = np.arange(modes)
    damping = np.exp(-((math.pi * k * width) ** 2) / 2) * np.where(k > 0, 2.0, 1.0)
    return np.asarray(damping[:, None] * np.cos(math.pi * k[:, None] * points))


def _smooth_width(x: FloatArray, residual: FloatArray) -> float:
    """Return the smallest multiple of 2**-10, from 0.001 on, whose smoothed error is no larger than itself."""
    # Claims are shared out between the two nearest points of a fine grid: the search needs no more.
    place = x * _GRID
    cell = np.minimum(place.astype(np.int64), _GRID - 1)
    share = place - cell
    grid = np.bincount(cell, residual * (1 - share), _GRID + 1) + np.bincount(cell + 1, residual * share, _GRID + 1)
    at = math.pi * np.arange(_GRID + 1) / _GRID
    known: list[float] = []

    def below(width: float) -> bool:
        if width < _SMALLEST_WIDTH:
            return False
        while len(known) < _modes(width):
            known.append(float(grid @ np.cos(len(known) * at)))
        sums = np.array(known[: _modes(width)])
        return width >= float(np.abs(sums @ _smoother(width)).mean()) / max(len(x), 1)

    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if below(middle) else (middle, high)
    return high
