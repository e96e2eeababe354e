"""The present state of a review is a fold of its events: nothing is changed, everything is said anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any

ACTIONS = ("accept", "edit", "reject")
JUDGEMENTS = {
    "sign": "sign as it is",
    "small": "small changes",
    "large": "large changes",
    "anew": "write it anew",
}
"""What a rater thinks of a whole report."""
KINDS = ("opened", "rating", "decision", "judgement", "comment", "undo")
MOST_LETTERS = 5_000
"""Of a corrected sentence or a comment."""


class WrongEntryError(Exception):
    """What a rater sent is no entry; the message does not quote it."""


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the log. What was set, from what, to what; None is "not set"."""

    id: int
    at: str
    """UTC, ISO 8601."""
    rater: int
    report: int
    what: str
    """One of `KINDS`."""
    sentence: int | None
    """Of a rating or a decision."""
    before: Any
    after: Any
    undoes: int | None
    """Id of the event that an undo takes back."""


@dataclass(slots=True)
class Review:
    """What one rater says of one report now."""

    ratings: dict[int, int] = field(default_factory=dict)
    """1 to 5 by sentence."""
    decisions: dict[int, dict[str, str]] = field(default_factory=dict)
    """{"action": one of `ACTIONS`, "text": of an edit} by sentence."""
    judgement: str | None = None
    comment: str | None = None
    done: list[Event] = field(default_factory=list)
    """What an undo would take back, the last first to go."""
    opened: int = 0

    def value(self, what: str, sentence: int | None) -> Any:
        """Return what is set now."""
        if what in ("rating", "decision"):
            assert sentence is not None
            return (self.ratings if what == "rating" else self.decisions).get(sentence)
        return self.judgement if what == "judgement" else self.comment

    def complete(self, sentences: Iterable[int]) -> bool:
        """Tell whether each of these sentences has a rating or a decision."""
        return all(n in self.ratings or n in self.decisions for n in sentences)

    def _set(self, what: str, sentence: int | None, value: Any) -> None:
        if sentence is None:
            setattr(self, what, value)
            return
        values: dict[int, Any] = self.ratings if what == "rating" else self.decisions
        values.pop(sentence, None)
        if value is not None:
            values[sentence] = value

    def apply(self, event: Event) -> None:
        """Take the next event of this rater and report."""
        if event.what == "opened":
            self.opened += 1
        elif event.what == "undo":
            undone = self.done.pop()
            self._set(undone.what, event.sentence, event.after)
        else:
            self._set(event.what, event.sentence, event.after)
            self.done.append(event)


class Fold:
    """All reviews, by rater and report."""

    def __init__(self) -> None:
        self.last = 0
        """Id of the last event that is in it."""
        self.reviews: defaultdict[tuple[int, int], Review] = defaultdict(Review)

    def take(self, events: Iterable[Event]) -> None:
        """Take events in the order of the log."""
        for event in events:
            self.reviews[event.rater, event.report].apply(event)
            self.last = event.id


def checked(what: str, sentence: int | None, value: Any, sentences: Container[int]) -> Any:
    """Return what to set for an entry about a report with these sentences. Raises WrongEntryError."""
    if what in ("rating", "decision"):
        if sentence is None or sentence not in sentences:
            raise WrongEntryError("the report has no such sentence")
    elif sentence is not None:
        raise WrongEntryError("this is said of the whole report")
    if what == "rating" and type(value) is int and 1 <= value <= 5:
        return value
    if what == "decision" and isinstance(value, dict) and value.get("action") in ACTIONS:
        if value["action"] != "edit":
            return {"action": value["action"]}
        text = _text(value.get("text"))
        if not text:
            raise WrongEntryError("the corrected sentence is empty; reject the sentence to take it out")
        return {"action": "edit", "text": text}
    if what == "judgement" and value in JUDGEMENTS:
        return value
    if what == "comment":
        return _text(value) or None
    raise WrongEntryError("there is no such entry")


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MOST_LETTERS:
        raise WrongEntryError(f"a text has at most {MOST_LETTERS:,} letters")
    if any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in value):
        raise WrongEntryError("the text holds what are no letters")
    return value.replace("\r\n", "\n").strip()
