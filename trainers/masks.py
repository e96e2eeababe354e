"""Which tokens express a confidence: the marker's ids in context, and the loss mask over a completion."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from conrad_bench.engines.inputs import decoded, token_offsets, tokenize
from conrad_bench.reading.claims import confidence_spans
from conrad_bench.reading.elicitation import MARKER, STATED, Wording

_CONTEXT = "No pneumothorax."
"""A sentence as it stands before a marker."""


def marker_ids(tokenizer: Any, between: str = "\n", wording: Wording = STATED) -> list[int]:
    """Return the ids of the confidence marker and what stands before the number, as they stand in a response.

    `between` stands between the claim and the marker (a line break, or a blank behind a sentence). The ids of the
    marker alone can differ from those in context (a blank before it may belong to its first token), and an adapter that
    waits for the wrong ids never acts. So the ids are read off whole texts: what ten of them, which differ in their
    last digit only, share behind the sentence. With another wording, what its answers share.
    """
    before = tokenize(tokenizer, _CONTEXT)
    texts = [tokenize(tokenizer, f"{_CONTEXT}{between}{wording.lead}{answer}") for answer in wording.answers[:10]]
    most = min(*(len(ids) - 1 for ids in texts), len(tokenize(tokenizer, f"{_CONTEXT}{between}{wording.lead}")))
    shared = 0
    while len({tuple(ids[: shared + 1]) for ids in texts}) == 1 and shared < most:
        shared += 1
    start = 0
    while start < len(before) and before[start] == texts[0][start]:
        start += 1
    return texts[0][start:shared]


def level_ids(tokenizer: Any, between: str = "\n", wording: Wording = STATED) -> list[list[int]]:
    """Return, for each of the answers, the ids that follow the marker in a response ("10" is often two)."""
    skip = len(tokenize(tokenizer, _CONTEXT)) + len(marker_ids(tokenizer, between, wording))
    texts = [f"{_CONTEXT}{between}{wording.lead}{answer}" for answer in wording.answers]
    return [tokenize(tokenizer, text)[skip:] for text in texts]


def ending_ids(tokenizer: Any, between: str) -> list[int]:
    """Return the tokens, beside the ends of a turn, that end a stated confidence: a line break behind a sentence's."""
    if between == "\n":
        return []
    before, after = f"{_CONTEXT}{between}{MARKER} 8", "\n" + _CONTEXT
    skip = len(tokenize(tokenizer, before))
    return tokenize(tokenizer, before + after)[skip : skip + 1]


def confidence_mask(tokenizer: Any, ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return 1 for every token of a completion that expresses a confidence, else 0.

    These are the tokens of the stated numbers, and the one behind each number: after "1", the choice between "0" and
    what ends the number (a line break, the end of the turn) is the choice between 10 and 1. A completion that ends
    without a confidence has its end token marked, the place where a confidence should have stood: without that, its
    penalty would reach no token and the format could only be lost, never regained. A completion that was cut off has no
    such place and gets no mark.
    """
    text = decoded(tokenizer, ids)
    spans = confidence_spans(text)
    offsets = token_offsets(tokenizer, ids)
    places = list(pairwise(offsets))
    mask = [int(any(s < b and e > a for a, b in spans)) for s, e in places]
    for _, end in spans:
        behind = next((i for i, (_, e) in enumerate(places) if e > end), None)
        if behind is not None:
            mask[behind] = 1
    if ids and ids[-1] in ends and (not spans or spans[-1][1] == len(text.rstrip())):
        mask[-1] = 1
    return mask
