"""Log-probabilities of continuations: each prompt is read once, what is longer than a token is read from its cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conrad_bench.engines.decoders import positions, positions_behind
from conrad_bench.engines.inputs import Encoded, collate, seen_behind

if TYPE_CHECKING:
    import torch


def continuation_scores(
    model: Any,
    network: Any,
    batch: Sequence[Encoded],
    wanted: Sequence[Sequence[tuple[int, ...]]],
    starts: Sequence[int] | None,
    pad: int,
) -> list[list[float]]:
    """Return the log-probability of each continuation (token ids) of each prompt of one batch of shapes.

    `model` is the `network` under an adapter or under none, `starts` says where an activated LoRA starts in each prompt
    (None: there is none).
    """
    import torch

    inputs = collate(batch, pad, True, network.device, network.dtype)
    mask = inputs["attention_mask"]
    # What must be read to see the last token of every continuation; a prefix of another is read along with it.
    heads = [sorted({ids[:-1] for ids in row}) for row in wanted]
    rows = [
        (i, ids)
        for i, row in enumerate(heads)
        for ids in row
        if ids and not any(other != ids and other[: len(ids)] == ids for other in row)
    ]
    places = positions(network, inputs)
    first = model(
        **inputs,
        **alora_offsets([len(encoded.ids) for encoded in batch], starts),
        position_ids=places,
        use_cache=True,
        logits_to_keep=1,
    )
    opening = first.logits[:, -1].float().log_softmax(dim=-1)
    logits = None
    if rows:
        of_prompt = torch.tensor([i for i, _ in rows], device=mask.device)
        tails = [Encoded(list(ids), {}, {}) for _, ids in rows]
        after = collate(tails, pad, False, mask.device, None)
        width = after["input_ids"].shape[1]
        cache = first.past_key_values
        cache.batch_select_indices(of_prompt)
        steps = torch.arange(width, device=mask.device)
        logits = model(
            input_ids=after["input_ids"],
            attention_mask=torch.cat([mask[of_prompt], after["attention_mask"]], dim=1),
            position_ids=positions_behind(places, mask, steps)[..., of_prompt, :],
            past_key_values=cache,
            use_cache=True,
            **seen_behind(inputs, first, width, of_prompt),
            **alora_offsets([width] * len(rows), None if starts is None else [0] * len(rows)),
        ).logits
    return _sums(wanted, opening, logits, rows)


def alora_offsets(lengths: Sequence[int], starts: Sequence[int] | None) -> dict[str, list[int]]:
    """Return PEFT's argument for an activated LoRA: how many tokens before each row's end it starts to act."""
    if starts is None:
        return {}
    return {"alora_offsets": [length - start for length, start in zip(lengths, starts, strict=True)]}


def _sums(
    wanted: Sequence[Sequence[tuple[int, ...]]],
    opening: torch.Tensor,
    logits: torch.Tensor | None,
    rows: Sequence[tuple[int, tuple[int, ...]]],
) -> list[list[float]]:
    """Sum each continuation's log-probabilities.

    `opening` (prompts, vocabulary) holds the log-probabilities of first tokens; `logits` (rows, tokens, vocabulary)
    follow the tokens in `rows`, pairs of a prompt's index and token ids.
    """
    import torch

    reading: dict[tuple[int, tuple[int, ...]], int] = {}
    for r, (prompt, read) in enumerate(rows):
        for length in range(len(read) + 1):
            reading.setdefault((prompt, read[:length]), r)
    normalisers = [] if logits is None else [row.float().logsumexp(dim=-1).double() for row in logits]
    totals: list[torch.Tensor] = []
    for i, continuations in enumerate(wanted):
        for ids in continuations:
            total = torch.zeros((), dtype=torch.float64, device=opening.device)
            if ids:
                total = total + opening[i, ids[0]]
            if len(ids) > 1 and logits is not None:
                r = reading[i, ids[:-1]]
                steps = list(range(len(ids) - 1))
                total = total + (logits[r, steps, list(ids[1:])].double() - normalisers[r][steps]).sum()
            totals.append(total)
    values = iter(torch.stack(totals).tolist() if totals else [])
    return [[next(values) for _ in continuations] for continuations in wanted]
