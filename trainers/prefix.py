"""Prompts with the claims that the base model wrote, kept as keys and values that an activated adapter continues.

In the conditional form nothing before the confidence marker depends on the adapter. Keys and values up to there are
computed without gradient, and whatever is trained covers the marker and the number only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from conrad_bench.engines.inputs import collate, encode
from conrad_bench.types import Prompt


@dataclass(frozen=True)
class Written:
    """A prompt, and the token ids of what the base model wrote, up to where the confidence marker starts."""

    prompt: Prompt
    ids: Sequence[int]


@dataclass
class Prefix:
    """Keys and values of several prompts with what was written, left-padded to one length."""

    cache: Any
    mask: torch.Tensor


def prefill(model: Any, processor: Any, written: Sequence[Written]) -> Prefix:
    """Compute keys and values of prompts with what was written; no adapter acts there, no gradient flows there."""
    parameter = next(model.parameters())
    batch = [encode(processor, w.prompt).followed_by(w.ids) for w in written]
    inputs = collate(batch, processor.tokenizer.pad_token_id, True, parameter.device, parameter.dtype)
    mask = inputs["attention_mask"]
    with torch.no_grad():
        out = model(
            **inputs,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            alora_offsets=[None] * len(batch),
            logits_to_keep=1,
        )
    return Prefix(out.past_key_values, mask)
