"""RadFact: prompts from a clone, answers of both steps, and scores that are the shares of entailed phrases."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench.engines.base import Engine, Generation, Job
from conrad_bench.errors import DataError, MissingExtra, PlanError
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.tasks.scorers.radfact import JSON_FORM, RadFact, parse_entailment, parse_phrases, prompts, query
from conrad_bench.testing.others import ScorerChecks
from conrad_bench.types import Claim, Example, Sampling, Score

DATA = Path(os.environ.get("CONRAD_BENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
EXAMPLES = DATA / "radfact" / "examples"

SPLIT = [
    {
        "findings_text": "Large heart, clear lungs. Advise CT.",
        "parsed_report": {
            "id": "few_shot1",
            "sentence_list": [
                {"orig": "Large heart, clear lungs.", "new": ["Large heart.", "Clear lungs."]},
                {"orig": "Advise CT.", "new": [""]},
            ],
        },
    }
]
ENTAIL = [
    {
        "input": {"phrases_A": ["Large heart."], "phrases_B": ["Cardiomegaly.", "Small heart."]},
        "output": {
            "phrases_A_evidenced": [
                {"phrase": "Large heart.", "status": "entailment", "evidence": ["Cardiomegaly."]},
            ],
            "phrases_B_evidenced": [
                {"phrase": "Cardiomegaly.", "status": "entailment", "evidence": ["Large heart."]},
                {"phrase": "Small heart.", "status": "contradiction", "evidence": ["Large heart."]},
            ],
        },
    }
]


@pytest.fixture(params=["cxr/", ""], ids=["newer layout", "older layout"])
def clone(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that is laid out like a clone of microsoft/RadFact, with examples of ours."""
    made = tmp_path / "RadFact"
    for step, message, examples in (
        ("report_to_phrases", "system_message.txt", SPLIT),
        ("nli", "system_message_ev_singlephrase.txt", ENTAIL),
    ):
        folder = made / "src" / "radfact" / "llm_utils" / step / "prompts" / request.param
        folder.mkdir(parents=True)
        (folder / message).write_text(f"You do {step}.\n")
        (folder / "few_shot_examples.json").write_text(json.dumps(examples))
    yield made
    prompts.cache_clear()


def test_prompts_are_the_clones_messages_and_examples(clone: Path) -> None:
    made = prompts(str(clone))
    split = made.split("Edema.").messages
    assert [message.role for message in split] == ["user", "assistant", "user"]
    assert (
        split[0].text == f"You do report_to_phrases.\n{JSON_FORM}".strip() + "\n\nLarge heart, clear lungs. Advise CT."
    )
    assert parse_phrases(split[1].text) == ["Large heart.", "Clear lungs."]
    assert split[2].text == "Edema."
    entail = made.entail(["Edema."], "No edema.").messages
    assert len(entail) == 7
    assert entail[0].text == "You do nli.\n\nreference:\n- Cardiomegaly.\n- Small heart.\nhypothesis: Large heart.\n"
    assert entail[1].text == "phrase: Large heart.\nevidence:\n- Cardiomegaly.\nstatus: entailment\n"
    assert entail[5].text == "phrase: Small heart.\nevidence:\n- Large heart.\nstatus: not_entailment\n"
    assert [parse_entailment(entail[i].text) for i in (1, 3, 5)] == [True, True, False]
    assert entail[6].text == query(["Edema."], "No edema.") == "reference:\n- Edema.\nhypothesis: No edema.\n"


@pytest.mark.parametrize(
    ("answer", "phrases"),
    [
        ('{"sentence_list": []}', []),
        ('```json\n{"sentence_list": [{"orig": "a", "new": [" b ", ""]},]}\n```', ["b"]),
        ('<think>{"sentence_list": 1}</think>{"sentence_list": [{"new": ["b", "c"]}]}', ["b", "c"]),
        ("Heart. Lungs.", "no JSON object"),
        ('{"phrases": ["a"]}', "no list of sentences"),
        ('{"sentence_list": ["a"]}', "a sentence has no list of phrases"),
        ('{"sentence_list": [{"orig": "a"}]}', "a sentence has no list of phrases"),
        ('{"sentence_list": [{"orig": "a", "new": "b"}]}', "a sentence has no list of phrases"),
        ('{"sentence_list": [{"orig": "a", "new": [1]}]}', "a sentence has no list of phrases"),
        ('{"sentence_list": [', "no whole JSON object"),
    ],
)
def test_phrases_are_read_or_refused(answer: str, phrases: list[str] | str) -> None:
    found = parse_phrases(answer)
    assert phrases in found if isinstance(phrases, str) else found == phrases


