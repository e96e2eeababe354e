"""The one reader of stated confidences: where a text states one, what it says, and how it was written.

A statement is a marker, the word "confidence" with what belongs to it ("Overall confidence level (0-10):"), and a value
behind it. A value is complete or is none: `8`, `8/10` and `8 out of 10` are 0.8, in brackets, in emphasis, on the next
line or with a remark behind it. What is on another scale (`80%`, `4/5`, `0.8`, `7 to 8`, `high`) is no confidence, and
so is an echo of the scale. A marker in prose ("There is high confidence: no effusion.") is no statement: it stays in
the claim.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from conrad_bench.reading.thoughts import thought_spans
from conrad_bench.types import Status

HIGHEST = 10
"""The scale of every format: the integers from 0 to this one."""


@dataclass(frozen=True, slots=True)
class Value:
    """What stands behind a marker."""

    span: tuple[int, int]
    """Character offsets of the number with its denominator, or of the first word in its place."""
    end: int
    """Where the statement ends: behind the value's brackets, emphasis, full stop and reason."""
    confidence: float | None
    """In [0, 1]; None where `status` says why."""
    status: Status
    reading: str
    """How it was written: "8", "8/10", "a percentage", ..."""


@dataclass(frozen=True, slots=True)
class Stated(Value):
    """A confidence that a text states."""

    start: int
    """Where the statement begins: at the blanks before its line's marks, its words and the marker."""


_EMPHASIS = "*_`\"'“”‘’«»#~$"
_BRACKETS = "([{<"
_BULLETS = ">|•–-"
# fmt: off
_BELONGING = frozenset({
    "my", "our", "its", "it's", "the", "a", "an", "i", "am", "i'm", "have", "with", "and", "at", "of",
    "overall", "total", "final", "general", "combined", "average", "mean", "stated", "verbalized", "verbalised",
    "estimated", "reported", "assessed", "diagnostic", "clinical", "model", "model's", "report", "answer",
    "sentence", "percent", "level", "score", "degree", "rating",
})
# fmt: on
"""Words before the marker that belong to it."""

# "Confidence" as a word of its own: not "Overconfidence", "self-confidence", "confidences". Or the question for it.
_WORD = re.compile(
    r"(?<![^\W_])(?<!\w-)(?:confidence(?![^\W_]|-\w)|how[ \t]+confident\b[^\n?:\"]{0,60}\?)", re.IGNORECASE
)
_LAST_WORD = re.compile(r"([A-Za-z'’]+)[*_]*$")
_NUMBERING = re.compile(r"[ \t]*\(?\d{1,2}[.)][ \t]*$")
_AFTER = re.compile(
    r"(?:[ \t_-]+(?:level|score|rating|value|estimate|index|number|scale))?"
    r"(?:[ \t]+(?:in|of|for|about|that|on)[ \t]+(?:[\w'-]+[ \t]+){0,5}?[\w'-]+(?=[ \t]*(?:[:：=]|\bis\b)))?"
    r"(?:[ \t]*[(\[](?![ \t]*\d+(?:[ \t]*/[ \t]*10)?[ \t]*[)\]])(?P<scale>[^()\[\]\n]{0,80})[)\]])?"
    r"""[*_`"'”’)\]]*[ \t]*(?P<sign>[:：=|>]|\bis\b:?|[–—-](?=[ \t]))?[*_`"'”’]*""",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"""(?:[ \t*_`"'“‘«(\[{$|•]|[–-](?!\d)|<(?=[ \t]*\d+(?:/10)?[ \t]*>)|\\\(|\\boxed\{|k[ \t]*=)*""", re.IGNORECASE
)
_NUMBER = re.compile(r"[+-]?\d+")
_DENOMINATOR = re.compile(r"[ \t]*(?P<sign>/|out[ \t]+of\b|of\b)[ \t]*(?P<of>\d+(?:[.,]\d+)?|ten\b)?", re.IGNORECASE)
_BRACKET = re.compile(r"[ \t]*[(\[]([^()\[\]\n]*)[)\]]")
_CLOSED = re.compile(r"""(?:[*_`"'”’»)\]}>$|.,;!]|[ \t]+[)\]}.,;!|])*""")
_TAG = re.compile(r"[ \t]*</[\w -]*>?")
_BLANKS = re.compile(r"\s*")
_OTHER_SCALES = {
    "a decimal number": re.compile(r"[.,]\d"),
    "a percentage": re.compile(r"[ \t]*(?:%|％|percent\b|per[ \t]+cent\b|pct\b)", re.IGNORECASE),
    "a range": re.compile(
        r"[ \t]*(?:(?:-|–|—|~|to\b|or\b|and\b|\.\.+)[ \t]*[+-]?\d|,[ \t]+\d+[ \t.)\]*]*$|±|\+)",
        re.IGNORECASE | re.MULTILINE,
    ),
    "another denominator": re.compile(r"[ \t]*/|:[ \t]*\d"),
}
"""What may not stand behind a number."""
_ECHO = re.compile(
    r"\b(?:for example|for instance|e\.g\.|such as|like|(?:the|this) form(?:at)?(?: of)?)[\s:,(]*"
    r"(?:[\"“'][^\"”'\n]{1,30}[\"”'][\s,]*(?:or|and)?[\s,]*)*$",
    re.IGNORECASE,
)
"""What the instruction, said again, shows a statement with."""
_SCALE = re.compile(
    r"(?:out[ \t]+of|(?:of|from)[ \t]+\d+[ \t]*(?:to|-|–)|/|^[ \t]*\d+[ \t]*(?:to|-|–)|scale[ \t]+of)"
    r"[ \t]*(\d+(?!\d|[ \t]*(?:to|-|–)))|(%)",
    re.IGNORECASE,
)
_UNIT = re.compile(r"(?:mm|cm|ml|mg|kg|cc|hu|years?|days?|hours?|points?|stars?)\b", re.IGNORECASE)
_REASON = re.compile(
    r"[ \t]*(?:because|since|as|given|based|due|with|on|but|while|although|though|from|where|meaning|i\.e)\b",
    re.IGNORECASE,
)
_TO_THE_STOP = re.compile(r"[^\n]*?(?=[.;!](?:\s|$)|\n|$)")
_WORDS = re.compile(r"[^\n.;]*")
_MOST_WORDS = 4
"""A value in words has at most so many; more are prose."""
_DEGREE = re.compile(
    r"\d|[½%]|\b(?:very|quite|fairly|highly|rather|extremely|not|high|higher|low|lower|medium|mid|moderate|strong|weak|"
    r"full|fully|complete|total|absolute|maximum|minimum|good|fair|poor|great|excellent|certain|uncertain|certainty|"
    r"sure|unsure|confident|likely|unlikely|probable|possible|unknown|none|null|nil|n/a|na|zero|one|two|three|four|"
    r"five|six|seven|eight|nine|ten|hundred|half|even|about|almost)(?![\w-])|^[xivk]{1,4}$",
    re.IGNORECASE,
)
"""What makes words a value; another word is one where it stands alone."""


