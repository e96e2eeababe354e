"""What models write around an answer: a label, tags, a box, an explanation behind it."""

from __future__ import annotations

import re

_LABEL = re.compile(
    r"(?:^|(?<=[\n.!?>:;|]))[\s*_#>|\"'-]*(?:\d{1,2}[.)][ \t]*)?[*_]*"
    r"(?:(?:(?:so|thus|therefore|hence|then|in conclusion|my|our|the|final|correct|short|best|most likely)\b[\s,*_]*)*"
    r"\banswer\b(?:\s+to\s+(?:the|this)\s+question)?(?:[ \t]*\([^()\n]{0,40}\))?"
    r"(?:[ \t]*[*_]*[ \t]*[:：=|][*_]*|[ \t]+[–—-](?=[ \t])|[ \t]+(?:is|would be|should be)\b[ \t]*[:：]?[*_]*"
    r"|[*_]*[ \t]*(?=\n|\Z))"
    r"|(?:ans|a|response|assistant)[*_]*[ \t]*[:：][*_]*)\s*",
    re.IGNORECASE,
)
_TAGS = re.compile(r"<(answer|final_answer)>\s*(.*?)\s*(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL)
_BOX = re.compile(r"\\boxed\{\s*((?:[^{}]|\{[^{}]*\})*?)\s*\}")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf)\{\s*([^{}]*?)\s*\}")
_EXPLANATION = re.compile(
    r"\n\s*[*_#-]*\s*(?:explanation|reasoning|rationale|justification|reason|note|details?|comment)s?[*_]*[ \t]*[:：]",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(r"\d{1,2}[.)]\s|[*_#>\s-]*reasoning\b|.*:[\s*_\"']*\Z", re.IGNORECASE)
"""A last line that is a step of a list, or reasons, or announces something else."""
_MARKS = " \t\r\n*_#>|\"'"
_CHOSEN = re.compile(r"[*_\"']*(\d)[*_\"'.)\s]*")
_YES_OR_NO = re.compile(r"^[ \t]*\(?(\d)[.)][ \t]+((?:yes|no)\b[^\n]*)", re.IGNORECASE | re.MULTILINE)
"""An item of a list that an answer may name by its number ("1. Yes ... The answer is 1."). Others may be steps."""
_SHORT = 3
"""A last line of at most so many words may be the answer of a chain of thought without a label."""


def announces(text: str) -> bool:
    """Whether a text has an answer behind a label."""
    return any(text[label.end() :].strip(_MARKS) for label in _LABEL.finditer(text))


def answer_span(text: str, reasoned: bool = False) -> tuple[int, int] | None:
    """Return the character offsets of the answer in a text that is not blank; None where it holds none.

    The last box, tag or label announces it, in this order; without any it is the whole text. With `reasoned` (a chain
    of thought) it is then the last of several lines if that is short, or a short text in front of its reasons, and None
    otherwise: what the answer is, nobody was told. An explanation with a heading of its own, behind the answer, is no
    part of it, nor is a label that announces nothing.
    """
    boxes = list(_BOX.finditer(text))
    if boxes:
        start, end = boxes[-1].span(1)
        inner = _TEXT.fullmatch(text, start, end)
        return inner.span(1) if inner else (start, end)
    tags = [tag for tag in _TAGS.finditer(text) if tag[2]]
    if tags:
        return tags[-1].span(2)
    labels = list(_LABEL.finditer(text))
    end = len(text.rstrip())
    while labels and not text[labels[-1].end() : end].strip(_MARKS):
        end = labels.pop().start()
    if not text[:end].strip(_MARKS):
        return None
    explained = _EXPLANATION.search(text, 0, end)
    if labels:
        start = labels[-1].end()
        chosen = _CHOSEN.fullmatch(text, start, end)
        items = [item for item in _YES_OR_NO.finditer(text, 0, start) if chosen and item[1] == chosen[1]]
        if items:
            return items[0].span(2)
    elif reasoned and explained and 0 < len(text[: explained.start()].split()) <= _SHORT:
        start = 0
    elif reasoned:
        start = text.rfind("\n", 0, len(text[:end].rstrip())) + 1
        line = text[start:end].strip()
        if start == 0 or len(line.split()) > _SHORT or _NO_ANSWER.match(line):
            return None
    else:
        start = 0
    explained = _EXPLANATION.search(text, start, end)
    if explained and text[start : explained.start()].strip():
        end = explained.start()
    return start, start + len(text[start:end].rstrip())
