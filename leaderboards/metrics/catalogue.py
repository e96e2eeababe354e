"""The metrics that come with conrad-bench, in the order of the tables' columns."""

from __future__ import annotations

from collections.abc import Iterable

from conrad_bench.leaderboards.metrics.base import CORRECTNESS, Metric, Quality
from conrad_bench.leaderboards.metrics.calibration import (
    ECE,
    Brier,
    BrierDiscrimination,
    BrierMiscalibration,
    BrierUncertainty,
    DebiasedECE,
    EqualMassECE,
    InTheLarge,
    LogScore,
    MaximumError,
    Skill,
    SmoothECE,
)
from conrad_bench.leaderboards.metrics.discrimination import AUPRC, AUROC, Kendall, Pearson, SomersD, Spearman
from conrad_bench.leaderboards.metrics.selective import AUGRC, AURC, CoverageAtRisk, ExcessAURC

BUILT_IN: tuple[Metric, ...] = (
    Brier(),
    Skill(),
    DebiasedECE(),
    ECE(),
    AUROC(),
    SomersD(),
    CORRECTNESS,
    Quality(),
    Pearson(),
    SmoothECE(),
    EqualMassECE(),
    MaximumError(),
    InTheLarge(),
    LogScore(),
    BrierMiscalibration(),
    BrierDiscrimination(),
    BrierUncertainty(),
    Spearman(),
    Kendall(),
    AUPRC(),
    AURC(),
    ExcessAURC(),
    AUGRC(),
    CoverageAtRisk(),
)


def in_order(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """Return metrics in the order of columns: the built-in ones first, then others by name."""
    places = {metric.name: place for place, metric in enumerate(BUILT_IN)}
    return tuple(sorted(metrics, key=lambda metric: (places.get(metric.name, len(places)), metric.name)))