def read_value(text: str, at: int = 0) -> Value | None:
    """Read the value behind a marker that ends at `at`; None for prose.

    The value is looked for up to the end of the line, or on the next line that has text if nothing else stands there.
    """
    start = _end(_LEAD, text, at)
    if text[start : start + 1] not in ("", "\n", "\r"):
        return _in_words(text, start) if _NUMBER.match(text, start) is None else _number(text, start)
    value = _number(text, _end(_LEAD, text, _end(_BLANKS, text, start)))
    if value is None or _line(text, value.end):
        return Value((start, start), start, None, "no_confidence", "nothing behind the marker")
    return replace(value, reading=f"{value.reading}, on the next line")


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return where a match at `at` ends; `at` where there is none."""
    found = pattern.match(text, at)
    return found.end() if found else at


def _line(text: str, at: int) -> str:
    """Return what stands between `at` and the end of its line, without blanks around."""
    return text[at:].split("\n", 1)[0].strip()


def _number(text: str, start: int) -> Value | None:
    """Read a number; None where there is none, or where it begins prose ("8 mm nodule")."""
    number = _NUMBER.match(text, start)
    if number is None:
        return None
    end, reading = number.end(), "8"
    denominator = _DENOMINATOR.match(text, end)
    if denominator and (denominator["of"] or "").lower() in (str(HIGHEST), "ten"):
        end = denominator.end()
        reading = "8/10" if denominator["sign"] == "/" else "8 out of 10"
    elif denominator:
        return _unreadable(text, start, end, "another denominator")
    closed = _end(_CLOSED, text, end)
    remark = _BRACKET.match(text, closed)
    behind = _end(_TAG, text, _end(_CLOSED, text, remark.end()) if remark else closed)
    for name, pattern in _OTHER_SCALES.items():
        if pattern.match(text, end) or pattern.match(text, closed):
            return _unreadable(text, start, end, name)
        if remark and pattern.match(text, behind):
            return _unreadable(text, start, end, "an echo of the scale")
    rest = _line(text, behind)
    reason = _REASON.match(text, behind) is not None
    beside = [remark[1].replace("%", "") if remark else "", rest if reason else ""]
    if any(map(_on_another_scale, beside)):
        return _unreadable(text, start, end, "another denominator")
    stopped = any(mark in text[end:behind] for mark in ".!;,")
    if _UNIT.match(rest) or not (stopped or reason or rest[:1].isupper() or not rest[:1].isalnum()):
        return None
    if remark or reason or rest[:1] in ("-", "–", "—", ":"):
        reading += ", with a remark"
    if reason:
        behind = _end(_CLOSED, text, _end(_TO_THE_STOP, text, behind))
    level = int(number[0]) if len(number[0]) < 9 else HIGHEST + 1
    if not 0 <= level <= HIGHEST:
        return Value((start, end), behind, None, "out_of_range", "a number beyond the scale")
    return Value((start, end), behind, level / HIGHEST, "ok", reading)


def _on_another_scale(remark: str) -> bool:
    """Whether a remark beside a number names a scale that does not end at ten."""
    scale = _SCALE.search(remark)
    return scale is not None and scale[1] != str(HIGHEST)


def _unreadable(text: str, start: int, end: int, reading: str) -> Value:
    """Return what is on another scale: no confidence, and a statement up to the end of its sentence or line."""
    return Value((start, end), _end(_CLOSED, text, _end(_TO_THE_STOP, text, end)), None, "no_confidence", reading)


def _in_words(text: str, start: int) -> Value | None:
    """Read a value in words; None for prose."""
    words = _WORDS.match(text, start)
    said = words[0].rstrip(" \t\r*_`\"'”’)]}>$|,!") if words else ""
    if len(said.split()) > _MOST_WORDS:
        return None
    end = start + len(said)
    behind = _end(_TAG, text, _end(_CLOSED, text, end))
    reading = "a placeholder" if said.lower().strip("<>[]") in ("k", "word", "x", "n") else "in words"
    if reading == "in words" and not _DEGREE.search(said):
        if _line(text, behind) or len(said.split()) > 1:
            return None
        reading = "in other words"
    first = start + len((said.split() or [""])[0])
    return Value((start, first), behind, None, "no_confidence", reading)


def find_stated(text: str, expressions: Mapping[str, float] | None = None) -> list[Stated]:
    """Return the confidences that a text states, in order; those in thoughts do not count.

    With `expressions` the values are such words instead of numbers, with the confidence that each stands for.
    """
    thoughts, _ = thought_spans(text)
    found: list[Stated] = []
    at = 0
    for word in _WORD.finditer(text):
        if word.start() < at or any(start <= word.start() < end for start, end in thoughts):
            continue
        stated = _statement(text, word, at, expressions)
        if stated is not None:
            found.append(stated)
            at = stated.end
    return found


def _statement(text: str, word: re.Match[str], least: int, expressions: Mapping[str, float] | None) -> Stated | None:
    """Return what the word "confidence" states, its start not before `least`; None in prose."""
    line = max(text.rfind("\n", 0, word.start()) + 1, least)
    start = _begin(text, line, word.start())
    after = _AFTER.match(text, word.end())
    assert after is not None  # every part of it may be absent
    value = read_value(text, after.end()) if expressions is None else _expression(text, after.end(), expressions)
    if value is None:
        return None
    own = text[start : word.start()]
    if value.reading == "in other words" and (not text[:start].strip() or "with" in own.lower().split()):
        return None
    if _on_another_scale(after["scale"] or ""):
        value = replace(value, confidence=None, status="no_confidence", reading="another denominator")
    before, sign = text[line:start].rstrip(), after["sign"]
    if _ECHO.search(before):
        return None
    # At the start of a line or sentence, or in brackets, a marker with a colon states something, read or not.
    opens = not before or before[-1] in ".!?:;,)]}*_>" or {*_BRACKETS} & {*own}
    if not (opens and sign and sign in ":：=|>") and value.confidence is None and value.status == "no_confidence":
        return None
    if not sign and (not opens or value.confidence is None):
        return None
    return Stated(value.span, value.end, value.confidence, value.status, value.reading, len(text[:start].rstrip()))


def _begin(text: str, line: int, at: int) -> int:
    """Return where what belongs to a marker at `at` begins in its line: emphasis, brackets, bullets, words."""
    start = at
    while True:
        marks = start - len(text[line:start]) + len(text[line:start].rstrip(_EMPHASIS + _BRACKETS + _BULLETS))
        # Marks that hang on a word before ("**Yes** confidence") are its own, but for brackets.
        if marks > line and not text[marks - 1].isspace():
            marks = line + len(text[line:start].rstrip(_BRACKETS))
        blanks = line + len(text[line:marks].rstrip())
        word = _LAST_WORD.search(text[line:blanks])
        if word and word[1].lower().replace("’", "'") in _BELONGING:
            blanks = line + word.start()
        if blanks == start:
            break
        start = blanks
    numbering = _NUMBERING.match(text[line:start])
    return line if numbering else start


def _expression(text: str, at: int, expressions: Mapping[str, float]) -> Value:
    """Read an expression of likelihood, whatever its capitals and punctuation, up to the end of its line."""
    start = _end(_LEAD, text, at)
    if text[start : start + 1] in ("\n", "\r"):
        start = _end(_LEAD, text, _end(_BLANKS, text, start))
    line = _line(text, start)
    confidence = expressions.get(" ".join(re.sub(r"[^a-z ]", " ", line.lower()).split()))
    span = (start, start + len(line))
    if confidence is None:
        return Value(span, span[1], None, "no_confidence", "other words")
    return Value(span, span[1], confidence, "ok", "an expression")
