"""CRIMSON: answers give what the published arithmetic gives, and what cannot be read is no score."""

from __future__ import annotations

import copy
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conrad_bench.engines.base import Engine, Generation, Job
from conrad_bench.errors import MissingExtra, PlanError
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.tasks.scorers.crimson import CRIMSON_MODEL, SEVERITY, SIGNIFICANCE, Crimson, crimson_prompt
from conrad_bench.tasks.scorers.crimson import parse_crimson as parse
from conrad_bench.testing.others import ScorerChecks
from conrad_bench.types import Claim, Example, Sampling, Score


def answer(
    reference: Sequence[str] = (),
    predicted: Sequence[str] = (),
    matched: Sequence[tuple[int, int]] = (),
    wrong: Sequence[tuple[int, str]] = (),
) -> dict[str, Any]:
    """An answer by the significance of each finding, the pairs that match, and wrong attributes of the reference's."""
    refs, preds = {i for i, _ in matched}, {j for _, j in matched}
    return {
        "reference_findings": [
            {"id": f"R{i}", "finding": "x", "clinical_significance": s} for i, s in enumerate(reference)
        ],
        "predicted_findings": [
            {"id": f"P{i}", "finding": "x", "clinical_significance": s} for i, s in enumerate(predicted)
        ],
        "matched_findings": [{"ref_id": f"R{i}", "pred_id": f"P{j}"} for i, j in matched],
        "errors": {
            "false_findings": [f"P{j}" for j in range(len(predicted)) if j not in preds],
            "missing_findings": [f"R{i}" for i in range(len(reference)) if i not in refs],
            "attribute_errors": [
                {"ref_id": f"R{i}", "pred_id": "P0", "severity": s, "error_types": ["location"], "explanation": "{"}
                for i, s in wrong
            ],
        },
    }


@st.composite
def well_formed(draw: st.DrawFn) -> dict[str, Any]:
    reference, predicted = (draw(st.lists(st.sampled_from(list(SIGNIFICANCE)), max_size=5)) for _ in range(2))
    pairs = [(i, j) for i in range(len(reference)) for j in range(len(predicted))]
    matched = draw(st.lists(st.sampled_from(pairs), max_size=5)) if pairs else []
    known = [i for i, _ in matched]
    wrong = (
        draw(st.lists(st.tuples(st.sampled_from(known), st.sampled_from(list(SEVERITY))), max_size=4)) if known else []
    )
    return answer(reference, predicted, matched, wrong)


@given(well_formed())
def test_a_well_formed_answer_gives_the_published_value(said: dict[str, Any]) -> None:
    found = parse(json.dumps(said))
    assert not isinstance(found, str)
    weights = [SIGNIFICANCE[each["clinical_significance"]] for each in said["reference_findings"]]
    false = [int(p[1:]) for p in said["errors"]["false_findings"]]
    penalty = sum(SIGNIFICANCE[said["predicted_findings"][j]["clinical_significance"]] for j in false)
    correct = 0.0
    for ref in {int(pair["ref_id"][1:]) for pair in said["matched_findings"]}:
        lost = sum(SEVERITY[e["severity"]] for e in said["errors"]["attribute_errors"] if e["ref_id"] == f"R{ref}")
        correct += weights[ref] * (weights[ref] / (weights[ref] + lost) if weights[ref] else 0)
    if sum(weights):
        value = (correct - penalty) / sum(weights)
        expected = value if value >= 0 else -(penalty - correct) / (1 + penalty - correct)
    else:
        expected = 1.0 if penalty == 0 else -penalty / (1 + penalty)
    assert found.score == pytest.approx(expected)
    assert -1 < found.score <= 1


@pytest.fixture(scope="module")
def radeval_crimson() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn
        module = pytest.importorskip("radeval.metrics.crimson.crimson", reason="radeval is not installed")
    return module.CRIMSONScore.__new__(module.CRIMSONScore)


@given(said=well_formed())
def test_a_well_formed_answer_gives_what_radeval_gives(radeval_crimson: Any, said: dict[str, Any]) -> None:
    found = parse(json.dumps(said))
    assert not isinstance(found, str)
    assert found.score == pytest.approx(radeval_crimson._calculate_crimson(said)["crimson_score"], abs=6e-5)


def test_the_pairs_of_radevals_own_tests() -> None:
    """A finding and itself; a pneumothorax missed, and an urgent finding that is not there."""
    same = answer(["actionable_not_urgent"], ["actionable_not_urgent"], [(0, 0)])
    other = answer(["actionable_not_urgent"], ["urgent"])
    assert [parse(json.dumps(said)).score for said in (same, other)] == [1.0, -0.5]  # type: ignore[union-attr]


