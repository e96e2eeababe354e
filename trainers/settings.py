"""Hyperparameters of what is trained, and the numbers that follow from them."""

from __future__ import annotations

import importlib.util
import random
from typing import Literal

from pydantic import BaseModel, Field, model_validator

Tracker = Literal["none", "trackio", "wandb", "tensorboard", "mlflow"]
"""Where a training's curves can go; each but the first is the name of a package, too."""

SentenceWeight = Literal["report", "flat"]
"""What a sentence's confidence counts in conditional training: by its report, or as much as any other."""


class GRPOSettings(BaseModel):
    """Hyperparameters of ConRad.

    The paper's (section 3): `samples`, `sentence_samples`, `epochs`, `reward_scale`, `sentence_weight`, and with
    `mode=joint` its form. Ours, since the text that we have gives no number: `generations`, `batch_size`,
    `accumulation`, `learning_rate`, `schedule`, `rank`, `reward_eps` (paper: "sufficiently small"), `entropy` (0 is the
    paper's objective), `beta`, `max_grad_norm`, `max_tokens`. Ours by choice: `mode=conditional`, and
    `scale_rewards=none` where GRPO (Shao et al. 2024, section 4.1) divides by the group's deviation.
    """

    mode: Literal["conditional", "joint"] = "conditional"
    """conditional: the base writes the report, an activated LoRA states the confidence. joint: one LoRA does both."""
    samples: int = Field(3000, ge=1)
    """Training examples at report and answer level (paper: 3000), drawn at random where there are more."""
    sentence_samples: int = Field(1500, ge=1)
    """Training examples (reports) at sentence level (paper: 1500)."""
    epochs: float = Field(1.0, gt=0)
    generations: int = Field(8, ge=2)
    """Rollouts per claim and step: the group of GRPO."""
    batch_size: int = Field(64, ge=2)
    """Rollouts per forward pass, a multiple of `generations`."""
    accumulation: int = Field(1, ge=1)
    """Forward passes per optimizer step."""
    learning_rate: float = Field(5e-5, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    rank: int = Field(16, ge=1)
    """LoRA rank; alpha is twice the rank."""
    reward_scale: float = Field(100.0, gt=0)
    """lambda of the reward (paper: 100). With Adam and clipped gradients it changes next to nothing."""
    reward_eps: float = Field(0.01, gt=0, lt=0.5)
    """Confidences are clipped to [eps, 1 - eps] in the reward."""
    scale_rewards: Literal["none", "group", "batch"] = "none"
    """What advantages are divided by: nothing, the group's or the batch's deviation. A group's deviation depends on the
    claim's own correctness: what is left of the reward is then no proper score where correctness varies."""
    sentence_weight: SentenceWeight = "report"
    """Conditional mode, sentences. report: one of a report with N sentences counts 1/N, as in the paper (equation 3);
    flat: all alike. The weight multiplies the claim's rewards, so with scale_rewards=group it cancels, and the entropy
    is not weighted."""
    entropy: float = Field(0.0, ge=0)
    """Weight of the confidences' entropy, which keeps neighbouring ones in play, in units of the advantages
    (`reward_scale` times this where they are not divided). Conditional mode only."""
    beta: float = Field(0.0, ge=0)
    """Weight of the KL term to the base model, on the confidence tokens."""
    max_grad_norm: float = Field(1.0, gt=0)
    min_parse_rate: float = Field(0.5, ge=0, le=1)
    """Training stops with an error when fewer rollouts than this state a readable confidence."""
    max_tokens: int = Field(512, ge=1)
    """Longest report, in tokens."""
    vllm: str = Field("off", pattern="^(off|colocate|https?://.+)$")
    """Who rolls out reports in joint mode: the trainer itself (off), vLLM on the trainer's GPUs (colocate), or the
    server of `trl vllm-serve` at an address (http://...). Needs GPUs."""
    checkpoints: int = Field(5, ge=1)
    """Number of checkpoints over the whole training; an interrupted training continues from the last one."""
    report_to: Tracker = "none"
    """Where the training's curves go beside training.jsonl: nowhere, or to the tracker of this name."""

    @model_validator(mode="after")
    def _options_need_their_mode(self) -> GRPOSettings:
        if self.sentence_weight == "flat" and self.mode == "joint":
            raise ValueError(
                "mode=joint is rewarded with the mean over a report's sentences; set sentence_weight=report"
            )
        if self.entropy and self.mode == "joint":
            raise ValueError("entropy works in mode=conditional only; set entropy=0 or mode=conditional")
        if self.vllm != "off" and self.mode == "conditional":
            raise ValueError(
                "vllm works in mode=joint only, since it cannot run an activated adapter; set vllm=off or mode=joint"
            )
        return self


class LevelSettings(BaseModel):
    """Hyperparameters of SFT and of exact ConRad.

    `samples`, `sentence_samples`, `epochs` and `sentence_weight` are the paper's, which gives them for ConRad; for
    Verbalize Supervised it gives no numbers, and the others are ours.
    """

    samples: int = Field(3000, ge=1)
    """Training examples at report and answer level (paper: 3000), drawn at random where there are more."""
    sentence_samples: int = Field(1500, ge=1)
    """Training examples (reports) at sentence level (paper: 1500)."""
    epochs: float = Field(1.0, gt=0)
    batch_size: int = Field(8, ge=1)
    """Claims per forward pass, each with its eleven answers."""
    accumulation: int = Field(1, ge=1)
    """Forward passes per optimizer step."""
    learning_rate: float = Field(5e-5, gt=0)
    schedule: Literal["constant", "linear"] = "constant"
    rank: int = Field(16, ge=1)
    """LoRA rank; alpha is twice the rank."""
    sentence_weight: SentenceWeight = "report"
    """report: a sentence of a report with N sentences counts 1/N, as in the paper (equation 3); flat: all alike."""
    max_grad_norm: float = Field(1.0, gt=0)
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""
    checkpoints: int = Field(5, ge=1)
    """Number of checkpoints over the whole training; an interrupted training continues from the last one."""
    report_to: Tracker = "none"
    """Where the training's curves go beside training.jsonl: nowhere, or to the tracker of this name."""


def tracker_problem(report_to: Tracker) -> str | None:
    """Return what is missing for a tracker of training curves, with the command that installs it, or None."""
    if report_to == "none" or importlib.util.find_spec(report_to) is not None:
        return None
    return f"report_to={report_to} needs the package {report_to}: pip install {report_to}"


def sharing_problem(settings: GRPOSettings | LevelSettings, workers: int) -> str | None:
    """Return why a number of training workers cannot share the settings' steps, or None."""
    if isinstance(settings, GRPOSettings) and settings.batch_size % workers:
        return (
            f"batch_size={settings.batch_size} cannot be shared equally by {workers} training workers; choose a "
            "multiple of --train-workers"
        )
    if settings.batch_size < workers:
        return f"batch_size={settings.batch_size} is less than {workers} training workers; lower --train-workers"
    return None


def training_steps(settings: GRPOSettings, examples: int) -> int:
    """Return the number of optimizer steps for a number of training examples."""
    rollouts = examples * settings.epochs * settings.generations
    return max(1, round(rollouts / (settings.batch_size * settings.accumulation)))


def level_steps(settings: LevelSettings, claims: int) -> int:
    """Return the number of optimizer steps for a number of claims."""
    return max(1, round(claims * settings.epochs / (settings.batch_size * settings.accumulation)))


def training_order(settings: GRPOSettings, examples: int, seed: int) -> list[int]:
    """Return the number of the example of each group of rollouts: epoch after epoch, each in an order of its own.

    The trainer takes them for one pass. Its own shuffling would begin again with the first epoch's order where an
    interrupted training goes on in a later epoch.
    """
    groups = training_steps(settings, examples) * settings.batch_size * settings.accumulation // settings.generations
    draw = random.Random(seed)
    order: list[int] = []
    while len(order) < groups:
        order += draw.sample(range(examples), examples)
    return order[:groups]
