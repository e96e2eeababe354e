"""Elicitation formats: what a model is asked to state about its confidence, and how the answer is read.

Every format lives here, beside its parser, so that a prompt and the reading of its answer cannot drift apart.

    confidence            the response, then on a new line `Confidence: k`
    sentence_confidence   one sentence a line, each ending in `Confidence: k`

k is an integer from 0 to 10 (ConRad, section 3), normalised to k / 10.
"""

from __future__ import annotations

import re

from conrad_bench.types import Claim, Response, Status

MARKER = "Confidence:"
"""What stands before a stated confidence."""

LEVELS = 11
"""Number of confidence levels: the integers 0 to 10."""

_SCALE = 'as an integer from 0 (not at all) to 10 (certain), in the form "Confidence: k"'

INSTRUCTIONS: dict[str, str] = {
    "confidence": f" Then, on a new line, state how confident you are that it is correct, {_SCALE}.",
    "sentence_confidence": " Write one sentence per line, and end each line with how confident you are that the "
    f"sentence is correct, {_SCALE}.",
}
"""Appended to a task's own instruction."""

# Models like to set the marker in bold; what follows is read up to the next blank.
_STATED = re.compile(r"\s*\**Confidence\**:\**[ \t]*(\S*)", re.IGNORECASE)
_INTEGER = re.compile(r"\**(-?\d{1,6})(?:/10)?[.,;]?\**$")


def p_true_question(asked: str, proposed: str) -> str:
    """Return the question of P(True) about a proposed answer (Kadavath et al. 2022, section 3.2)."""
    return f"{asked}\nProposed answer: {proposed}\nIs the proposed answer True or False?"


def read_level(stated: str) -> tuple[float | None, Status]:
    """Read what stands after the marker.

    Returns (k / 10, "ok") for an integer k in 0..10 ("8.", "8/10" and "**8**" are accepted too), (None, "out_of_range")
    for another integer, and (None, "no_confidence") for anything else, a decimal number or a percentage included.
    """
    match = _INTEGER.match(stated)
    if match is None:
        return None, "no_confidence"
    level = int(match[1])
    if not 0 <= level < LEVELS:
        return None, "out_of_range"
    return level / (LEVELS - 1), "ok"


def confidence_spans(text: str) -> list[tuple[int, int]]:
    """Return the character offsets of what stands after each marker (the numbers alone, readable or not)."""
    return [match.span(1) for match in _STATED.finditer(text)]


def report_claim(response: Response, elicit: str | None) -> Claim:
    """Read a response as one claim: its text without the stated confidence, and that confidence.

    Without a format the claim has no confidence and the status "ok": the method supplies one. With one, the confidence
    stated last counts, and what follows it is not part of the claim. The status is "truncated" where the response was
    cut off at its maximal length, and "empty" where there is no text.
    """
    text = response.text
    status: Status = "truncated" if response.finish_reason == "length" else "ok"
    confidence, end = None, len(text.rstrip())
    if elicit is not None:
        stated = list(_STATED.finditer(text))
        if stated:
            confidence, status = read_level(stated[-1][1])
            end = stated[-1].start()
        elif status == "ok":
            status = "no_confidence"
    start = min(len(text) - len(text.lstrip()), end)
    body = _STATED.sub("", text[start:end]) if elicit is not None else text[start:end]
    if not body.strip():
        return Claim("", (start, start), None, "empty")
    return Claim(body, (start, end), confidence, status)
