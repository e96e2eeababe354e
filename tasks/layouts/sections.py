"""Sections of MIMIC-CXR reports, by the rules of the data set's own authors.

Source: `txt/section_parser.py` and `txt/create_section_files.py` of the MIMIC-CXR code repository (MIT-LCP), whose
header pattern, header spellings and hand-set tables are followed here:

    header     a line that starts with a blank, then capitals, blanks and ( ) / , - up to a colon and white space
    kind       a table of spellings, then parts of names, then names of views ("CHEST, TWO VIEWS" stands for findings;
               "FINDINGS AND IMPRESSION" stands for the impression)
    choice     empty findings and impressions do not count; of several sections of one kind the LAST one counts
    hand-set   23 studies whose text stands under another header, 31 studies whose text stands under none (8 of these
               hold no findings); none of them is in the official csv of sections, mimic_cxr_sectioned.csv

Deviations, each towards what the rules intend: a tab may stand for the blank before a header; a line of underscores,
which parts an addendum from the report below it, ends a section; "NDICATION" is read as the indication.

Headers are capitals by definition: "Findings:" inside a section is part of its text, as in the official extraction.
Offsets count characters of the text with "\n" line ends, as Python's text mode reads it; `unix_lines` makes it so.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HEADER = re.compile(r"\n[ \t]([A-Z ()/,-]+):\s")
_SEPARATOR = re.compile(r"\n[ \t]*_{10,}[ \t]*(?=\n|$)")

_SPELLINGS: dict[str, tuple[str, ...]] = {
    "findings": (
        "findings", "finding", "findins", "findindgs", "findgings", "findngs", "findnings", "finidngs",
        "reference findings", "chest, two views",
    ),
    "impression": (
        "impression", "conclusion", "findings and impression", "findings/impression", "findings/ impression",
        "impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion", "imperssion", "mpression",
        "impession",
    ),
    "indication": (
        "indication", "reason for examination", "reason for exam", "clinical indication", "idication", "ndication",
    ),
    "history": ("history", "clinical history", "clinical information", "patient history", "pfi"),
    "comparison": (
        "comparison", "comparisons", "reference exam", "comparison exam", "comparison film", "comparision",
        "comparsion", "comparrison", "comparisions",
    ),
    "examination": ("examination", "exam", "type of examination"),
    "technique": ("technique",),
    "recommendations": ("recommendations", "recommendation", "recommendation(s)"),
    "wet read": ("wet read", "wetread"),
    "addendum": ("addendum",),
    "notification": ("notification",),
    "comment": ("comment",),
    "date": ("date",),
}  # fmt: skip
"""Kinds of sections with the spellings of their headers, in lower case."""

_KIND_OF = {spelling: kind for kind, spellings in _SPELLINGS.items() for spelling in spellings}
_PARTS = ("impression", "findings", "history", "comparison", "addendum")
_VIEWS = re.compile(
    "chest|portable|pa and lat|lateral and pa|ap and lateral|lateral and ap|frontal and|two views|frontal view|pa view"
    "|ap view|one view|lateral view|bone window|frontal upright|frontal semi-upright|ribs"
)

HAND_SET_SECTION: dict[str, str] = {
    study: kind
    for kind, studies in {
        "examination": "s59363654 s53356173 s50743547 s59215320 s55157853",
        "history": "s51491012",
        "indication": "s57936451 s50058765 s51966317 s55124749 s54365831 s54654948",
        "note": "s56451190",
        "recommendations": "s50913680 s59768032 s59067458 s59087630 s58157373 s56482935 s58375018",
        "technique": "s59279892 s53202765 s50808053",
    }.items()
    for study in studies.split()
}
"""Studies whose text of findings stands under another header, with the kind of that section."""

HAND_SET_RANGE: dict[str, tuple[int, int]] = {
    "s50525523": (201, 349), "s57564132": (233, 554), "s59982525": (313, 717), "s53488209": (149, 475),
    "s54875119": (234, 988), "s50196495": (59, 399), "s56579911": (59, 218), "s52648681": (292, 631),
    "s59889364": (172, 453), "s53514462": (73, 377), "s59505494": (59, 450), "s53182247": (59, 412),
    "s51410602": (47, 320), "s56412866": (522, 822), "s54986978": (59, 306), "s59003148": (262, 505),
    "s57150433": (61, 394), "s56760320": (219, 457), "s59562049": (158, 348), "s52674888": (145, 296),
    "s55258338": (192, 568), "s59330497": (140, 655), "s52119491": (179, 454),
    # These reports hold no findings at all.
    "s58235663": (0, 0), "s50798377": (0, 0), "s54168089": (0, 0), "s53071062": (0, 0),
    "s56724958": (0, 0), "s54231141": (0, 0), "s53607029": (0, 0), "s52035334": (0, 0),
}  # fmt: skip
"""Studies whose text of findings stands under no header, with its first and last + 1 character."""


def is_hand_set(study_id: str) -> bool:
    """Tell whether the text of a study ("s" and eight digits) was set by hand, not found under a header of its own."""
    return study_id in HAND_SET_SECTION or study_id in HAND_SET_RANGE


class Section(NamedTuple):
    """One section of a report."""

    name: str
    """Its kind; the header in lower case where that is of no known kind; or "preamble", "full report",
    "last_paragraph"."""
    start: int
    end: int
    body: str
    """`text[start:end]` with white space collapsed to single blanks."""


def unix_lines(text: str) -> str:
    r"""Return the text with every "\r\n" and "\r" read as "\n"."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def section_kind(header: str) -> str:
    """Return the kind of section that a header stands for, or the header in lower case where it is of no known kind."""
    name = header.lower().strip()
    if name in _KIND_OF:
        return _KIND_OF[name]
    for part in _PARTS:
        if part in name:
            return part
    return "findings" if _VIEWS.search(name) else name


