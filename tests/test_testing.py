"""The checks for authors: every built-in passes them, and a plugin that is broken in one way fails that check alone."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

from conrad_bench import (
    FITTING,
    TRAINING,
    Engine,
    Estimate,
    Method,
    Metric,
    Sampling,
    Score,
    Step,
)
from conrad_bench.cli import app
from conrad_bench.config import load_config
from conrad_bench.errors import PluginError
from conrad_bench.making import make_method
from conrad_bench.registry import Registry
from conrad_bench.testing import ToyEngine, ToyScorer, ToyTask, checks, parametrize_with_checks
from conrad_bench.testing.toys import ToySentences

REGISTRY = Registry()
SMALL: dict[str, dict[str, Any]] = {
    "probe": {"samples": 24, "sentence_samples": 24, "validation_samples": 8, "epochs": 2},
    "self_consistency": {"n": 3},
    "vase": {"n": 4, "distortions": 2},
    **{
        name: {"samples": 24, "sentence_samples": 24, "validation_samples": 8, "epochs": 2}
        for name in ("linear_probe", "saplma", "attention_probe", "confidence_probe")
    },
    **{name: {"samples": 24, "sentence_samples": 24} for name in ("mahalanobis", "relative_mahalanobis")},
}


def built_in(kind: Any) -> list[Any]:
    names = [name for name in REGISTRY.names(kind) if REGISTRY.origin(kind, name) == "built-in"]
    families = "radeval", "judges"
    return [REGISTRY.create(kind, name, SMALL.get(name, {})) for name in names if name not in families]


COMPOSED = [
    make_method(name, load_config(None, {"methods": [name], "tasks": ["vqa_rad"], "options": SMALL}), REGISTRY)
    for name in ("verbalized+platt", "verbalized+hac_platt:msp", "ensemble:msp,verbalized,p_true")
]
METHODS = [method for method in built_in("methods") if TRAINING not in method.needs] + COMPOSED
SCORERS = [each for each in built_in("scorers") if each.judge() is None]


def test_there_are_built_ins_to_check() -> None:
    assert {method.name for method in METHODS} >= {
        "verbalized",
        "p_true",
        "self_consistency",
        "sequence_probability",
        "probe",
    }
    assert {scorer.name for scorer in SCORERS} >= {"vqa_match", "phantom_green"}


@parametrize_with_checks(METHODS)
def test_methods(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks(SCORERS)
def test_scorers(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks([metric for metric in built_in("metrics") if metric.per == "claim"])
def test_metrics(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks([ToyEngine(model="toy"), ToyScorer()])
def test_the_toys(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks([ToyTask(), ToySentences()], Path())
def test_the_toy_tasks(check: Callable[[], None]) -> None:
    check()


class Good(Method):
    """The method that the broken ones are made from."""

    name = "good"
    summary = "the confidence in the text"
    granularities: ClassVar[Any] = frozenset({"answer"})

    def steps(self, task: Any, train: Any, validation: Any, test: Sequence[Any]) -> list[Step]:
        return [Step("generate", len(test), "answers")]

    def estimate(self, task: Any, examples: Any, model: Any, judge: Any, artifact: Any) -> list[Estimate]:
        responses = model.generate([task.prompt(e, "confidence") for e in examples], Sampling(max_tokens=100))
        claims = [tuple(task.claims(r, "confidence")) for r in responses]
        return [Estimate(e.id, r, c) for e, r, c in zip(examples, responses, claims, strict=True)]


def changed(estimates: list[Estimate], to: Callable[[int, float], float]) -> list[Estimate]:
    """Return estimates with other confidences."""
    return [
        replace(
            e, claims=tuple(c if c.confidence is None else replace(c, confidence=to(i, c.confidence)) for c in e.claims)
        )
        for i, e in enumerate(estimates)
    ]


class Unknown(Good):
    needs: ClassVar[Any] = frozenset({"magic"})


class ByPlace(Good):
    def estimate(self, *args: Any) -> list[Estimate]:
        return changed(super().estimate(*args), lambda i, _: i / 100)


class ByCompany(Good):
    def estimate(self, *args: Any) -> list[Estimate]:
        found = super().estimate(*args)
        return changed(found, lambda _i, c: c / (1 + len(found)))


class ByChance(Good):
    """Random within a run's process, the same in either order."""

    def estimate(self, task: Any, examples: Any, *args: Any) -> list[Estimate]:
        return changed(super().estimate(task, examples, *args), lambda _i, c: c * SHIFT[0])


