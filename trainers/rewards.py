"""Rewards of ConRad: the logarithmic scoring rule, a strictly proper score of the stated confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence


def log_score(confidence: float, correctness: float, scale: float = 100.0, eps: float = 0.01) -> float:
    """Return scale * (r log c + (1 - r) log(1 - c)) with c clipped to [eps, 1 - eps] (ConRad, equation 2).

    `confidence` c and `correctness` r lie in [0, 1]; the result is at most 0, and its expectation over r is largest
    where c equals the expected correctness.
    """
    c = min(max(confidence, eps), 1 - eps)
    return scale * (correctness * math.log(c) + (1 - correctness) * math.log(1 - c))


def mean_log_score(
    confidences: Sequence[float], correctness: Sequence[float], scale: float = 100.0, eps: float = 0.01
) -> float:
    """Return the mean log score over the sentences of a report, at least one (ConRad, equation 3)."""
    scores = [log_score(c, r, scale, eps) for c, r in zip(confidences, correctness, strict=True)]
    return sum(scores) / len(scores)


def violation_reward(scale: float = 100.0, eps: float = 0.01, violation: float | None = None) -> float:
    """Return the fixed reward of a response without a readable confidence: scale * `violation`.

    By default 1.2 times the worst possible log score. Above that one, leaving the format can pay.
    """
    return scale * (1.2 * math.log(eps) if violation is None else violation)
