"""The probabilities of the eleven confidence answers: does a model that states 7 find 6 and 8 the next likeliest?

ConRad, section 4.0.1: "ConRad assigns the highest probability to the predicted confidence level and progressively
smaller probabilities to adjacent levels", while supervised fine-tuning "disrupts this ordering". For a claim with
stated level s and probabilities p(0) ... p(10) three numbers say how far that holds, each averaged over claims:

- `top`: 1 where no level is likelier than s, else 0
- `order`: Spearman's rank correlation, over the eleven levels c, between p(c) and the nearness -|c - s|. Ranks of ties
  are averaged, so it stays a little below 1 where the two neighbours of s, equally near, differ in probability. It
  looks at the smallest probabilities as much as at the largest. A distribution that is the same everywhere has no
  order: 0
- `unimodal`: 1 where p rises up to its highest level and falls after it, a second hump of at most `STEP` not being
  counted, else 0

`malformed` is the probability of every other answer, 1 - sum of p.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from conrad_bench.leaderboards.metrics.base import FloatArray, IntArray, Sample
from conrad_bench.records import LEVEL_PROBABILITIES

if TYPE_CHECKING:
    import pandas as pd

LEVELS = len(LEVEL_PROBABILITIES)
STEP = 0.01
"""A second hump of at most this probability is taken for noise."""


@dataclass(frozen=True)
class Tokens:
    """The answers' probabilities of one method on one task."""

    stated: IntArray
    """Stated level 0 ... 10 of each claim, shape (n,)."""
    p: FloatArray
    """Probabilities, shape (n, 11)."""
    measures: dict[str, Sample]
    """One row for each claim, with the measure as its correctness."""


def tokens(frame: pd.DataFrame, unit: IntArray, units: int) -> Tokens | None:
    """Return the probabilities of the `ok` claims that have them, or None.

    None also where a confidence is no multiple of 0.1: then it is not the answer whose place the probabilities are of
    (a recalibrated confidence, say). `unit` (n,) is the index of each record's resampling unit among `units`.
    """
    if not set(LEVEL_PROBABILITIES) <= set(frame.columns):
        return None
    p = frame[list(LEVEL_PROBABILITIES)].to_numpy(np.float64)
    confidence = frame["confidence"].to_numpy(np.float64)
    rows = (frame["status"] == "ok").to_numpy(bool) & ~np.isnan(p[:, 0]) & ~np.isnan(confidence)
    p, tenths = p[rows], 10 * confidence[rows]
    stated = np.rint(tenths).astype(np.int64)
    if not len(p) or np.abs(tenths - stated).max() > 1e-6:
        return None
    terms = {
        "top": p[np.arange(len(p)), stated] >= p.max(axis=1),
        "order": order(p, stated),
        "unimodal": unimodal(p),
        "malformed": np.clip(1 - p.sum(axis=1), 0, 1),
    }
    samples = {name: Sample(None, term.astype(np.float64), unit[rows], units) for name, term in terms.items()}
    return Tokens(stated, p, samples)


def order(p: FloatArray, stated: IntArray) -> FloatArray:
    """Return Spearman's correlation between p (n, 11) and the nearness to the stated level (n,), shape (n,)."""
    nearness = -np.abs(np.arange(LEVELS) - np.arange(LEVELS)[:, None])
    x, y = ranks(p), ranks(nearness.astype(np.float64))[stated]
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    covariance = (x * y).sum(axis=1)
    scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.asarray(np.divide(covariance, scale, out=np.zeros(len(p)), where=scale > 0))


def ranks(values: FloatArray) -> FloatArray:
    """Return the rank of each value in its row from 1, ties averaged, shape (n, k) as given."""
    one, other = values[:, :, None], values[:, None, :]
    return np.asarray(((other < one).sum(axis=2) + (other <= one).sum(axis=2) + 1) / 2)


def unimodal(p: FloatArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell of each distribution p (n, 11) whether it has one hump, shape (n,).

    It has where no level lies more than `STEP` below a level further from the highest one, on the same side of it.
    """
    peak = p.argmax(axis=1)[:, None]
    level = np.arange(LEVELS)
    before, after = np.where(level <= peak, p, 0.0), np.where(level >= peak, p, 0.0)
    # What a level must reach: the highest probability further out than itself.
    from_left = np.maximum.accumulate(before, axis=1) - before
    from_right = np.maximum.accumulate(after[:, ::-1], axis=1)[:, ::-1] - after
    left, right = np.where(level <= peak, from_left, 0.0), np.where(level >= peak, from_right, 0.0)
    return np.asarray(np.maximum(left, right).max(axis=1) <= STEP)


def entry(found: Tokens, mean: Callable[[Sample], dict[str, float]]) -> dict[str, Any]:
    """Return what leaderboard.json holds under a row's `tokens`.

    `matrix` has a row for each stated level: the mean probability of each answer over the claims that state it (None
    for a level that is never stated), `counts` the number of those claims.
    """
    counts = np.bincount(found.stated, minlength=LEVELS)
    sums = np.stack([np.bincount(found.stated, column, LEVELS) for column in found.p.T], axis=1)
    means = np.divide(sums, counts[:, None], out=np.full_like(sums, np.nan), where=counts[:, None] > 0)
    return {
        "n": len(found.p),
        "counts": counts.tolist(),
        "matrix": means.tolist(),
        "measures": {name: mean(sample) for name, sample in found.measures.items()},
    }
