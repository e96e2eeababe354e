"""JSON in place of the format asked for: `{"answer": "yes", "confidence": 8}`, or a list of such objects.

Objects as Python writes them (`{'answer': 'yes', 'confidence': 8}`) are read, too, and
objects one a line.
"""

from __future__ import annotations

import json
import re
from typing import Any

from conrad_bench.reading.stated import read_value
from conrad_bench.types import Claim

_TEXTS = ("final_answer", "answer", "report", "findings", "response", "sentence", "claim", "text", "statement")
"""Keys of what is claimed, the first that there is."""

_FENCE = re.compile(r"\A\s*(?:[^\n{\[]*:\s*\n\s*)?(?:```\w*\s*)?(?=[{\[])")
_BETWEEN = re.compile(r"\s*,?\s*(?=[{\[])")
_REST = re.compile(r"\s*(?:```)?[ \t]*(?:\n[^{}]*)?")
_SINGLE = re.compile(r"(?<=[{\[,:\s])'([^'\"\\\n]*)'(?=\s*[:,}\]])")
"""A string in single quotes."""


def read_objects(text: str) -> list[Claim]:
    """Return the claims of a text that is JSON with confidences, behind one line that announces it at most, or [].

    A claim's text is that of its string, its span that of the string in the JSON where both are the same, otherwise the
    whole text's.
    """
    fence = _FENCE.match(text)
    if fence is None:
        return []
    found = _decoded(text[fence.end() :])
    if isinstance(found, dict) and not _confidence_key(found):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else []
    rows = found if isinstance(found, list) else [found]
    claims: list[Claim] = []
    for row in rows:
        claim = _claim(text, row, claims[-1].span[1] if claims else 0)
        if claim is None:
            return []
        claims.append(claim)
    return claims


def _decoded(text: str) -> object:
    """Return the object or the list that a text begins with, or its objects one after another as a list; else None.

    Behind them, on other lines, may stand words without braces.
    """
    for written in (text, _SINGLE.sub(lambda found: json.dumps(found[1]), text)):
        values: list[object] = []
        at = 0
        try:
            while written[at : at + 1] in ("{", "["):
                value, end = json.JSONDecoder().raw_decode(written, at)
                values.append(value)
                between = _BETWEEN.match(written, end)
                at = between.end() if between else end
        except (ValueError, RecursionError):
            continue
        if _REST.fullmatch(written, end):
            return values[0] if len(values) == 1 else values
    return None


def _confidence_key(row: dict[str, Any]) -> str | None:
    return next((key for key in row if "confidence" in key.lower()), None)


def _claim(text: str, row: object, at: int) -> Claim | None:
    """Return an object as a claim, its text looked for from `at`; None where it has no confidence or no text."""
    if not isinstance(row, dict) or (key := _confidence_key(row)) is None:
        return None
    texts = {name.lower(): value for name, value in row.items() if name != key and isinstance(value, str)}
    said = next((texts[name] for name in _TEXTS if name in texts), None)
    if said is None:
        if len(texts) != 1:
            return None
        (said,) = texts.values()
    stated = row[key]
    value = read_value(str(stated)) if isinstance(stated, str | int | float) and not isinstance(stated, bool) else None
    start = text.find(said, at)
    span = (start, start + len(said)) if start >= 0 else (0, len(text))
    if not said.strip():
        return Claim("", (span[0], span[0]), None, "empty")
    if value is None:
        return Claim(said, span, None, "no_confidence", reading="in JSON")
    return Claim(said, span, value.confidence, value.status, reading=f"{value.reading}, in JSON")