@pytest.mark.parametrize(
    ("answer", "entailed"),
    [
        ("phrase: a\nevidence:\n- b\nstatus: entailment\n", True),
        ("```yaml\nphrase: a\nstatus: 'entailment'\nevidence:\n  - 'b: c'\n```", True),
        ('phrase: a\nevidence: ["b"]\nStatus: Entailment', True),
        ("phrase: a\nevidence: []\nstatus: not_entailment\n", False),
        ("phrase: a\nevidence:\n- b\nstatus: contradiction\n", False),
        ("status: neutral", False),
        ("<think>status: entailment</think>status: not_entailment", False),
        ("phrase: a\nevidence: []\nstatus: entailment\n", "without evidence"),
        ("phrase: a\nevidence:\nstatus: entailment\n", "without evidence"),
        ("phrase: a\nstatus: entailment\n", "without evidence"),
        ("status: entailment\nstatus: not_entailment", "several statuses"),
        ("status: entailed", "none of entailment"),
        ("The phrase is entailed.", "no status"),
        ("", "no status"),
    ],
)
def test_entailment_is_read_or_refused(answer: str, entailed: bool | str) -> None:
    found = parse_entailment(answer)
    if isinstance(entailed, str):
        assert entailed in str(found)
    else:
        assert found is entailed


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    assert isinstance(parse_phrases(text), list | str)
    assert isinstance(parse_entailment(text), bool | str)


class Rule(Engine):
    """Splits at stops and newlines; a phrase is entailed by itself, or by what `labels` says. "odd" gets no answer."""

    name: ClassVar[str] = "rule"
    summary: ClassVar[str] = "answers by rule"
    provides: ClassVar[frozenset[str]] = frozenset()
    labels: dict[str, bool] | None = None
    calls: ClassVar[list[int]] = []

    def identity(self) -> dict[str, str]:
        return {"engine": self.name}

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        assert sampling == Sampling(max_tokens=1024)
        self.calls.append(len(jobs))
        return [Generation(self._answer(job.prompt.messages[-1].text), (1,), None, "stop") for job in jobs]

    def _answer(self, question: str) -> str:
        if not question.startswith("reference:"):
            new = question.split("\n") if self.labels else [part for part in question.split(".") if "CT" not in part]
            return "{" if "mute" in question else json.dumps({"sentence_list": [{"orig": question, "new": new}]})
        asked = yaml.safe_load(question)
        phrase = asked["hypothesis"]
        entailed = self.labels[phrase] if self.labels else phrase in asked["reference"]
        if "odd" in phrase:
            return "perhaps"
        status = "entailment" if entailed else "not_entailment"
        return yaml.dump({"phrase": phrase, "evidence": asked["reference"][:entailed], "status": status})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RolloutStore]:
    with RolloutStore(tmp_path / "rollouts") as opened:
        yield opened


def pair(claim: str, reference: str) -> tuple[Example, Claim]:
    return Example("e", "p", "test", (), "", reference), Claim(claim, (0, len(claim)))


PAIRS = [
    pair("Cat. Dog. Bird. Rabbit.", "Cat. Dog. Bird. Shark."),
    pair("Cat.", "Cat.Dog.Bird.Shark"),
    pair("Fox.", "Cat."),
    pair("Advise CT.", "Cat."),
    pair("Cat.", "Advise CT."),
    pair("mute.", "Cat."),
    pair("Cat.odd.", "Cat."),
    pair(" ", "Cat."),
    pair("Cat.", ""),
]
UNREAD = [
    Score(None, "splitting into phrases: the answer is no whole JSON object"),
    Score(None, "entailment: the answer has no status"),
    Score(0.0),
    Score(None, "the reference is empty"),
]


@pytest.mark.parametrize("clone", [""], indirect=True)
def test_scores_are_shares_of_entailed_phrases(clone: Path, store: RolloutStore) -> None:
    model = Model(Rule(model="-"), store, Reporter())
    nothing = Score(None, "the reference has no phrase about a finding")

    def found(granularity: Any = "report", **options: Any) -> list[Score]:
        return RadFact(repository=str(clone), **options).score(PAIRS, granularity, model)

    assert found() == [Score(0.75), Score(pytest.approx(0.4)), Score(0.0), Score(0.0), nothing, *UNREAD]  # type: ignore[arg-type]
    assert found(measure="recall") == [
        *(Score(value) for value in (0.75, 0.25, 0.0, 0.0)), nothing, UNREAD[0], Score(1.0), *UNREAD[2:]
    ]  # fmt: skip
    precision = [
        Score(0.75), Score(1.0), Score(0.0), Score(None, "the claim has no phrase about a finding"), nothing, *UNREAD
    ]  # fmt: skip
    assert found(measure="precision") == precision == found("sentence")
    with pytest.raises(PlanError, match="measure=recall: a sentence does not state the whole report"):
        found("sentence", measure="recall")
    with pytest.raises(PlanError, match="'radfact' judges at report, sentence level"):
        found("answer")


