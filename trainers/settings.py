"""Hyperparameters of what is trained, and the numbers that follow from them."""

from __future__ import annotations

import importlib.util
import math
import random
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from conrad_bench.trainers.rewards import RewardName

Tracker = Literal["none", "trackio", "wandb", "tensorboard", "mlflow"]
"""Where a training's curves can go; each but the first is the name of a package, too."""

SentenceWeight = Literal["report", "flat"]
"""What a sentence's confidence counts in conditional training: by its report, or as much as any other."""


class TrainingSettings(BaseModel):
    """What every training of an adapter has."""

    samples: int = Field(3000, ge=1)
    """Training examples at report and answer level (paper: 3000), drawn at random where there are more."""
    sentence_samples: int = Field(1500, ge=1)
    """Training examples (reports) at sentence level (paper: 1500)."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training examples; 0.5 is half of one."""
    accumulation: int = Field(1, ge=1)
    """Forward passes per optimizer step."""
    learning_rate: float = Field(5e-5, gt=0)
    """Step size of AdamW, at its largest."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Whether the learning rate stays, or falls to zero over the training, along a line or half a cosine."""
    rank: int = Field(16, ge=1, le=2**12)
    """LoRA rank; alpha is twice the rank."""
    sentence_weight: SentenceWeight = "report"
    """Sentences in conditional mode. report: one of a report with N sentences counts 1/N, as in the paper (equation 3);
    flat: all alike. The weight multiplies the claim's loss."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm where theirs is larger."""
    min_parse_rate: float = Field(0.5, ge=0, le=1)
    """Training stops with an error when, after more, fewer rollouts than this state a readable confidence, and ends
    with one when there never were more. Where probabilities are trained on: the probability of readable answers."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""
    checkpoints: int = Field(5, ge=1)
    """Number of checkpoints over the whole training; an interrupted training continues from the last one."""
    report_to: Tracker = "none"
    """Where the training's curves go beside training.jsonl: nowhere, or to the tracker of this name."""

    @property
    def claims_per_pass(self) -> int:
        """Claims (in joint mode: prompts) of one forward pass, over all workers."""
        raise NotImplementedError

    def steps_for(self, claims: int) -> int:
        """Return the number of optimizer steps for a number of claims (in joint mode: prompts)."""
        return max(1, round(claims * self.epochs / (self.claims_per_pass * self.accumulation)))

    def order_of(self, claims: int, seed: int) -> list[int]:
        """Return the claims of all steps in their order: epoch after epoch, each in an order of its own."""
        number = self.steps_for(claims) * self.claims_per_pass * self.accumulation
        draw = random.Random(seed)
        order: list[int] = []
        while len(order) < number:
            order += draw.sample(range(claims), claims)
        return order[:number]

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, from 0; schedules end at 0 behind the last one."""
        done = step / steps
        factor = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.schedule]
        return self.learning_rate * factor


class GRPOSettings(TrainingSettings):
    """Hyperparameters of ConRad.

    The paper's (section 3): `samples`, `sentence_samples`, `epochs`, `reward_scale`, `sentence_weight`, and with
    `mode=joint` its form. Ours, since the text that we have gives no number: `generations`, `batch_size`,
    `accumulation`, `learning_rate`, `schedule`, `rank`, `reward_eps` (paper: "sufficiently small"), `violation`,
    `entropy` (0 is the paper's objective), `beta`, `max_grad_norm`, `max_tokens`. Ours by choice: `mode=conditional`,
    and `scale_rewards=none` where GRPO (Shao et al. 2024, section 4.1) divides by the group's deviation.
    """

    mode: Literal["conditional", "joint"] = "conditional"
    """conditional: the base writes the report, an activated LoRA states the confidence. joint: one LoRA does both."""
    generations: int = Field(8, ge=2)
    """Rollouts per claim and step: the group of GRPO."""
    batch_size: int = Field(64, ge=2)
    """Rollouts per forward pass, a multiple of `generations`."""
    reward: RewardName = "log"
    """What a confidence is rewarded with (docs/methods.md; paper: log)."""
    reward_scale: float = Field(100.0, gt=0)
    """lambda of the reward (paper: 100). With Adam and clipped gradients it changes next to nothing."""
    reward_eps: float = Field(0.01, gt=0, lt=0.5)
    """Confidences are clipped to [eps, 1 - eps] in the reward `log`."""
    violation: float | None = Field(None, lt=0)
    """Reward of a response without a readable confidence, in units of `reward_scale`. By default 1.2 times the worst
    that an answer can earn: -5.5 for `log` with `reward_eps` 0.01. Above it leaving the format can pay where a claim is
    wrong."""
    scale_rewards: Literal["none", "group", "batch"] = "none"
    """What advantages are divided by: nothing, the group's or the batch's deviation. A group's deviation depends on the
    claim's own correctness: what is left of the reward is then no proper score where correctness varies."""
    entropy: float = Field(0.0, ge=0)
    """Weight of the confidences' entropy, which keeps neighbouring ones in play, in units of the advantages
    (`reward_scale` times this where they are not divided). Conditional mode only."""
    ranking: float = Field(0.0, ge=0)
    """Weight of the clean-corrupted ranking, in units of the advantages: the confidence is to be higher than beside
    the same pictures under noise. Conditional mode only."""
    beta: float = Field(0.0, ge=0)
    """Weight of the KL term to the base model, on the confidence."""
    vllm: str = Field("off", pattern="^(off|colocate|https?://.+)$")
    """Who rolls out reports in joint mode: the trainer itself (off), vLLM on the trainer's GPUs (colocate), or the
    server of `trl vllm-serve` at an address (http://...). Needs GPUs."""

    @property
    def claims_per_pass(self) -> int:
        """Groups of rollouts of one forward pass."""
        return self.batch_size // self.generations

    @model_validator(mode="after")
    def _options_fit_together(self) -> GRPOSettings:
        if self.batch_size % self.generations:
            raise ValueError(
                f"batch_size={self.batch_size} is no multiple of generations={self.generations}: a group of rollouts "
                "must lie in one forward pass; change one of them"
            )
        if self.sentence_weight == "flat" and self.mode == "joint":
            raise ValueError(
                "mode=joint is rewarded with the mean over a report's sentences; set sentence_weight=report"
            )
        for name in ("entropy", "ranking"):
            if getattr(self, name) and self.mode == "joint":
                raise ValueError(f"{name} works in mode=conditional only; set {name}=0 or mode=conditional")
        if self.vllm != "off" and self.mode == "conditional":
            raise ValueError(
                "vllm works in mode=joint only, since it cannot run an activated adapter; set vllm=off or mode=joint"
            )
        return self


class LevelSettings(TrainingSettings):
    """Hyperparameters of SFT and of exact ConRad.

    `samples`, `sentence_samples`, `epochs` and `sentence_weight` are the paper's, which gives them for ConRad; for
    Verbalize Supervised it gives no numbers, and the others are ours.
    """

    batch_size: int = Field(8, ge=1)
    """Claims per forward pass, each with its eleven answers."""

    @property
    def claims_per_pass(self) -> int:
        """The batch size."""
        return self.batch_size


def tracker_problem(report_to: Tracker) -> str | None:
    """Return what is missing for a tracker of training curves, with the command that installs it, or None."""
    if report_to == "none" or importlib.util.find_spec(report_to) is not None:
        return None
    return f"report_to={report_to} needs the package {report_to}: pip install {report_to}"


def sharing_problem(settings: TrainingSettings, workers: int) -> str | None:
    """Return why a number of training workers cannot share the settings' steps, or None.

    Joint rollouts are shared out in whole groups, and equally; claims as they come.
    """
    claims = settings.claims_per_pass
    joint = isinstance(settings, GRPOSettings) and settings.mode == "joint"
    what = "groups of rollouts" if isinstance(settings, GRPOSettings) else "claims"
    if joint and claims % workers:
        return (
            f"{claims} groups of rollouts (batch_size / generations) cannot be shared equally by {workers} training "
            "workers; choose another batch_size, or another --train-workers"
        )
    if claims < workers:
        return f"{claims} {what} a forward pass are less than {workers} training workers; lower --train-workers"
    return None
