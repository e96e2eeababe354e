"""What a tiny Gemma3 answers without the engine: plain forward passes, and adapters made with peft alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from conrad_bench.engines.base import Generation
from conrad_bench.types import Message, Prompt

MARKER = "\nConfidence:"


def ask(text: str, images: Sequence[str] = (), prefix: str = "", prefix_ids: tuple[int, ...] = ()) -> Prompt:
    return Prompt((Message("user", text),), tuple(images), None, prefix, prefix_ids)


def inputs_of(processor: Any, prompt: Prompt, after: Sequence[int] = ()) -> dict[str, torch.Tensor]:
    """One prompt without padding, built as the processor's documentation shows, followed by token ids."""
    from PIL import Image

    chat: list[dict[str, Any]] = []
    for number, message in enumerate(prompt.messages):
        content: list[dict[str, Any]] = [{"type": "text", "text": message.text}]
        if number == 0:
            content = [{"type": "image", "image": Image.open(p).convert("RGB")} for p in prompt.images] + content
        chat.append({"role": message.role, "content": content})
    inputs = dict(
        processor.apply_chat_template(
            [chat], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    )
    ids = processor.tokenizer(prompt.prefix, add_special_tokens=False)["input_ids"] if prompt.prefix else []
    tail = torch.tensor([[*(prompt.prefix_ids or ids), *after]], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
    inputs["token_type_ids"] = torch.cat([inputs["token_type_ids"], torch.zeros_like(tail)], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


def plain_logprobs(plain: tuple[Any, Any], prompt: Prompt, ids: Sequence[int]) -> list[float]:
    """Log-probability of each of `ids` after the prompt, by one forward pass over all of them."""
    model, processor = plain
    with torch.no_grad():
        logits = model(**inputs_of(processor, prompt, ids)).logits[0, -len(ids) - 1 : -1]
    return [float(row[token]) for row, token in zip(logits.log_softmax(dim=-1), ids, strict=True)]


def write_adapter(
    model: Any, folder: Path, scale: float = 0.5, seed: int = 1, invocation: list[int] | None = None
) -> Path:
    """Save a LoRA adapter with random weights for `model`, which it changes."""
    import peft

    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)",
        task_type="CAUSAL_LM",
        alora_invocation_tokens=invocation,
    )
    wrapped = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    wrapped.save_pretrained(folder)
    return folder


def assert_same(some: Sequence[Generation], others: Sequence[Generation]) -> None:
    """Equal tokens, and log-probabilities equal but for float noise (even memory alignment moves the last bit)."""
    for a, b in zip(some, others, strict=True):
        assert (a.token_ids, a.text, a.finish_reason) == (b.token_ids, b.text, b.finish_reason)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