@pytest.mark.parametrize("clone", [""], indirect=True)
def test_a_step_goes_to_the_judge_together_and_nothing_is_asked_twice(clone: Path, store: RolloutStore) -> None:
    Rule.calls.clear()
    scorer = RadFact(repository=str(clone))
    before = scorer.score(PAIRS[:3], "report", Model(Rule(model="-"), store, Reporter()))
    assert len(Rule.calls) == 2  # one batch a step: reports to split, then phrases
    assert scorer.score(PAIRS[:3], "report", Model(Rule(model="-"), store, Reporter())) == before
    assert len(Rule.calls) == 2


@pytest.mark.parametrize("clone", [""], indirect=True)
@pytest.mark.parametrize("granularity", ["report", "sentence"])
@pytest.mark.parametrize("name", [name for name in dir(ScorerChecks) if name.startswith("check_")])
def test_it_keeps_the_promises_of_a_scorer(clone: Path, store: RolloutStore, name: str, granularity: Any) -> None:
    model = Model(Rule(model="-"), store, Reporter())
    getattr(ScorerChecks(RadFact(repository=str(clone)), granularity, model), name)()


@pytest.mark.parametrize("clone", [""], indirect=True)
def test_the_published_labelled_phrases_give_their_own_shares(clone: Path, store: RolloutStore) -> None:
    """The labels of RadFact's own test examples stand in for a judge's answers."""
    if not EXAMPLES.is_dir():
        pytest.skip("RadFact's published examples are not here")
    examples = json.loads((EXAMPLES / "test_examples.json").read_text())
    for number, example in enumerate(examples):
        sides = [example["output"][f"phrases_{side}_evidenced"] for side in "AB"]
        labels = {each["phrase"]: each["status"] == "entailment" for side in sides for each in side}
        if len(labels) < sum(map(len, sides)):
            continue  # a phrase that both reports state, labelled on each side
        model = Model(Rule(model=str(number), labels=labels), store, Reporter())
        precision, recall = (sum(e["status"] == "entailment" for e in side) / len(side) for side in sides)
        expected = 2 * precision * recall / (precision + recall) if precision and recall else 0.0
        claim, reference = ("\n".join(example["input"][f"phrases_{side}"]) for side in "AB")
        (score,) = RadFact(repository=str(clone)).score([pair(claim, reference)], "report", model)
        assert score.value == pytest.approx(expected), example["example_id"]


@pytest.mark.parametrize("clone", [""], indirect=True)
def test_published_pairs_of_reports_are_scored(clone: Path, store: RolloutStore) -> None:
    if not EXAMPLES.is_dir():
        pytest.skip("RadFact's published examples are not here")
    with open(EXAMPLES / "findings_generation_examples.csv", newline="", encoding="utf-8") as file:
        pairs = [pair(row["prediction"], row["target"]) for row in csv.DictReader(file)]
    model = Model(Rule(model="-"), store, Reporter())
    scores = RadFact(repository=str(clone)).score(pairs, "report", model)
    assert all(score.value is not None and 0 <= score.value <= 1 for score in scores)
    same = [pair(example.reference, example.reference) for example, _ in pairs]
    assert RadFact(repository=str(clone)).score(same, "report", model) == [Score(1.0)] * len(pairs)


def test_where_the_prompts_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts.cache_clear()
    with pytest.raises(MissingExtra, match="git clone https"):
        RadFact().check([])
    with pytest.raises(DataError, match="there is no such file; radfact"):
        RadFact(repository=str(tmp_path)).check([])
    for step, message in (("report_to_phrases", "system_message"), ("nli", "system_message_ev_singlephrase")):
        folder = tmp_path / "radfact" / "llm_utils" / step / "prompts"
        folder.mkdir(parents=True)
        (folder / f"{message}.txt").write_text("You are.")
        (folder / "few_shot_examples.json").write_text("[]")
    (tmp_path / "radfact" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(DataError, match="its prompts cannot be read"):
        RadFact().check([])
    (tmp_path / "radfact" / "llm_utils" / "report_to_phrases" / "prompts" / "few_shot_examples.json").write_text(
        json.dumps(SPLIT)
    )
    (tmp_path / "radfact" / "llm_utils" / "nli" / "prompts" / "few_shot_examples.json").write_text(json.dumps(ENTAIL))
    RadFact().check([])  # the installed package, which is not imported
    prompts.cache_clear()
