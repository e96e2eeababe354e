"""What models write around an answer: a label, tags, a box, an explanation behind it."""

from __future__ import annotations

import re

_LABEL = re.compile(
    r"(?:^|(?<=[\n.!?>:;]))[\s*_#>\"'-]*"
    r"(?:(?:so|thus|therefore|hence|then|in conclusion|my|our|the|final|correct|short|best|most likely)\b[\s,*_]*)*"
    r"\banswer\b(?:\s+to\s+(?:the|this)\s+question)?(?:[ \t]*[*_]*[ \t]*[:：=][*_]*|[ \t]+is\b[ \t]*[:：]?[*_]*)\s*",
    re.IGNORECASE,
)
_TAGS = re.compile(r"<(answer|final_answer)>\s*(.*?)\s*(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL)
_BOX = re.compile(r"\\boxed\{\s*((?:[^{}]|\{[^{}]*\})*?)\s*\}")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf)\{\s*([^{}]*?)\s*\}")
_EXPLANATION = re.compile(
    r"\n\s*[*_#-]*\s*(?:explanation|reasoning|rationale|justification|reason|note|details?|comment)s?[*_]*[ \t]*[:：]",
    re.IGNORECASE,
)
_SHORT = 3
"""A last line of at most so many words may be the answer of a chain of thought without a label."""


def answer_span(text: str, reasoned: bool = False) -> tuple[int, int] | None:
    """Return the character offsets of the answer in a text that is not blank.

    The last box, tag or label announces it, in this order; without any it is the whole text. With `reasoned` (a chain
    of thought) it is then the last of several lines if that is short, and None otherwise: what the answer is, nobody
    was told. An explanation with a heading of its own, behind the answer, is no part of it.
    """
    boxes = list(_BOX.finditer(text))
    if boxes:
        start, end = boxes[-1].span(1)
        inner = _TEXT.fullmatch(text, start, end)
        return inner.span(1) if inner else (start, end)
    tags = [tag for tag in _TAGS.finditer(text) if tag[2]]
    if tags:
        return tags[-1].span(2)
    labels = [label for label in _LABEL.finditer(text) if text[label.end() :].strip()]
    if labels:
        start = labels[-1].end()
    elif reasoned:
        start = text.rstrip().rfind("\n") + 1
        if start == 0 or len(text[start:].split()) > _SHORT:
            return None
    else:
        start = 0
    explained = _EXPLANATION.search(text, start)
    end = explained.start() if explained and text[start : explained.start()].strip() else len(text)
    return start, len(text[:end].rstrip())
