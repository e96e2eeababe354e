"""Rewards of a stated confidence, by name: `conrad.reward`, `conrad_exact.reward`, and TRL's GRPOTrainer.

With confidence c and correctness r, both in [0, 1], and in units of lambda (`reward_scale`):

    log         r log c + (1 - r) log(1 - c), c clipped     ConRad, equation 2; Stangel et al. 2025 (Rewarding Doubt)
    brier       -(c - r)^2                                  Brier 1950; SaySelf (Xu et al. 2024) and LoVeC's quadratic
    spherical   (r c + (1 - r)(1 - c)) / |(c, 1 - c)| - 1   Gneiting & Raftery 2007, example 2 (alpha = 2)
    rlcr        r - (c - r)^2 - 1                           Damani et al. 2025 (RLCR): correctness and Brier's score
    conftuner   brier, over the readable answers alone      Li et al. 2025 (ConfTuner), tokenized Brier score
    linear      -|c - r|                                    Zhang et al. 2025 (LoVeC), linear; improper
    ranking     c - 1                                       Cui et al. 2026 (RAC), clean beside corrupted; improper

Each is at most 0: authors add constants and factors of their own, which change no optimum. `conrad-bench reward NAME`
(trainers/referee.py) says what each of them teaches. `ranking` is what the clean picture's side of a pair earns; the
corrupted picture's side earns -c. It knows no correctness, so it is trained beside another reward only (option
`ranking`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

from conrad_bench.errors import ConfigError
from conrad_bench.reading.claims import read_stated, report_claim
from conrad_bench.reading.elicitation import LEVELS
from conrad_bench.types import Response

RewardName = Literal["log", "brier", "spherical", "rlcr", "linear"]
"""The rewards that a training can have."""

ExactReward = Literal[RewardName, "conftuner"]
"""Those whose expectation over the eleven answers can be differentiated (trainers/objectives.py)."""

Reward = Callable[[float, float], float]
"""From a confidence and a correctness, both in [0, 1], to a reward of at most 0, in units of lambda."""


def log_score(confidence: float, correctness: float, scale: float = 100.0, eps: float = 0.01) -> float:
    """Return scale * (r log c + (1 - r) log(1 - c)) with c clipped to [eps, 1 - eps] (ConRad, equation 2).

    `confidence` c and `correctness` r lie in [0, 1]; the result is at most 0, and its expectation over r is largest
    where c equals the expected correctness.
    """
    c = min(max(confidence, eps), 1 - eps)
    return scale * (correctness * math.log(c) + (1 - correctness) * math.log(1 - c))


def brier_score(confidence: float, correctness: float) -> float:
    """Return -(c - r)^2, in [-1, 0]; its expectation is largest at the expected correctness (Brier 1950)."""
    return -((confidence - correctness) ** 2)


def spherical_score(confidence: float, correctness: float) -> float:
    """Return (r c + (1 - r)(1 - c)) / sqrt(c^2 + (1 - c)^2) - 1, in [-1, 0] (Gneiting & Raftery 2007, example 2)."""
    agreement = correctness * confidence + (1 - correctness) * (1 - confidence)
    return agreement / math.hypot(confidence, 1 - confidence) - 1


def rlcr_score(confidence: float, correctness: float) -> float:
    """Return r - (c - r)^2 - 1, in [-2, 0]: the Brier score, and the correctness itself (RLCR, Damani et al. 2025).

    Where the response is given, as in conditional training, the correctness is a constant and this is `brier`.
    """
    return correctness + brier_score(confidence, correctness) - 1


def linear_score(confidence: float, correctness: float) -> float:
    """Return -|c - r|, in [-1, 0] (LoVeC's linear reward, Zhang et al. 2025). Improper: largest at the median of r."""
    return -abs(confidence - correctness)


def ranking_score(confidence: float, correctness: float) -> float:
    """Return c - 1, in [-1, 0]: what the clean picture's side of a pair earns, whatever the correctness. Improper."""
    return confidence - 1


REWARDS: dict[str, Reward] = {
    "log": partial(log_score, scale=1.0),
    "brier": brier_score,
    "spherical": spherical_score,
    "rlcr": rlcr_score,
    "conftuner": brier_score,
    "linear": linear_score,
    "ranking": ranking_score,
}


def reward_of(name: str, eps: float = 0.01) -> Reward:
    """Return a reward by its name; `eps` is where `log` clips confidences."""
    return partial(log_score, scale=1.0, eps=eps) if name == "log" else REWARDS[name]


def mean_reward(
    reward: Reward, confidences: Sequence[float], correctness: Sequence[float], scale: float = 100.0
) -> float:
    """Return scale times the mean reward over the sentences of a report, at least one (ConRad, equation 3)."""
    rewards = [scale * reward(c, r) for c, r in zip(confidences, correctness, strict=True)]
    return sum(rewards) / len(rewards)


def violation_reward(reward: Reward = REWARDS["log"], scale: float = 100.0, violation: float | None = None) -> float:
    """Return the fixed reward of a response without a readable confidence: scale * `violation`.

    By default 1.2 times the worst that an answer can earn. Above that one, leaving the format can pay.
    """
    if violation is None:
        violation = 1.2 * min(reward(c / (LEVELS - 1), r) for c in range(LEVELS) for r in (0.0, 1.0))
    return scale * violation


Judged = Callable[[Sequence[str], Mapping[str, Any]], Sequence[float | None]]
"""From texts without their confidences, and the columns of their rows, to the correctness of each in [0, 1], or None
where it cannot be judged."""


def trl_reward(
    name: RewardName = "log",
    *,
    judge: Judged | None = None,
    scale: float = 100.0,
    eps: float = 0.01,
    violation: float | None = None,
) -> Callable[..., list[float | None]]:
    """Return a reward function for TRL's GRPOTrainer: `reward_funcs=[trl_reward("brier", judge=...)]`.

    It reads the confidence that each completion states, as runs do: behind the last "Confidence:", or a number alone. A
    completion without a readable one earns scale * `violation`, by default 1.2 times the worst reward. The correctness
    is what `judge(texts, columns)` says of the completions without their confidences; without a judge it is the data
    set's column `correctness`, for prompts that hold the response and ask for its confidence alone. Where it is None
    the reward is None, and TRL leaves the completion out. Raises ConfigError for an unknown name, and when it is called
    with neither judge nor column.
    """
    if name not in get_args(RewardName):
        raise ConfigError(f"there is no reward {name!r}; rewards are {', '.join(get_args(RewardName))}")
    reward = reward_of(name, eps)
    worst = violation_reward(reward, scale, violation)

    def rewarded(prompts: Any, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
        if judge is not None:
            bare = [report_claim(Response("", text, (), None, "stop"), "confidence").text for text in texts]
            correctness = judge(bare, {"prompts": prompts, **columns})
        elif "correctness" in columns:
            correctness = columns["correctness"]
        else:
            raise ConfigError("trl_reward: the data set has no column `correctness`; add one, or give a judge")
        earned: list[float | None] = []
        for text, r in zip(texts, correctness, strict=True):
            stated = read_stated(text).confidence
            earned.append(worst if stated is None else None if r is None else scale * reward(stated, r))
        return earned

    rewarded.__name__ = f"{name}_reward"  # TRL's logs call it so
    return rewarded
