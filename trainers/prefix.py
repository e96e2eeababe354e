"""Prompts with the claims that the base model wrote, kept as keys and values that an activated adapter continues.

In the conditional form nothing before the confidence marker depends on the adapter. Keys and values up to there are
computed without gradient, and whatever is trained covers the marker and the number only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from conrad_bench.engines.decoders import counts_padding, positions, positions_behind
from conrad_bench.engines.inputs import Encoded, collate, encode_all, readable, same_shapes, seen_behind
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
    places: torch.Tensor
    """The tokens' positions: (rows, tokens), or (axes, rows, tokens)."""
    inputs: dict[str, torch.Tensor]
    first: Any
    """The model's inputs and output, for models that ask for more than the cache."""

    def positions_behind(self, steps: torch.Tensor) -> torch.Tensor:
        """Return the positions of tokens that stand so many steps (tokens,) behind the prefix."""
        return positions_behind(self.places, self.mask, steps)

    def seen_behind(self, tokens: int) -> dict[str, torch.Tensor]:
        """Return the inputs beside ids, mask and positions of so many tokens behind the prefix."""
        return seen_behind(self.inputs, self.first, tokens)


def prefill(model: Any, processor: Any, written: Sequence[Written]) -> Iterator[tuple[list[int], Prefix]]:
    """Yield keys and values of prompts with what was written, and which of them they are: those whose pictures make one
    batch together. No adapter acts there, no gradient flows there.
    """
    network = model.get_base_model()
    prompts = encode_all(processor, [w.prompt for w in written])
    batch = [prompt.followed_by(readable(processor, w.ids)) for prompt, w in zip(prompts, written, strict=True)]
    for rows in same_shapes(batch, same_length=counts_padding(network)):
        yield rows, _fill(model, network, processor, [batch[row] for row in rows])


def _fill(model: Any, network: Any, processor: Any, batch: Sequence[Encoded]) -> Prefix:
    parameter = next(model.parameters())
    inputs = collate(batch, processor.tokenizer.pad_token_id, True, parameter.device, parameter.dtype)
    places = positions(network, inputs)
    with torch.no_grad():
        out = model(
            **inputs,
            position_ids=places,
            use_cache=True,
            alora_offsets=[None] * len(batch),
            logits_to_keep=1,
        )
    return Prefix(out.past_key_values, inputs["attention_mask"], places, inputs, out)
