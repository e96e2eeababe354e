"""Where the claims of a response stand in its text. Records do not say: the task reads the response once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conrad_bench.reading.elicitation import INSTRUCTIONS, elicit_at
from conrad_bench.types import Claim, Response

if TYPE_CHECKING:
    from conrad_bench.tasks.base import Task

_TRIED = 20
"""So many responses of a method say in which format it asked."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim as the records have it."""

    claim: int
    confidence: float | None
    correctness: float | None
    status: str

    @property
    def gap(self) -> float | None:
        """How far confidence and correctness lie apart, in [0, 1]; None where one is unknown."""
        if self.confidence is None or self.correctness is None:
            return None
        return abs(self.confidence - self.correctness)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a response's text."""

    text: str
    claim: int | None = None
    """Place of the claim among the response's claims; None for what belongs to none."""


def find_format(task: Task, responses: Sequence[tuple[str, Sequence[Judged]]]) -> str | None:
    """Return the elicitation format in which the task reads from the responses what their records hold.

    Statuses count first, then confidences, then (a recalibrator changes these) how many are stated at all.
    """

    def agreement(elicit: str | None) -> tuple[int, int, int]:
        statuses = equal = stated = 0
        for text, judged in responses[:_TRIED]:
            for claim, known in zip(_claims(task, text, judged, elicit), judged, strict=False):
                statuses += claim.status == known.status
                stated += claim.confidence is not None
                equal += claim.confidence is not None and claim.confidence == known.confidence
        return statuses, equal, stated

    return max((None, elicit_at(task.granularity), *INSTRUCTIONS), key=agreement)


def pieces(task: Task | None, text: str, judged: Sequence[Judged], elicit: str | None) -> list[Piece]:
    """Return a response's text in pieces, those of claims with the claim's place.

    One piece without a claim where the task reads other claims from the text than the records hold.
    """
    found = [] if task is None else _claims(task, text, judged, elicit)
    return cut(text, [claim.span for claim in found])


def cut(text: str, spans: Sequence[tuple[int, int]]) -> list[Piece]:
    """Return a text in pieces, of which those within the spans are claims; one piece where spans overlap."""
    whole = [Piece(text)] if text else []
    places = sorted((*span, place) for place, span in enumerate(spans) if span[0] < span[1])
    parts, at = [], 0
    for start, end, place in places:
        if start < at or end > len(text):
            return whole
        parts += [Piece(text[at:start])] * (at < start) + [Piece(text[start:end], place)]
        at = end
    return parts + [Piece(text[at:])] * (at < len(text))


def _claims(task: Task, text: str, judged: Sequence[Judged], elicit: str | None) -> list[Claim]:
    """Return the claims that a task reads from a text; none where their number is not that of the records."""
    cut = any(known.status == "truncated" for known in judged)
    response = Response("", text, (), None, "length" if cut else "stop")
    try:
        found: list[Any] = list(task.claims(response, elicit))
    except Exception:  # a plugin's code, about a text that it may not have been asked about before
        return []
    return found if len(found) == len(judged) else []
