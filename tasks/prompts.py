"""The wordings with which tasks ask: the same for real data and for the phantom world."""

from __future__ import annotations

from conrad_bench.reading.elicitation import INSTRUCTIONS

FINDINGS = "Write the findings of this chest X-ray."
SHORT_ANSWER = "Answer in one word or a short phrase."


def report_text(indication: str, elicit: str | None = None) -> str:
    """Return the user's text that asks for the findings of a study, in an elicitation format (None: no confidence)."""
    given = f"Indication: {indication}\n" if indication else ""
    return given + FINDINGS + (INSTRUCTIONS[elicit] if elicit else "")


def question_text(question: str, elicit: str | None = None) -> str:
    """Return the user's text that asks a question about an image, in an elicitation format (None: no confidence)."""
    return f"{question}\n{SHORT_ANSWER}" + (INSTRUCTIONS[elicit] if elicit else "")
