"""Elicitation formats: what a model is asked to state about its confidence, and how the answer is read.

Every format lives here, beside its parser, so that a prompt and the reading of its answer cannot drift apart.

    confidence            the response, then on a new line `Confidence: k`
    sentence_confidence   one sentence a line, each ending in `Confidence: k`
    punish                as `confidence`, with the warning that a confident mistake costs most
    linguistic            the response, then `Confidence: likely` or another of `EXPRESSIONS`
    cot                   `Reasoning: ...`, then `Answer: ...`, then `Confidence: k` (chain of thought)
    top_k                 `GUESSES` different answers, each with a `Confidence: k`; the most confident one counts

k is an integer from 0 to 10 (ConRad, section 3), normalised to k / 10. The variants follow Xiong et al. 2024, section 3
(chain of thought, top-K), Tian et al. 2023 (top-K, linguistic, two-stage); their wordings here are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from conrad_bench.reading.sentences import sentence_spans
from conrad_bench.types import Claim, Granularity, Response, Status

MARKER = "Confidence:"
"""What stands before a stated confidence."""

LEVELS = 11
"""Number of confidence levels: the integers 0 to 10."""

GUESSES = 2
"""Number of answers of `top_k` (ours; a yes/no question has no third)."""

EXPRESSIONS: dict[str, float] = {
    "almost certain": 0.95,
    "very likely": 0.85,
    "likely": 0.7,
    "about even": 0.5,
    "unlikely": 0.25,
    "very unlikely": 0.1,
}
"""What `linguistic` offers, with the confidence that each expression stands for (ours, near the averages of Mosteller &
Youtz 1990, table 1)."""

_SCALE = 'as an integer from 0 (not at all) to 10 (certain), in the form "Confidence: k"'
_ASK = " Then, on a new line, state how confident you are that it is correct, "

INSTRUCTIONS: dict[str, str] = {
    "confidence": f"{_ASK}{_SCALE}.",
    "sentence_confidence": " Write one sentence per line, and end each line with how confident you are that the "
    f"sentence is correct, {_SCALE}.",
    "punish": f"{_ASK}{_SCALE}. A high confidence in a wrong answer will be punished.",
    "linguistic": f'{_ASK}in the form "Confidence: word", with one of: {", ".join(EXPRESSIONS)}.',
    "cot": f' First reason step by step after "Reasoning:", then answer after "Answer:".{_ASK}{_SCALE}.',
    "top_k": f" Give your {GUESSES} best guesses, each on a line of its own, followed by a line with how "
    f"confident you are that it is correct, {_SCALE}.",
}
"""Appended to a task's own instruction."""

# Models like to set the marker in bold; what follows is read up to the next blank, for expressions to the line's end.
_STATED = re.compile(r"\s*\**Confidence\**:\**[ \t]*(\S*)", re.IGNORECASE)
_EXPRESSED = re.compile(r"\s*\**Confidence\**:\**[ \t]*([^\n]*)", re.IGNORECASE)
_INTEGER = re.compile(r"\**(-?\d{1,6})(?:/10)?[.,;]?\**$")
_ANSWER = re.compile(r"\**Answer\**:\**[ \t]*", re.IGNORECASE)
_NUMBERING = re.compile(r"\s*(?:guess\s*)?\d{0,2}\s*[.:)]\s+", re.IGNORECASE)


def elicit_at(granularity: Granularity) -> str:
    """Return the plain format in which a model states its confidence at a granularity."""
    return "sentence_confidence" if granularity == "sentence" else "confidence"


def separator(granularity: Granularity) -> str:
    """Return what stands between a claim and its marker in the plain format."""
    return " " if granularity == "sentence" else "\n"


def p_true_question(asked: str, proposed: str) -> str:
    """Return the question of P(True) about a proposed answer; wording ours, after Kadavath et al. 2022, section 3.2."""
    return f"{asked}\nProposed answer: {proposed}\nIs the proposed answer True or False?"


def p_true_choices(asked: str, proposed: str, ideas: Sequence[str] = ()) -> str:
    """Return the question of P(True) in the words of Kadavath et al. 2022, to be answered with (A) or (B).

    Section 3.2, or with other answers to the question as brainstormed `ideas`, one a line, section 4.
    """
    kind = "possible" if ideas else "proposed"
    shown = "Here are some brainstormed ideas: " + "\n".join(ideas) + "\n" if ideas else ""
    return (
        f"Question: {asked}\n{shown}{kind.title()} Answer: {proposed}\nIs the {kind} answer:\n (A) True\n (B) False\n"
        f"The {kind} answer is:"
    )


