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
from conrad_bench.tasks.scorers.vqa_match import VqaMatch, closed_match, polarity, token_f1, tokens
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
        ("Ring-enhancing lesion", "ring enhancing lesion"),
        ("3.4 cm", "3.4 cm"),
        ("3.4cm.", "3.4cm"),
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
        ("No.", "no"),
        ("No, no effusion", "no"),
        ("no abnormality", "no"),
        ("yes or no", None),
        ("Yes/No", None),
        ("no, yes", None),
        ("There is no effusion", None),
        ("not sure", None),
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
    ("answer", "reference", "matches"),
    [
        ("yes, there is", "Yes", True),
        ("No", "yes", False),
        ("the heart is enlarged", "yes", False),
        ("Left", "left", True),
        ("Left, the right side is clear.", "left", True),
        ("The left", "left", True),
        ("left side", "left", False),
        ("right or left", "left", False),
        ("One.", "1", True),
        ("Face; sinuses and neck", "face, sinuses, and neck", True),
        ("Face, sinuses, and neck.", "face, sinuses, and neck", True),
        ("3.5 cm", "3", False),
        ("有", "是的", True),
        ("Yes", "包含", True),
        ("左肺，不是右肺", "左肺", True),
        ("", "no", False),
        ("", "left", False),
    ],
)
def test_closed_questions(answer: str, reference: str, matches: bool) -> None:
    assert closed_match(answer, reference) is matches


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
    assert closed_match(text, text)
    assert said is None or closed_match(text, said)


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
    assert values(VqaMatch(), *pairs) == [1, 0, 1, 0, 1, 1, 1, 0]
    assert values(VqaMatch(open="f1"), *pairs) == [1, 0.5, 1, pytest.approx(4 / 7), 1, 1, 1, 0]


def test_alternatives() -> None:
    organs = example("skull and contents#spine and contents", "open")
    assert values(VqaMatch(), (organs, "Spine and contents."), (organs, "skull"), (organs, "")) == [1, 0, 0]
    assert values(VqaMatch(open="f1"), (organs, "spine")) == [0.5]


@given(st.lists(st.tuples(texts.filter(bool), texts), max_size=5), st.sampled_from(["exact", "f1"]))
def test_every_pair_has_a_value(pairs: list[tuple[str, str]], how: Any) -> None:
    given_values = values(VqaMatch(open=how), *((example(reference), text) for reference, text in pairs))
    assert len(given_values) == len(pairs)
    assert all(value is not None and 0 <= value <= 1 for value in given_values)


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
        assert [score.value for score in scores] == [1, 1, 0, None, 0, 0, 0]
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
