"""The elicitation formats and their parsers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench.reading.claims import (
    answer_claim,
    confidence_spans,
    read_behind,
    read_stated,
    report_claim,
    sentence_claims,
)
from conrad_bench.reading.elicitation import EXPRESSIONS
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
        ("ten", (None, "no_confidence")),
        ("80%", (None, "no_confidence")),
        ("", (None, "no_confidence")),
    ],
)
def test_what_stands_behind_the_marker(stated: str, expected: tuple[float | None, str]) -> None:
    value = read_behind(stated)
    assert (value.confidence, value.status) == expected


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


def test_sentences_with_their_confidences() -> None:
    text = "Heart size is normal. Confidence: 9\nNo effusion. Confidence: 3\nNo pneumothorax. Confidence: 11"
    claims = sentence_claims(response(text), "sentence_confidence")
    assert [(c.text, c.confidence, c.status) for c in claims] == [
        ("Heart size is normal.", 0.9, "ok"),
        ("No effusion.", 0.3, "ok"),
        ("No pneumothorax.", None, "out_of_range"),
    ]
    assert all(text[slice(*c.span)] == c.text for c in claims)


def test_a_sentence_without_a_marker_behind_it_has_no_confidence() -> None:
    claims = sentence_claims(response("Heart normal. Lungs clear. Confidence: 8\nNo effusion."), "sentence_confidence")
    assert [(c.text, c.confidence, c.status) for c in claims] == [
        ("Heart normal.", None, "no_confidence"),
        ("Lungs clear.", 0.8, "ok"),
        ("No effusion.", None, "no_confidence"),
    ]


def test_sentences_without_a_format_are_bare() -> None:
    claims = sentence_claims(response("Heart normal. Lungs clear."), None)
    assert [(c.text, c.confidence, c.status) for c in claims] == [
        ("Heart normal.", None, "ok"),
        ("Lungs clear.", None, "ok"),
    ]
    assert [c.status for c in sentence_claims(response("Heart normal. Lungs cl", "length"), None)] == [
        "ok",
        "truncated",
    ]
    assert [c.status for c in sentence_claims(response("  "), None)] == ["empty"]


@given(st.text(alphabet="abc .\n:Confidence0123456789", max_size=120), st.sampled_from([None, "sentence_confidence"]))
def test_sentence_claims_hold_for_any_text(text: str, elicit: str | None) -> None:
    claims = sentence_claims(response(text), elicit)
    assert claims
    assert all(text[slice(*c.span)] == c.text for c in claims)
    assert all((c.confidence is None) == (c.status != "ok") for c in claims if elicit)


@pytest.mark.parametrize(
    ("text", "elicit", "expected"),
    [
        ("yes\nConfidence: 7", "confidence", ("yes", 0.7, "ok")),
        ("yes", None, ("yes", None, "ok")),
        ("Reasoning: there is fluid.\nAnswer: yes\nConfidence: 6", "cot", ("yes", 0.6, "ok")),
        ("**Answer:** left lung\nConfidence: 6", "cot", ("left lung", 0.6, "ok")),
        ("I do not know.\nConfidence: 6", "cot", ("I do not know.", None, "no_answer")),
        ("There is fluid.\nThe answer is: Yes\nConfidence: 8", "cot", ("Yes", 0.8, "ok")),
        ("A big heart.\nYes\nConfidence: 8", "cot", ("Yes", 0.8, "ok")),
        ("The heart is enlarged.", "cot", ("The heart is enlarged.", None, "no_answer")),
        ("Reasoning: it might be", "cot", ("Reasoning: it might be", None, "no_answer")),
        ("yes\nConfidence: 3\nno\nConfidence: 8", "top_k", ("no", 0.8, "ok")),
        ("1. yes\nConfidence: 8\n2. no\nConfidence: 2", "top_k", ("yes", 0.8, "ok")),
        ("Guess 1: yes\nConfidence: 5\nGuess 2: no\nConfidence: 5", "top_k", ("yes", 0.5, "ok")),
        ("yes\nConfidence: high\nno\nConfidence: low", "top_k", ("yes", None, "no_confidence")),
        ("yes", "top_k", ("yes", None, "no_confidence")),
        ("yes\nConfidence: Very likely.", "linguistic", ("yes", 0.85, "ok")),
        ("yes\nConfidence: perhaps", "linguistic", ("yes", None, "no_confidence")),
    ],
)
def test_answers_in_every_format(text: str, elicit: str | None, expected: tuple[str, float | None, str]) -> None:
    claim = answer_claim(response(text), elicit)
    assert (claim.text, claim.confidence, claim.status) == expected
    assert text[slice(*claim.span)] == claim.text


def test_expressions_and_bare_numbers() -> None:
    for words, confidence in EXPRESSIONS.items():
        claim = report_claim(response(f"yes\nConfidence: {words.upper()}!"), "linguistic")
        assert (claim.text, claim.confidence, claim.status) == ("yes", confidence, "ok")
    claim = report_claim(response("yes\nConfidence: unlikely to be very likely"), "linguistic")
    assert (claim.text, claim.confidence, claim.status) == ("yes", None, "no_confidence")
    assert [read_stated(text).confidence for text in ("Confidence: 8", "7", "about 80%")] == [0.8, 0.7, None]
