"""`conrad-bench describe` and docs/options.md: every option has a text, the page is what the classes say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from typer.testing import CliRunner, Result

from conrad_bench.cli import app
from conrad_bench.config import SECTIONS, RunConfig
from conrad_bench.describe import cost, describe
from conrad_bench.errors import ConfigError
from conrad_bench.methods.base import Method, Step
from conrad_bench.options import Option, options
from conrad_bench.reference import page
from conrad_bench.registry import BUILT_IN, KINDS, Registry
from conrad_bench.trainers.recalibrators import ABOUT
from conrad_bench.trainers.recalibrators import KINDS as RECALIBRATORS

REGISTRY = Registry()
BUILT_INS = [(kind, name) for kind in KINDS for name in REGISTRY.names(kind) if REGISTRY.origin(kind, name) == BUILT_IN]


def conrad_bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_page_of_options_is_up_to_date() -> None:
    written = (Path(__file__).parents[1] / "docs" / "options.md").read_text(encoding="utf-8")
    assert written == page(REGISTRY), "python -m conrad_bench.reference > docs/options.md"


def test_every_option_has_a_text() -> None:
    classes: list[type[BaseModel]] = [REGISTRY.get(kind, name) for kind, name in BUILT_INS]
    bare = {
        f"{cls.__name__}.{option.name}"
        for cls in [*classes, *SECTIONS.values(), RunConfig]
        for option in options(cls)
        if not option.doc
    }
    assert bare == set()


class Base(BaseModel):
    count: int = Field(3, ge=1, le=9)
    """How many,
    in all."""
    share: float = Field(0.5, gt=0, lt=1)
    kind: Literal["a", "b"] = "a"
    """Which."""


class Below(Base):
    share: float | None = Field(None, ge=0)
    """A share."""
    count: int = 4
    must: str = Field(min_length=1)
    places: list[Path] = []
    anything: Any = Field(default_factory=dict)
    call: type[Method] | None = None
    on: bool = True
    many: int = Field(2_000_000, ge=1_500_000)


def test_options_are_read_off_fields_and_the_texts_below_them() -> None:
    found = {option.name: option for option in options(Below)}
    assert found["count"] == Option("count", "whole number", "4", "", "How many, in all.")
    assert options(Base)[0] == Option("count", "whole number", "3", "1 to 9", "How many, in all.")
    assert options(Base)[1] == Option("share", "number", "0.5", "above 0, below 1", "")
    assert found["share"] == Option("share", "number or null", "null", "at least 0", "A share.")
    assert found["kind"] == Option("kind", "choice", "a", "a, b", "Which.")
    assert found["must"] == Option("must", "text", "required", "not empty", "")
    assert (found["places"].type, found["places"].default) == ("list of paths", "[]")
    assert (found["anything"].type, found["anything"].default) == ("value", "{}")
    assert (found["call"].type, found["on"].type, found["on"].default) == ("value or null", "true or false", "true")
    assert found["many"].allowed == "at least 1500000"


def test_a_class_without_a_source_has_its_options_without_texts() -> None:
    scope: dict[str, Any] = {"BaseModel": BaseModel}
    exec("class Made(BaseModel):\n    n: int = 1\n    'a text'\n", scope)
    assert options(scope["Made"]) == [Option("n", "whole number", "1", "", "")]


@pytest.mark.parametrize(("kind", "name"), BUILT_INS)
def test_every_built_in_is_described(kind: str, name: str) -> None:
    found = {each.kind: each for each in describe(name, REGISTRY)}[kind[:-1]]
    assert found.summary
    assert dict(found.facts)["from"].startswith("built-in, ")
    if kind == "methods":
        assert next(said for what, said in found.facts if what == "cost").endswith(" for each test example")


@pytest.mark.parametrize("name", RECALIBRATORS)
def test_recalibrators_are_listed_and_described(name: str) -> None:
    assert f"METHOD+{name}" in conrad_bench("list").output
    assert f"METHOD+{name}" in conrad_bench("list", "recalibrators").output
    shown = conrad_bench("describe", name).output
    assert shown.startswith(f"{name} (recalibrator): {ABOUT[name].summary}\n")
    assert ABOUT[name].source in shown


def test_a_method_under_a_recalibrator_is_described_by_its_parts() -> None:
    found = describe("probe.l1+platt", REGISTRY)
    assert [(each.name, each.kind) for each in found] == [("probe.l1", "method"), ("platt", "recalibrator")]
    with pytest.raises(ConfigError, match="unknown recalibrator 'plat'; did you mean 'platt'"):
        describe("probe+plat", REGISTRY)


def test_variants_families_and_sections_are_described() -> None:
    shown = conrad_bench("describe", "conrad.joint").output
    assert "options (-o conrad.joint.OPTION=VALUE)" in shown
    assert "LoRA rank" in shown
    assert conrad_bench("describe", "radeval:bleu").output.startswith("radeval:bleu (scorer): ")
    assert "replicates" in conrad_bench("describe", "bootstrap").output


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    for name, nearest in (("verbalised", "verbalized"), ("isotonik", "isotonic"), ("bootstap", "bootstrap")):
        with pytest.raises(ConfigError, match=f"unknown name '{name}'; did you mean '{nearest}'"):
            describe(name, REGISTRY)


def test_the_cost_is_that_of_the_planned_steps() -> None:
    assert cost(REGISTRY.get("methods", "self_consistency")) == ["6 generations for each test example"]
    assert cost(REGISTRY.get("methods", "probe")) == [
        f"1 generation, 1 reading of hidden states for each {split} example"
        for split in ("test", "training", "validation")
    ]


class Planned(Method):
    name = "planned"
    summary = "one for tests"

    def steps(self, task: Any, train: Any, validation: Any, test: Any) -> list[Step]:
        each = 1 if task.granularity == "answer" else 3
        return [Step("generate", 100, "once for all"), Step("generate", each * len(test), "test responses")]


class Unplanned(Method):
    name = "unplanned"
    summary = "one for tests"


class Broken(Unplanned):
    def steps(self, *_: Any) -> list[Step]:
        raise RuntimeError("a sentence of a report")


class Demanding(Unplanned):
    must: int


def test_costs_differ_by_granularity_or_are_not_known() -> None:
    assert cost(Planned) == [
        "1 generation for each test example (answer)",
        "3 generations for each test example (report, sentence)",
    ]
    assert cost(Unplanned) == ["not known: the method plans no steps"]
    assert cost(Broken) == ["cannot be told: its steps raised RuntimeError"]
    assert cost(Demanding) == ["cannot be told: an option has no default"]


def test_plugins_of_ones_own_are_described(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "import conrad_bench as cb\n\n\n@cb.register_metric\nclass Own(cb.Metric):\n"
        "    name = 'own'\n    summary = 'two\\nlines'\n    label = 'own'\n    better = 'lower'\n"
        "    range = (0.0, 1.0)\n    source = 'here'\n\n    size: int = 1\n    '''A text \\x1b[31m.'''\n"
    )
    shown = conrad_bench("describe", "own", "--plugin", file).output
    assert shown.startswith("own (metric): two lines\n")
    assert f"from            {file.resolve()}\n" in shown
    assert "size  whole number; default 1" in shown
    assert "\x1b" not in shown
    table = tmp_path / "questions.yaml"
    table.write_text("title: Our questions\ngranularity: answer\nfile: questions.csv\n")
    shown = conrad_bench("describe", "questions", "--plugin", table).output
    assert shown.startswith("questions (task): Our questions: ")
    assert "Name of the scorer that judges the claims." in shown
