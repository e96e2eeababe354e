"""Sections of MIMIC-CXR reports: the official rules on nasty hand-made reports, and properties on generated ones."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench.tasks.layouts.sections import (
    HAND_SET_RANGE,
    HAND_SET_SECTION,
    findings,
    indication,
    is_hand_set,
    section_kind,
    sections,
    unix_lines,
)

DATA = Path(os.environ.get("CONRAD_BENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
PUBLISHED = DATA / "mimic-cxr-layout" / "reports.md"
ANY = "s50414267"
TITLE = " " * 33 + "FINAL REPORT\n"


def names(text: str) -> list[str]:
    return [section.name for section in sections(text)]


@pytest.mark.skipif(
    not PUBLISHED.is_file(), reason=f"{PUBLISHED} is not there (CONRAD_BENCH_TEST_DATA names its folder)"
)
def test_published_example_report() -> None:
    text = PUBLISHED.read_text(encoding="utf-8").split("```")[1].removeprefix("\n")
    assert names(text) == [
        "preamble",
        "examination",
        "indication",
        "technique",
        "comparison",
        "findings",
        "impression",
    ]
    assert indication(text, ANY) == "___ year old woman with ?pleural effusion // ?pleural effusion"
    assert findings(text, ANY) == (
        "Cardiac size cannot be evaluated. Large left pleural effusion is new. Small right effusion is new. The upper "
        "lungs are clear. Right lower lobe opacities are better seen in prior CT. There is no pneumothorax. There are "
        "mild degenerative changes in the thoracic spine"
    )


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("FINDINGS", "findings"),
        ("FINIDNGS", "findings"),
        ("FINDING", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PA AND LATERAL VIEWS OF THE", "findings"),
        ("PORTABLE AP CHEST", "findings"),
        ("ONE VIEW", "findings"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/IMPRESSION", "impression"),
        ("FINDINGS, CHEST", "findings"),
        ("CONCLUSION", "impression"),
        ("IMPRESSOIN", "impression"),
        ("PRELIMINARY IMPRESSION ", "impression"),
        ("     FINDINGS", "findings"),
        ("REASON FOR EXAM", "indication"),
        ("IDICATION", "indication"),
        ("CLINICAL HISTORY", "history"),
        ("HISTORY, CHEST PAIN", "history"),
        ("COMPARISION", "comparison"),
        ("RECOMMENDATION(S)", "recommendations"),
        ("WETREAD", "wet read"),
        ("DOSE", "dose"),
    ],
)
def test_kinds_of_headers(header: str, kind: str) -> None:
    assert section_kind(header) == kind


def test_last_section_of_a_kind_counts_and_empty_ones_do_not() -> None:
    text = (
        TITLE
        + " CHEST, TWO VIEWS: \n \n INDICATION:  First.\n \n FINDINGS:  Old text.\n \n REASON FOR EXAM:  Second.\n"
        " FINDINGS:\n \n New text.\n \n FINDINGS: \n \n IMPRESSION:  Short.\n"
    )
    assert findings(text, ANY) == "New text."
    assert indication(text, ANY) == "Second."
    assert names(text).count("findings") == 2


def test_addendum_above_the_report() -> None:
    text = (
        f"{'FINAL ADDENDUM':>47}\n ADDENDUM:  Findings were discussed.\n {'_' * 78}\n{TITLE} EXAMINATION:  CHEST\n \n"
        " FINDINGS:  The lungs are clear.\n"
    )
    assert findings(text, ANY) == "The lungs are clear."
    found = {section.name: section.body for section in sections(text)}
    assert found["addendum"] == "Findings were discussed."


def test_underscores_end_a_section() -> None:
    text = f"{TITLE} FINDINGS:  Corrected ___ text.\n {'_' * 78}\n{TITLE} Plain report below.\n"
    assert findings(text, ANY) == "Corrected ___ text."


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends_tabs_and_runs_of_blanks(line_end: str) -> None:
    text = TITLE + " INDICATION:\t___F with\tpain.\n \n\tFINDINGS:   One\n   two\t three.  \n \n IMPRESSION: Short.\n"
    text = text.replace("\n", line_end)
    assert findings(text, ANY) == "One two three."
    assert indication(text, ANY) == "___F with pain."


@pytest.mark.parametrize(
    "body",
    [
        " Findings:  The lungs are clear.\n",
        "FINDINGS:  Not indented.\n",
        " FINDINGS  No colon.\n",
        " FINDINGS:No blank.\n",
        " The FINDINGS: inside a line.\n",
    ],
)
def test_what_is_not_a_header(body: str) -> None:
    text = TITLE + " EXAMINATION:  CHEST\n \n" + body
    assert findings(text, ANY) is None
    assert "findings" not in names(text)


def test_header_directly_under_a_bare_header_is_its_text() -> None:
    # The official search goes on at the next line end only; a blank after the colon makes the difference.
    assert names(TITLE + " TECHNIQUE:\n FINDINGS:  Text.\n") == ["preamble", "technique"]
    assert names(TITLE + " TECHNIQUE: \n FINDINGS:  Text.\n") == ["preamble", "technique", "findings"]


def test_lower_case_header_stays_in_the_text() -> None:
    text = TITLE + " FINDINGS:  Comparison: none. Lungs:\n clear.\n Impression: fine.\n"
    assert findings(text, ANY) == "Comparison: none. Lungs: clear. Impression: fine."


def test_last_paragraph_of_a_plain_report() -> None:
    text = TITLE + " EXAMINATION:  CHEST\n \n First paragraph.\n \n Second.\n"
    assert [(s.name, s.body) for s in sections(text)] == [
        ("preamble", "FINAL REPORT"),
        ("examination", "CHEST"),
        ("last_paragraph", "First paragraph. Second."),
    ]
    assert findings(text, ANY) is None
    assert names("no header at all") == ["full report"]
    assert names("") == ["full report"]


def test_hand_set_sections() -> None:
    assert len(HAND_SET_SECTION) == 23
    assert set(HAND_SET_SECTION).isdisjoint(HAND_SET_RANGE)
    text = TITLE + " INDICATION:  Main text.\n \n TECHNIQUE:  How.\n \n FINDINGS:  Elsewhere.\n"
    assert findings(text, "s57936451") == "Main text."
    # The answer is not handed to the model.
    assert indication(text, "s57936451") == ""
    assert findings(text, "s59279892") == "How."
    assert indication(text, "s59279892") == "Main text."
    assert findings(text, "s51491012") is None


def test_hand_set_ranges() -> None:
    assert len(HAND_SET_RANGE) == 31
    assert sum(span == (0, 0) for span in HAND_SET_RANGE.values()) == 8
    assert all(map(is_hand_set, [*HAND_SET_SECTION, *HAND_SET_RANGE]))
    assert not is_hand_set(ANY)
    start, end = HAND_SET_RANGE["s50525523"]
    text = TITLE + " INDICATION:  Pain.\n"
    text = text.ljust(start) + "The\r\nmain text. ".ljust(end - start + 1, "m") + "rest"
    assert findings(text, "s50525523") == f"The main text. {'m' * (end - start - len('The main text. '))}"
    # The indication runs up to the end of the report here, and the answer begins within it.
    assert indication(text, "s50525523") == "Pain."
    assert findings(text, "s58235663") is None
    assert findings("short", "s56412866") is None


PIECES = st.sampled_from(
    "\n|\r\n|\r| |\t|\n |\n \n|:|: |FINDINGS|\n FINDINGS: |\n IMPRESSION:\n|\n INDICATION:  |\n CHEST, TWO VIEWS: "
    f"|\n {'_' * 78}|___|Clear lungs.|\n A:\n|é|\x00".split("|")
)


@given(
    st.lists(PIECES | st.text(max_size=5), max_size=40).map("".join), st.sampled_from([ANY, "s57936451", "s56579911"])
)
def test_any_text_is_read(text: str, study_id: str) -> None:
    found = sections(text)
    text = unix_lines(text)
    assert found
    assert [section.start for section in found] == sorted(section.start for section in found)
    for section, following in zip(found, [*found[1:], None], strict=True):
        assert 0 <= section.start <= section.end <= len(text)
        # The preamble is the one section that reaches up to the header after it, its blank included.
        assert following is None or section.end <= following.start
        assert section.body == re.sub(r"\s+", " ", text[section.start : section.end]).strip()
    for result in (findings(text, study_id), indication(text, study_id)):
        assert result is None or result == " ".join(result.split())
    assert findings(text, study_id) != ""


HEADERS = {"FINDINGS": "findings", "CHEST, TWO VIEWS": "findings", "INDICATION": "indication"}
HEADERS |= {"REASON FOR EXAM": "indication", "IMPRESSION": "impression", "TECHNIQUE": "technique"}
BODY = st.lists(st.sampled_from(["Lungs", "are", "clear.", "No", "___", "1.5 cm:", "(see", "CT)"]), max_size=30)


@given(st.lists(st.tuples(st.sampled_from(list(HEADERS)), BODY), max_size=8), st.sampled_from(["  ", " \n \n "]))
def test_written_sections_come_back(parts: list[tuple[str, list[str]]], gap: str) -> None:
    text = TITLE
    for header, words in parts:
        lines = [" ".join(words[i : i + 6]) for i in range(0, len(words), 6)]
        text += f" {header}:{gap}" + "\n ".join(lines) + "\n \n"
    # Without findings or impression the last section would be parted at its first blank line.
    text += " IMPRESSION:  Short.\n"
    for kind, read in (("findings", findings), ("indication", indication)):
        bodies = [" ".join(words) for header, words in parts if HEADERS[header] == kind]
        if kind == "findings":
            bodies = [body for body in bodies if body]
        expected = bodies[-1] if bodies else None
        assert (read(text, ANY) or None) == (expected or None)
