"""Trains one plain LoRA to write a report and state its correctness: Verbalize Supervised as the paper has it.

"SFT on explicit GREEN scores appended to the report text" (ConRad, section 3): the model's own report with the score of
this report behind it, or behind each sentence, is the text to be learned. With T the text's tokens, its end included,

    loss of a response = - mean over t in T of log pi(t | images, prompt, what stands before t)

and that of a step is the mean over its responses. So it differs from joint ConRad in the objective: the same adapter,
the same prompts, the same number of responses a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from conrad_bench.engines.inputs import (
    Encoded,
    by_shape,
    collate,
    encode_all,
    end_of_turn,
    stop_tokens,
    tokenize,
)
from conrad_bench.engines.loading import hush_imports
from conrad_bench.trainers.adapters import language_lora
from conrad_bench.trainers.head import head_at
from conrad_bench.trainers.loop import train_adapter
from conrad_bench.trainers.masks import confidence_mask
from conrad_bench.trainers.settings import LevelSettings
from conrad_bench.types import Prompt


@dataclass(frozen=True)
class Target:
    """A prompt and the text that is to be learned as its answer."""

    prompt: Prompt
    text: str
    ended: bool = True
    """Whether the turn ends behind the text, so that its end is to be learned, too."""


def token_losses(
    model: Any, inputs: dict[str, torch.Tensor], starts: Sequence[int], ends: Sequence[int]
) -> list[torch.Tensor]:
    """Return - log pi of the tokens starts[i] to ends[i] of each row i of a right-padded batch, float32.

    The language-model head reads the states before these tokens and no others: over images and prompt its logits would
    take gigabytes with a large vocabulary.
    """
    ids = inputs["input_ids"]
    at = torch.arange(ids.shape[1], device=ids.device)
    first, behind = (torch.tensor(list(where), device=ids.device)[:, None] for where in (starts, ends))
    scored = (at >= first) & (at < behind)
    before = scored.roll(-1, dims=1)  # a token is predicted by the state before it; none is the row's first
    with head_at(model, before):
        logits = model(**inputs, use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[scored].to(logits.device), reduction="none")
    return list(losses.split([end - start for start, end in zip(starts, ends, strict=True)]))


def save_memory(torch_model: Any) -> None:
    """Let a model compute its layers' states again in the backward pass, in place of keeping them."""
    # The reentrant form would need embeddings with a gradient, and run one through the frozen vision tower.
    torch_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def train_joint_sft(
    settings: LevelSettings,
    *,
    torch_model: Any,
    processor: Any,
    targets: Sequence[Target],
    base_model: str,
    seed: int,
    stage: Callable[[str, int], Any],
    out: Path,
) -> None:
    """Train a LoRA adapter on the targets and leave it in the folder `out` (adapter_model.safetensors,
    adapter_config.json, training.jsonl).

    `settings.batch_size` is the number of responses in a forward pass; their images are opened for it. `stage(label,
    total)` is a context manager that yields a function to report progress with. For interruptions and several workers
    see `loop.train_adapter`. Raises ConfigError for more workers than responses in a batch.
    """
    hush_imports()  # peft imports it where it is installed
    from peft import get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(torch_model, language_lora(torch_model, settings.rank, None))
    if torch_model.device.type == "cuda":
        save_memory(torch_model)
    stops = stop_tokens(torch_model.generation_config, processor.tokenizer)
    learner = _Learner(model, processor, end_of_turn(processor, stops), torch_model.dtype)

    def learn(step: int, rows: Sequence[int], places: Sequence[int], share: float) -> torch.Tensor:
        loss, stated = learner([targets[row] for row in rows])
        (loss * share).backward()
        return torch.stack([loss.detach(), loss.new_tensor(stated)])

    train_adapter(
        settings,
        model,
        learn,
        names=("loss", "confidence_loss"),
        label="training report and confidence",
        processor=processor,
        prompts=[target.prompt for target in targets],
        base_model=base_model,
        seed=seed,
        stage=stage,
        out=out,
    )


@dataclass(frozen=True)
class _Learner:
    """Computes the loss of some targets."""

    model: Any
    processor: Any
    end_id: int
    """The token that ends a turn."""
    dtype: torch.dtype

    def __call__(self, targets: Sequence[Target]) -> tuple[torch.Tensor, float]:
        """Return the sums over the targets of the loss, and of the mean loss of the tokens that state a confidence."""
        tokenizer = self.processor.tokenizer
        answers = [[*tokenize(tokenizer, t.text), *[self.end_id] * t.ended] for t in targets]
        prompts = encode_all(self.processor, [target.prompt for target in targets])
        batch = [p.followed_by(ids) for p, ids in zip(prompts, answers, strict=True)]
        losses = by_shape(batch, [len(p.ids) for p in prompts], self._losses)
        stated = 0.0
        for ids, found in zip(answers, losses, strict=True):
            mask = torch.tensor(confidence_mask(tokenizer, ids, [self.end_id]), device=found.device)
            stated += float((found.detach() * mask).sum() / mask.sum())
        return torch.stack([found.mean() for found in losses]).sum(), stated

    def _losses(self, batch: Sequence[Encoded], starts: Sequence[int]) -> list[torch.Tensor]:
        """Return the losses of what stands behind `starts` in each row of one batch of shapes."""
        tokenizer = self.processor.tokenizer
        device = next(self.model.parameters()).device
        pad = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        inputs = collate(batch, pad, False, device, self.dtype)
        return token_losses(self.model, inputs, starts, [len(whole.ids) for whole in batch])
