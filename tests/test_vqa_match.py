"""The scorer of answers: normalisation, closed and open questions, agreement with SQuAD's own code, and the judge."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1

from conrad_bench.engines.base import Engine, Generation, Job
from conrad_bench.errors import ConfigError, DataError
from conrad_bench.progress import Reporter
from conrad_bench.registry import validated
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.tasks.scorers.answers import (
    BOTH,
    NEITHER,
    closed_value,
    plain_polarity,
    polarity,
    same_answer,
    token_f1,
    tokens,
)
from conrad_bench.tasks.scorers.vqa_match import VqaMatch
from conrad_bench.types import Claim, Example, Sampling

texts = st.text(max_size=30) | st.text("yesno ,.the a1-#有是不没", max_size=12)
# Words and punctuation on whose treatment SQuAD and the VQA literature agree.
plain = st.lists(
    st.sampled_from(["The", "a", "an", "left", "Right", "lung", "lung,", "mass.", "5", "T2", "(mri)", "heart!", "is"]),
    max_size=7,
).map(" ".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Left  Lung.", "left lung"),
        ("  It's a mass, on the right side!", "its mass on right side"),
        ("Chest X-ray", "chest x ray"),
        ("xray", "x ray"),
        ("5cm, T2", "5 cm t2"),
        ("Ring-enhancing lesion", "ring enhancing lesion"),
        ("3.4 cm", "3.4 cm"),
        ("3.4cm.", "3.4 cm"),
        ("1,234 mL", "1234 ml"),
        ("4th, 5th", "4th 5th"),
        ("Two", "2"),
        ("just one", "just 1"),
        ("<5%", "< 5 %"),
        (">5%", "> 5 %"),
        ("Heart \tlungs", "heart lungs"),
        ("**Yes**", "yes"),
        ("A", "a"),
        ("T₂ ＭＲＩ", "t2 mri"),
        ("肺，左侧", "肺 左 侧"),
        ("T2加权", "t2 加 权"),
        ("?!", ""),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert " ".join(tokens(text)) == expected


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        ("yes, there is a small effusion.", "yes"),
        ("Yes there is no doubt", "yes"),
        ("Yes - a small one", "yes"),
        ("No - it is not there", "no"),
        ("No.", "no"),
        ("No, no effusion", "no"),
        ("no abnormality", "no"),
        ("yes or no", "both"),
        ("Yes/No", "both"),
        ("no, yes", "both"),
        ("Yes and no", "both"),
        ("Yes. Or rather no, no.", "both"),
        ("Yes, no effusion is seen", "yes"),
        ("There is no effusion", "no"),
        ("There is an effusion", "yes"),
        ("An effusion is not seen.", "no"),
        ("not sure", None),
        ("Nope.", "no"),
        ("Yeah", "yes"),
        ("No idea", None),
        ("No problem! Please share the image.", None),
        ("No. I am only a language model.", None),
        ("Yes, I can help with that.", None),
        ("No image was provided.", None),
        ("No image", None),
        ("No information is given, I cannot say", None),
        ("No, I cannot tell", None),
        ("No, I cannot see a fracture", "no"),
        ("I cannot determine whether there is an effusion", None),
        ("nothing", None),
        ("maybe", None),
        ("n o", None),
        ("", None),
        ("是的。", "yes"),
        ("没有，肺是正常的", "no"),
        ("不包含", "no"),
        ("不正常", None),
        ("有没有", None),
    ],
)
def test_polarity(answer: str, said: str | None) -> None:
    assert polarity(answer) == said


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("Is there a pneumothorax?", "There is no pneumothorax.", "no"),
        ("Is there a pneumothorax?", "There is a small pneumothorax.", "yes"),
        ("Is there a pneumothorax?", "There is a pleural effusion.", None),
        ("Is the heart normal?", "There is no abnormality of the heart.", None),
        ("Are there fractures?", "No evidence of a fracture.", "no"),
        ("Are there fractures?", "A fracture is seen in the fifth rib.", "yes"),
        ("Are there fractures?", "The fifth rib.", None),
        ("Is the heart enlarged?", "The heart is indeed enlarged.", "yes"),
        ("Is the heart enlarged?", "The heart isn't enlarged.", "no"),
        ("Is the heart enlarged?", "The heart is of normal size.", None),
        ("Are the lungs clear?", "The lungs are clear.", "yes"),
        ("Are the lungs clear?", "The lungs are not clear.", "no"),
        ("Is this a chest X-ray?", "This is a chest X-ray.", "yes"),
        ("Is there a pacemaker?", "1. Yes, I can confirm it.", "yes"),
        ("Is there an effusion?", "I don't see any effusion.", "no"),
        ("Is there an effusion?", "Effusion: absent", "no"),
        ("Is there an effusion?", "Negative for effusion.", "no"),
        ("Is there an effusion?", "The lungs are free of effusion.", "no"),
        ("Is there an effusion?", "The effusion has resolved.", "no"),
        ("Is there an effusion?", "An effusion cannot be excluded.", None),
        ("Is there an effusion?", "Possible effusion", None),
        ("Is there an effusion?", "An effusion is unlikely", None),
        ("Is the effusion absent?", "The effusion is absent.", "yes"),
        ("Are the lungs free of masses?", "The lungs are free of masses.", "yes"),
    ],
)
def test_statements_answer_the_question_that_they_are_about(question: str, answer: str, said: str | None) -> None:
    assert polarity(answer, question) == said


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("yes, there is", "Yes", 1),
        ("No", "yes", 0),
        ("the heart is enlarged", "yes", "the answer says neither yes nor no"),
        ("Yes and no", "yes", "the answer says both yes and no"),
        ("Left", "left", 1),
        ("Left, the right side is clear.", "left", 1),
        ("Right, the left side is clear.", "left", 0),
        ("The left", "left", 1),
        ("left side", "left", 1),
        ("right", "left", 0),
        ("It is on the right side.", "left", 0),
        ("The mass is in the left lung.", "left", 1),
        ("right or left", "left", BOTH),
        ("Left. Right.", "left", BOTH),
        ("I cannot tell.", "left", NEITHER),
        ("the lung", "left", NEITHER),
        ("One.", "1", 1),
        ("Face; sinuses and neck", "face, sinuses, and neck", 1),
        ("Face, sinuses, and neck.", "face, sinuses, and neck", 1),
        ("3.5 cm", "3", 0),
        ("有", "是的", 1),
        ("Yes", "包含", 1),
        ("左肺，不是右肺", "左肺", 1),
        ("", "no", "the answer says neither yes nor no"),
        ("", "left", NEITHER),
    ],
)
def test_closed_questions(answer: str, reference: str, value: float | str) -> None:
    assert closed_value(answer, reference) == value


def test_the_question_names_the_options() -> None:
    asked = "Is this an old or new fracture?"
    assert closed_value("It looks old.", "old", asked) == 1
    assert closed_value("A new one", "old", asked) == 0
    assert closed_value("Both old and new", "old", asked) == BOTH
    assert closed_value("A rib", "old", asked) == NEITHER


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("heart, lungs", "lungs and heart", True),
        ("Lungs, heart and liver.", "heart; liver; lungs", True),
        ("5cm", "5 cm", True),
        ("xray", "X-ray", True),
        ("left side", "left", True),
        ("1. No hemorrhage", "no hemorrhage", True),
        ("1. effusion\n2. edema", "edema, effusion", True),
        ("upper right lobe", "right upper lobe", True),
        ("lung, left", "left lung", True),
        ("left of heart", "heart of left", False),
        ("left lung right kidney", "right lung left kidney", False),
        ("It is in the left lung.", "left lung", True),
        ("The image shows a mass", "mass", True),
        ("left - and right", "left and right", True),
        ("3.5", "3", False),
        ("1.5 cm", "5 cm", False),
        ("left lung", "right lung", False),
        ("no mass", "mass", False),
        ("lung", "lung and heart", False),
        ("", "it", False),
    ],
)
def test_the_same_answer_in_another_form(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same is same_answer(other, one)


@given(texts)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = tokens(text)
    assert tokens(" ".join(once)) == once


@given(texts, texts)
def test_f1_is_symmetric_and_within_bounds(one: str, other: str) -> None:
    value = token_f1(one, other)
    assert 0 <= value <= 1
    assert value == token_f1(other, one)
    assert (value == 1) == (sorted(tokens(one)) == sorted(tokens(other)))


@given(texts)
def test_an_answer_is_itself(text: str) -> None:
    assert token_f1(text, text) == 1
    said = polarity(text)
    assert same_answer(text, text)
    assert said is None or said == "both" or closed_value(text, said) == 1


@given(plain, plain)
def test_agreement_with_the_code_of_squad(one: str, other: str) -> None:
    if tokens(one) == ["a"] or {"the", "a", "an"} & {*tokens(one), *tokens(other)}:
        return  # SQuAD has no answer that is an article
    assert token_f1(one, other) == pytest.approx(compute_f1(other, one), abs=1e-12)
    assert (tokens(one) == tokens(other)) == bool(compute_exact(other, one))


def example(reference: str, answer_type: str | None = None) -> Example:
    attributes = {} if answer_type is None else {"answer_type": answer_type}
    return Example("1", "image", "test", (), "Where is the mass?", reference, attributes)


def values(scorer: VqaMatch, *pairs: tuple[Example, str]) -> list[float | None]:
    scores = scorer.score([(asked, Claim(text, (0, len(text)))) for asked, text in pairs], "answer")
    return [score.value for score in scores]


def test_open_and_closed_examples() -> None:
    pairs = [
        (example("left lung", "open"), "The left lung."),
        (example("left lung", "open"), "right lung"),
        (example("left lung", "closed"), "Left lung, at its base"),
        (example("left lung", "open"), "Left lung, at its base"),
        (example("Yes", "closed"), "yes it is"),
        (example("yes"), "Yes it is"),
        (example("4", "open"), "four"),
        (example("no", "open"), ""),
    ]
    assert values(VqaMatch(), *pairs) == [1, 0, 1, 0, 1, 1, 1, None]
    assert values(VqaMatch(open="f1"), *pairs) == [1, 0.5, 1, pytest.approx(4 / 7), 1, 1, 1, None]


def test_alternatives() -> None:
    organs = example("skull and contents#spine and contents", "open")
    assert values(VqaMatch(), (organs, "Spine and contents."), (organs, "skull"), (organs, "")) == [1, 0, 0]
    assert values(VqaMatch(open="f1"), (organs, "spine")) == [0.5]


@given(st.lists(st.tuples(texts.filter(bool), texts), max_size=5), st.sampled_from(["exact", "f1"]))
def test_every_pair_has_a_value(pairs: list[tuple[str, str]], how: Any) -> None:
    given_values = values(VqaMatch(open=how), *((example(reference), text) for reference, text in pairs))
    assert len(given_values) == len(pairs)
    closed = [plain_polarity(reference) is not None for reference, _ in pairs]
    assert all((value is None and may) or 0 <= value <= 1 for value, may in zip(given_values, closed, strict=True))


def test_reports_are_refused() -> None:
    VqaMatch().check([])
    VqaMatch().check([example("left"), example("no"), example("word " * 90)])
    with pytest.raises(DataError, match="judges short answers"):
        VqaMatch().check([example("The heart is enlarged. " * 20)] * 3)


class Synonyms(Engine):
    """Says yes where the proposed answer ends in the last word of the correct one, and is unsure about kidneys."""

    name: ClassVar[str] = "synonyms"
    summary: ClassVar[str] = "compares last words"
    provides: ClassVar[frozenset[str]] = frozenset()

    model: str = "synonyms"
    log: Path

    def identity(self) -> dict[str, str]:
        return {"engine": self.name}

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        replies = []
        for job in jobs:
            lines = job.prompt.messages[0].text.split("\n")
            correct, proposed = (line.split(": ")[1].split() for line in lines[1:3])
            same = correct[-1] == proposed[-1]
            replies.append("I cannot say." if "kidney" in proposed else "Yes, it does." if same else "No")
            with open(self.log, "a") as log:
                log.write(" ".join(proposed) + "\n")
        return [Generation(text, (1,), None, "stop") for text in replies]


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Model]:
    with RolloutStore(tmp_path / "rollouts") as store:
        yield Model(Synonyms(log=tmp_path / "asked.txt"), store, Reporter(quiet=True))


def test_the_judge_is_asked_about_open_answers_that_differ(judge: Model, tmp_path: Path) -> None:
    scorer = VqaMatch(open="judge", judge_model="some/judge")
    assert scorer.judge() == ("transformers", {"model": "some/judge"})
    answers = ["the left lung", "left upper lung", "heart", "kidney", "", "yes"]
    pairs = [(example("left lung", "open"), Claim(text, (0, len(text)))) for text in answers]
    pairs.append((example("no", "closed"), Claim("there is no lung", (0, 16))))
    for _ in range(2):
        scores = scorer.score(pairs, "answer", judge)
        assert [score.value for score in scores] == [1, 1, 0, None, 0, 0, None]
        assert scores[3].reason == "the judge said neither yes nor no"
    # The second time every verdict was in the store.
    assert sorted((tmp_path / "asked.txt").read_text().splitlines()) == ["heart", "kidney", "left upper lung", "yes"]


def test_the_judge_must_be_named_and_wanted() -> None:
    assert VqaMatch().judge() is None
    for options in ({"open": "judge"}, {"judge_model": "some/judge"}, {"open": "f1", "judge_model": "some/judge"}):
        with pytest.raises(ConfigError, match="go together"):
            validated(VqaMatch, "vqa_match", options)
    with pytest.raises(TypeError, match="judge model"):
        VqaMatch(open="judge", judge_model="some/judge").score([], "answer")


def test_the_table_in_the_documents() -> None:
    text = (Path(__file__).parents[1] / "docs" / "scorers.md").read_text(encoding="utf-8")
    lines = text.split("<!-- The tests run this table. -->")[1].split("\n\n")[1].splitlines()[2:]
    assert len(lines) > 20
    for line in lines:
        question, reference, answer, said = (cell.strip() for cell in line.strip("|").split("|"))
        closed = reference in ("yes", "no", "left")
        asked = Example("1", "i", "test", (), question, reference, {"answer_type": "closed" if closed else "open"})
        (score,) = VqaMatch().score([(asked, Claim(answer, (0, len(answer))))], "answer")
        assert score.reason.endswith(said) if score.value is None else score.value == float(said), line
