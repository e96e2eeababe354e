"""Elicitation formats: what a model is asked to state about its confidence. `reading.claims` reads the answers.

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

from collections.abc import Sequence
from dataclasses import dataclass

from conrad_bench.reading.stated import HIGHEST
from conrad_bench.types import Granularity

MARKER = "Confidence:"
"""What stands before a stated confidence."""

LEVELS = HIGHEST + 1
"""Number of confidence levels: the integers 0 to 10."""


@dataclass(frozen=True, slots=True)
class Wording:
    """How a trained confidence is written behind a claim: what leads to it, and the answers that it has."""

    lead: str
    answers: tuple[str, ...]


STATED = Wording(f"{MARKER} ", tuple(str(level) for level in range(LEVELS)))
"""A number behind the marker."""

SURE = Wording(
    "Are you sure you accurately answered the question based on your internal knowledge? I am", (" unsure", " sure")
)
"""The words of R-Tuning (Zhang et al. 2024, section 2.2)."""

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


def doubt_question(asked: str, proposed: str) -> str:
    """Return the question whether somebody who doubts a proposed answer is right, to be answered with Yes or No."""
    return (
        f"{asked}\nProposed answer: {proposed}\nA colleague thinks that the proposed answer is wrong. Is the colleague "
        "right? Answer Yes or No."
    )
