"""The pipeline believes no plugin: what breaks the contract is named, and costs no more than it must."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from test_run import TOY, Toy

from conrad_bench import ResponseMethod, pipeline
from conrad_bench.config import load_config
from conrad_bench.contracts import Attributes, place
from conrad_bench.errors import DataError, PluginError
from conrad_bench.progress import Reporter
from conrad_bench.records import read_records
from conrad_bench.registry import Registry

HEAD = """
import math
from dataclasses import replace
from pathlib import Path

import conrad_bench
from conrad_bench import Claim, Estimate, Example, Loaded, Method, Response, Sampling, Score, Scorer, Task
from conrad_bench.types import LOGPROBS, SAMPLING, TRAINING


def estimates(task, examples, model):
    asked = model.generate([task.prompt(e, "confidence") for e in examples])
    return [Estimate(e.id, r, tuple(task.claims(r, "confidence"))) for e, r in zip(examples, asked)]


def with_confidence(estimate, value):
    return replace(estimate, claims=(replace(estimate.claims[0], confidence=value, status="ok"),))
"""

METHOD = """
@conrad_bench.register_method
class Broken(Method):
    name = "broken"
    summary = "breaks its contract"
    {needs}

    def estimate(self, task, examples, model, judge, artifact):
        found = lambda: estimates(task, examples, model)
        {body}
"""

BROKEN = {
    "too few": ("return found()[1:]", r"returned 7 estimates for 8 examples"),
    "too many": ("return [*found(), found()[0]]", "returned 9 estimates for 8"),
    "none": ("pass", "returned a NoneType, not a list"),
    "generator": ("return (e for e in found())", "returned a generator, not a list"),
    "order": ("return found()[::-1]", "in another order than the examples: number 0 is of 'q"),
    "other class": ("return [1.0 for e in examples]", "returned a float for example 'q00', no Estimate"),
    "no response": (
        "return [replace(e, response=None) for e in found()]",
        r"failed on 8 of 8 examples, first on 'q00': broken.py, line \d+: the response is a NoneType",
    ),
    "percent": (
        "return [with_confidence(e, 80) for e in found()]",
        r"failed on 8 of 8 examples, first on 'q00': broken.py, line \d+: claims\[0\]: confidence 80.0 is not in",
    ),
    "negative": (
        "return [with_confidence(e, -0.1) for e in found()]",
        "confidence -0.1 is not",
    ),
    "nan": ("return [with_confidence(e, math.nan) for e in found()]", "confidence nan is not"),
    "text": (
        "return [with_confidence(e, '0.8') for e in found()]",
        "confidence is a str, no number",
    ),
    "bool": ("return [with_confidence(e, True) for e in found()]", "confidence is a bool"),
    "status": (
        "return [replace(e, claims=(replace(e.claims[0], status='fine'),)) for e in found()]",
        "status 'fine' is none of ok",
    ),
    "no claim": ("return [replace(e, claims=()) for e in found()]", "one claim or more"),
    "two claims": (
        "return [replace(e, claims=e.claims * 2) for e in found()]",
        "2 claims; each answer is one claim",
    ),
    "span": (
        "return [replace(e, claims=(replace(e.claims[0], span=(0, 10**6)),)) for e in found()]",
        r"span \(0, 1000000\) does not lie in a response of \d+ characters",
    ),
    "distribution": (
        "return [replace(e, claims=(replace(e.claims[0], distribution=(1.0,)),)) for e in found()]",
        "distribution must be eleven probabilities",
    ),
    "changes an example": (
        "examples[0].attributes['length'] = 0.0; return found()",
        r"unexpected TypeError \(broken.py, line \d+\)",
    ),
    "log-probabilities": (
        "model.score([task.prompt(e) for e in examples], ['yes']); return found()",
        "method 'broken' scores continuations, and 'logprobs' is not among its needs",
    ),
    "samples": (
        "model.sample([task.prompt(e) for e in examples], 2, Sampling(1.0)); return found()",
        "samples responses, and 'sampling' is not among its needs",
    ),
    "hidden states": (
        "model.hidden([task.prompt(e) for e in examples], [e.response for e in found()], 0, 'last')",
        "reads hidden states, and 'hidden_states' is not among its needs",
    ),
    "trains": (
        "model.train(print, {}, {}); return found()",
        "trains the model, and 'training'",
    ),
    "ends the program": ("raise SystemExit(0)", "broken tried to end the program"),
    "fails on all": ("raise KeyError('text of a patient')", r"unexpected KeyError \(broken.py, line \d+\)"),
}


def run(toy: Toy, tmp_path: Path, code: str, methods: str = "stated,broken", **more: Any) -> dict[str, Any]:
    """Run the toy task with a plugin file of this code beside the toy's."""
    plugin = tmp_path / "broken.py"
    plugin.write_text(HEAD + code)
    registry = Registry([TOY, plugin])
    given = {
        "methods": methods.split(","),
        "tasks": ["toy"],
        "engine": "echo",
        "data_roots": {"toy": toy.root},
        "model": "echo",
        **more,
        "options": {"bootstrap": {"replicates": 20}, **more.get("options", {})},
    }
    return pipeline.run(load_config(None, given, registry), toy.out, registry, Reporter())


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


