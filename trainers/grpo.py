"""ConRad's trainers: GRPO with the loss on the tokens that express a confidence, and nowhere else.

Both build on TRL's GRPOTrainer at the one hook `_generate`, whose third result is a 0/1 loss mask per completion token.

    JointTrainer        the paper: report and confidence are rolled out together, the loss is masked to the confidence
    ConditionalTrainer  the base model wrote the report before; the rollout is the confidence alone, under an activated
                        LoRA that acts from the confidence marker on, so that no report can change

In the conditional form nothing before the marker depends on the adapter. Its keys and values are computed once for a
group, without gradient, and serve both the rollout and the loss: the forward and backward pass of a step covers the
marker and the number only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conrad_bench.engines.loading import hush_imports
from conrad_bench.errors import TrainingError
from conrad_bench.trainers.group import Draws, gathered, place
from conrad_bench.trainers.head import MaskedHead
from conrad_bench.trainers.masks import confidence_mask
from conrad_bench.trainers.prefix import Prefix, Written, continue_from, prefill, rows_of
from conrad_bench.trainers.tracking import Report, log_line

hush_imports()
from transformers import LogitsProcessor, TrainerCallback  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

PATIENCE = 10
"""Number of steps over which the parse rate and the gradient are watched."""

Reward = Callable[[Sequence[int], Sequence[str]], tuple[list[float], list[bool]]]
"""From rows of the data set and their completions to rewards, and whether each completion has a readable confidence."""


class _Guard:
    """Stops a run that lost the format, an absorbing state: without a confidence there is nothing to learn from."""

    def __init__(self, least: float) -> None:
        self.least = least
        self.rates: deque[float] = deque(maxlen=PATIENCE)

    def __call__(self, parsed: Sequence[bool], step: int) -> None:
        self.rates.append(sum(parsed) / len(parsed))
        mean = sum(self.rates) / len(self.rates)
        if len(self.rates) == PATIENCE and mean < self.least:
            raise TrainingError(
                f"ConRad lost the confidence format: at step {step} only {mean:.0%} of the last {PATIENCE} steps' "
                f"rollouts state a readable confidence (at least {self.least:.0%} are needed; conrad.min_parse_rate). "
                "Lower conrad.learning_rate, or use conrad.mode=conditional, which cannot change the report."
            )


class JointTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPO whose loss sits on the confidence tokens of each completion (ConRad, section 2.3)."""

    def __init__(self, *, reward: Reward, min_parse_rate: float, **arguments: Any) -> None:
        self._guard = _Guard(min_parse_rate)
        self._reward = reward
        self._scored = torch.zeros(0)
        self._later: torch.Tensor | None = None
        super().__init__(reward_funcs=self._rewards, **arguments)

    def _rewards(self, completions: Any, row: list[int], log_metric: Any = None, **_: Any) -> list[float]:
        rewards, parsed = self._reward(row, [completion[0]["content"] for completion in completions])
        parsed = gathered(parsed)
        if log_metric is not None:
            log_metric("parse_rate", sum(parsed) / len(parsed))
        self._guard(parsed, self.state.global_step)
        return rewards

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        model = self.accelerator.unwrap_model(self.model)
        if place()[1] == 1 or self.use_vllm:
            out = list(super()._generate(prompts))
        else:
            with Draws(self.accelerator.device) as draws:
                # transformers samples from what the last processor leaves, which is one token.
                model.generate = partial(model.generate, logits_processor=[_OneToken(draws)])
                try:
                    out = list(super()._generate(prompts))
                finally:
                    del model.generate
        self._look_ahead(len(prompts))
        _check_hook(out)
        out[2] = [confidence_mask(self._tokenizer, ids, self.eos_token_ids) for ids in out[1]]
        longest = max(map(len, out[2]))
        padded = [mask + [0] * (longest - len(mask)) for mask in out[2]]
        self._scored = torch.tensor(padded, device=self.accelerator.device)
        return tuple(out)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self._scored = inputs["completion_mask"] * inputs["tool_mask"]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(self, model: Any, *arguments: Any, **named: Any) -> tuple[Any, ...]:
        """TRL's own, with the head on the confidence tokens alone; the other tokens have log-probability 0."""
        head = MaskedHead(model, self.accelerator.unwrap_model(model), self._scored, self.temperature)
        scored: tuple[Any, ...] = super()._get_per_token_logps_and_entropies(head, *arguments, **named)
        return scored

    def _look_ahead(self, rows: int) -> None:
        """Note the generator's state after TRL has shuffled the rollouts of all workers; each shuffles its own only."""
        if place()[1] > 1:
            before = torch.get_rng_state()
            torch.randperm(rows * place()[1])
            self._later = torch.get_rng_state()
            torch.set_rng_state(before)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        inputs = super()._prepare_inputs(generation_batch)
        if self._later is not None:
            torch.set_rng_state(self._later)
            self._later = None
        return inputs


class _OneToken(LogitsProcessor):  # type: ignore[misc]
    """Leaves the one token that a group of workers draws for each row."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = self._draws.choose(torch.softmax(scores, dim=-1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


def _check_hook(out: Sequence[Any]) -> None:
    """TRL's `_generate` is private: refuse to train on a version that means something else by its results."""
    if len(out) != 8 or out[2] is not None:
        raise TrainingError("this version of trl has another _generate(); conrad-bench needs trl 1.16")


