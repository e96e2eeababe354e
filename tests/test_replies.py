"""What a server sent: answers of every form, and what is none."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import said

from conrad_bench.engines.replies import NotAnAnswer, Reply, read

WORDS = "Xylophonist indication"


def reply(*arguments: Any, **message: Any) -> Reply:
    return read(json.dumps(said(*arguments, **message)[1]), "application/json")


def other(**changed: Any) -> dict[str, Any]:
    return {**said(WORDS)[1], **changed}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("<html>gateway</html>", "text/html, which is not JSON"),
        ("", "an empty page"),
        ("{", "text/html, which is not JSON"),
        ([], "JSON that is a list"),
        ("null", "JSON that is null"),
        ("[" * 100_000, "text/html, which is not JSON"),
        ({"error": {"message": WORDS, "code": 429}}, r"an error \(429\) with status 200, no choices"),
        ({"error": WORDS}, "an error with status 200, no choices"),
        ({"object": "chat.completion"}, "no choices"),
        (other(choices=None), "no choices"),
        (other(choices=[]), "an empty list of choices"),
        (other(choices=[WORDS]), "a choice without a message"),
        (other(choices=[{"delta": {"content": WORDS}}]), "a choice without a message"),
        (said([{"type": "text", "text": WORDS}])[1], r"content in parts \(a list\)"),
        (said({"text": WORDS})[1], r"content in parts \(an object\)"),
        (said(None)[1], "a message whose content is null"),
        (said(None, tool_calls=[{"id": "1"}], finish="tool_calls")[1], "a call of a tool and no text"),
        (said(WORDS, finish="error")[1], r"gave up \(finish_reason 'error'\)"),
        (said("", finish="abort")[1], r"gave up \(finish_reason 'abort'\)"),
    ],
)
def test_what_is_no_answer_is_named_without_its_text(body: Any, says: str) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(NotAnAnswer, match=says) as raised:
        read(text, "text/html; charset=utf-8")
    assert WORDS not in str(raised.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices",
                        "message",
                        "content",
                        "logprobs",
                        "usage",
                        "error",
                        "token",
                        "logprob",
                        "bytes",
                        "top_logprobs",
                    ]
                ),
                inner,
            )
        ),
    )
)
def test_whatever_json_comes_is_an_answer_or_none(value: Any) -> None:
    wrapped = {**said("x")[1], "choices": [{"message": value, "logprobs": value, "finish_reason": value}]}
    for body in (value, wrapped, {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [value]}}]}):
        with contextlib.suppress(NotAnAnswer):
            assert isinstance(read(json.dumps(body), "application/json"), Reply)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "stop"), (None, "stop"), ("eos", "stop"), ("length", "length"), ("content_filter", "length")],
)
def test_only_an_answer_that_its_model_ended_is_finished(finish: str | None, reason: str) -> None:
    assert reply("The", finish=finish).finish_reason == reason


def test_a_filtered_or_cut_answer_may_be_empty_and_a_declined_one_is_an_answer() -> None:
    assert (reply(None, finish="content_filter").text, reply(None, finish="length").text) == ("", "")
    assert reply(None, refusal="I cannot.").text == "I cannot."
    assert reply("").text == ""


def test_half_a_character_at_a_cut_can_be_written_down() -> None:
    made = reply("No \ud83d", [("No", -0.1), (" \ufffd", -0.2)], finish="length")
    assert (made.text.encode(), made.lengths) == (b"No ?", (2, 2))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_of_their_own_stand_in_front_of_the_text(field: str) -> None:
    made = reply("Yes", **{field: "A line."})
    assert (made.text, made.text[made.thoughts :]) == ("<think>A line.</think>Yes", "Yes")
    cut = reply(None, finish="length", **{field: "A line"})
    assert (cut.text, cut.thoughts, cut.finish_reason) == ("<think>A line</think>", len(cut.text), "length")
    assert reply("Yes", **{field: None}).text == "Yes"


@pytest.mark.parametrize("listed", [[], ["A ", "line.", "</think>"]], ids=["the answer's", "all"])
def test_tokens_of_an_answer_cover_it_behind_thoughts(listed: list[str]) -> None:
    tokens = [*listed, "No ", "effusión", "."]
    made = reply("No effusión.", [(token, -0.1) for token in tokens], reasoning_content="A line.")
    ends = [sum(made.lengths[: i + 1]) for i in range(len(tokens))]
    assert [made.text[a:b] for a, b in zip(ends[-3:], ends[-2:], strict=False)] == ["effusión", "."]
    assert ends[-3] == made.thoughts + 3
    assert ends[-1] == len(made.text)


def test_a_text_whose_ends_the_server_strips_keeps_its_tokens_in_place() -> None:
    made = reply("No effusion", [(" No", -0.1), (" effusion", -0.2), ("<end_of_turn>", -0.3)])
    assert made.lengths == (2, 9, 0)


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["Yes"], "token_logprobs": [-0.1]},
        {"content": []},
        {"content": [{"token": "Yes", "logprob": None}]},
        {"content": [{"token": "Yes", "logprob": float("nan")}]},
        {"content": [{"logprob": -0.1}]},
        [-0.1],
    ],
)
def test_log_probabilities_in_another_form_are_none(logprobs: Any) -> None:
    body = said("Yes")[1]
    body["choices"][0]["logprobs"] = logprobs
    made = read(json.dumps(body), "application/json")
    assert (made.tokens, made.lengths) == (None, (3,))
