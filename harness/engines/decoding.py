"""Writing responses: prompts are read once for all their samples, and each response depends on its own seed alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from conrad_bench.engines.decoders import positions, positions_behind
from conrad_bench.engines.inputs import Encoded, collate, seen_behind
from conrad_bench.engines.scoring import alora_offsets
from conrad_bench.types import Sampling

if TYPE_CHECKING:
    import torch

_DROP = 0.75
"""Rows that have ended are left out of the next steps when no more than this share of the rows goes on: to leave them
out costs a copy of the others' keys and values."""


def write(
    model: Any,
    network: Any,
    batch: Sequence[Encoded],
    rows: Sequence[int],
    chooser: TokenChooser,
    stops: Collection[int],
    starts: Sequence[int] | None,
    pad: int,
    max_tokens: int,
) -> None:
    """Write responses behind the prompts of one batch of shapes, until all have ended or have `max_tokens` tokens.

    Response r belongs to prompt `rows[r]`: a prompt is read once, however many responses it gets. What is written is
    the chooser's, up to each row's first of the tokens `stops` and in part beyond it. `model`, `network` and `starts`
    are as in `continuation_scores`.
    """
    import torch

    inputs = collate(batch, pad, True, network.device, network.dtype)
    places = positions(network, inputs)
    out = first = model(
        **inputs,
        **alora_offsets([len(encoded.ids) for encoded in batch], starts),
        position_ids=places,
        use_cache=True,
        logits_to_keep=1,
    )
    cache = first.past_key_values
    of_prompt = torch.tensor(rows, device=network.device)
    if list(rows) != list(range(len(batch))):
        cache.batch_select_indices(of_prompt)
    logits = out.logits[:, -1][of_prompt]
    alive = list(range(len(rows)))
    ended: set[int] = set()
    next_places = positions_behind(places, inputs["attention_mask"], of_prompt.new_zeros(1))
    for step in range(max_tokens):
        chosen = chooser.choose(logits, alive)
        ended |= {row for row, token in zip(alive, chosen.tolist(), strict=True) if token in stops}
        kept = [i for i, row in enumerate(alive) if row not in ended]
        if not kept or step == max_tokens - 1:
            return
        if len(kept) <= _DROP * len(alive):
            index = torch.tensor(kept, device=network.device)
            alive, of_prompt, chosen = [alive[i] for i in kept], of_prompt[index], chosen[index]
            cache.batch_select_indices(index)
        mask = inputs["attention_mask"][of_prompt]
        out = model(
            input_ids=chosen[:, None],
            attention_mask=torch.cat([mask, mask.new_ones(len(alive), step + 1)], dim=1),
            position_ids=next_places[..., of_prompt, :] + step,
            past_key_values=cache,
            use_cache=True,
            **seen_behind(inputs, first, step + 1, of_prompt),
            **alora_offsets([1] * len(alive), None if starts is None else [0] * len(alive)),
        )
        logits = out.logits[:, -1]


class TokenChooser:
    """Chooses tokens, and remembers the log-probability of each chosen token.

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
        self.written: list[list[int]] = [[] for _ in seeds]
        """The tokens chosen for each row, those after its end included."""
        self.logprobs: list[list[float]] = [[] for _ in seeds]
        """Their log-probabilities."""

    def choose(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Return the next token of each of some rows, shape (rows,), by their logits (rows, vocabulary)."""
        logits = logits.float()
        # Without the softmax's full-size result: only the chosen entries are needed.
        normaliser = logits.logsumexp(dim=-1, keepdim=True)
        possible = logits.index_fill(-1, self._barred, float("-inf")) if len(self._barred) else logits
        if self._allowed is not None:
            possible = self._restricted(possible, rows, self._allowed)
        if self._sampling.temperature > 0:
            possible = self._perturbed(possible, rows)
        chosen = possible.argmax(dim=-1, keepdim=True)
        scores = (logits.gather(-1, chosen) - normaliser)[:, 0].tolist()
        for row, token, score in zip(rows, chosen[:, 0].tolist(), scores, strict=True):
            self.written[row].append(token)
            self.logprobs[row].append(score)
        return chosen[:, 0]

    def __call__(self, _input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Choose as a logits processor of transformers' generate(), which keeps all rows to its end.

        Returns scores of shape (batch, vocabulary): 0 for the chosen token of each row, -inf for all others.
        """
        import torch

        chosen = self.choose(logits, range(len(self._generators)))
        return torch.full_like(logits, -torch.inf, dtype=torch.float32).scatter_(-1, chosen[:, None], 0.0)

    def _restricted(
        self, logits: torch.Tensor, rows: Sequence[int], allowed: Sequence[Sequence[tuple[int, ...]]]
    ) -> torch.Tensor:
        """Return the logits with -inf for the tokens that no allowed sequence goes on with; ended rows stay as is."""
        scores = logits.clone()
        for i, row in enumerate(rows):
            written = tuple(self.written[row])
            done = len(written)
            nexts = sorted({ids[done] for ids in allowed[row] if len(ids) > done and ids[:done] == written})
            if nexts:
                scores[i] = float("-inf")
                scores[i, nexts] = logits[i, nexts]
        return scores

    def _perturbed(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        import torch

        scores = logits / self._sampling.temperature
        if self._sampling.top_p < 1:
            probabilities, order = scores.softmax(dim=-1).sort(dim=-1, descending=True)
            # The smallest set whose mass reaches top_p: a token goes when those before it reach it already.
            beyond = probabilities.cumsum(dim=-1) - probabilities >= self._sampling.top_p
            scores = scores.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
        waiting = torch.stack(
            [torch.empty_like(scores[0]).exponential_(generator=self._generators[row]) for row in rows]
        )
        return scores - waiting.log()