@pytest.mark.parametrize("case", BROKEN)
def test_a_method_that_breaks_its_contract_fails_alone_and_has_its_log(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    body, message = BROKEN[case]
    with pytest.raises((Exception, SystemExit)):
        run(toy, tmp_path, METHOD.format(needs="", body=body))
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert "failed: 1 of 2" in said
    assert str(toy.out / "leaderboard.html") in said
    assert "text of a patient" not in said
    assert (toy.out / "logs" / "broken@toy.log").read_text()
    board = json.loads((toy.out / "leaderboard.json").read_text())
    assert [row["method"] for row in board["rows"]] == ["stated"]


def test_references_are_blank_and_log_probabilities_undeclared(toy: Toy, tmp_path: Path) -> None:
    body = """
        assert all(e.reference == "" for e in examples)
        found = estimates(task, examples, model)
        assert all(e.response.logprobs is None for e in found)
        return found
    """
    run(toy, tmp_path, METHOD.format(needs="", body=body.strip()))


def test_an_example_that_fails_costs_that_example(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = """
        if any(e.id == "q03" for e in examples):
            raise KeyError("text of a patient")
        return estimates(task, examples, model)
    """
    board = run(toy, tmp_path, METHOD.format(needs="", body=body.strip()))
    said = capsys.readouterr().err
    assert "broken on toy failed on 1 of 8 examples, first on q03: unexpected KeyError (broken.py, line" in said
    assert "text of a patient" not in said
    frame = read_records(toy.out / "records" / "broken@toy.parquet")
    failed = frame[frame["status"] == "method_failed"]
    assert failed["example"].tolist() == ["q03"]
    assert failed["correctness"].isna().all()
    stated = read_records(toy.out / "records" / "stated@toy.parquet")
    others = [each[each["example"] != "q03"]["confidence"].reset_index(drop=True) for each in (frame, stated)]
    assert others[0].equals(others[1])
    (row,) = [row for row in board["rows"] if row["method"] == "broken"]
    assert row["unparsed"]["method_failed"] == 1


def test_a_wrong_value_costs_its_example(toy: Toy, tmp_path: Path) -> None:
    body = """
        found = estimates(task, examples, model)
        return [with_confidence(found[0], 1.5), *found[1:]]
    """
    board = run(toy, tmp_path, METHOD.format(needs="", body=body.strip()))
    (row,) = [row for row in board["rows"] if row["method"] == "broken"]
    assert row["unparsed"]["method_failed"] == 1
    assert "confidence 1.5 is not in [0, 1]" in (toy.out / "logs" / "broken@toy.log").read_text()


FIT = """
@conrad_bench.register_method
class Broken(Method):
    name = "broken"
    summary = "breaks its contract in its fit"
    needs = frozenset({{TRAINING}})

    def fit(self, task, train, validation, model, judge, out):
        {body}

    def estimate(self, task, examples, model, judge, artifact):
        return estimates(task, examples, model)
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", "fit left nothing in its folder"),
        (
            "(out / 'a.json').write_text('{}'); (out.parents[1] / 'config.yaml').write_text('methods: []')",
            r"fit wrote outside its folder \(config.yaml\)",
        ),
        (
            "(out / 'a.json').write_text('{}'); (out.parents[1] / 'notes.txt').write_text('mine')",
            r"fit wrote outside its folder \(notes.txt\)",
        ),
        (
            "(out / 'a.json').write_text('{}'); "
            "next(out.parents[1].glob('artifacts/mean@toy/mean.json')).write_text('0.0')",
            r"fit wrote outside its folder \(artifacts/mean@toy/mean.json\)",
        ),
    ],
)
def test_a_fit_stays_in_its_folder(toy: Toy, tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        run(toy, tmp_path, FIT.format(body=body), "mean,broken")


SCORER = """
@conrad_bench.register_scorer
class Broken(Scorer):
    name = "broken_match"
    summary = "breaks its contract"
    label = "match"

    def score(self, pairs, granularity, model=None):
        {body}
"""


def test_who_starts_the_same_run_meanwhile_does_no_harm(toy: Toy, tmp_path: Path) -> None:
    body = "(out / 'a.json').write_text('{}'); (out.parents[1] / 'digests.json').write_text('{\"of another\": []}')"
    run(toy, tmp_path, FIT.format(body=body), "broken")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [Score(1.0) for _ in pairs] + [Score(0.0)]", "answered with 9 scores for 8 claims"),
        ("return []", "answered with 0 scores for 8 claims"),
        ("return {}", "answered with a dict for 8 claims"),
        ("return [1.0 for _ in pairs]", "example 'q00': is no Score"),
        ("return [Score(1.7) for _ in pairs]", r"example 'q00': correctness 1.7 is not in \[0, 1\]"),
        ("return [Score(float('nan')) for _ in pairs]", r"correctness nan is not in \[0, 1\]"),
        ("return [Score('1') for _ in pairs]", "correctness is a str, no number"),
    ],
)
def test_a_scorer_answers_one_score_a_claim(toy: Toy, tmp_path: Path, body: str, message: str) -> None:
    options = {"options": {"toy": {"scorer": "broken_match"}}}
    with pytest.raises(PluginError, match=r"scorer 'broken_match' \(broken.py, line \d+\).*" + message):
        run(toy, tmp_path, SCORER.format(body=body), "stated", **options)


TASK = """
@conrad_bench.register_task
class Broken(Task):
    name = "broken_task"
    summary = "breaks its contract"
    granularity = "answer"
    root_variable = "BROKEN_ROOT"
    scorer: str = "toy_match"

    def load(self, root):
        good = Example("a", "p", "test", (), "yes", "yes")
        return Loaded(examples=[{example}])

    def prompt(self, example, elicit=None):
        return conrad_bench.Prompt((conrad_bench.Message("user", example.context),), elicit=elicit)

    def claims(self, response, elicit=None):
        return [Claim(response.text, (0, len(response.text)))]
"""


@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        ("replace(good, split='val')", PluginError, "split is 'val'; a split is one of train, validate, test"),
        ("replace(good, id=3)", PluginError, "id is a int, no text"),
        ("replace(good, cluster='')", PluginError, "id and cluster must not be empty"),
        ("replace(good, reference=None)", PluginError, "example 'a': reference is a NoneType, no text"),
        ("replace(good, images='a.png')", PluginError, "images must be a tuple"),
        ("replace(good, attributes={'view': ['PA']})", PluginError, "attribute 'view' is a list"),
        ("good, good", DataError, "1 ids belong to more than one example, for example 'a'"),
        ("good, replace(good, id='b', split='train')", DataError, "1 patients .* more than one split"),
    ],
)
def test_a_task_gives_examples_as_they_should_be(
    toy: Toy, tmp_path: Path, example: str, error: type[Exception], message: str
) -> None:
    more = {"tasks": ["broken_task"], "data_roots": {"broken_task": toy.root}}
    with pytest.raises(error, match=message):
        run(toy, tmp_path, TASK.format(example=example), "stated", **more)


def test_attributes_are_read_only_and_can_be_pickled() -> None:
    attributes = Attributes({"sex": "F"})
    assert pickle.loads(pickle.dumps(attributes)) == attributes == {"sex": "F"}
    for change in (
        lambda: attributes.__setitem__("sex", "M"),
        lambda: attributes.update(sex="M"),
        lambda: attributes.pop("sex"),
        attributes.clear,
    ):
        with pytest.raises(TypeError, match="examples cannot be changed"):
            change()


def test_a_metric_stays_in_its_range(toy: Toy, tmp_path: Path) -> None:
    metric = """
from conrad_bench.leaderboards.metrics.base import Metric, mean_of


@conrad_bench.register_metric
class Percent(Metric):
    name, summary, label, better, range, source = "percent", "right ones", "right", "higher", (0.0, 1.0), "ours"
    confidence = False

    def statistic(self, sample):
        return mean_of(sample, 100 * sample.correctness)
"""
    with pytest.raises(PluginError, match=r"metric 'percent' is \d+.* for stated on toy, outside its range \[0, 1\]"):
        run(toy, tmp_path, metric, "stated")


def test_a_place_is_a_line_of_the_plugins_own_file() -> None:
    class Own(ResponseMethod):
        def confidence(self, response: Any, claims: Any) -> float:
            return 1.0

    assert re.fullmatch(r"test_contracts\.py, line \d+", place(Own, "confidence"))
    assert place(Own, "estimate") == "test_contracts.py"  # inherited