GOOD = answer(["urgent", "benign_expected"], ["urgent", "actionable_not_urgent"], [(0, 0)], [(0, "significant")])
"""Credit 1 / 1.5, less 0.5 for the false finding."""


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text,
        lambda text: f"```json\n{text}\n```",
        lambda text: f"Here is the evaluation:\n{text}\nThat is all.",
        lambda text: f"<think>{text}</think>{text}",
        lambda text: f"<unused94>thought\nR1 {{<unused95>{text}",
        lambda text: re.sub(r"([\]}])", r",\1", text.replace("[]", "[ ]")).replace("[ ,]", "[]").replace("{,", "{"),
    ],
    ids=["plain", "fenced", "announced", "thoughts", "medgemma", "commas"],
)
def test_what_a_human_reads_at_once_is_read(form: Callable[[str], str]) -> None:
    found = parse(form(json.dumps(GOOD, indent=1)))
    assert not isinstance(found, str), found
    assert found.score == pytest.approx(1 / 1.5 - 0.5)


def test_a_comma_in_a_text_is_no_comma_of_the_json() -> None:
    said = copy.deepcopy(GOOD)
    said["reference_findings"][0]["finding"] = 'so-called "mass",] in ,} brackets'
    assert parse(json.dumps(said)) == parse(json.dumps(GOOD))


def change(path: str, value: Any) -> str:
    """Return the good answer with another value at a path such as "errors.false_findings"; ... drops it."""
    said: Any = copy.deepcopy(GOOD)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    at = said
    for part in parents:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return json.dumps(said)


