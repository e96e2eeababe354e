"""Curves along the confidence: isotonic regression, and a reflected Gaussian as products of cosines."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from conrad_bench.leaderboards.metrics.base import FloatArray, Sample


def recalibrated(sample: Sample, weights: FloatArray) -> FloatArray:
    """Return the Brier score (replicates,) after isotonic regression of correctness on confidence."""
    squares = weights @ sample.totals(sample.correctness**2)[:, 0]
    scores = np.full(len(weights), np.nan)
    claims, corrects = sample.ranking.sums(weights)
    for i in range(len(weights)):
        count, correct = claims[:, i], corrects[:, i]
        there = count > 0
        if there.any():
            # Pooled means: the squared error is the sum of squares less that of the fit.
            scores[i] = (squares[i] - _fitted_squares(count[there], correct[there])) / count.sum()
    return np.asarray(np.maximum(scores, 0.0))


def _fitted_squares(count: FloatArray, correct: FloatArray) -> float:
    """Return the sum over claims of their squared isotonic fits, from claims and their summed correctness by level.

    Levels (n,) come in falling order; neighbours whose means rise are pooled (Ayer et al. 1955).
    """
    pools: list[tuple[float, float]] = []
    for claims, right in zip(count.tolist(), correct.tolist(), strict=True):
        while pools and right * pools[-1][0] >= pools[-1][1] * claims:
            before = pools.pop()
            claims, right = claims + before[0], right + before[1]
        pools.append((claims, right))
    return math.fsum(right**2 / claims for claims, right in pools)


_SMALLEST_WIDTH = 0.001
_GRID = 4096


def modes(width: float) -> int:
    """Return how many cosines a width leaves above a millionth."""
    return 1 + math.ceil(math.sqrt(2 * math.log(1e6)) / (math.pi * width))


@lru_cache(maxsize=16)
def smoother(width: float) -> FloatArray:
    """Return the matrix (modes, points) from sums of cosines to the smoothed function at points of [0, 1]."""
    number = modes(width)
    points = (np.arange(max(200, math.ceil(4 / width))) + 0.5) / max(200, math.ceil(4 / width))
    k = np.arange(number)
    damping = np.exp(-((math.pi * k * width) ** 2) / 2) * np.where(k > 0, 2.0, 1.0)
    return np.asarray(damping[:, None] * np.cos(math.pi * k[:, None] * points))


def smooth_width(x: FloatArray, residual: FloatArray) -> float:
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
        while len(known) < modes(width):
            known.append(float(grid @ np.cos(len(known) * at)))
        sums = np.array(known[: modes(width)])
        return width >= float(np.abs(sums @ smoother(width)).mean()) / max(len(x), 1)

    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if below(middle) else (middle, high)
    return high
