"""The language-model head in float32, for the few logits that carry a confidence.

In bfloat16 the logits of a large model step by 0.125: of 10,000 different P(True) some 200 are left. Hidden states are
as the model computes them; only the head's product is taken in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ROWS = 16_384
"""Words of the vocabulary whose weights are held in float32 at a time: 160 MiB at a hidden size of 2,560."""


@contextmanager
def precise_logits(model: Any) -> Iterator[None]:
    """Let the head's logits be float32 while this is open, whatever the model's dtype; what follows the head, such as a
    cap of the logits, is the model's own. For few positions: the work is done twice.

    A head that is no linear layer of floating-point weights stays as it is, as does one in float32 already.
    """
    import torch

    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or weight.dtype not in (torch.bfloat16, torch.float16) or not isinstance(head, torch.nn.Linear):
        yield
        return
    handle = head.register_forward_hook(lambda module, states, _: _product(states[0], module.weight, module.bias))
    try:
        yield
    finally:
        handle.remove()


def _product(states: Any, weight: Any, bias: Any) -> Any:
    """Return states @ weight.T + bias in float32, made and differentiated in parts of the vocabulary."""
    import torch
    from torch.utils.checkpoint import checkpoint

    def part(states: Any, rows: Any, some: Any) -> Any:
        return torch.nn.functional.linear(states.float(), rows.float(), None if some is None else some.float())

    parts = []
    for start in range(0, len(weight), _ROWS):
        rows, some = weight[start : start + _ROWS], None if bias is None else bias[start : start + _ROWS]
        if torch.is_grad_enabled() and states.requires_grad:  # else each part's float32 weights would be kept
            parts.append(checkpoint(part, states, rows, some, use_reentrant=False))
        else:
            parts.append(part(states, rows, some))
    return torch.cat(parts, dim=-1)