def two_stage_question(asked: str, proposed: str) -> str:
    """Return the question for the confidence in a proposed answer (Tian et al. 2023, 2-stage)."""
    return f"{asked}\nProposed answer: {proposed}\nHow confident are you that the proposed answer is correct, {_SCALE}?"


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


def read_stated(text: str) -> tuple[float | None, Status]:
    """Read an answer that should hold a confidence alone: behind the last marker, or the bare number."""
    stated = [match[1] for match in _STATED.finditer(text)]
    return read_level(stated[-1] if stated else text.strip())


def read_expression(stated: str) -> tuple[float | None, Status]:
    """Read an expression of likelihood (format `linguistic`), whatever its capitals and punctuation."""
    words = re.sub(r"[^a-z ]", " ", stated.lower()).split()
    confidence = EXPRESSIONS.get(" ".join(words))
    return (None, "no_confidence") if confidence is None else (confidence, "ok")


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
        stated = list((_EXPRESSED if elicit == "linguistic" else _STATED).finditer(text))
        if stated:
            confidence, status = (read_expression if elicit == "linguistic" else read_level)(stated[-1][1])
            end = stated[-1].start()
        elif status == "ok":
            status = "no_confidence"
    start = min(len(text) - len(text.lstrip()), end)
    body = _STATED.sub("", text[start:end]) if elicit is not None else text[start:end]
    if not body.strip():
        return Claim("", (start, start), None, "empty")
    return Claim(body, (start, end), confidence, status)


def answer_claim(response: Response, elicit: str | None) -> Claim:
    """Read a response to a question as one claim.

    As `report_claim`; of a chain of thought only what follows the last "Answer:" is the claim (status "empty" where
    there is none), of several guesses the most confident one (the first of equally confident ones).
    """
    if elicit == "top_k":
        return _best_guess(response)
    claim = report_claim(response, elicit)
    if elicit != "cot" or claim.status == "empty":
        return claim
    marks = list(_ANSWER.finditer(response.text, *claim.span))
    start = marks[-1].end() if marks else claim.span[1]
    text = response.text[start : claim.span[1]]
    if not text.strip():
        return Claim("", (start, start), None, "truncated" if claim.status == "truncated" else "empty")
    return replace(claim, text=text, span=(start, claim.span[1]))


def _best_guess(response: Response) -> Claim:
    guesses, start = [], 0
    for stated in _STATED.finditer(response.text):
        numbering = _NUMBERING.match(response.text, start, stated.start())
        start = numbering.end() if numbering else start
        span = _trimmed(response.text, start, stated.start())
        confidence, status = read_level(stated[1])
        if span[0] < span[1]:
            guesses.append(Claim(response.text[slice(*span)], span, confidence, status))
        start = stated.end()
    readable = [guess for guess in guesses if guess.confidence is not None]
    if readable:
        return max(readable, key=lambda guess: guess.confidence or 0.0)
    return guesses[0] if guesses else report_claim(response, "top_k")


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without the blanks at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip()) if part.strip() else start


def sentence_claims(response: Response, elicit: str | None) -> list[Claim]:
    """Read a response as one claim a sentence, at least one (status "empty" where there is no text).

    Without a format the sentences are those of `reading.sentences` and have no confidence. With one, a stated
    confidence belongs to the sentence right before its marker; a sentence with no marker behind it has the status
    "no_confidence". The last sentence of a response that was cut off is "truncated", unless its confidence was stated.
    """
    text = response.text
    claims: list[Claim] = []
    start = 0
    for stated in _STATED.finditer(text) if elicit is not None else ():
        spans = [(start + a, start + b) for a, b in sentence_spans(text[start : stated.start()])]
        claims += [Claim(text[a:b], (a, b), None, "no_confidence") for a, b in spans[:-1]]
        for a, b in spans[-1:]:
            confidence, status = read_level(stated[1])
            claims.append(Claim(text[a:b], (a, b), confidence, status))
        start = stated.end()
    rest = [(start + a, start + b) for a, b in sentence_spans(text[start:])]
    bare: Status = "ok" if elicit is None else "no_confidence"
    claims += [Claim(text[a:b], (a, b), None, bare) for a, b in rest]
    if rest and response.finish_reason == "length":
        claims[-1] = replace(claims[-1], status="truncated")
    return claims or [Claim("", (0, 0), None, "empty")]
