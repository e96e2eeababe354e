"""What reading only the doubtful sentences would cost and catch: the confidences of a run against its correctness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conrad_bench.leaderboards.board.flagging import above
from conrad_bench.leaderboards.metrics.base import FloatArray


@dataclass(frozen=True, slots=True)
class Point:
    """Sentences whose confidence is below a threshold are read, the others are not."""

    threshold: float
    read: float
    """Share of the sentences that are read; in random order as large a share of the errors is caught."""
    caught: float
    """Share of the errors (of 1 - correctness, where that is graded) among them."""
    perfect: float
    """Share of the errors that as much reading would catch, if the wrong ones came first."""


def workload(confidence: FloatArray, correctness: FloatArray, also: float | None = None) -> list[Point]:
    """Return a point for each threshold 0.1, 0.2 ... 1.0 and `also`, and one behind them (1.1: all are read).

    confidence and correctness (n,) lie in [0, 1]; those that are NaN in either are left out. An empty list where there
    is no sentence or no error to catch.
    """
    known = ~(np.isnan(confidence) | np.isnan(correctness))
    confidence, error = confidence[known], 1 - correctness[known]
    total = error.sum()
    if not total > 0:
        return []
    best = np.concatenate([[0.0], np.cumsum(np.sort(error)[::-1])]) / total
    points = []
    tenths = [tenth / 10 for tenth in range(1, 12)]
    if also is not None:
        tenths = sorted([also, *(tenth for tenth in tenths if abs(tenth - also) > 1e-9)])
    for threshold in tenths:
        read = ~above(confidence, threshold)
        caught = float(error[read].sum() / total)
        points.append(Point(threshold, float(read.mean()), caught, float(best[read.sum()])))
    return points
