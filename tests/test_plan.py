"""What a run is checked for before it begins: its scorers, its data, its models, and in which order."""

from __future__ import annotations

import csv
import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest

from conrad_bench.config import load_config
from conrad_bench.engines import loading
from conrad_bench.errors import DataError, HubUnreachable, ModelError
from conrad_bench.plan import Plan, make_plan, prepare
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.tasks.layouts import mimic_cxr
from conrad_bench.tasks.phantom.mimic_layout import write_mimic
from conrad_bench.tasks.phantom.openi_layout import write_openi

TASKS = ["mimic_report", "mimic_sentence", "iu_xray_report", "iu_xray_sentence"]


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trees")
    write_mimic(folder / "mimic", 40, seed=1)
    write_openi(folder / "openi", 20, seed=1)
    return folder


@pytest.fixture
def real(phantom: Path, tmp_path: Path) -> Path:
    """Trees that nothing tells from real data before they are read."""
    for name in ("mimic", "openi"):
        shutil.copytree(phantom / name, tmp_path / "trees" / name)
        (tmp_path / "trees" / name / "README.txt").unlink()
    return tmp_path / "trees"


def planned(trees: Path | None, **values: Any) -> Plan:
    roots = {task: trees / ("mimic" if "mimic" in task else "openi") for task in TASKS} if trees is not None else {}
    given = {"methods": ["verbalized"], "tasks": TASKS, "data_roots": roots, "model": "phantom", **values}
    return make_plan(load_config(None, given, Registry()), Registry())


def scorers(plan: Plan) -> list[str]:
    """Return who judges the tasks, then who judges whole responses."""
    judged = [plan.scorers[name].name for name in TASKS]
    return [*judged, *(plan.qualities[name].name for name in TASKS if name in plan.qualities)]


def test_scorers_fit_the_data(phantom: Path, real: Path) -> None:
    assert scorers(planned(None)) == ["phantom_green"] * 6
    assert scorers(planned(phantom)) == ["phantom_green"] * 6
    of_real = ["green", "precision_green", "green", "precision_green", "green", "green"]
    assert scorers(planned(real)) == of_real
    plan = planned(real)
    assert [plan.tasks[name].scorer for name in TASKS] == of_real[:4]
    assert len({id(judge) for judge in plan.judges.values()}) == 1  # one model in memory


def test_a_scorer_that_was_chosen_holds_on_any_data(phantom: Path, real: Path) -> None:
    options = {"mimic_report": {"scorer": "green"}, "mimic_sentence": {"scorer": "phantom_green", "quality": None}}
    for trees in (phantom, real):
        plan = planned(trees, options=options)
        assert (plan.scorers["mimic_report"].name, plan.scorers["mimic_sentence"].name) == ("green", "phantom_green")
        assert "mimic_sentence" not in plan.qualities


def test_a_variant_has_the_scorer_of_its_own_data(phantom: Path, real: Path) -> None:
    names = ["mimic_report", "mimic_report.b"]
    roots = {"mimic_report": phantom / "mimic", "mimic_report.b": real / "mimic"}
    plan = planned(phantom, tasks=names, data_roots=roots)
    assert [plan.scorers[name].name for name in names] == ["phantom_green", "green"]


def rewritten(tree: Path, kind: str, column: str, value: str) -> None:
    """Give a column of an official csv one value everywhere."""
    path = tree / f"mimic-cxr-2.0.0-{kind}.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        header, *rows = list(csv.reader(file))
    index = header.index(column)
    with gzip.open(path, "wt", newline="") as file:
        csv.writer(file).writerows([header, *([*row[:index], value, *row[index + 1 :]] for row in rows)])


