"""Choosing tokens so that a response depends on its own seed alone, not on what else is in the batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from conrad_bench.types import Sampling

if TYPE_CHECKING:
    import torch


class TokenChooser:
    """Makes the choice in the place of a logits processor, and remembers the log-probability of each chosen token.

    Temperature 0 takes the most probable token. Otherwise the choice is Gumbel-max sampling, argmax(logit / T - log E)
    with E ~ Exp(1), which draws from the softmax of the kept tokens exactly; every row has its own random generator.
    The recorded log-probability is that of the unmodified distribution (temperature 1, no truncation).

    `allowed` holds, for each row, the token sequences that its response can be, each with its end; None: any. `barred`
    are token ids that are never chosen.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        sampling: Sampling,
        device: torch.device,
        allowed: Sequence[Sequence[tuple[int, ...]]] | None = None,
        barred: Collection[int] = (),
    ) -> None:
        import torch

        self._sampling = sampling
        self._allowed = allowed
        self._barred = torch.tensor(sorted(barred), dtype=torch.long, device=device)
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (batch, vocabulary): 0 for the chosen token of each row, -inf for all others."""
        import torch

        logits = logits.float()
        # Without the softmax's full-size result: only the chosen entries are needed.
        normaliser = logits.logsumexp(dim=-1, keepdim=True)
        possible = logits.index_fill(-1, self._barred, -torch.inf) if len(self._barred) else logits
        if self._allowed is not None:
            possible = self._restricted(input_ids, possible, self._allowed)
        chosen = (self._perturbed(possible) if self._sampling.temperature > 0 else possible).argmax(
            dim=-1, keepdim=True
        )
        self._logprobs.append((logits.gather(-1, chosen) - normaliser)[:, 0])
        return torch.full_like(logits, -torch.inf).scatter_(-1, chosen, 0.0)

    def logprobs(self) -> list[list[float]]:
        """Return the log-probability of each chosen token of each row, steps after the row's end included."""
        import torch

        values: list[list[float]] = torch.stack(self._logprobs, dim=1).tolist()
        return values

    def _restricted(
        self, input_ids: torch.Tensor, logits: torch.Tensor, allowed: Sequence[Sequence[tuple[int, ...]]]
    ) -> torch.Tensor:
        """Return the logits with -inf for the tokens that no allowed sequence goes on with; ended rows stay as is."""
        import torch

        done = len(self._logprobs)
        scores = logits.clone()
        for row, (sequences, written) in enumerate(
            zip(allowed, input_ids[:, input_ids.shape[1] - done :].tolist(), strict=True)
        ):
            nexts = sorted({ids[done] for ids in sequences if len(ids) > done and list(ids[:done]) == written})
            if nexts:
                scores[row] = -torch.inf
                scores[row, nexts] = logits[row, nexts]
        return scores

    def _perturbed(self, logits: torch.Tensor) -> torch.Tensor:
        import torch

        scores = logits / self._sampling.temperature
        if self._sampling.top_p < 1:
            probabilities, order = scores.softmax(dim=-1).sort(dim=-1, descending=True)
            # The smallest set whose mass reaches top_p: a token goes when those before it reach it already.
            beyond = probabilities.cumsum(dim=-1) - probabilities >= self._sampling.top_p
            scores = scores.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
        waiting = torch.stack(
            [torch.empty_like(scores[0]).exponential_(generator=generator) for generator in self._generators]
        )
        return scores - waiting.log()