SHIFT = [1.0]


class Percent(Good):
    def estimate(self, *args: Any) -> list[Estimate]:
        return changed(super().estimate(*args), lambda _i, c: 100.0)


class Greedy(Good):
    """Asks for what it did not declare."""

    def estimate(self, task: Any, examples: Any, model: Any, *args: Any) -> list[Estimate]:
        model.score([task.prompt(e) for e in examples], ["yes"])
        return super().estimate(task, examples, model, *args)


class Fragile(Good):
    """Stumbles over an empty response."""

    def estimate(self, *args: Any) -> list[Estimate]:
        found = super().estimate(*args)
        assert all(e.response.text.split()[0] for e in found)
        return found


class Unplanned(Good):
    def steps(self, task: Any, train: Any, validation: Any, test: Sequence[Any]) -> list[Step]:
        return []


class Unpicklable(Good):
    held: Any = None


class Untidy(Good):
    """Writes beside its folder."""

    needs: ClassVar[Any] = frozenset({FITTING})

    def fit(self, task: Any, train: Any, validation: Any, model: Any, judge: Any, out: Path) -> None:
        (out / "learned.json").write_text("{}")
        Path("notes.txt").write_text("mine")


class Empty(Untidy):
    def fit(self, task: Any, train: Any, validation: Any, model: Any, judge: Any, out: Path) -> None:
        pass


class Unseeded(Good):
    """Draws its samples with a seed of its own, whatever the run's."""

    name = "unseeded"
    needs: ClassVar[Any] = frozenset({"sampling"})

    def steps(self, task: Any, train: Any, validation: Any, test: Sequence[Any]) -> list[Step]:
        return [*super().steps(task, train, validation, test), Step("generate", 2 * len(test), "samples")]

    def estimate(self, task: Any, examples: Any, model: Any, judge: Any, artifact: Any) -> list[Estimate]:
        model.sample([task.prompt(e) for e in examples], 2, Sampling(1.0, max_tokens=100))
        return super().estimate(task, examples, model, judge, artifact)


class Forgetful(Good):
    """Does not say how sure it is."""

    name = "forgetful"

    def estimate(self, task: Any, examples: Any, model: Any, judge: Any, artifact: Any) -> list[Estimate]:
        found = super().estimate(task, examples, model, judge, artifact)
        return [replace(e, claims=tuple(replace(c, confidence=None, status="ok") for c in e.claims)) for e in found]


class Twice(Good):
    """Gives every sentence twice."""

    name = "twice"
    granularities: ClassVar[Any] = frozenset({"sentence"})

    def estimate(self, task: Any, examples: Any, model: Any, judge: Any, artifact: Any) -> list[Estimate]:
        responses = model.generate([task.prompt(e) for e in examples], Sampling(max_tokens=100))
        claims = [tuple(replace(c, confidence=0.5) for c in task.claims(r)) for r in responses]
        return [Estimate(e.id, r, c + c) for e, r, c in zip(examples, responses, claims, strict=True)]


class Marking(Good):
    """Leaves a mark on its examples."""

    name = "marking"

    def estimate(self, task: Any, examples: Any, model: Any, judge: Any, artifact: Any) -> list[Estimate]:
        examples[0].attributes["seen"] = 1
        return super().estimate(task, examples, model, judge, artifact)