@pytest.mark.parametrize(
    ("kind", "column", "value", "options", "said"),
    [
        ("metadata", "ViewPosition", "", {"views": "frontal"}, ": left out: no image of the chosen views (40)"),
        ("metadata", "ViewPosition", "LL", {"views": "frontal"}, ": left out: no image of the chosen views (40)"),
        ("split", "split", "train", {}, "no test examples, but 40 train"),
        ("split", "split", "test", {}, "no train examples, but 40 test; the methods that learn need some"),
    ],
)
def test_no_examples_are_said_with_what_is_known(
    real: Path, kind: str, column: str, value: str, options: dict[str, Any], said: str
) -> None:
    rewritten(real / "mimic", kind, column, value)
    options = {"mimic_report": {"scorer": "phantom_green", **options}}
    plan = planned(real, tasks=["mimic_report"], methods=["probe"], options=options)
    with pytest.raises(DataError) as raised:
        prepare(plan, Reporter(quiet=True))
    assert said in str(raised.value)
    assert f"task 'mimic_report': {real / 'mimic'} holds no" in str(raised.value)


def test_what_is_here_is_looked_at_before_what_is_far(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unreachable(model: str, revision: str | None) -> str:
        asked.append(model)
        raise HubUnreachable(f"model {model!r}: the hub cannot be reached")

    monkeypatch.setattr(loading, "_commit", unreachable)
    empty = tmp_path / "empty"
    empty.mkdir()
    given = {"tasks": ["mimic_report"], "model": "nobody/nothing", "methods": ["conrad"]}
    with pytest.raises(DataError, match=f"-split.csv.gz not found below {empty}"):
        prepare(planned(real, **given, data_roots={"mimic_report": empty}), Reporter(quiet=True))
    with pytest.raises(ModelError, match="is no checkpoint"):
        planned(real, **{**given, "model": str(empty)})
    assert asked == []
    options = {"mimic_report": {"scorer": "phantom_green"}}
    with pytest.raises(HubUnreachable):
        prepare(planned(real, **given, options=options), Reporter(quiet=True))
    plan = planned(real, **given, options=options)
    prepare(plan, Reporter(quiet=True), tolerant=True)
    assert list(plan.unchecked) == ["nobody/nothing"]


def test_titles_name_a_model_and_no_path(base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(base_model, tmp_path / "tuned")
    monkeypatch.chdir(tmp_path / "tuned")
    labels = [planned(None, model=model).model_label for model in (str(tmp_path / "tuned"), ".", "../tuned")]
    assert len(set(labels)) == 1
    name, digest = labels[0].split(" ")
    assert (name, len(digest)) == ("tuned", 10)
    assert planned(None, model="google/medgemma-4b-it").model_label == "google/medgemma-4b-it"
    assert planned(None, model="phantom").model_label == "phantom-gemma3 (embedded)"
    assert planned(None, model="/srv/models/tuned", engine="openai").model_label == "tuned"


def test_data_that_tasks_share_are_read_once_and_without_training_no_training_reports(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    report = mimic_cxr._report

    def watch(path: str) -> str | None:
        read.append(path)
        return report(path)

    monkeypatch.setattr(mimic_cxr, "_report", watch)
    options = {
        "mimic_report": {"scorer": "phantom_green"},
        "mimic_sentence": {"scorer": "phantom_green", "quality": "phantom_green"},
    }
    given: dict[str, Any] = {"tasks": ["mimic_report", "mimic_sentence"], "options": options}
    data = prepare(planned(real, methods=["probe"], **given), Reporter(quiet=True))
    assert len(read) == len(set(read)) == len(data["mimic_report"].examples)
    assert data["mimic_report"].examples == data["mimic_sentence"].examples
    everything = len(read)
    read.clear()
    alone = prepare(planned(real, methods=["verbalized"], **given), Reporter(quiet=True))
    assert alone["mimic_report"].examples == data["mimic_report"].split("test")
    assert 0 < len(read) < everything
    read.clear()
    given["options"]["mimic_sentence"]["views"] = "frontal"
    other = prepare(planned(real, methods=["verbalized"], **given), Reporter(quiet=True))
    assert len(read) == 2 * len(set(read))
    assert len(other["mimic_report"].examples) == len(other["mimic_sentence"].examples)
