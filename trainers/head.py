"""The language-model head on the tokens that the loss sits on, and on no other.

A head of 262,144 words (Gemma) over every token of 64 reports of 300 tokens makes 20 GB of float32 logits; a loss on
the confidence needs those before two or three tokens of each report.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from conrad_bench.engines.heads import precise_logits


@contextmanager
def head_at(network: Any, places: torch.Tensor) -> Iterator[None]:
    """Let a network's head read the states at `places` alone, a mask (rows, tokens): its logits are (places, words)."""
    head = network.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _head, states: (states[0][places.to(states[0].device)],))
    try:
        yield
    finally:
        handle.remove()


class MaskedHead:
    """A model in the place where TRL calls its own fused head, scoring the tokens under a mask.

    TRL hands over a batch in one or more parts, in order: `mask` (rows, tokens) is that of the whole batch, over the
    last tokens of each row. `model` may be wrapped for several processes; `network` is the model inside.
    """

    def __init__(self, model: Any, network: Any, mask: torch.Tensor, temperature: float) -> None:
        self._model, self._network, self._mask, self._temperature = model, network, mask.bool(), temperature
        self._done = 0

    def __call__(self, *, labels: torch.Tensor, fused_lm_head: bool, **inputs: Any) -> SimpleNamespace:
        """Return log-probabilities and entropies of a part's last tokens, shape (rows, tokens); 0 off the mask."""
        mask = self._mask[self._done : self._done + len(labels)]
        self._done += len(labels)
        before = torch.zeros_like(labels, dtype=torch.bool)
        before[:, -mask.shape[1] - 1 : -1] = mask  # a token is predicted by the state before it
        with head_at(self._network, before), precise_logits(self._network):
            logits = self._model(**inputs, use_cache=False).logits
        logp = torch.log_softmax(logits.float() / self._temperature, dim=-1)
        chosen = logp.gather(1, labels[:, -mask.shape[1] :][mask][:, None])[:, 0]
        with torch.no_grad():
            entropy = -(logp.exp() * logp).sum(1)
        # Scattered into zeros, the output hangs on the model even where a part has no token under the mask.
        nothing = torch.zeros(mask.shape, device=logp.device)
        return SimpleNamespace(
            log_probs=nothing.masked_scatter(mask, chosen), entropy=nothing.masked_scatter(mask, entropy)
        )
