"""What is minimised over the answers behind a claim: the likelihood of the right one, or minus the expected reward.

    sft       - log pi(the level nearest to the correctness)
    apart     - log pi(sure or unsure, by the correctness | one of the two)
    exact     - (sum over c of pi(c) R(c, r) + pi(malformed) R(violation)) - tau H(pi)
    sampled   - mean over a group of answers c drawn from pi of A(c) log pi(c) - tau H(pi) + beta KL(pi, base)
    ranked    one of these - w (E c beside the claim's pictures - E c beside the same pictures under noise)

R is one of trainers/rewards.py. For `conftuner` the eleven probabilities are divided by their sum first; `exact` is the
tokenized Brier score of Li et al. 2025 (ConfTuner) then, with our eleven answers in the place of their 101.

`sampled` is GRPO (ConRad, section 2.3) where the answer is the confidence alone: A is the answer's reward less its
group's mean. The answers are drawn from the very distribution that one forward pass gives, the malformed rest of it
included. Unlike TRL's loss a group's answers are not divided by their numbers of tokens, so the gradient's expectation
is the exact one. The malformed term matters: all rewards are negative, and without it the policy escapes into malformed
answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from conrad_bench.reading.elicitation import LEVELS
from conrad_bench.trainers.group import gathered
from conrad_bench.trainers.rewards import ExactReward, Reward, RewardName, reward_of, violation_reward


@dataclass(frozen=True)
class Claims:
    """What is known of the claims of a forward pass."""

    correctness: Sequence[float]
    """In [0, 1], shape (n,)."""
    seeds: Sequence[int] = ()
    """Seeds each claim's group of drawn answers."""
    reference: torch.Tensor | None = None
    """Log-probabilities of the answers under the base model, shape (n, 11), where an objective asks for them."""
    noised: torch.Tensor | None = None
    """Log-probabilities of the answers beside pictures under noise, shape (n, 11), where an objective asks for them."""


Objective = Callable[[torch.Tensor, Claims], tuple[torch.Tensor, torch.Tensor]]
"""From log-probabilities of the eleven levels, shape (n, 11), to each claim's loss and (detached) mean reward, (n,)."""


