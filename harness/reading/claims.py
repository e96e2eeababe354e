"""The claims of a response: what it says without thoughts, wrappers and stated confidences, and those confidences.

Confidences are read by `reading.stated`, thoughts by `reading.thoughts`, JSON by `reading.objects`, and what stands
around an answer by `reading.answers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from conrad_bench.reading.answers import announces, answer_span
from conrad_bench.reading.elicitation import EXPRESSIONS
from conrad_bench.reading.objects import read_objects
from conrad_bench.reading.sentences import sentence_spans
from conrad_bench.reading.stated import Stated, Value, find_stated, read_value
from conrad_bench.reading.thoughts import spoken, thought_spans
from conrad_bench.types import Claim, Response, Status

Span = tuple[int, int]

_NUMBERING = re.compile(r"\s*(?:guess\s*)?\d{0,2}\s*[.:)]\s+", re.IGNORECASE)
_QUESTION = r"[^\n]*\?\S{0,12}[ \t]*\n\s*\S"
_ASKS_ON = re.compile(rf"\s*\n{_QUESTION}")
_ASKS_APART = re.compile(rf"\n[ \t]*\n\s*{_QUESTION}")
"""A question on a line of its own, behind a blank line, with something behind it."""


def read_behind(text: str) -> Value:
    """Read a text that stands behind the marker, as `reading.stated` does; prose is no confidence."""
    return read_value(text) or Value((0, 0), 0, None, "no_confidence", "prose")


def read_stated(text: str) -> Value:
    """Read an answer that should hold a confidence alone: behind the last marker, or the bare number."""
    stated = find_stated(text)
    return stated[-1] if stated else read_behind(spoken(text).strip())


def confidence_spans(text: str) -> list[Span]:
    """Return the character offsets of what stands behind each marker (the numbers alone, readable or not)."""
    return [stated.span for stated in find_stated(text)]


def report_claim(response: Response, elicit: str | None) -> Claim:
    """Read a response as one claim: all its text but thoughts and stated confidences, and the last one stated.

    Without a format the claim has no confidence and the status "ok": the method supplies one. The status is "truncated"
    where the response was cut off, in a thought or before its confidence was whole, and "empty" where there is no text.
    """
    return _whole(response, elicit, behind=True)


def _whole(response: Response, elicit: str | None, behind: bool) -> Claim:
    """Return a response as one claim; what stands behind the last confidence belongs to it with `behind`, and where
    nothing stands before."""
    text = response.text
    thoughts, endless = thought_spans(text)
    cut = response.finish_reason == "length"
    stated = _stated(text, elicit)
    if elicit is not None and not thoughts and (objects := read_objects(text)) and len(objects) == 1:
        return objects[0]
    statements = [(one.start, one.end) for one in stated]
    status: Status = "truncated" if cut or endless else "no_confidence" if elicit else "ok"
    confidence, reading = None, ""
    if stated and not (cut and stated[-1].end == len(text)):  # what was cut off at "1" may have become "10"
        last = stated[-1]
        confidence, status, reading = last.confidence, last.status, last.reading
    last_start = statements[-1][0] if stated else len(text)
    before = _joined(text, _left(0, last_start, [*thoughts, *statements]))
    claim = before if before.text and not behind else _joined(text, _left(0, len(text), [*thoughts, *statements]))
    if not before.text and claim.text:
        reading += ", before the answer"
    if not claim.text:
        return replace(claim, status="truncated" if endless else "empty")
    return replace(claim, confidence=confidence, status=status, reading=reading)


def answer_claim(response: Response, elicit: str | None) -> Claim:
    """Read a response to a question as one claim.

    As `report_claim`, without what stands around the answer ("Answer: ", tags, a box, an explanation behind the
    confidence). Of a chain of thought the answer is what its label announces, or else its last line where that is
    short; otherwise the status is "no_answer", and so it is where a label announces nothing. Where a model goes on to
    ask itself another question, that and all behind it is set aside. Of several guesses the most confident one counts,
    the first of equally confident ones.
    """
    response = _without_what_it_asks(response, elicit)
    if elicit == "top_k":
        return _best_guess(response)
    claim = _whole(response, elicit, behind=False)
    return _bare(claim, response.text, reasoned=elicit == "cot") if claim.text else claim


def _without_what_it_asks(response: Response, elicit: str | None) -> Response:
    """Return a response up to where a model, having answered, asks another question of its own, and answers that.

    Such a question stands right behind a confidence, or behind a blank line anywhere below an answer's label or a
    confidence. Guesses may repeat their question: between them only a blank line tells.
    """
    text = response.text
    stated = _stated(text, elicit)
    behind = [one.end for one in stated if text[: one.start].strip() and _ASKS_ON.match(text, one.end)]
    apart = [found.start() for found in _ASKS_APART.finditer(text)]
    apart = [at for at in apart if any(one.end <= at for one in stated) or announces(text[:at])]
    ends = apart if elicit == "top_k" else behind + apart
    return replace(response, text=text[: min(ends)] + "\n", finish_reason="stop") if ends else response


def _bare(claim: Claim, text: str, reasoned: bool = False) -> Claim:
    """Return an answer without what stands around it."""
    found = answer_span(claim.text, reasoned)
    if found is None:
        return claim if claim.status == "truncated" else replace(claim, confidence=None, status="no_answer")
    start, end = found
    span = claim.span
    if claim.text == text[slice(*span)]:
        span = (span[0] + start, span[0] + end)
    return replace(claim, text=claim.text[start:end], span=span)


def sentence_claims(response: Response, elicit: str | None) -> list[Claim]:
    """Read a response as one claim a sentence, at least one (status "empty" where there is no text).

    Without a format the sentences are those of `reading.sentences` and have no confidence. With one, a stated
    confidence belongs to the sentence right before its marker (right behind it where the response begins with one); a
    sentence with no marker has the status "no_confidence". The last sentence of a response that was cut off is
    "truncated", unless its confidence was stated whole.
    """
    text = response.text
    thoughts, endless = thought_spans(text)
    cut = response.finish_reason == "length"
    if elicit is not None and not thoughts and (objects := read_objects(text)):
        return objects
    stated = _stated(text, elicit)
    if stated and cut and stated[-1].end == len(text):
        stated = [*stated[:-1], replace(stated[-1], confidence=None, status="truncated", reading="")]
    bare: Status = "ok" if elicit is None else "no_confidence"
    ends = [0, *(one.end for one in stated)]
    starts = [*(one.start for one in stated), len(text)]
    parts = [list(_sentences(text, a, b, thoughts, bare)) for a, b in zip(ends, starts, strict=True)]
    leading = bool(stated) and not parts[0] and bool(parts[-1])
    for one, before, behind in zip(stated, parts, parts[1:], strict=False):
        part, at = (behind, 0) if leading else (before, -1)
        if part:
            reading = f"{one.reading}, before the sentence" if leading else one.reading
            part[at] = replace(part[at], confidence=one.confidence, status=one.status, reading=reading)
    claims = [claim for part in parts for claim in part]
    if parts[-1] and (cut or endless) and claims[-1].confidence is None:
        claims[-1] = replace(claims[-1], status="truncated")
    return claims or [Claim("", (0, 0), None, "truncated" if endless else "empty")]


def _stated(text: str, elicit: str | None) -> list[Stated]:
    """Return the confidences that a text states in a format; none without a format."""
    if elicit is None:
        return []
    return find_stated(text, EXPRESSIONS if elicit == "linguistic" else None)


def _left(start: int, end: int, gaps: Sequence[Span]) -> Iterator[Span]:
    """Yield what is left of text[start:end] between gaps, in order; gaps may overlap."""
    for a, b in sorted(gaps):
        if start < min(a, end):
            yield start, min(a, end)
        start = max(start, b)
    if start < end:
        yield start, end


def _joined(text: str, parts: Iterator[Span]) -> Claim:
    """Return parts of a text as one claim without the blanks at its ends, empty where there is nothing else."""
    spans = [trimmed for part in parts if (trimmed := _trimmed(text, *part))[0] < trimmed[1]]
    if not spans:
        return Claim("", (0, 0))
    start, end = spans[0][0], spans[-1][1]
    kept = [text[a:b] + _between(text, b, c) for (a, b), (c, _) in zip(spans, [*spans[1:], (end, end)], strict=True)]
    return Claim("".join(kept), (start, end))


def _between(text: str, end: int, start: int) -> str:
    """Return the blank that parts of a claim are joined by where something between them was taken out."""
    return "" if start == end else "\n" if "\n" in text[end:start] else " "


def _trimmed(text: str, start: int, end: int) -> Span:
    """Return the span without the blanks at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip()) if part.strip() else start


