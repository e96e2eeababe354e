"""Text that travels: what others wrote, made harmless for the place where it is shown.

Names of models, folders, methods and tasks, messages of servers and libraries, notes on a board: none of it can be
trusted to hold letters alone. Every output goes through one of these functions.

| function | for | what it takes the power from |
| --- | --- | --- |
| `console` | terminals, messages of errors, logs | control characters, ANSI sequences, marks that turn text round |
| `one_line` | what must not begin a line of its own | the same, and line breaks |
| `markdown`, `code`, `link` | .md | HTML, code spans, links |
| `html` | .html and .svg | tags, attributes, entities |
| `latex` | .tex | commands |
| `csv_cell` | .csv | formulas of spreadsheets |

All of them hide passwords in addresses and what looks like a key (`without_keys`). Letters and digits stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from html import escape
from urllib.parse import quote

HIDDEN = "(hidden)"

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of Unicode that are not shown but do something: controls, marks of direction, halves of characters, line
and paragraph separators."""
_KEYS = (
    (re.compile(r"://[^\s/?#@]+@"), f"://{HIDDEN}@"),
    (
        re.compile(
            r"(?i)([?&#;](?:[\w-]*(?:key|token|secret|password|passwd|signature|credential)|pwd|sig|auth|code)=)"
            r"[^\s&#;'\"]+"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)(bearer\s+)[\w.~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(?:(?:sk|pk|rk|xai|glpat)-(?=[\w-]*\d)[\w-]{20,}|(?:hf|gsk|gh[opsu])_[A-Za-z0-9]{20,})"), HIDDEN),
    (re.compile(r"\b(?:AKIA[0-9A-Z]{16}|AIza[\w-]{30,})"), HIDDEN),
)
"""What keys look like where they are written into text, and what stands in their place."""
_TAG = re.compile(r"<(?=[^\s\d=]|$)")
_ENTITY = re.compile(r"&(?=[#\w])")
_CODE = re.compile(r"[^\\`<&|]+")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "−": "$-$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "→": r"$\to$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "≥": r"$\ge$",
}


def without_keys(text: str) -> str:
    """Return text with "(hidden)" in the place of passwords and keys: user:password@, ?api_key=, Bearer, sk-, hf_."""
    for pattern, instead in _KEYS:
        text = pattern.sub(instead, text)
    return text


def console(text: str) -> str:
    """Return text that a terminal shows as it stands: what does not print is written as an escape, such as \\x1b.

    Line breaks and tabs stay.
    """
    text = without_keys(text.replace("\r\n", "\n"))
    if text.isprintable():
        return text
    return "".join(
        _written(character) if unicodedata.category(character) in _UNSEEN and character not in "\n\t" else character
        for character in text
    )


def one_line(text: str) -> str:
    """Return what `console` returns, on one line and without tabs."""
    return console(" ".join(text.split()))


def markdown(text: str) -> str:
    """Return one line that a reader of Markdown shows as text: no HTML, no code, no link, no end of a table's cell."""
    text = _TAG.sub("&lt;", _ENTITY.sub("&amp;", one_line(text)))
    return re.sub(r"\\|`|\||\](?=[(\[:])", lambda found: f"\\{found[0]}", text)


def code(escaped: str) -> str:
    """Return what `markdown` gave as a span of code, or as it is where that could end one."""
    return f"`{escaped}`" if _CODE.fullmatch(escaped) else escaped


def link(escaped: str, path: str) -> str:
    """Return a Markdown link, with the text that `markdown` gave, to a file beside the page."""
    return f"[{escaped}]({quote(path, safe='/@+')})"


def html(text: str) -> str:
    """Return text for the inside of an element or of a quoted attribute."""
    return escape(console(text), quote=True)


def latex(text: str) -> str:
    """Return one line whose special characters LaTeX prints as they are."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def csv_cell(value: object) -> object:
    """Return a cell of a csv: text that a spreadsheet would take for a formula gets a quote before it.

    Numbers stay numbers, texts that are numbers among them; None is an empty cell.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) is not None


def _written(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
