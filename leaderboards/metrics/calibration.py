"""Calibration: how far stated confidences lie from the correctness that they promise.

Correctness may be any number in [0, 1]. Groups, bins and bandwidths are those of the sample itself and stay fixed under
resampling.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from conrad_bench.leaderboards.metrics.base import (
    FloatArray,
    Metric,
    OfSums,
    Sample,
    Statistic,
    mass_groups,
    mean_of,
    ratio,
    signed_root,
)
from conrad_bench.leaderboards.metrics.smoothing import modes, recalibrated, smooth_width, smoother


class ECE(Metric):
    """Expected calibration error: how far groups of claims lie from the correctness that they promise.

    Formula: sum over groups of (share of claims) * |mean confidence - mean correctness|. Groups are the distinct
    confidences where there are at most 21 of them and they repeat (two claims each on average), otherwise 10
    equal-width bins closed on the right. It is biased upwards, and its replicates more so: the interval to read is that
    of `DebiasedECE`.
    Domain: confidence and correctness in [0, 1]; values in [0, 1], lower is better.
    Reference: Naeini, Cooper & Hauskrecht 2015, Obtaining well calibrated probabilities using Bayesian binning, AAAI.

    >>> from conrad_bench import ece
    >>> round(ece([0.9, 0.9, 0.4, 0.4], [1, 0, 1, 0]).value, 4)
    0.25
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
    """ECE over bins of about equally many claims.

    Formula: as ECE, over 10 bins of equal mass; by distinct confidence where ECE groups so. Claims with one confidence
    are in one bin: the bin of the middle of their ranks.
    Domain: confidence and correctness in [0, 1]; values in [0, 1], lower is better.
    Reference: Nguyen & O'Connor 2015, Posterior calibration and exploratory analysis for natural language processing
    models, EMNLP (adaptive bins).

    >>> from conrad_bench import ece_mass
    >>> round(ece_mass([0.9, 0.8, 0.4, 0.3], [1, 0, 1, 0]).value, 4)
    0.45
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

    Formula: sgn(m) sqrt(|m|), m the mean over claims of (R^2 - sum R_u^2) / (n^2 - sum n_u^2), with the residual sums
    R_u (confidence - correctness) and claims n_u of a group's units, R and n those of the group. In each group, the
    squared gap of mean confidence and mean correctness is too large by the variance s^2 of that gap; products of
    different units alone are free of it, whatever the dependence within a unit. (With one claim a unit this is gap^2 -
    s^2 / n.) Groups of one unit are left out. m is 0 on average for calibrated confidences, so it may be negative.
    Domain: confidence and correctness in [0, 1]; values in [-1, 1], lower is better.
    Reference: Kumar, Liang & Ma 2019, Verified uncertainty calibration, NeurIPS (section 5, with units in the place of
    claims).

    >>> from conrad_bench import ece_debiased
    >>> round(ece_debiased([0.9] * 10 + [0.4] * 10, [1, 0] * 10).value, 4)
    0.2392
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
    """Maximum calibration error: the largest gap of a group of ECE.

    Formula: max over groups of |mean confidence - mean correctness|. A group of a single claim counts as much as any
    other, so this is a warning, not a score.
    Domain: confidence and correctness in [0, 1]; values in [0, 1], lower is better.
    Reference: Naeini, Cooper & Hauskrecht 2015, Obtaining well calibrated probabilities using Bayesian binning, AAAI.

    >>> from conrad_bench import mce
    >>> round(mce([0.9, 0.9, 0.4, 0.4], [1, 0, 1, 0]).value, 4)
    0.4
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

    Formula: integral over t in [0, 1] of |mean over claims of (c - y) K(t, c)|. The kernel K is a Gaussian reflected at
    0 and 1, its width the one at which the error equals the width, found on the sample and fixed under resampling.
    There are no bins to choose.
    Domain: confidence and correctness in [0, 1]; values in [0, 1], lower is better.
    Reference: Blasiok & Nakkiran 2024, Smooth ECE: principled reliability diagrams via kernel smoothing, ICLR.

    >>> from conrad_bench import smece
    >>> round(smece([0.9, 0.9, 0.4, 0.4], [1, 0, 1, 0]).value, 4)
    0.2072
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
        width = smooth_width(x, residual)
        # Reflected Gaussian smoothing multiplies the k-th cosine of a function on [0, 1] by exp(-(pi k width)^2 / 2).
        terms = np.empty((sample.units, modes(width)))
        for k in range(modes(width)):
            terms[:, k] = np.bincount(sample.unit, residual * np.cos(math.pi * k * x), sample.units)
        smooth = smoother(width)
        return lambda weights: ratio(np.abs(weights @ terms @ smooth).mean(axis=1), weights @ sample.counts)