def _sentences(text: str, start: int, end: int, thoughts: Sequence[Span], status: Status) -> Iterator[Claim]:
    """Yield the sentences of text[start:end] outside of thoughts as claims without a confidence."""
    for part, stop in _left(start, end, thoughts):
        for a, b in sentence_spans(text[part:stop]):
            yield Claim(text[part + a : part + b], (part + a, part + b), None, status)


def _best_guess(response: Response) -> Claim:
    """Return the most confident of several guesses, each with its confidence behind it, or all with it before."""
    text = response.text
    thoughts, _ = thought_spans(text)
    guesses: list[Claim] = []
    stated = find_stated(text)
    starts, ends = [one.start for one in stated], [one.end for one in stated]
    parts = list(zip([0, *ends], [*starts, len(text)], strict=True))
    leading = bool(stated) and not _joined(text, _left(*parts[0], thoughts)).text
    for one, (start, end) in zip(stated, parts[1:] if leading else parts, strict=False):
        guess = _joined(text, _left(start, end, thoughts))
        numbering = _NUMBERING.match(text, guess.span[0], guess.span[1])
        if numbering:
            guess = _joined(text, _left(numbering.end(), end, thoughts))
        if guess.text:
            reading = f"{one.reading}, before the answer" if leading else one.reading
            guess = replace(guess, confidence=one.confidence, status=one.status, reading=reading)
            guesses.append(_bare(guess, text))
    readable = [guess for guess in guesses if guess.confidence is not None]
    if readable:
        return max(readable, key=lambda guess: guess.confidence or 0.0)
    if guesses:
        return guesses[0]
    claim = report_claim(response, "top_k")
    return _bare(claim, text) if claim.text else claim
