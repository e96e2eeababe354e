"""Splits the text of a radiology report into sentences, as character spans.

Rules rather than a trained splitter: the same text gives the same claims everywhere, and only white space is lost.
"""

from __future__ import annotations

import re
from itertools import pairwise

_NEVER_LAST = {"dr", "drs", "mr", "mrs", "ms", "prof", "vs", "cf", "approx", "e.g", "i.e"}
"""Abbreviations that always lead on to something."""
_BEFORE_A_NUMBER = {"no", "nos", "fig", "figs", "im", "img", "ser", "se"}
"""Abbreviations when a digit follows ("No. 2"), words otherwise ("Effusion: no.")."""
_MAYBE_LAST = {"etc", "al", "cm", "mm", "hr", "hrs", "min", "ant", "post", "lat", "inf", "sup", "resp", "lt", "rt"}
"""Abbreviations that may also end a sentence: they do when a capital follows."""
_BEFORE_A_NAME = _NEVER_LAST | {"by", "with", "from", "to", "and", "per"}
"""Words behind which a single capital is an initial ("with J. Smith"), not the end of a term ("hepatitis C.")."""
_OPENING = {"the", "there", "this", "these", "it", "no", "a", "an", "heart", "lung", "lungs", "left", "right", "stable"}
"""Words that open sentences of reports, and are no surnames behind an initial."""
_LEADS_ON = {"the", "a", "an", "of", "and", "or", "with", "in", "on", "at", "to", "is", "are", "by", "from", "for"}
"""Words that no line was ended at on purpose."""

_WRAPPED = 60
"""Narrowest column that text is taken to be wrapped at, in characters."""

_TOKEN = re.compile(r"[\w/]+")
_DOTTED = re.compile(r"(?:[a-z]\.)+[a-z]")
_LISTED = re.compile(r"(?:[^\n.:]{1,40}:[*_\s]*)?\s*[(#]?(\d{1,2})[.)]\s")
"""An item of a list, behind its heading perhaps."""
_SECOND = re.compile(r"(?<!\w)\(?2[.)]\s")
_BULLET = re.compile(r"(?:[-*+•–]|\(?\d{1,2}[.)])\s")
_HEADING = re.compile(
    r"[ \t]*(?:#+[ \t].*|[#*_ \t]*(?:findings?|impressions?|conclusions?|summary|assessment|opinion|comment|report|"
    r"comparison|technique|indication|history|recommendations?)[*_ \t\r]*)",
    re.IGNORECASE,
)
"""A line that announces what stands below it, without a colon."""
# What may close a sentence: stops with quotes, brackets and emphasis behind them; a stop without a blank behind it
# ("clear.The heart"); the end of a line.
_CANDIDATE = re.compile(r"""[.!?]+["'”’)\]*]*(?=\s|$)|(?:(?<=[a-z]{2})|(?<=XX))\.(?=[A-Z])|\n\s*""")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the character spans (start, end) of the sentences of a text, in order, without the blanks around them.

    Together they hold every character but white space, and each holds a letter: numbering and bare punctuation belong
    to the sentence behind them, or to the last one; a heading belongs to what it announces. Blank lines,
    list items and lines that were ended on purpose are boundaries, line breaks of wrapped text are not. A text without
    a letter has no sentences.
    """
    width = max(_WRAPPED, *map(len, text.split("\n")))
    cuts = [0]
    for candidate in _CANDIDATE.finditer(text):
        start, end = candidate.span()
        if "\n" in candidate[0]:
            if _ends_line(text, start, end, width):
                cuts.append(end)
        elif (number := _next_item(text, cuts[-1], start)) is not None:
            cuts.append(number)
        elif _ends_sentence(text, cuts[-1], start, end):
            cuts.append(end)
    spans: list[tuple[int, int]] = []
    begin = None
    for start, end in pairwise([*cuts, len(text)]):
        part = text[start:end]
        if begin is None:
            begin = start + len(part) - len(part.lstrip())
        if any(map(str.isalpha, part)):
            spans.append((begin, start + len(part.rstrip())))
            begin = None
    if begin is not None and spans:
        spans[-1] = (spans[-1][0], len(text.rstrip()))
    return spans


def _ends_line(text: str, start: int, end: int, width: int) -> bool:
    """Whether the line break text[start:end] is a boundary. `width`: the column at which the text may be wrapped."""
    before, after = text[:start].rstrip("*_ \t\r"), text[end:]
    if not before.strip() or before[-1] == ":" or _HEADING.fullmatch(before[before.rfind("\n") + 1 :]):
        return False
    if text.count("\n", start, end) > 1:
        return True
    # In wrapped text the next line's first word did not fit; where it would have, the line was ended on purpose.
    line = start - (text.rfind("\n", 0, start) + 1)
    ended = line + 1 + len(after.split(maxsplit=1)[0] if after else "") <= width
    if _BULLET.match(after):
        return ended or before[-1] in ".!?"
    if not ended or before[-1] in ",;.!?" or before.rsplit(maxsplit=1)[-1].lower() in _LEADS_ON:
        return False
    return _capital(_TOKEN.match(after.lstrip("\"'(*")))


def _next_item(text: str, begin: int, stop: int) -> int | None:
    """Return where the next item of a numbered list starts, if the stop is its number's: "1. Heart normal 2. Lungs"."""
    first = _LISTED.match(text, begin)
    word = _last_word(text, begin, stop)
    start = stop - len(word)
    start -= text[start - 1 : start] == "#"
    return start if first and start >= first.end() and word == str(int(first[1]) + 1) else None


