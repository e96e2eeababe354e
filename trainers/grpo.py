"""ConRad's joint trainer: GRPO with the loss on the tokens that express a confidence, and nowhere else.

It builds on TRL's GRPOTrainer at the hook `_generate`, whose third result is a 0/1 loss mask per completion token:
report and confidence are rolled out together, as in the paper, and the loss is masked to the confidence. Conditional
ConRad, where the rollout is the confidence alone, needs no text to be sampled: trainers/levels.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conrad_bench.engines.decoding import TokenChooser
from conrad_bench.engines.loading import hush_imports
from conrad_bench.engines.pictures import stand_in
from conrad_bench.errors import TrainingError
from conrad_bench.trainers.group import gathered, place, row_seed
from conrad_bench.trainers.guard import Guard
from conrad_bench.trainers.head import MaskedHead
from conrad_bench.trainers.masks import confidence_mask
from conrad_bench.trainers.tracking import Report, log_line
from conrad_bench.types import Sampling

hush_imports()
from transformers import TrainerCallback  # noqa: E402
from trl import GRPOTrainer  # noqa: E402
from trl.trainer.utils import (  # noqa: E402
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

Reward = Callable[[Sequence[int], Sequence[str]], tuple[list[float | None], list[bool]]]
"""From rows of the data set and their completions to rewards, and whether each completion has a readable confidence.

A reward is None where the completion could not be judged: it takes no part in its group's mean, nor in the update.
"""


class JointTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPO whose loss sits on the confidence tokens of each completion (ConRad, section 2.3).

    `train_dataset` has the columns `prompt`, `row` (handed to the reward) and `paths` (image files). `barred` are
    tokens that no rollout may hold.
    """

    def __init__(self, *, reward: Reward, barred: Collection[int], **arguments: Any) -> None:
        self._reward, self._barred = reward, barred
        self._scored = torch.zeros(0)
        self._buffered_inputs: Any = None
        super().__init__(reward_funcs=self._rewards, **arguments)

    def _rewards(self, completions: Any, row: list[int], log_metric: Any = None, **_: Any) -> list[float | None]:
        rewards, parsed = self._reward(row, [completion[0]["content"] for completion in completions])
        if log_metric is not None:
            everyone = gathered(list(zip(rewards, parsed, strict=True)))
            log_metric("parse_rate", sum(ok for _, ok in everyone) / len(everyone))
            log_metric("unjudged", sum(reward is None for reward, _ in everyone) / len(everyone))
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        if any(example["paths"] for example in inputs):
            inputs = [{**example, "images": [stand_in(path) for path in example["paths"]]} for example in inputs]
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        model = self.accelerator.unwrap_model(self.model)
        if self.use_vllm:
            out = list(super()._generate(prompts))
        else:
            first = place()[0] * len(prompts)
            rows = range(first, first + len(prompts))
            seeds = [row_seed(self.args.seed, self.state.global_step, row) for row in rows]
            chooser = TokenChooser(seeds, Sampling(temperature=1.0), self.accelerator.device, barred=self._barred)
            # transformers samples from what the last processor leaves, which is one token.
            model.generate = partial(model.generate, logits_processor=[chooser])
            try:
                out = list(super()._generate(prompts))
            finally:
                del model.generate
        _check_hook(out)
        out[2] = [confidence_mask(self._tokenizer, ids, self.eos_token_ids) for ids in out[1]]
        longest = max(map(len, out[2]))
        padded = [mask + [0] * (longest - len(mask)) for mask in out[2]]
        self._scored = torch.tensor(padded, device=self.accelerator.device)
        return tuple(out)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's own, without its shuffling: a group's rollouts stay in one forward pass, which sees its images once."""
        if self._step % self.args.steps_per_generation == 0 or self._buffered_inputs is None:
            scored = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
            parts = split_tensor_dict(scored, self.args.steps_per_generation)
            self._buffered_inputs = [unsplit_pixel_values_by_grid(part) for part in parts]
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self._scored = inputs["completion_mask"] * inputs["tool_mask"]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(self, model: Any, *arguments: Any, **named: Any) -> tuple[Any, ...]:
        """TRL's own, with the head on the confidence tokens alone; the other tokens have log-probability 0."""
        head = MaskedHead(model, self.accelerator.unwrap_model(model), self._scored, self.temperature)
        scored: tuple[Any, ...] = super()._get_per_token_logps_and_entropies(head, *arguments, **named)
        return scored


def _check_hook(out: Sequence[Any]) -> None:
    """TRL's `_generate` is private: refuse to train on a version that means something else by its results."""
    if len(out) != 8 or out[2] is not None:
        raise TrainingError("this version of trl has another _generate(); conrad-bench needs trl 1.16")


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports progress and numbers, keeps a log of the training, and lets the guard see every step."""

    def __init__(self, advance: Callable[[int], None], log: Path, report: Report, guard: Guard) -> None:
        self._advance, self._log, self._report, self._guard = advance, log, report, guard

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the progress display by one step; workers other than the first are given none."""
        self._advance(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Report and log one step. Raises what the guard raises."""
        logs = logs or {}
        if "grad_norm" not in logs:
            return
        kept = ("loss", "grad_norm", "reward", "reward_std", "parse_rate", "unjudged", "entropy", "learning_rate")
        values = {name: float(logs[name]) for name in kept if name in logs and math.isfinite(float(logs[name]))}
        self._report(state.global_step, values)
        if state.is_world_process_zero:
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(log_line(state.global_step, values))
        self._guard.step(values["parse_rate"], values.get("grad_norm", math.inf))