def _spans(text: str) -> list[tuple[str, int, int]]:
    """Cut a text at its headers: (kind, start, end), the preamble first."""
    match = _HEADER.search(text)
    if match is None:
        return [("full report", 0, len(text))]
    spans = [("preamble", 0, match.start(1))]
    while match is not None:
        kind, start = section_kind(match[1]), match.end()
        # The official search goes on at the next line end, so a header directly under a bare header is text.
        line_end = text.find("\n", start)
        match = _HEADER.search(text, start if line_end == -1 else line_end)
        end = len(text) if match is None else match.start()
        spans.append((kind, start, end))
    return spans


def _last_paragraph(text: str, spans: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Part the last section at its first blank line: many a plain report is one header with paragraphs under it."""
    name, start, end = spans[-1]
    blank = text.find("\n \n", start, end)
    if blank == -1:
        return spans
    return [*spans[:-1], (name, start, blank), ("last_paragraph", blank + 3, end)]


def sections(text: str) -> list[Section]:
    r"""Split a report into its sections, in their order; offsets count in `unix_lines(text)`.

    Empty findings and impressions are left out. Where neither is left, the text after the first blank line of the last
    section becomes the section "last_paragraph". Never fails: a text without headers is one section, "full report".
    """
    text = unix_lines(text)
    found = []
    for name, start, end in _spans(text):
        separator = _SEPARATOR.search(text, start, end)
        # What precedes the first header holds the addendum and the title of the report below it.
        if separator is not None and name not in ("preamble", "full report"):
            end = separator.start()
        if name not in ("findings", "impression") or text[start:end].strip():
            found.append((name, start, end))
    if not any(name in ("findings", "impression") for name, _, _ in found):
        found = _last_paragraph(text, found)
    return [Section(name, start, end, " ".join(text[start:end].split())) for name, start, end in found]


def findings(text: str, study_id: str) -> str | None:
    """Return the findings of a report, white space collapsed, or None where it has none.

    `study_id` ("s" and eight digits) selects from the hand-set tables, which the official scripts use for a report's
    main text, whatever header it stands under.
    """
    text = unix_lines(text)
    if study_id in HAND_SET_RANGE:
        start, end = HAND_SET_RANGE[study_id]
        return " ".join(text[start:end].split()) or None
    kind = HAND_SET_SECTION.get(study_id, "findings")
    bodies = [section.body for section in sections(text) if section.name == kind]
    return (bodies[-1] or None) if bodies else None


def indication(text: str, study_id: str) -> str:
    """Return the indication of a report, white space collapsed, or "" where it has none.

    Where the hand-set tables take the findings from the indication's text, that text is not returned: it would hand the
    answer to the model.
    """
    text = unix_lines(text)
    found = [section for section in sections(text) if section.name == "indication"]
    if not found or HAND_SET_SECTION.get(study_id) == "indication":
        return ""
    _, start, end, _ = found[-1]
    if study_id in HAND_SET_RANGE:
        first, last = HAND_SET_RANGE[study_id]
        if first < end and start < last:
            end = max(start, first)
    return " ".join(text[start:end].split())