def _ends_sentence(text: str, begin: int, stop: int, end: int) -> bool:
    """Whether the stops text[stop:end] close the sentence that begins at `begin`."""
    following = _TOKEN.search(text, end)
    if following is None:
        return True
    if not any(map(str.isalpha, text[begin:stop])):
        return False
    word = _last_word(text, begin, stop)
    lowercase = following[0][0].islower()
    if text[stop] in "!?":
        # "pneumonia ? infiltrate" asks in the middle.
        return bool(word) and not lowercase
    if text.startswith("...", stop):
        return not lowercase
    if _opens_list(text, begin, stop, word):
        return False
    if len(word) == 1 and word.isalpha() and not text[text.rfind("\n", 0, stop) + 1 : stop - 1].strip(" \t(*-•"):
        return False  # "a. Heart normal", on a line of its own
    short = word.lower()
    if short in _NEVER_LAST:
        return False
    if short in _BEFORE_A_NUMBER:
        return not following[0][0].isdecimal()
    if len(word) == 1 and word.isupper():
        return not lowercase and not _is_initial(text, begin, stop - 1, following[0])
    if short in _MAYBE_LAST or _DOTTED.fullmatch(short):
        return _capital(following)
    return True


def _opens_list(text: str, begin: int, stop: int, word: str) -> bool:
    """Whether a number behind a colon is that of a list's first item: "IMPRESSION: 1. Clear. 2. Normal."."""
    before = text[begin : stop - len(word)]
    heading = before.rstrip("(#*_ \t\r\n")
    if not (word.isdecimal() and len(word) <= 2):
        return False
    if "\n" in before[len(heading) :] and _HEADING.fullmatch(heading[heading.rfind("\n") + 1 :]):
        return True
    return heading.endswith(":") and (
        "\n" in before[len(heading) :] or heading.isupper() or (word == "1" and _SECOND.search(text, stop) is not None)
    )


def _last_word(text: str, begin: int, stop: int) -> str:
    """Return what stands right before a stop, without brackets and quotes before it; "" after a blank."""
    words = text[begin:stop].rsplit(maxsplit=1)
    return "" if text[stop - 1 : stop].isspace() or not words else words[-1].lstrip("\"'([*#")


def _is_initial(text: str, begin: int, at: int, following: str) -> bool:
    """Whether the single capital at `at` is the letter of a list item, or a name's initial with a name behind it."""
    words = text[begin:at].split()
    if not words:
        return True
    last = words[-1].rstrip(".")
    if following.lower() in _OPENING:
        return False
    # Behind another initial, or behind a forename; the first word of a sentence has a capital anyway.
    return last.lower() in _BEFORE_A_NAME or (last.istitle() and (len(last) == 1 or len(words) > 1))


def _capital(word: re.Match[str] | None) -> bool:
    """Whether a word starts with a capital; a redaction (XXXX) says nothing about the word that it hides."""
    return word is not None and word[0][0].isupper() and word[0].strip("X") != ""
