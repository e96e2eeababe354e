"""The eleven answers behind one claim, read in one row: the marker once, then the answers as branches of a tree.

A confidence takes eleven values, so the policy pi(c | response) is known in full from the likelihoods of eleven short
answers, their ends included: "1" and "10" exclude each other, and what the eleven lack to 1 is the probability of a
malformed answer. What stands before the marker is kept as keys and values and never copied: of a real report those take
hundreds of megabytes, the tree's fifteen tokens next to nothing. A branch sees the prefix, the marker and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from conrad_bench.engines.decoders import masked_as_told
from conrad_bench.engines.heads import precise_logits
from conrad_bench.trainers.prefix import Prefix


@dataclass(frozen=True)
class Tree:
    """The marker, and behind it the answers' tokens; answers that begin alike share their first tokens."""

    ids: list[int]
    depth: list[int]
    """How many tokens behind the prefix each token stands, from 0."""
    above: list[int]
    """The token before each one, -1 at the prefix."""
    paths: list[list[int]]
    """The tokens of each answer, as indices."""
    start: int
    """Where the marker ends."""
    ends: list[int]
    """Token ids that end an answer."""


def tree_of(marker: Sequence[int], levels: Sequence[Sequence[int]], ends: Sequence[int]) -> Tree:
    """Return the tree of answers, given by their token ids as they stand behind the marker."""
    ids, depth, above = list(marker), list(range(len(marker))), list(range(-1, len(marker) - 1))
    paths = []
    for level in levels:
        at, path = len(marker) - 1, []
        for token in level:
            known = [k for k in range(len(marker), len(ids)) if above[k] == at and ids[k] == token]
            if not known:
                known = [len(ids)]
                ids.append(token)
                depth.append(depth[at] + 1)
                above.append(at)
            at = known[0]
            path.append(at)
        paths.append(path)
    return Tree(ids, depth, above, paths, len(marker), list(ends))


def answer_log_probabilities(model: Any, prefix: Prefix, tree: Tree) -> torch.Tensor:
    """Return log pi(answer, then an end) for each row of the prefix and each answer, shape (rows, answers), float32.

    The model is under an adapter that acts from the marker on, or under none. The prefix's cache is used up.
    """
    rows, device = len(prefix.mask), prefix.mask.device
    n = len(tree.ids)
    depth = torch.tensor(tree.depth, device=device)
    kept = n - tree.start + 1
    with precise_logits(model), masked_as_told(model):
        logits = model(
            input_ids=torch.tensor([tree.ids] * rows, device=device),
            attention_mask=_masks(model, prefix, tree),
            position_ids=prefix.positions_behind(depth),
            past_key_values=prefix.cache,
            use_cache=True,
            **prefix.seen_behind(n),
            # The tokens fed here begin at the marker, so the adapter acts on all of them.
            alora_offsets=[n] * rows,
            logits_to_keep=kept,
        ).logits[:, -kept:]  # some models know no logits_to_keep
    logp = torch.log_softmax(logits.float(), dim=-1)
    shift = tree.start - 1
    totals = []
    for path in tree.paths:
        steps = [logp[:, tree.above[k] - shift, tree.ids[k]] for k in path]
        ended = logp[:, path[-1] - shift, tree.ends].logsumexp(-1)
        totals.append(torch.stack([*steps, ended]).sum(0))
    return torch.stack(totals, dim=1)


def _masks(model: Any, prefix: Prefix, tree: Tree) -> Any:
    """Return what each token of the tree attends to: one mask, or one for each kind of the model's layers.

    Masks are added to attention scores, of shape (rows, 1, tokens of the tree, tokens of the prefix and of the tree).
    """
    config, device = model.config.get_text_config(), prefix.mask.device
    rows, length = prefix.mask.shape
    n = len(tree.ids)
    sees = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        at = i
        while at >= 0:
            sees[i, at] = True
            at = tree.above[at]
    depth = torch.tensor(tree.depth, device=device)
    dtype = next(model.parameters()).dtype
    dtype = dtype if dtype.is_floating_point else torch.float32
    masks = {}
    for sliding in {layer.is_sliding for layer in prefix.cache.layers}:
        layer = next(each for each in prefix.cache.layers if each.is_sliding == sliding)
        total, offset = layer.get_mask_sizes(n)
        old = total - n  # a sliding layer has forgotten the first `offset` tokens
        before = prefix.mask[:, offset : offset + old].bool()[:, None, None, :].expand(rows, 1, n, old)
        within = sees.to(device)
        if sliding:
            window = config.sliding_window
            keys = torch.arange(offset, offset + old, device=device)
            before = before & (keys[None, :] > (length + depth)[:, None] - window)
            within = within & (depth[None, :] > depth[:, None] - window)
        seen = torch.cat([before, within.expand(rows, 1, n, n)], dim=-1)
        masks["sliding_attention" if sliding else "full_attention"] = torch.zeros(
            seen.shape, dtype=dtype, device=device
        ).masked_fill(~seen, torch.finfo(dtype).min)
    return masks if len(masks) > 1 else next(iter(masks.values()))
