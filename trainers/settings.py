"""Hyperparameters of what is trained, and the numbers that follow from them."""

from __future__ import annotations

import importlib.util
import random
from typing import Literal

from pydantic import BaseModel, Field, model_validator

Tracker = Literal["none", "trackio", "wandb", "tensorboard", "mlflow"]
"""Where a training's curves can go; each but the first is the name of a package, too."""


class GRPOSettings(BaseModel):
    """Hyperparameters of ConRad. Defaults are the paper's where it gives them."""

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
    """lambda of the reward."""
    reward_eps: float = Field(0.01, gt=0, lt=0.5)
    """Confidences are clipped to [eps, 1 - eps] in the reward."""
    scale_rewards: Literal["none", "group", "batch"] = "none"
    """What advantages are divided by: nothing (then lambda has a meaning), the group's or the batch's deviation."""
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
        if self.entropy and self.mode == "joint":
            raise ValueError("entropy works in mode=conditional only; set entropy=0 or mode=conditional")
        if self.vllm != "off" and self.mode == "conditional":
            raise ValueError(
                "vllm works in mode=joint only, since it cannot run an activated adapter; set vllm=off or mode=joint"
            )
        return self


class LevelSettings(BaseModel):
    """Hyperparameters of SFT and of exact ConRad. Sample numbers are the paper's; it gives no others for them."""

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