BROKEN_METHODS = {
    "other seed": Unseeded(),
    "declaration": Unknown(),
    "order": ByPlace(),
    "subset": ByCompany(),
    "odd responses": Fragile(),
    "steps": Unplanned(),
    "pickle": Unpicklable(held=lambda: None),
    "fit folder": Untidy(),
    "estimates": Greedy(),
}
IMPLIED = {
    # What cannot estimate at all, or depends on its place, fails wherever estimates are compared.
    "estimates": {"estimates", "order", "subset", "seeds", "other seed", "odd responses", "steps"},
    "order": {"order", "subset"},
}


def failing(plugin: Any) -> dict[str, str]:
    """Return the checks that a plugin fails, each with what was said."""
    found = {}
    for check in checks(plugin):
        try:
            check()
        except Exception as error:
            found[check.name.partition(" (")[0]] = str(error)
    return found


def test_the_good_one_passes() -> None:
    assert failing(Good()) == {}


@pytest.mark.parametrize("name", BROKEN_METHODS)
def test_a_broken_method_fails_its_check(name: str) -> None:
    assert set(failing(BROKEN_METHODS[name])) == IMPLIED.get(name, {name})


def test_what_is_said() -> None:
    assert "100.0 is not in [0, 1]" in failing(Percent())["estimates"]
    assert "'logprobs' is not among its needs" in failing(Greedy())["estimates"]
    assert "left nothing in its folder" in failing(Empty())["fit folder"]
    assert "'notes.txt' outside its folder" in failing(Untidy())["fit folder"]
    assert "0 responses, and 12 were asked for" in failing(Unplanned())["steps"]
    assert "claims[0] is 'ok' without a confidence" in failing(Forgetful())["estimates"]
    assert "begins before the claim in front of it ends" in failing(Twice())["estimates"]


def test_the_command_names_the_plugin_s_line_and_says_a_mistake_once(tmp_path: Path) -> None:
    source = inspect.getsource(Good) + "\n\n" + inspect.getsource(Marking)
    head = (
        "from conrad_bench import *\nimport conrad_bench\nfrom typing import *\nfrom collections.abc import Sequence\n"
    )
    source = head + source.replace("class Marking", "@conrad_bench.register_method\nclass Marking")
    (tmp_path / "marking.py").write_text(source)
    done = CliRunner().invoke(app, ["check", str(tmp_path / "marking.py")])
    line = source[: source.index('["seen"]')].count("\n") + 1
    assert done.exit_code == 1
    assert done.output.count("examples cannot be changed") == 1
    assert f"(marking.py, line {line})" in done.output
    assert "BROKEN  marking: seeds (answer): as estimates (answer)" in done.output


def test_randomness_that_is_not_the_seeds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = [check for check in checks(ByChance()) if check.name.startswith("seeds")]
    monkeypatch.setattr(random, "seed", lambda *_: SHIFT.__setitem__(0, 0.5))
    with pytest.raises(PluginError, match=r"random choices must come from self\.seed"):
        check()


class Shifted(ToyScorer):
    """Answers one too many."""

    name = "shifted"

    def score(self, pairs: Any, granularity: Any, model: Any = None) -> list[Score]:
        return [*super().score(pairs, granularity), Score(1.0)]


class Placed(ToyScorer):
    """Scores by place."""

    name = "placed"

    def score(self, pairs: Any, granularity: Any, model: Any = None) -> list[Score]:
        return [Score(i / len(pairs)) for i in range(len(pairs))]


class Reasonless(ToyScorer):
    name = "reasonless"

    def score(self, pairs: Any, granularity: Any, model: Any = None) -> list[Score]:
        return [replace(score, reason="") for score in super().score(pairs, granularity)]


def test_broken_scorers() -> None:
    assert set(failing(Shifted())) == {"empty reference", "odd claims", "order", "scores"}
    assert set(failing(Placed())) == {"order"}
    assert set(failing(Reasonless())) == {"empty reference"}