class Brier(Metric):
    """Brier score: mean squared difference between confidence and correctness. Proper.

    Formula: mean of (c - y)^2 over claims with confidence c and correctness y.
    Domain: confidence and correctness in [0, 1]; values in [0, 1], lower is better.
    Reference: Brier 1950, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78.

    >>> from conrad_bench import brier
    >>> round(brier([0.9, 0.6, 0.8], [1, 0, 1]).value, 4)
    0.1367
    """

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
    """Brier skill score: what a method gains over always stating the mean correctness of its claims.

    Formula: 1 - Brier / UNC, UNC the variance of correctness. 1 is perfect, 0 is no better than that constant, below 0
    is worse.
    Domain: confidence and correctness in [0, 1], not all claims equally correct; values in (-inf, 1], higher is better.
    Reference: Murphy 1973, Hedging and skill scores for probability forecasts, Journal of Applied Meteorology 12 (here
    against the sample's own mean).

    >>> from conrad_bench import skill
    >>> round(skill([0.9, 0.2, 0.8, 0.4], [1, 0, 1, 0]).value, 4)
    0.75
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
    """MCB: what the Brier score loses by miscalibration.

    Formula: Brier less the Brier score of the claims after isotonic regression; Brier = MCB - DSC + UNC. No interval: a
    replicate's repeated claims let the isotonic fit follow them, so that replicates lie above the value.
    Domain: confidence and correctness in [0, 1]; values in [0, 1], lower is better.
    Reference: Dimitriadis, Gneiting & Jordan 2021, Stable reliability diagrams for probabilistic classifiers, PNAS 118
    (CORP).

    >>> from conrad_bench import brier_mcb
    >>> round(brier_mcb([0.9, 0.2, 0.8, 0.4], [1, 0, 0, 1]).value, 4)
    0.1375
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
        return lambda weights: np.maximum(score(weights) - recalibrated(sample, weights), 0.0)


class BrierDiscrimination(Metric):
    """DSC: what the Brier score gains by discrimination.

    Formula: UNC less the Brier score of the claims after isotonic regression. No interval, for the reason given at MCB.
    Domain: confidence and correctness in [0, 1]; values in [0, 0.25], higher is better.
    Reference: Dimitriadis, Gneiting & Jordan 2021, Stable reliability diagrams for probabilistic classifiers, PNAS 118
    (CORP).

    >>> from conrad_bench import brier_dsc
    >>> round(brier_dsc([0.9, 0.2, 0.8, 0.4], [1, 0, 0, 1]).value, 4)
    0.125
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
        return lambda weights: np.maximum(spread(weights) - recalibrated(sample, weights), 0.0)


class BrierUncertainty(Metric):
    """UNC: the variance of correctness, the Brier score of stating the mean correctness always.

    Formula: mean of (y - mean y)^2 over claims. It belongs to the answers, not to the confidences; lower means that
    they differ less.
    Domain: correctness in [0, 1]; values in [0, 0.25].
    Reference: Dimitriadis, Gneiting & Jordan 2021, Stable reliability diagrams for probabilistic classifiers, PNAS 118
    (CORP).

    >>> from conrad_bench.leaderboards.functions import measure
    >>> round(measure(BrierUncertainty(), [0.9, 0.2, 0.8, 0.4], [1, 0, 1, 1]).value, 4)
    0.1875
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
    """Log score: soft-label cross-entropy in nats. Proper.

    Formula: mean of -(y ln c + (1 - y) ln(1 - c)) over claims. Confidences c are first clipped to [clip, 1 - clip], as
    in ConRad's reward: a stated 0 or 1 is not infinitely wrong.
    Domain: confidence and correctness in [0, 1]; values in [0, inf), lower is better.
    Reference: Good 1952, Rational decisions, Journal of the Royal Statistical Society B 14; clipped as in ConRad,
    equation 2.

    >>> from conrad_bench import log_score
    >>> round(log_score([0.9, 0.2, 1.0], [1, 0, 1]).value, 4)
    0.1129
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
    """Calibration in the large: whether confidences are too high or too low on the whole.

    Formula: mean confidence - mean correctness; above 0 for overconfidence.
    Domain: confidence and correctness in [0, 1]; values in [-1, 1], 0 is best.
    Reference: Van Calster et al. 2019, Calibration: the Achilles heel of predictive analytics, BMC Medicine 17.

    >>> from conrad_bench import in_the_large
    >>> round(in_the_large([0.9, 0.6, 0.8], [1, 0, 1]).value, 4)
    0.1
    """

    name = "in_the_large"
    summary = "mean confidence minus mean correctness; above 0: overconfident"
    label = "in the large"
    better = "zero"
    range = (-1.0, 1.0)
    source = "Van Calster et al. 2019 (calibration-in-the-large)"

    def statistic(self, sample: Sample) -> Statistic:
        """A mean over claims."""
        return mean_of(sample, sample.stated() - sample.correctness)


def _grouped_error(sample: Sample, residuals: FloatArray) -> Statistic:
    # The share times the difference of means is the summed residual over n.
    terms = np.column_stack([residuals, sample.counts])
    return OfSums(terms, lambda sums: ratio(np.abs(sums[:, :-1]).sum(axis=1), sums[:, -1]))