REFUSED = {
    "nothing": ("", "no JSON object"),
    "words": ("The reports agree.", "no JSON object"),
    "a list": ("[]", "no JSON object"),
    "cut off": (json.dumps(GOOD)[:-20], "no whole JSON object"),
    "two objects": (json.dumps(GOOD) + json.dumps(GOOD), "two JSON objects"),
    "a key twice": ('{"errors": {}, "errors": {}}', "key twice"),
    "too deep": ('{"a":' + "[" * 100_000, "JSON"),
    "no errors": (change("errors", ...), "no list false_findings"),
    "no list of matches": (change("matched_findings", ...), "no list matched_findings"),
    "errors of another kind": (change("errors.attribute_errors", ["R0"]), "attribute_errors are not as"),
    "false findings of another kind": (change("errors.false_findings", [{"id": "P1"}]), "false_findings are not as"),
    "an unknown significance": (change("reference_findings.0.clinical_significance", "severe"), "a significance among"),
    "no significance": (change("predicted_findings.0.clinical_significance", ...), "a significance among"),
    "a significance that is a list": (change("predicted_findings.0.clinical_significance", []), "a significance among"),
    "an unknown severity": (change("errors.attribute_errors.0.severity", "mild"), "severity is none of"),
    "no id": (change("reference_findings.1.id", ...), "without an id"),
    "one id twice": (change("reference_findings.1.id", "R0"), "two with the same"),
    "a match of nothing": (change("matched_findings.0.pred_id", "P7"), "a match is of a finding that is not listed"),
    "a match of one": (change("matched_findings.0", {"ref_id": "R0"}), "a match is of a finding that is not listed"),
    "an error of nothing": (change("errors.missing_findings", ["R7"]), "an error is of a finding that is not listed"),
    "matched and false": (change("errors.false_findings", ["P0", "P1"]), "both matched and false"),
    "false twice": (change("errors.false_findings", ["P1", "P1"]), "false twice"),
    "forgotten": (change("errors.false_findings", []), "neither matched nor false"),
    "matched and missing": (change("errors.missing_findings", ["R0"]), "both matched and missing"),
    "wrong and not matched": (change("errors.attribute_errors.0.ref_id", "R1"), "not matched"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_an_answer_that_cannot_be_read_is_refused_with_the_reason(text: str, reason: str) -> None:
    found = parse(text)
    assert isinstance(found, str)
    assert reason in found
    assert "x" not in found.split()


def test_a_finding_that_is_in_no_list_is_missing() -> None:
    assert parse(change("errors.missing_findings", [])) == parse(json.dumps(GOOD))


@settings(max_examples=30)
@given(st.text() | st.recursive(st.none() | st.text(max_size=3), lambda x: st.lists(x, max_size=3)).map(
    lambda value: json.dumps({**GOOD, "matched_findings": value})
))  # fmt: skip
def test_any_text_is_read_or_refused(text: str) -> None:
    found = parse(text)
    assert isinstance(found, str) or -1 < found.score <= 1


@pytest.fixture
def prompt_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with radeval's layout whose import fails: the prompt's file must be read without it."""
    folder = tmp_path / "site" / "radeval" / "metrics" / "crimson"
    folder.mkdir(parents=True)
    (tmp_path / "site" / "radeval" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "prompt_parts.py").write_text(
        "def build_prompt(r, p, include_significance_examples=True, include_attribute_guidelines=True):\n"
        "    return f'{include_significance_examples}|{include_attribute_guidelines}|{r}|{p}'\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.delitem(sys.modules, "radeval", raising=False)
    crimson_prompt.cache_clear()
    yield
    crimson_prompt.cache_clear()


class Sentences(Engine):
    """Takes each sentence for an urgent finding, and matches those that are the same; says nothing of "odd"."""

    name: ClassVar[str] = "sentences"
    summary: ClassVar[str] = "answers by rule"
    provides: ClassVar[frozenset[str]] = frozenset()

    def identity(self) -> dict[str, str]:
        return {"engine": self.name}

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        assert sampling == Sampling(max_tokens=8192)
        return [Generation(self._answer(job.prompt.messages[0].text), (1,), None, "stop") for job in jobs]

    def _answer(self, prompt: str) -> str:
        reference, claim = (re.findall(r"[^.]*[^.\s][^.]*", text) for text in prompt.split("|", 3)[2:])
        pairs = [(i, j) for i, one in enumerate(reference) for j, other in enumerate(claim) if one == other]
        return (
            "{" if "odd" in prompt else json.dumps(answer(["urgent"] * len(reference), ["urgent"] * len(claim), pairs))
        )


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    with RolloutStore(tmp_path / "rollouts") as store:
        yield Model(Sentences(model="-"), store, Reporter())


def pair(claim: str, reference: str = "Mass. Edema.") -> tuple[Example, Claim]:
    return Example("e", "p", "test", (), "", reference), Claim(claim, (0, len(claim)))


@pytest.mark.usefixtures("prompt_file")
def test_reports_are_scored_and_a_negative_value_is_0(model: Model) -> None:
    pairs = [pair("Mass. Edema."), pair("Edema"), pair("Mass. Cyst."), pair("Cyst. Node."), pair(" "), pair("odd")]
    found = Crimson().score(pairs, "report", model)
    # "Edema" lacks the stop, and the blank before it; "Mass" is the same.
    assert [score.value for score in found] == [1.0, 0.0, 0.0, 0.0, 0.0, None]
    assert found[-1] == Score(None, "the answer is no whole JSON object")
    assert Crimson().score([pair("Mass.")], "report", model) == [Score(0.5)]
    with pytest.raises(PlanError, match="'crimson' judges at report level"):
        Crimson().score(pairs, "sentence", model)


@pytest.mark.usefixtures("prompt_file")
@pytest.mark.parametrize("name", [name for name in dir(ScorerChecks) if name.startswith("check_")])
def test_it_keeps_the_promises_of_a_scorer(model: Model, name: str) -> None:
    getattr(ScorerChecks(Crimson(), "report", model), name)()


@pytest.mark.usefixtures("prompt_file")
def test_the_authors_judge_is_asked_as_it_was_trained() -> None:
    assert Crimson().judge() == ("transformers", {"model": CRIMSON_MODEL})
    assert Crimson().ask("a", "b").endswith("radiology reports.\n\nFalse|False|a|b")
    other = Crimson.model_validate({"model": "judge", "engine": "openai", "base_url": "http://127.0.0.1"})
    assert other.judge() == ("openai", {"model": "judge", "base_url": "http://127.0.0.1"})
    assert other.ask("a", "b").endswith("True|True|a|b")
    assert Crimson(guidelines=True).ask("a", "b").endswith("True|True|a|b")
    Crimson().check([])


def test_without_radeval_the_pip_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "radeval").mkdir()
    (tmp_path / "radeval" / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "radeval", raising=False)
    crimson_prompt.cache_clear()
    with pytest.raises(MissingExtra, match=r"'crimson' takes its prompt .* pip install \"conrad-bench\[green\]\""):
        Crimson().check([])


def test_the_real_prompt_has_both_reports() -> None:
    pytest.importorskip("radeval", reason="radeval is not installed")
    crimson_prompt.cache_clear()
    short, long = Crimson().ask("reference one", "candidate two"), Crimson(model="x").ask("reference one", "two")
    assert short.index("reference one") < short.index("candidate two") < short.index("matched_findings")
    assert len(long) > len(short) + 3000