class Bad(Metric):
    """A metric whose statistic is given."""

    name = "bad"
    summary = "bad"
    label = "bad"
    better = "lower"
    range = (0.0, 1.0)
    source = "none"

    how: str

    def statistic(self, sample: Any) -> Any:
        first = float(sample.confidence[0])
        return {
            "range": lambda w: np.full(len(w), 1.5),
            "shape": lambda w: np.full((len(w), 1), 0.5),
            "good": lambda w: np.full(len(w), first * 0),
        }[self.how]


@pytest.mark.parametrize("how", ["range", "shape", "good"])
def test_broken_metrics(how: str) -> None:
    found = set(failing(Bad(how=how)))
    assert found == ({how} if how != "good" else set()) or (how == "shape" and "shape" in found)


class Seedless(ToyEngine):
    name = "seedless"

    def generate(self, jobs: Any, sampling: Any, adapter: Any) -> Any:
        return super().generate([replace(job, seed=0) for job in jobs], sampling, adapter)


class Loud(ToyEngine):
    name = "loud"

    def score(self, prompts: Any, continuations: Any, adapter: Any) -> list[list[float]]:
        return [[-value for value in row] for row in super().score(prompts, continuations, adapter)]


class Drifting(ToyEngine):
    name = "drifting"

    def generate(self, jobs: Any, sampling: Any, adapter: Any) -> Any:
        return [replace(each, text=each.text + str(len(jobs))) for each in super().generate(jobs, sampling, adapter)]


@pytest.mark.parametrize(
    ("engine", "broken"),
    [
        (Seedless(model="toy"), {"seeds"}),
        (Loud(model="toy"), {"scores"}),
        (Drifting(model="toy"), {"greedy"}),
    ],
)
def test_broken_engines(engine: Engine, broken: set[str]) -> None:
    assert set(failing(engine)) == broken


class Leaky(ToyTask):
    name = "leaky"

    def prompt(self, example: Any, elicit: Any = None) -> Any:
        asked = super().prompt(example, elicit)
        return replace(asked, messages=(replace(asked.messages[0], text=f"{example.context} {example.reference}"),))


class Sure(ToyTask):
    name = "sure"

    def claims(self, response: Any, elicit: Any = None) -> Any:
        return [replace(c, status="ok", confidence=0.5) for c in super().claims(response, elicit)]


def test_broken_tasks() -> None:
    for task, broken, says in (
        (Leaky(), "prompts", "the prompt holds the reference"),
        (Sure(), "claims", "has the status 'ok'"),
    ):
        found = {}
        for check in checks(task, Path()):
            try:
                check()
            except PluginError as error:
                found[check.name] = str(error)
        assert set(found) == {broken}
        assert says in found[broken]


def test_what_cannot_be_checked_is_said() -> None:
    with pytest.raises(PluginError, match="is checked on data"):
        list(checks(ToyTask()))
    with pytest.raises(PluginError, match="is no method"):
        list(checks("a text"))  # type: ignore[arg-type]


def test_a_class_of_a_notebook_can_be_checked() -> None:
    """Its module has no file."""
    code = """
from conrad_bench import ResponseMethod
from conrad_bench.testing import check_method

class Percent(ResponseMethod):
    name, summary = "percent", "in percent"

    def confidence(self, response, claims):
        return 50

check_method(Percent())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "PluginError: method 'percent' failed on 12 of 12 examples" in done.stderr
    assert "Percent: claims[0]: confidence 50.0 is not in [0, 1]" in done.stderr


TRAINED = {
    "conrad": {"epochs": 1, "batch_size": 16, "generations": 4},
    "conrad_exact": {"epochs": 1},
    "sft": {"epochs": 1},
    "r_tuning": {"epochs": 4, "learning_rate": 5e-3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_methods_that_train_the_embedded_model(name: str) -> None:
    method = REGISTRY.create("methods", name, {"samples": 24, "sentence_samples": 24, **TRAINED[name]})
    tried = [check for check in checks(method) if check.name.endswith("(report)")]  # the others take minutes more
    assert len(tried) == 10
    for check in tried:
        check()