def supervised(logp: torch.Tensor, claims: Claims) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy to the level nearest to the correctness (Verbalize Supervised in ConRad, table 1).

    Its reward is the log-likelihood.
    """
    target = torch.tensor([round(r * (LEVELS - 1)) for r in claims.correctness], device=logp.device)
    loss = -logp.gather(1, target[:, None])[:, 0]
    return loss, -loss.detach()


def told_apart(threshold: float) -> Objective:
    """Return the cross-entropy to the second of two answers where the correctness is at least `threshold`, else to the
    first (R-Tuning, Zhang et al. 2024). Its reward is the log-likelihood.

    The two are compared with each other, as they are when they are read: what else might be said does not count.
    """

    def objective(logp: torch.Tensor, claims: Claims) -> tuple[torch.Tensor, torch.Tensor]:
        target = torch.tensor([int(r >= threshold) for r in claims.correctness], device=logp.device)
        loss = -logp.log_softmax(1).gather(1, target[:, None])[:, 0]
        return loss, -loss.detach()

    return objective


def ranked(objective: Objective, weight: float) -> Objective:
    """Return an objective with `weight` times the clean-corrupted ranking beside it (after RAC, Cui et al. 2026).

    A pair earns the difference of the expected confidences beside the clean and the corrupted pictures. It knows no
    correctness: alone it teaches 10 beside the one and 0 beside the other.
    """

    def both(logp: torch.Tensor, claims: Claims) -> tuple[torch.Tensor, torch.Tensor]:
        assert claims.noised is not None
        loss, reward = objective(logp, claims)
        stated = torch.arange(LEVELS, device=logp.device) / (LEVELS - 1)
        return loss - weight * ((logp.exp() - claims.noised.exp()) * stated).sum(1), reward

    return both


def expected_reward(
    scale: float, eps: float, entropy: float, normalise: bool, reward: ExactReward = "log"
) -> Objective:
    """Return the objective of exact ConRad: minus the expected reward, minus `entropy` * scale * H(pi).

    With `normalise` each claim's rewards are divided by their deviation under the policy, as GRPO's group scaling does.
    """
    score = reward_of(reward, eps)

    def objective(logp: torch.Tensor, claims: Claims) -> tuple[torch.Tensor, torch.Tensor]:
        rewards = _rewards(claims.correctness, score, scale, logp.device)
        if reward == "conftuner":
            logp = logp.log_softmax(1)
        p = logp.exp()
        malformed = (1 - p.sum(1)).clamp(min=0.0)
        # Relative to a malformed answer, so that its probability need not be written as a twelfth term.
        worst = violation_reward(score, scale)
        advantage = rewards[:, :LEVELS] - worst
        mean_reward = worst + (p * advantage).sum(1).detach()
        if normalise:
            mean = (p * advantage).sum(1, keepdim=True)
            variance = (p * (advantage - mean) ** 2).sum(1, keepdim=True) + malformed[:, None] * mean**2
            advantage = (advantage / variance.sqrt().clamp(min=1e-3 * scale)).detach()
        unit = 1.0 if normalise else scale
        return -((p * advantage).sum(1) + entropy * unit * spread(logp)), mean_reward

    return objective


def sampled(
    scale: float,
    eps: float,
    group: int,
    divide: Literal["none", "group", "batch"] = "none",
    entropy: float = 0.0,
    beta: float = 0.0,
    violation: float | None = None,
    reward: RewardName = "log",
) -> Objective:
    """Return GRPO's objective with `group` answers a claim; `divide` says by what deviation advantages are divided.

    `violation` is the reward of a malformed answer in units of `scale` (rewards.violation_reward).

    The policy has not moved since the answers were drawn, so there is no ratio to clip.
    """
    score = reward_of(reward, eps)

    def objective(logp: torch.Tensor, claims: Claims) -> tuple[torch.Tensor, torch.Tensor]:
        whole = with_rest(logp)
        with torch.no_grad():
            drawn = torch.stack([_draw(row, group, seed) for row, seed in zip(whole, claims.seeds, strict=True)])
            worth = _rewards(claims.correctness, score, scale, logp.device, violation)
            rewards = worth.gather(1, drawn)
            advantage = rewards - rewards.mean(1, keepdim=True)
            if divide == "group":
                advantage = advantage / (rewards.std(1, keepdim=True) + 1e-4)
            elif divide == "batch":
                everyone = torch.tensor(gathered(rewards.flatten().tolist()))
                advantage = advantage / (float(everyone.std()) + 1e-4)
        unit = scale if divide == "none" else 1.0
        loss = -(advantage * whole.gather(1, drawn)).mean(1) - entropy * unit * spread(logp)
        if beta and claims.reference is not None:
            base = with_rest(claims.reference)
            loss = loss + beta * (whole.exp() * (whole - base)).sum(1)
        return loss, rewards.mean(1)

    return objective


def spread(logp: torch.Tensor) -> torch.Tensor:
    """Return the readable answers' part of the policy's entropy in nats, shape (n,)."""
    return -(logp.exp() * logp).sum(1)


def with_rest(logp: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities (n, 11) with that of a malformed answer behind them."""
    rest = (1 - logp.exp().sum(1, keepdim=True)).clamp(min=torch.finfo(logp.dtype).eps)
    return torch.cat([logp, rest.log()], dim=1)


def _rewards(
    correctness: Sequence[float], score: Reward, scale: float, device: torch.device, violation: float | None = None
) -> torch.Tensor:
    """Return the reward of each answer to each claim, the malformed one last, shape (n, 12)."""
    worst = violation_reward(score, scale, violation)
    rows = [[*(scale * score(c / (LEVELS - 1), r) for c in range(LEVELS)), worst] for r in correctness]
    return torch.tensor(rows, device=device)


def _draw(logp: torch.Tensor, number: int, seed: int) -> torch.Tensor:
    """Return `number` draws from a distribution by Gumbel-max, shape (number,); the device does not change them."""
    waiting = torch.empty(number, len(logp)).exponential_(generator=torch.Generator().manual_seed(seed))
    return (logp.cpu() - waiting.log()).argmax(1).to(logp.device)
