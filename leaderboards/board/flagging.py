"""Flagging: what sentences with a confidence of at least 0.6, 0.8 and 1.0 are worth (ConRad, section 4 and Table 3).

A reader who checks every sentence below a threshold keeps the others as they are. Three numbers say what that means:
how many sentences are kept, how many of those are right (their precision), and the quality of the report that they make
up, from which unsure but correct sentences are missing. If confidence means anything, precision rises with the
threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from conrad_bench.leaderboards.metrics.base import FloatArray, Sample, levels
from conrad_bench.records import QUALITY_ABOVE

Estimate = dict[str, float]
"""A value with its interval: `value`, `low`, `high`."""


@dataclass(frozen=True)
class Threshold:
    """The sentences of one method that are kept at one threshold, as the samples whose means are wanted."""

    confidence: float | None
    """Sentences with at least this confidence are kept; None: all."""
    kept: Sample
    """The kept sentences; their mean correctness is the precision."""
    share: Sample
    """All sentences, with correctness 1 for those that are kept and 0 for the others."""
    quality: Sample | None
    """One row for each example, with the quality of what is left of its response; None where the records lack it."""


def thresholds(ok: Sample, qualities: Mapping[str, Sample]) -> list[Threshold]:
    """Cut the parsed sentences of a method that states confidences at each threshold, the loosest first.

    `qualities` has the sample of each quality column that the records have (`records.QUALITY`).
    """
    cuts: list[Threshold] = []
    for column, least in {"quality": None, **QUALITY_ABOVE}.items():
        kept = np.ones(len(ok), bool) if least is None else above(ok.stated(), least)
        share = Sample(None, kept.astype(np.float64), ok.unit, ok.units)
        cuts.append(Threshold(least, ok.take(kept), share, qualities.get(column)))
    return cuts


def above(confidence: FloatArray, threshold: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell which confidences (n,) are at least the threshold, as whole billionths: 3 * 0.2 is 0.6 here."""
    return np.asarray(levels(confidence) >= levels(np.array([threshold]))[0])


def entry(
    cuts: list[Threshold], mean: Callable[[Sample], Estimate], gain: Callable[[Sample, Sample], Estimate]
) -> dict[str, Any]:
    """Return what leaderboard.json holds under a row's `flagging`.

    `mean` is the mean correctness of a sample with its interval, `gain` the difference of two such means under the same
    resampling weights. `trend` looks at the thresholds that keep any sentence, "all" among them: precision "rises"
    where it is higher at each than at the one before, "falls" where it is lower at any of them, is "flat" where it
    changes nowhere, and else "never falls"; None where fewer than two of them keep a sentence.
    """
    everything = cuts[0].kept
    points = []
    for cut in cuts:
        point: dict[str, Any] = {
            "confidence": cut.confidence,
            "n": len(cut.kept),
            "share": mean(cut.share),
            "precision": mean(cut.kept),
            "quality": None if cut.quality is None else mean(cut.quality),
        }
        if cut.confidence is not None:
            point["gain"] = gain(cut.kept, everything)
        points.append(point)
    return {"thresholds": points, "trend": trend([p["precision"]["value"] for p in points if p["n"]])}


def trend(precisions: list[float]) -> str | None:
    """Say in words how precision changes from the loosest threshold to the strictest (see `entry`)."""
    if len(precisions) < 2:
        return None
    # What is less than a billionth apart differs by rounding alone.
    steps = np.rint(np.diff(precisions) * 1e9)
    if (steps > 0).all():
        return "rises"
    if (steps < 0).any():
        return "falls"
    return "never falls" if (steps > 0).any() else "flat"
