"""What the model finds, token by token, as it reads a response that is there: statistics of whole distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conrad_bench.engines.inputs import Encoded, collate
from conrad_bench.engines.scoring import alora_offsets
from conrad_bench.types import TOKEN_COLUMNS

if TYPE_CHECKING:
    import torch

_TOKENS = 64
"""Tokens whose distributions are held in float32 at a time: 64 MiB each with 262,144 words."""


def token_statistics(
    model: Any, batch: Sequence[Encoded], answers: Sequence[Sequence[int]], starts: Sequence[int] | None, pad: int
) -> list[NDArray[np.float32]]:
    """Return the `TOKEN_COLUMNS` of each token of each answer, shape (tokens, 4), for one batch of shapes.

    `model` may be under an adapter, `starts` says where an activated LoRA starts in each prompt (None: there is none).
    """
    joined = [encoded.followed_by(list(answer)) for encoded, answer in zip(batch, answers, strict=True)]
    # Padded on the right, positions are those of a single prompt, and no token attends to padding.
    inputs = collate(joined, pad, False, model.device, model.dtype)
    width = inputs["input_ids"].shape[1]
    kept = width - min(len(encoded.ids) for encoded in batch) + 1
    offsets = alora_offsets([width] * len(batch), starts)
    logits = model(**inputs, **offsets, use_cache=False, logits_to_keep=kept).logits
    before = width - logits.shape[1]
    found = []
    for encoded, answer, row in zip(batch, answers, logits, strict=True):
        first = len(encoded.ids) - 1 - before  # a token's distribution stands at the one before it
        of_answer = row[first : first + len(answer)]
        parts = [
            _of_tokens(of_answer[i : i + _TOKENS], answer[i : i + _TOKENS]) for i in range(0, len(answer), _TOKENS)
        ]
        found.append(np.concatenate([np.zeros((0, len(TOKEN_COLUMNS)), np.float32), *parts]))
    return found


def _of_tokens(logits: torch.Tensor, ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the statistics of tokens from the logits (tokens, vocabulary) that they were chosen by."""
    import torch

    logp = logits.float().log_softmax(dim=-1)
    p = logp.exp()
    possible = logp.isfinite()  # some models bar words
    words = possible.sum(dim=-1)
    top = p.topk(2, dim=-1).values
    columns = (
        logp.gather(-1, torch.tensor(list(ids), device=logp.device)[:, None])[:, 0],
        torch.special.entr(p).sum(dim=-1),
        top[:, 0] - top[:, 1],
        -logp.where(possible, 0.0).sum(dim=-1) / words - words.log(),
    )
    array: NDArray[np.float32] = torch.stack(columns, dim=1).cpu().numpy()
    return array
