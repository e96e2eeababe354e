"""The reader of stated confidences: every way of writing one, other scales, prose, and properties of any text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench.reading.claims import answer_claim, read_stated, report_claim, sentence_claims
from conrad_bench.reading.stated import find_stated
from conrad_bench.reading.thoughts import spoken, thinks, thought_spans
from conrad_bench.types import Response


def response(text: str, finish: str = "stop") -> Response:
    return Response("key", text, (1,), None, finish)  # type: ignore[arg-type]


MARKERS = [
    "Confidence: {}",
    "confidence: {}",
    "**Confidence:** {}",
    "**Confidence: {}**",
    "_Confidence:_ {}",
    "`Confidence: {}`",
    '"Confidence: {}"',
    "(Confidence: {})",
    "[Confidence: {}]",
    "- Confidence: {}",
    "2. Confidence: {}",
    "### Confidence\n{}",
    "Confidence:\n{}",
    "Confidence:\n\n{}",
    "Confidence：{}",
    "Confidence = {}",
    "Confidence - {}",
    "Confidence level: {}",
    "Confidence score: {}",
    "Confidence (0-10): {}",
    "Confidence (from 0 to 10): {}",
    "Overall confidence: {}",
    "My overall confidence: {}",
    "**Final confidence**: {}",
    "My confidence in this answer is {}",
    "Confidence in the diagnosis: {}",
    "<confidence>{}</confidence>",
    "| Confidence | {} |",
    "Confidence: k = {}",
    "How confident are you? {}",
    "[overall confidence {}]",
]
VALUES = {
    "{}": "8",
    "{}.": "8",
    "[{}]": "8",
    "<{}>": "8",
    "**{}**": "8",
    "$\\boxed{{{}}}$": "8",
    "{}/10": "8/10",
    "{} / 10": "8/10",
    "{} out of 10": "8 out of 10",
    "{} out of ten": "8 out of 10",
    "{} (fairly certain)": "8, with a remark",
    "{} on a scale of 0 to 10": "8, with a remark",
    "{}, because the image is clear": "8, with a remark",
}
OTHER_SCALES = {
    "{} %": "a percentage",
    "{}%": "a percentage",
    "{} percent": "a percentage",
    "0.{}": "a decimal number",
    "{}.5": "a decimal number",
    "{}/5": "another denominator",
    "{} / 100": "another denominator",
    "{} out of 5": "another denominator",
    "{} of 7": "another denominator",
    "{} (out of 100)": "another denominator",
    "{} on a scale of 1 to 5": "another denominator",
    "{}/10/2020": "another denominator",
    "{}:10 (completely certain)": "another denominator",
    "{} to 9": "a range",
    "{}-9": "a range",
    "{} – 9": "a range",
    "{} or 9": "a range",
    "{}, 9": "a range",
    "{}+": "a range",
    "{} (not at all) to 10 (certain): 8": "an echo of the scale",
    "about {}": "in words",
    "~{}": "in words",
    ">{}": "in words",
}
PROSE = [
    "There is high confidence: no effusion.",
    "Low confidence: pneumonia cannot be excluded.",
    "Overconfidence: 8",
    "Her self-confidence: 8",
    "The confidence is limited by motion.",
    "I have confidence in the diagnosis.",
    "The 95% confidence interval: 8 to 9.",
    "Confidence: I am quite sure about all of this",
    "Yes, I am 80% confident.",
    "With low confidence: 8 mm nodule.",
    "With confidence: no fracture.",
    "Confidence in the lung bases: limited by motion.",
    'State how sure you are, for example "Confidence: 7".',
    'State how sure you are, such as "Confidence: 2" or "Confidence: 9".',
    'State how sure you are, from 0 to 10, in the form "Confidence: 0 (not certain)".',
]


@pytest.mark.parametrize("marker", MARKERS)
@given(level=st.integers(0, 10), value=st.sampled_from(list(VALUES)))
def test_a_plain_confidence_is_read_however_it_is_written(marker: str, level: int, value: str) -> None:
    if marker.startswith(("`", '"', "[", "|", "<")) and not value.startswith("{}"):
        return  # brackets in brackets
    written = marker.format(value.format(level))
    claim = report_claim(response(f"No effusion.\n{written}"), "confidence")
    assert (claim.text, claim.confidence, claim.status) == ("No effusion.", level / 10, "ok"), written
    below = ", on the next line" if "\n" in marker else ""
    assert claim.reading == VALUES[value] + below


@pytest.mark.parametrize(
    "marker", ["Confidence: {}", "Overall confidence: {}", "(Confidence: {})", "**Confidence:** {}"]
)
@given(level=st.integers(0, 9), value=st.sampled_from(list(OTHER_SCALES)))
def test_another_scale_is_no_confidence(marker: str, level: int, value: str) -> None:
    written = marker.format(value.format(level))
    claim = report_claim(response(f"No effusion.\n{written}"), "confidence")
    assert (claim.text, claim.confidence, claim.status) == ("No effusion.", None, "no_confidence"), written
    assert claim.reading == OTHER_SCALES[value]
    sentences = sentence_claims(response(f"Heart normal. {written}\nNo effusion. Confidence: 9"), "sentence_confidence")
    assert [(c.text, c.confidence) for c in sentences] == [("Heart normal.", None), ("No effusion.", 0.9)]


@pytest.mark.parametrize("prose", PROSE)
def test_prose_states_nothing_and_stays(prose: str) -> None:
    assert find_stated(prose) == []
    for text in (f"{prose}\nConfidence: 3", f"{prose} The heart is normal.\nConfidence: 3"):
        claim = report_claim(response(text), "confidence")
        assert (claim.text, claim.confidence) == (text.removesuffix("\nConfidence: 3"), 0.3)


@pytest.mark.parametrize(
    ("text", "answer", "confidence", "reading"),
    [
        ("Confidence: 8\nYes", "Yes", 0.8, "8, before the answer"),
        ('{"answer": "Yes", "confidence": 8}', "Yes", 0.8, "8, in JSON"),
        ('```json\n{"confidence": "8/10", "report": "Yes"}\n```', "Yes", 0.8, "8/10, in JSON"),
        ('Here it is:\n{"text": "\\u0041 \\"yes\\"", "confidence": 3}', 'A "yes"', 0.3, "8, in JSON"),
        ("{'answer': 'Yes', 'confidence': 8}", "Yes", 0.8, "8, in JSON"),
        ("```python\n{'answer': \"It's big\", 'confidence': 8}\n```", "It's big", 0.8, "8, in JSON"),
        ('```json\n{"answer": "Yes", "confidence": 8}\n```\n\nThe heart is large.', "Yes", 0.8, "8, in JSON"),
        ('{"answer": "Yes", "confidence": 0.8}', "Yes", None, "a decimal number, in JSON"),
        ('{"answer": "Yes", "confidence": true}', "Yes", None, "in JSON"),
        ("left lung\nOverall confidence: 8", "left lung", 0.8, "8"),
        ("left lung\nConfidence: k", "left lung", None, "a placeholder"),
        ("left lung\nConfidence: high", "left lung", None, "in words"),
        ("left lung\nConfidence: perhaps", "left lung", None, "in other words"),
        ("left lung. Confidence: moderate. The rest is clear.", "left lung.", None, "in words"),
        ("left lung\nConfidence:", "left lung", None, "nothing behind the marker"),
        ("left lung\nConfidence: 8\nThe lung is dark.", "left lung", 0.8, "8"),
        ("left lung", "left lung", None, ""),
    ],
)
def test_readings_have_names(text: str, answer: str, confidence: float | None, reading: str) -> None:
    claim = answer_claim(response(text), "confidence")
    assert (claim.text, claim.confidence, claim.reading) == (answer, confidence, reading)


def test_a_number_that_may_have_been_cut_off_does_not_count() -> None:
    claim = report_claim(response("No effusion.\nConfidence: 1", "length"), "confidence")
    assert (claim.text, claim.confidence, claim.status) == ("No effusion.", None, "truncated")
    assert report_claim(response("No effusion.\nConfidence: 1\n", "length"), "confidence").confidence == 0.1
    sentences = sentence_claims(
        response("Clear. Confidence: 8\nNo air. Confidence: 1", "length"), "sentence_confidence"
    )
    assert [(c.confidence, c.status) for c in sentences] == [(0.8, "ok"), (None, "truncated")]


def test_sentences_behind_their_confidences_and_in_json() -> None:
    leading = sentence_claims(
        response("Confidence: 9 Heart normal.\nConfidence: 8 Lungs clear."), "sentence_confidence"
    )
    assert [(c.text, c.confidence) for c in leading] == [("Heart normal.", 0.9), ("Lungs clear.", 0.8)]
    rows = '[{"sentence": "Heart normal.", "confidence": 9}, {"sentence": "No air.", "confidence": "high"}]'
    for text in (rows, f'{{"sentences": {rows}}}', rows.strip("[]").replace("}, ", "}\n"), f"{rows}\nNo more is seen."):
        claims = sentence_claims(response(text), "sentence_confidence")
        assert [(c.text, c.confidence, c.status) for c in claims] == [
            ("Heart normal.", 0.9, "ok"),
            ("No air.", None, "no_confidence"),
        ]
        assert all(text[slice(*c.span)] == c.text for c in claims)


# Letters that no marker, thought, label or list is made of.
LINE = st.text(alphabet="xyz qj.,", min_size=1, max_size=20).filter(lambda line: line.strip(" .,") != "")
STATEMENT = st.builds(
    lambda marker, value, level: marker.format(value.format(level)),
    st.sampled_from([marker for marker in MARKERS if "\n" not in marker]),
    st.sampled_from([*VALUES, *OTHER_SCALES]),
    st.integers(0, 10),
)


@given(st.lists(st.one_of(LINE, STATEMENT, st.sampled_from(PROSE)), min_size=1, max_size=8))
def test_nothing_outside_a_markers_line_is_lost(lines: list[str]) -> None:
    text = "\n".join(lines)
    kept = [line for line in lines if "onfidence" not in line or line in PROSE]
    claim = report_claim(response(text), "confidence")
    held = "".join(claim.text.split())
    assert all("".join(line.split()) in held for line in kept)
    sentences = sentence_claims(response(text), "sentence_confidence")
    spoken_there = "".join("".join(c.text for c in sentences).split())
    assert all("".join(line.split()) in spoken_there for line in kept)


@given(st.text(alphabet='Confidence: 0123456789\n.ab*-/()[]<>{}"%', max_size=80), st.integers(0, 10))
def test_any_text_is_read_in_order_and_within_its_bounds(text: str, level: int) -> None:
    found = find_stated(text)
    assert all(0 <= one.start <= one.span[0] <= one.span[1] <= one.end <= len(text) for one in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert all((one.confidence is None) == (one.status != "ok") and one.reading for one in found)
    # What stands before, on other lines, changes nothing of a plain statement.
    assert read_stated(f"{text}\n\nConfidence: {level}\n").confidence == level / 10


THOUGHTS = [
    "<think>{}</think>",
    "<THINKING>{}</THINKING>\n\n",
    "<reasoning>\n{}\n</reasoning>",
    "<unused94>thought\n{}<unused95>",
    "<|channel>thought\n{}<channel|>",
    "[THINK]{}[/THINK]",
    "◁think▷{}◁/think▷",
    "<|begin_of_thought|>{}<|end_of_thought|>",
    "<|START_THINKING|>{}<|END_THINKING|>",
    "<seed:think>{}</seed:think>",
]


@pytest.mark.parametrize("form", THOUGHTS)
@pytest.mark.parametrize("thought", ["It could be no. Confidence: 2 so far.", "Answer: no\nConfidence: 3", "no\n"])
def test_thoughts_are_set_aside(form: str, thought: str) -> None:
    inner = form.format(thought)
    opening, closing = form.split("{}")
    for text in (f"{inner}Yes\nConfidence: 8", f"Yes\n{inner}\nConfidence: 8", f"Yes\nConfidence: 8\n{inner}"):
        claim = answer_claim(response(text), "confidence")
        assert (claim.text, claim.confidence, claim.status) == ("Yes", 0.8, "ok")
        assert text[slice(*claim.span)] == "Yes"
        assert thinks(response(text))
        (sentence,) = sentence_claims(response(text), "sentence_confidence")
        assert (sentence.text, sentence.confidence) == ("Yes", 0.8)
        assert "o" not in spoken(text).replace("Confidence", "")
    # The template wrote the opening mark.
    assert answer_claim(response(f"{thought}{closing}Yes\nConfidence: 8"), "confidence").text == "Yes"
    for finish in ("length", "stop"):
        endless = answer_claim(response(f"{opening}{thought}", finish), "confidence")
        assert (endless.text, endless.confidence, endless.status) == ("", None, "truncated")
        (sentence,) = sentence_claims(response(f"{opening}{thought}", finish), "sentence_confidence")
        assert (sentence.text, sentence.status) == ("", "truncated")
    assert not thinks(response(form.format("\n\n") + "Yes"))


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<unused94>thought", "<unused95>", "a", "\n", "b."]), max_size=12)
)
def test_thoughts_and_what_is_spoken_make_up_a_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    spans, endless = thought_spans(text)
    assert all(a < b for a, b in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    assert not endless or spans[-1][1] == len(text)
    rest = spoken(text)
    assert len(rest) + sum(b - a for a, b in spans) == len(text)
    assert thought_spans(rest) == ([], False)


@pytest.mark.parametrize(
    "text",
    [
        "Answer: Yes",
        "answer: Yes",
        "**Answer:** Yes",
        "Final answer: Yes",
        "The final answer is: Yes",
        "The answer is Yes",
        "So, the answer is Yes",
        "The heart is large. Answer: Yes",
        "<answer>Yes</answer>",
        "<answer>no</answer> or rather <answer> Yes </answer>",
        "\\boxed{Yes}",
        "Therefore $\\boxed{\\text{Yes}}$.",
        "Answer:\nYes",
        "Answer (yes or no): Yes",
        "1. Answer: Yes",
        "Ans: Yes",
        "Response: Yes",
        "Assistant: Yes",
        "Is the heart large? A: Yes",
        "**Final Answer**\n\nYes",
        "## Answer\nYes",
        "Final answer - Yes",
        "The answer would be Yes",
        "Answer: Yes\nAnswer:",
        "Answer: Yes\n\nExplanation: the heart is large",
        "Yes\n**Reasoning:** the heart is large",
    ],
)
@pytest.mark.parametrize("elicit", ["confidence", "cot"])
def test_what_stands_around_an_answer_is_no_part_of_it(text: str, elicit: str) -> None:
    claim = answer_claim(response(f"{text}\nConfidence: 8"), elicit)
    assert (claim.text, claim.confidence, claim.status) == ("Yes", 0.8, "ok")
    bare = answer_claim(response(text), None)
    assert (bare.text, bare.status) == ("Yes", "ok")
    assert text[slice(*bare.span)] == "Yes"


@pytest.mark.parametrize("text", ["Answer:", "**Final answer:**", 'The answer is: "Confidence: 2"', "# Answer\n"])
@pytest.mark.parametrize("elicit", ["confidence", "cot", "top_k", None])
def test_a_label_that_announces_nothing_is_no_answer(text: str, elicit: str | None) -> None:
    if elicit is None and "Confidence" in text:
        return  # without a format the word is a word
    assert answer_claim(response(text), elicit).status == "no_answer"
    claim = answer_claim(response(f"Yes.\n{text}"), "confidence")
    assert claim.text == "Yes."


@pytest.mark.parametrize("last", ["2. 9", "3. Third step:", "Reasoning: 3", "**Reasoning:** no", 'It says: "'])
def test_the_last_line_of_a_chain_of_thought_is_not_any_short_line(last: str) -> None:
    assert answer_claim(response(f"Reasoning: the heart is seen.\n{last}"), "cot").status == "no_answer"


@pytest.mark.parametrize(
    "own", ["Is there edema?\nNo\nConfidence: 2", "\nWhich lung is it?\nReasoning: it is\nAnswer: no"]
)
@pytest.mark.parametrize("elicit", ["confidence", "cot"])
def test_questions_that_a_model_asks_itself_are_set_aside(own: str, elicit: str) -> None:
    for finish in ("stop", "length"):
        claim = answer_claim(response(f"Answer: Yes\nConfidence: 8\n{own}\nConfidence: 1", finish), elicit)
        assert (claim.text, claim.confidence, claim.status) == ("Yes", 0.8, "ok")
        claim = answer_claim(response(f"Answer: Yes\n\nIs there edema?ory\n{own}", finish), elicit)
        assert (claim.text, claim.confidence, claim.status) == ("Yes", None, "no_confidence")
        nothing = answer_claim(response(f"Confidence: 8\n\nIs there edema?\nYes\nConfidence: 3\n{own}", finish), elicit)
        assert (nothing.text, nothing.status) == ("", "empty")
    assert (
        answer_claim(response("Answer: Yes. Confidence: 8\nIs there edema?\nNo\nConfidence: 2"), elicit).text == "Yes."
    )
    # The question said again before the answer is none of its own, nor is one that it asks in the end.
    assert answer_claim(response("Is it?\nAnswer: Yes\nConfidence: 8\nMore?"), elicit).confidence == 0.8
    assert answer_claim(response("Confidence: 8\nIs it?\nAnswer: Yes"), elicit).text == "Yes"


def test_an_answer_may_name_an_item_by_its_number() -> None:
    listed = "1. Yes, there is one.\n2. No, there is none.\n\nThe answer is: {}."
    assert answer_claim(response(listed.format(1)), "cot").text == "Yes, there is one."
    assert answer_claim(response(listed.format(2)), None).text == "No, there is none."
    assert answer_claim(response(listed.format(3)), "cot").text == "3."
    # Steps are no items to choose from.
    assert answer_claim(response("1. The left lung.\n2. Two ribs are seen.\nAnswer: 2"), "cot").text == "2"


def test_labels_of_guesses_are_no_part_of_them() -> None:
    claim = answer_claim(response("Answer: left\nConfidence: 3\nAnswer: right\nConfidence: 6"), "top_k")
    assert (claim.text, claim.confidence) == ("right", 0.6)
    again = "Left?\nyes\nConfidence: 3\nLeft?\nno\nConfidence: 7\n\nHow large is it?\n5 cm\nConfidence: 9"
    claim = answer_claim(response(again), "top_k")
    assert (claim.text, claim.confidence) == ("Left?\nno", 0.7)
    before = answer_claim(response("Confidence: 6\nyes\nConfidence: 4\nno"), "top_k")
    assert (before.text, before.confidence, before.reading) == ("yes", 0.6, "8, before the answer")