class ConditionalTrainer(JointTrainer):
    """GRPO on the confidence alone, given reports that the base model wrote.

    `train_dataset` has the columns `prompt` (unused text) and `row`, an index into `written`. `openings` are the tokens
    that the eleven confidences begin with, whose entropy is part of the objective with the weight `entropy`.
    """

    def __init__(
        self,
        *,
        written: Sequence[Written],
        marker: Sequence[int],
        ending: Sequence[int] = (),
        openings: Sequence[int] = (),
        entropy: float = 0.0,
        **arguments: Any,
    ) -> None:
        self._written, self._marker, self._ending = written, list(marker), list(ending)
        self._openings, self._entropy_weight = list(openings), entropy
        self._spread = torch.zeros(())
        self._rows: list[int] = []
        self._batch_rows: list[int] = []
        self._prefix: Prefix | None = None
        self._prefix_of: dict[int, int] = {}
        super().__init__(**arguments)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = self._batch_rows = [int(example["row"]) for example in inputs]
        out = super()._generate_and_score_completions(inputs)
        return {**out, "row": torch.tensor(self._rows, device=out["completion_ids"].device)}

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        unique = list(dict.fromkeys(self._rows))
        self._prefix_of = {row: place for place, row in enumerate(unique)}
        model = self.accelerator.unwrap_model(self.model)
        self._prefix = prefill(model, self.processing_class, [self._written[row] for row in unique])
        places = [self._prefix_of[row] for row in self._rows]
        with Draws(self.accelerator.device) as draws:
            completions = self._sample(model, places, draws)
        self._look_ahead(len(places))
        texts = self._tokenizer.batch_decode(completions, skip_special_tokens=True)
        messages = [[{"role": "assistant", "content": text}] for text in texts]
        self._metrics["train"]["completions/mean_length"].append(sum(map(len, completions)) / len(completions))
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
        # The prompt is not scored again, so one token stands for it; every completion token is a confidence token.
        head = [[self._marker[-1]] for _ in self._rows]
        mask = [[1] * len(ids) for ids in completions]
        return head, completions, mask, messages, None, {}, None, []

    def _sample(self, model: Any, places: Sequence[int], draws: Draws) -> list[list[int]]:
        """Sample what follows the marker, at temperature 1, at most `max_completion_length` tokens."""
        assert self._prefix is not None
        device = self._prefix.mask.device
        cache, mask = rows_of(self._prefix, places)
        ids = torch.tensor([self._marker] * len(places), device=device)
        ended = torch.zeros(len(places), dtype=torch.bool, device=device)
        ends = torch.tensor([*self.eos_token_ids, *self._ending], device=device)
        out: list[list[int]] = [[] for _ in places]
        with torch.no_grad():
            for _ in range(self.max_completion_length):
                logits, mask = continue_from(model, ids, cache, mask, keep=1)
                probabilities = torch.softmax(logits[:, -1].float() / self.temperature, dim=-1)
                ids = draws.choose(probabilities)
                for i, token in enumerate(ids[:, 0].tolist()):
                    if not ended[i]:
                        out[i].append(token)
                ended |= torch.isin(ids[:, 0], ends)
                if bool(ended.all()):
                    break
        return out

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self._batch_rows = inputs["row"].tolist()
        loss = super()._compute_loss(model, inputs)
        if not self._entropy_weight:
            return loss
        # TRL's "grpo" divides a completion's advantage by its number of tokens, so the entropy's weight is, too.
        spread = (self._spread / inputs["completion_mask"].sum(1).clamp(min=1)).mean()
        return loss - self._entropy_weight * spread / self.current_gradient_accumulation_steps

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Log-probabilities and entropies of the completions, continuing the cached prompts and reports."""
        assert self._prefix is not None
        completion = input_ids[:, -logits_to_keep:]
        cache, mask = rows_of(self._prefix, [self._prefix_of[row] for row in self._batch_rows])
        marker = torch.tensor([self._marker] * len(completion), device=completion.device)
        ids = torch.cat([marker, completion], dim=1)
        logits = continue_from(model, ids, cache, mask, keep=completion.shape[1] + 1)[0]
        log_probabilities = torch.log_softmax(logits[:, :-1].float() / self.temperature, dim=-1)
        chosen = log_probabilities.gather(2, completion[..., None])[..., 0]
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
        # Of the numbers' first tokens alone: the entropy of all tokens would reward malformed answers.
        first = log_probabilities[:, 0, self._openings]
        self._spread = -(first.exp() * first).sum(-1)
        return chosen, entropy.detach(), None


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports progress and numbers, keeps a log of the training, and stops a run whose gradient is exactly zero."""

    def __init__(self, advance: Callable[[int], None], log: Path, report: Report, resumed: bool = False) -> None:
        self._advance, self._log, self._report = advance, log, report
        self._idle: int | None = None if resumed else 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the progress display by one step; workers other than the first are given none."""
        self._advance(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Report and log one step; raise TrainingError if the run starts without any gradient.

        Later on a gradient of zero is no fault: all rollouts of a group may agree because the policy has converged.
        """
        logs = logs or {}
        if "grad_norm" not in logs:
            return
        kept = ("loss", "grad_norm", "reward", "reward_std", "parse_rate", "entropy", "learning_rate")
        values = {name: float(logs[name]) for name in kept if name in logs}
        self._report(state.global_step, values)
        if state.is_world_process_zero:
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(log_line(state.global_step, values))
        if self._idle is None or float(logs["grad_norm"]) != 0.0:
            self._idle = None
            return
        self._idle += 1
        if self._idle >= PATIENCE:
            raise TrainingError(
                f"ConRad trains on nothing: the gradient was exactly zero in each of its first {PATIENCE} steps. The "
                "adapter never acts, or no two rollouts of any group differ in reward."
            )
