"""The elicitation formats and their parsers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench.elicitation import confidence_spans, read_level, report_claim
from conrad_bench.types import STATUSES, Response


def response(text: str, finish: str = "stop") -> Response:
    return Response("key", text, (1,), None, finish)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("0", (0.0, "ok")),
        ("7", (0.7, "ok")),
        ("10", (1.0, "ok")),
        ("8.", (0.8, "ok")),
        ("8/10", (0.8, "ok")),
        ("**9**", (0.9, "ok")),
        ("11", (None, "out_of_range")),
        ("-1", (None, "out_of_range")),
        ("85", (None, "out_of_range")),
        ("85%", (None, "no_confidence")),
        ("0.8", (None, "no_confidence")),
        ("high", (None, "no_confidence")),
        ("", (None, "no_confidence")),
    ],
)
def test_read_level(stated: str, expected: tuple[float | None, str]) -> None:
    assert read_level(stated) == expected


def test_report_and_confidence_are_told_apart() -> None:
    text = "Heart size is normal. No pneumothorax.\nConfidence: 8"
    claim = report_claim(response(text), "confidence")
    assert (claim.text, claim.confidence, claim.status) == ("Heart size is normal. No pneumothorax.", 0.8, "ok")
    assert text[slice(*claim.span)] == claim.text


def test_the_last_of_several_confidences_counts() -> None:
    claim = report_claim(response("Heart normal. Confidence: 3\nLungs clear.\n**Confidence:** 9"), "confidence")
    assert (claim.text, claim.confidence) == ("Heart normal.\nLungs clear.", 0.9)


@pytest.mark.parametrize(
    ("text", "finish", "status"),
    [
        ("Heart size is normal.", "stop", "no_confidence"),
        ("Heart size is", "length", "truncated"),
        ("Lungs are clear.\nConfidence: 12", "stop", "out_of_range"),
        ("Lungs are clear.\nConfidence:", "stop", "no_confidence"),
        ("Confidence: 9", "stop", "empty"),
        ("  \n", "stop", "empty"),
    ],
)
def test_unreadable_responses_have_a_status(text: str, finish: str, status: str) -> None:
    claim = report_claim(response(text, finish), "confidence")
    assert (claim.confidence, claim.status) == (None, status)


def test_without_a_format_the_text_is_the_claim() -> None:
    assert report_claim(response(" Lungs are clear.\nConfidence: 3 "), None).text == "Lungs are clear.\nConfidence: 3"
    assert report_claim(response("Lungs are", "length"), None).status == "truncated"


@given(st.text(alphabet="Confidence: 0123456789\n.ab*-/", max_size=60), st.sampled_from([None, "confidence"]))
def test_parser_never_fails_and_spans_lie_in_the_text(text: str, elicit: str | None) -> None:
    claim = report_claim(response(text), elicit)
    assert claim.status in STATUSES
    assert 0 <= claim.span[0] <= claim.span[1] <= len(text)
    assert (claim.confidence is not None) == (elicit is not None and claim.status == "ok")
    assert claim.confidence is None or 0 <= claim.confidence <= 1
    assert all(0 <= a <= b <= len(text) for a, b in confidence_spans(text))


@given(st.integers(0, 10), st.text(alphabet="abc .", min_size=1, max_size=30).filter(str.strip))
def test_what_is_written_is_read(level: int, report: str) -> None:
    claim = report_claim(response(f"{report}\nConfidence: {level}"), "confidence")
    assert claim.confidence == level / 10
    assert claim.text == report.strip()
