"""Selective prediction: how wrong the claims are that are kept when the least confident ones are handed to a human.

The risk of a claim is 1 - correctness. Claims with one confidence have no order among themselves: every number here is
its expected value over their orders, in closed form.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from conrad_bench.leaderboards.metrics import FloatArray, Metric, Sample, Statistic, ratio


def risk_coverage(sample: Sample) -> tuple[FloatArray, FloatArray]:
    """Return the risk-coverage curve: coverage k/n and the mean risk of the k most confident claims, k = 1 ... n.

    Both have shape (n,). The risk is the expectation over the orders of tied claims (Geifman & El-Yaniv 2017).
    """
    found = sample.ranked(np.ones((1, sample.units)))
    k = np.arange(1, len(sample) + 1)
    ends = np.concatenate([[0.0], found.through[:, 0]])
    loss = np.interp(k, ends, ends - np.concatenate([[0.0], found.correct_through[:, 0]]))
    return k / max(len(sample), 1), loss / k


class AURC(Metric):
    """Area under the risk-coverage curve: the mean over k of the mean risk of the k most confident claims.

    In [0, 1], lower is better. It falls with better answers as well as with better confidences.
    """

    name = "aurc"
    summary = "area under the risk-coverage curve, expected over the orders of ties"
    label = "AURC"
    better = "lower"
    range = (0.0, 1.0)
    source = "Geifman, Uziel & El-Yaniv 2019; ties in closed form"

    def statistic(self, sample: Sample) -> Statistic:
        """Sums by confidence."""
        return lambda weights: sample.ranked(weights).area


class ExcessAURC(Metric):
    """Excess AURC: AURC less that of the same claims in the best order, by their correctness.

    In [0, 1], lower is better; 0 for a perfect order.
    """

    name = "eaurc"
    summary = "AURC less that of the best order of the same claims"
    label = "E-AURC"
    better = "lower"
    range = (0.0, 1.0)
    source = "Geifman, Uziel & El-Yaniv 2019; ties in closed form"

    def statistic(self, sample: Sample) -> Statistic:
        """Sums by confidence, and by correctness for the best order."""
        return lambda weights: np.maximum(sample.ranked(weights).area - sample.best(weights).area, 0.0)


class AUGRC(Metric):
    """Area under the generalised risk-coverage curve: the mean over coverages of (risk * coverage), by trapezoids.

    The risk of a claim that is both wrong and kept, averaged over thresholds. For binary correctness it is
    (1 - AUROC) p (1 - p) + (1 - p)^2 / 2 with the share p of correct claims. In [0, 0.5], lower is better.
    """

    name = "augrc"
    summary = "area under the generalised risk-coverage curve: how often a claim is kept and wrong"
    label = "AUGRC"
    better = "lower"
    range = (0.0, 0.5)
    source = "Traub et al. 2024"

    def statistic(self, sample: Sample) -> Statistic:
        """Sums by confidence."""

        def statistic(weights: FloatArray) -> FloatArray:
            found = sample.ranked(weights)
            if not len(found.claims):
                return np.full(len(weights), np.nan)
            total = found.through[-1]
            # A claim's loss counts at every coverage from its own place on.
            kept = np.einsum("ij,ij->j", found.claims - found.correct, total - found.through + found.claims / 2)
            return ratio(kept, total**2)

        return statistic


class CoverageAtRisk(Metric):
    """Coverage at a risk: the largest share of claims, the most confident ones, whose mean risk is at most `risk`.

    0 where no claim can be kept. In [0, 1], higher is better.
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

        def statistic(weights: FloatArray) -> FloatArray:
            found = sample.ranked(weights)
            if not len(found.claims):
                return np.full(len(weights), np.nan)
            # What the allowance leaves after each level, and what each claim of the level takes of it.
            left = self.risk * found.through - (found.through - found.correct_through)
            takes = (1 - self.risk) * found.claims - found.correct
            before = left + takes
            fits = np.floor(
                np.divide(before * found.claims, takes, out=np.zeros_like(left), where=takes > _ROUNDING) + _ROUNDING
            )
            within = np.where(before >= -_ROUNDING, found.through - found.claims + np.clip(fits, 0, found.claims), 0.0)
            kept = np.where(left >= -_ROUNDING, found.through, within)
            return ratio(kept.max(axis=0), found.through[-1].copy())

        return statistic


_ROUNDING = 1e-9
"""Sums of losses that are less than this apart differ by rounding alone."""
