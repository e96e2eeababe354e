"""Whole runs: toy ones in this process, and the shipped phantom world through the command line."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from test_cli import Done, conrad_bench

from conrad_bench import pipeline
from conrad_bench.config import load_config
from conrad_bench.errors import ConfigError, DataError, PlanError, TrainingError
from conrad_bench.progress import Reporter
from conrad_bench.records import COLUMNS, SPENT, read_records
from conrad_bench.registry import Registry
from conrad_bench.tasks.phantom.mimic_layout import write_mimic

TOY = Path(__file__).parent / "toy.py"

# What the "model" says to each test question, the reference, and the status that comes of it.
SAID = [
    ("no\nConfidence: 8", "no", "ok"),
    ("yes\nConfidence: 10", "no", "ok"),
    ("yes\nConfidence: 6", "yes", "ok"),
    ("no", "no", "no_confidence"),
    ("no\nConfidence: 11", "no", "out_of_range"),
    ("Confidence: 3", "no", "empty"),
    ("no, or so...", "no", "truncated"),
    ("no\nConfidence: 7", "?", "scorer_failed"),
]


def questions(test: list[tuple[str, str, str]] = SAID) -> list[dict[str, str]]:
    """Return the rows of a toy data root: two test questions a patient, and patients of their own to learn from."""
    rows = [
        {"id": f"q{i:02d}", "patient": f"p{i // 2}", "split": "test", "says": says, "answer": answer}
        for i, (says, answer, _) in enumerate(test)
    ]
    learn = [("t0", "train", "no\nConfidence: 9"), ("t1", "train", "yes"), ("v0", "validate", "no\nConfidence: 2")]
    return rows + [{"id": i, "patient": f"p-{i}", "split": s, "says": says, "answer": "no"} for i, s, says in learn]


class Toy:
    """A toy data root and a run folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self.out, self.calls = folder / "data", folder / "run", folder / "calls"
        self.root.mkdir()
        self.write(questions())

    def write(self, rows: list[dict[str, str]]) -> None:
        (self.root / "questions.json").write_text(json.dumps(rows))

    def run(
        self, methods: str = "stated", dry_run: bool = False, keep_stale: bool = False, **values: Any
    ) -> dict[str, Any]:
        registry = Registry([TOY])
        options = values.pop("options", {})
        given = {
            "methods": methods.split(","),
            "tasks": ["toy"],
            "engine": "echo",
            "model": "echo",
            "data_roots": {"toy": self.root},
            "options": {"echo": {"calls": str(self.calls)}, "bootstrap": {"replicates": 20}, **options},
            **values,
        }
        config = load_config(None, given, registry)
        return pipeline.run(config, self.out, registry, Reporter(), dry_run, keep_stale=keep_stale)

    def count(self) -> int:
        """Return how many responses the engine was asked for."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_records_say_what_the_model_said(toy: Toy) -> None:
    board = toy.run()
    frame = read_records(toy.out / "records" / "stated@toy.parquet")
    assert tuple(frame.columns) == (*COLUMNS, "reading", "length")
    assert list(frame["status"]) == [status for _, _, status in SAID]
    assert list(frame["example"]) == [f"q{i:02d}" for i in range(8)]
    assert list(frame["cluster"]) == ["p0", "p0", "p1", "p1", "p2", "p2", "p3", "p3"]
    assert list(frame["confidence"].iloc[:3]) == [0.8, 1.0, 0.6]
    assert list(frame["confidence"].isna()) == [False] * 3 + [True] * 4 + [False]
    assert list(frame["correctness"].iloc[:5]) == [1.0, 0.0, 1.0, 1.0, 1.0]
    assert list(frame["correctness"].isna()) == [False] * 5 + [True, False, True]
    assert list(frame["length"]) == [len(says) for says, _, _ in SAID]
    (row,) = board["rows"]
    assert (row["n"], row["claims"], row["n_clusters"]) == (3, 8, 2)
    assert row["unparsed"] == dict.fromkeys(("no_confidence", "out_of_range", "empty", "truncated", "scorer_failed"), 1)
    assert row["metrics"]["correctness"]["value"] == pytest.approx(2 / 3)
    # Each level is a group of one: |0.8 - 1|, |1 - 0|, |0.6 - 1|.
    assert row["metrics"]["ece"]["value"] == pytest.approx((0.2 + 1.0 + 0.4) / 3)
    assert board["tasks"]["toy"]["left_out"] == {"no answer": 3}
    assert "phantom" not in board["title"]


def test_a_finished_run_is_left_as_it_is(toy: Toy) -> None:
    board = toy.run("stated,mean")
    before, calls = contents(toy.out), toy.count()
    assert calls == 8 + 2  # the test questions once for both methods, and the training questions
    assert toy.run("stated,mean") == board
    assert contents(toy.out) == before
    assert toy.count() == calls


@pytest.mark.parametrize("bug", [False, True])
def test_a_method_that_fails_does_not_stop_the_others(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str], bug: bool
) -> None:
    options = {"mean": {"ready": str(tmp_path / "ready"), "bug": bug}}
    with pytest.raises(RuntimeError if bug else TrainingError):
        toy.run("mean,stated", options=options)
    shown = capsys.readouterr().err
    assert (
        "mean on toy failed: unexpected RuntimeError" if bug else "mean on toy failed: mean: the file is not there"
    ) in shown
    assert "text of a patient" not in shown
    board = json.loads((toy.out / "leaderboard.json").read_text())
    assert [row["method"] for row in board["rows"]] == ["stated"]
    assert not (toy.out / "manifest.json").exists()
    assert not (toy.out / "artifacts" / "mean@toy" / "artifact.json").exists()

    (tmp_path / "ready").touch()
    calls = toy.count()
    board = toy.run("mean,stated", options=options)
    assert [row["method"] for row in board["rows"]] == ["mean", "stated"]
    assert toy.count() == calls  # every answer was in the store
    assert json.loads((toy.out / "manifest.json").read_text())["data"]["toy"]["examples"]["test"] == 8


def test_a_run_in_which_every_method_fails_has_no_leaderboard(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the file is not there"):
        toy.run("mean", options={"mean": {"ready": str(tmp_path / "ready")}})
    assert not (toy.out / "leaderboard.json").exists()


def test_a_run_goes_on_where_another_stopped(toy: Toy) -> None:
    toy.run("stated,mean")
    before, calls = contents(toy.out), toy.count()
    for name in ("manifest.json", "leaderboard.json", "records/mean@toy.parquet", "artifacts/mean@toy/artifact.json"):
        (toy.out / name).unlink()
    # What a killed process leaves: a file under its temporary name.
    (toy.out / ".leaderboard.json.1.tmp").write_text("{")
    (toy.out / "records" / ".mean@toy.parquet.1.tmp").write_text("PAR1")
    toy.run("stated,mean")
    after = contents(toy.out)
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} <= {"manifest.json"}
    assert toy.count() == calls


def test_a_run_that_was_killed_before_its_config_was_written_can_go_on(toy: Toy) -> None:
    (toy.out / "rollouts").mkdir(parents=True)
    (toy.out / "digests.json").write_text("{}")
    (toy.out / ".config.yaml.1.tmp").write_text("methods:")
    toy.run()


def test_another_config_is_refused_and_the_keys_are_named(toy: Toy) -> None:
    toy.run("stated,mean")
    before = contents(toy.out)
    with pytest.raises(ConfigError, match="another configuration") as caught:
        toy.run("stated", seed=3, options={"bootstrap": {"replicates": 21}, "echo": {"calls": str(toy.calls)}})
    lines = str(caught.value).splitlines()[1:]
    assert lines == [
        "  - methods: ['stated', 'mean'] -> ['stated']",
        "  - options.bootstrap.replicates: 20 -> 21",
        "  - seed: 0 -> 3",
    ]
    assert contents(toy.out) == before


def test_a_run_goes_on_with_more_methods(toy: Toy) -> None:
    toy.run("stated")
    before = contents(toy.out)
    toy.run("stated,mean", options={"mean": {"seed": 7}})
    after = contents(toy.out)
    records = {name for name in after if name.startswith("records/")}
    assert {name for name in records if name in before} == {name for name in before if name.startswith("records/")}
    assert all(after[name] == before[name] for name in records if name in before)
    assert len(records) == 2
    with pytest.raises(ConfigError, match=r"options\.mean\.seed"):
        toy.run("stated,mean", options={"mean": {"seed": 8}})


def test_a_foreign_folder_is_refused_and_left_alone(toy: Toy) -> None:
    toy.out.mkdir()
    (toy.out / "thesis.tex").write_text("mine")
    for dry_run in (False, True):
        with pytest.raises(ConfigError, match=r"not empty and holds no run .*--out"):
            toy.run(dry_run=dry_run)
    assert contents(toy.out) == {"thesis.tex": b"mine"}


def test_a_patient_in_two_splits_is_refused(toy: Toy) -> None:
    toy.write([{**row, "patient": row["patient"].replace("p-t1", "p3")} for row in questions()])
    with pytest.raises(DataError, match=r"1 patients .*example p3 in test and train; each must be in one split"):
        toy.run()
    assert toy.count() == 0


@pytest.mark.parametrize(("missing", "methods"), [("test", "stated"), ("train", "mean"), ("validate", "mean")])
def test_a_split_without_examples_is_refused(toy: Toy, missing: str, methods: str) -> None:
    toy.write([row for row in questions() if row["split"] != missing])
    with pytest.raises(DataError, match=f"holds no {missing} examples"):
        toy.run(methods)


def test_what_does_not_fit_is_listed_at_once_before_data_are_read(toy: Toy) -> None:
    (toy.root / "questions.json").unlink()
    with pytest.raises(PlanError) as caught:
        toy.run("picky,stated")
    assert str(caught.value).splitlines()[1:] == [
        "  - method 'picky' needs hidden_states, logprobs, which engine 'echo' does not provide",
        "  - method 'picky' works at report, sentence level, task 'toy' at answer level",
    ]
    with pytest.raises(PlanError, match=r"--data-root toy=DIR or set TOY_ROOT"):
        toy.run("picky,stated", data_roots={})
    assert not toy.out.exists()


def test_a_limit_takes_the_first_test_examples(toy: Toy) -> None:
    (row,) = toy.run(limit=3)["rows"]
    assert row["claims"] == 3
    assert list(read_records(toy.out / "records" / "stated@toy.parquet")["example"]) == ["q00", "q01", "q02"]
    assert yaml.safe_load((toy.out / "config.yaml").read_text())["limit"] == 3


def test_a_tasks_own_limit_comes_before_the_runs(toy: Toy) -> None:
    (row,) = toy.run(limit=3, options={"toy": {"limit": 5}})["rows"]
    assert row["claims"] == 5


def test_a_dry_run_counts_what_is_there_and_writes_nothing(toy: Toy) -> None:
    def there() -> dict[tuple[str, str], int | None]:
        steps = toy.run("stated,mean", dry_run=True)["steps"]
        return {(step["method"], step["what"]): step["there"] for step in steps}

    before = there()
    assert not toy.out.exists()
    # The answers of the second method are those of the first: the prompts are equal.
    assert before["stated", "answers"] == 0
    assert before["mean", "answers"] == 8
    assert before["mean", "training answers"] == 0
    assert before["mean", "mean"] is None
    toy.run("stated,mean")
    files, calls = contents(toy.out), toy.count()
    plan = toy.run("stated,mean", dry_run=True)
    assert [step["there"] for step in plan["steps"]] == [step["count"] for step in plan["steps"]]
    manifest = json.loads((toy.out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["rollouts"] == {"generate": plan["unique"]} == {"generate": toy.count()}
    assert contents(toy.out) == files
    assert toy.count() == calls


# The shipped phantom world, through the command line.

MARKER_WORD = "Xylophonist"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom data root whose indications and findings hold a word that must not leave it."""
    folder = tmp_path_factory.mktemp("data") / "tree"
    write_mimic(folder, 120, seed=0)
    for report in folder.rglob("s*.txt"):
        text = re.sub(r"(INDICATION|REASON FOR EXAM\w*):  ", rf"\g<0>{MARKER_WORD}. ", report.read_text())
        report.write_text(re.sub(r"(FINDINGS?):\s+", rf"\g<0>{MARKER_WORD} seen. ", text))
    return folder


METHODS = ("verbalized", "probe", "conrad")
SMALL = (
    *("-o", "probe.samples=16", "-o", "probe.validation_samples=6", "-o", "probe.epochs=2"),
    *("-o", "conrad.samples=12", "-o", "conrad.batch_size=16", "-o", "conrad.generations=4"),
    *("-o", "bootstrap.replicates=200"),
)


def run(cwd: Path, *arguments: str) -> Done:
    """Carry out a small run in `cwd`/out."""
    command = ("run", "--methods", ",".join(METHODS), "--tasks", "mimic_report", "--out", "out", *SMALL, *arguments)
    return conrad_bench(
        *command, cwd=cwd, CONRAD_BENCH_CACHE=str(cwd / "cache"), OMP_NUM_THREADS="1", MIMIC_CXR_ROOT=""
    )


@dataclass(frozen=True)
class Finished:
    """A finished run, and what it said."""

    folder: Path
    arguments: tuple[str, ...]
    done: Done

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def frame(self, method: str) -> Any:
        return read_records(self.out / "records" / f"{method}@mimic_report.parquet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    arguments = ("--model", "phantom", "--data-root", f"mimic_report={data}")
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return Finished(folder, arguments, done)


def test_three_methods_end_to_end(finished: Finished) -> None:
    board = json.loads((finished.out / "leaderboard.json").read_text())
    assert [(row["task"], row["method"]) for row in board["rows"]] == [("mimic_report", m) for m in sorted(METHODS)]
    tests = len(finished.frame("verbalized"))
    for row in board["rows"]:
        assert 0 < row["n"] <= row["claims"] == tests
        for estimate in row["metrics"].values():
            assert set(estimate) == {"value", "low", "high"}
        assert 0 <= row["metrics"]["ece"]["value"] <= 1
        for suffix, start in ((".svg", b"<?xml"), (".png", b"\x89PNG")):
            assert (finished.out / row["figure"]).with_suffix(suffix).read_bytes().startswith(start)
    assert board["title"] == "Confidence of phantom-gemma3 (embedded) on phantom (synthetic)"
    assert board["title"] in finished.done.stdout
    assert "phantom (synthetic)" in (finished.out / "leaderboard.md").read_text()
    manifest = json.loads((finished.out / "manifest.json").read_text())
    assert manifest["data"]["mimic_report"]["examples"]["test"] == tests


def test_a_run_says_its_stages_and_nothing_else(finished: Finished) -> None:
    stage = re.compile(r"[a-zA-Z ]+: \d+/\d+ in .+|(verbalized|probe|conrad) on mimic_report \(part .+\)")
    assert [line for line in finished.done.stderr.splitlines() if not stage.fullmatch(line)] == []


def test_records_have_their_columns_and_join_with_the_rollouts(finished: Finished) -> None:
    responses = {row["key"]: row for row in rollouts(finished.out)}
    for method in METHODS:
        frame = finished.frame(method)
        stated = () if method == "probe" else ("reading",)
        seeded = () if method == "verbalized" else ("seed",)
        assert tuple(frame.columns) == (*COLUMNS, *stated, *seeded, *SPENT, "age", "image_quality", "sex", "view")
        assert frame["example"].is_monotonic_increasing
        assert set(frame["response"]) <= responses.keys()
        assert (frame[list(SPENT[:2])] > 0).all(axis=None)
        assert (frame["training_steps"].iloc[0] > 0) == method.startswith("conrad")
    levels = set(finished.frame("conrad")["confidence"].dropna() * 10)
    assert levels <= set(range(11))


def test_conditional_conrad_leaves_the_reports_of_the_base_alone(finished: Finished) -> None:
    base, conrad = finished.frame("verbalized"), finished.frame("conrad")
    assert list(conrad["response"]) == list(base["response"])
    judged = base["status"].isin(("ok", "no_confidence", "out_of_range"))
    assert list(conrad["correctness"][judged]) == list(base["correctness"][judged])


def test_nothing_is_generated_twice(finished: Finished) -> None:
    rows = rollouts(finished.out)
    assert len({row["key"] for row in rows}) == len(rows)
    tests = len(finished.frame("verbalized"))
    unjudged = finished.frame("verbalized")["status"].isin(("empty", "truncated")).sum()
    texts = sum(row["kind"] == "generate" for row in rows)
    # verbalized and conrad share the test reports with a stated confidence; the probe's are without one.
    assert texts - 12 - (16 + 6 + tests) in (2 * tests, 2 * tests - unjudged)
    assert sum(row["kind"] == "hidden" for row in rows) == 16 + 6 + tests


def test_a_finished_run_again_is_quick_and_changes_nothing(finished: Finished) -> None:
    before = contents(finished.out)
    start = time.perf_counter()
    done = run(finished.folder, *finished.arguments)
    assert time.perf_counter() - start < 20
    assert done.returncode == 0, done.stderr
    assert done.stdout == finished.done.stdout
    assert "finished; nothing to do" in done.stderr
    assert contents(finished.out) == before


def test_patient_text_stays_in_the_rollouts(finished: Finished, data: Path) -> None:
    assert any(MARKER_WORD in path.read_text() for path in data.rglob("s*.txt"))
    told = (finished.done.stdout + finished.done.stderr).encode()
    assert MARKER_WORD.encode() not in told
    leaks = [name for name, content in contents(finished.out).items() if MARKER_WORD.encode() in content]
    assert [name for name in leaks if not name.startswith("rollouts/")] == []


def test_a_config_file_makes_the_same_run(finished: Finished, tmp_path: Path, data: Path) -> None:
    # The resolved config of a run is a config file itself.
    (tmp_path / "again.yaml").write_text((finished.out / "config.yaml").read_text())
    shutil.copytree(finished.out / "rollouts", tmp_path / "out" / "rollouts")
    shutil.copy(finished.out / "config.yaml", tmp_path / "out")
    done = conrad_bench("run", "--config", "again.yaml", "--out", "out", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [line.split() for line in done.stdout.splitlines() if line.startswith("mimic_report ")]
    assert [step[-1] for step in steps if "generate" in step][:-1] == [
        step[-2] for step in steps if "generate" in step
    ][:-1]


def test_the_phantom_stands_in_where_nothing_was_configured(tmp_path: Path) -> None:
    arguments = ("-o", "phantom.studies=40", "--limit", "2")
    before = run(tmp_path, *arguments, "--dry-run")
    assert before.returncode == 0, before.stderr
    assert "nothing was loaded or generated" in before.stdout
    assert not (tmp_path / "out").exists()
    command = ("run", "--methods", "verbalized", "--tasks", "mimic_report", "--out", "one", *arguments)
    done = conrad_bench(*command, cwd=tmp_path, CONRAD_BENCH_CACHE=str(tmp_path / "cache"), MIMIC_CXR_ROOT="")
    assert done.returncode == 0, done.stderr
    board = json.loads((tmp_path / "one" / "leaderboard.json").read_text())
    assert board["title"] == "Confidence of phantom-gemma3 (embedded) on phantom (synthetic)"
    assert board["rows"][0]["claims"] == 2


def rollouts(out: Path) -> list[dict[str, Any]]:
    """Return every row of the store."""
    rows: list[dict[str, Any]] = []
    for shard in sorted((out / "rollouts").glob("*.parquet")):
        rows += pq.read_table(shard).to_pylist()
    return rows


METRIC = '''
import numpy as np
from conrad_bench import Metric, register_metric
from conrad_bench.leaderboards.metrics.base import mean_of

@register_metric
class Overconfidence(Metric):
    """Mean of max(confidence - correctness - slack, 0)."""

    name = "overconfidence"
    summary = "mean excess of confidence"
    label = "over"
    better = "lower"
    range = (0.0, 1.0)
    source = "here"
    headline = True
    slack: float = 0.0

    def statistic(self, sample):
        return mean_of(sample, np.maximum(sample.stated() - sample.correctness - self.slack, 0))
'''


def test_a_metric_of_ones_own_is_a_column_and_takes_options(toy: Toy, tmp_path: Path) -> None:
    file = tmp_path / "over.py"
    file.write_text(METRIC)
    registry = Registry([TOY, file])
    given = {
        "methods": ["stated"], "tasks": ["toy"], "engine": "echo", "model": "echo", "data_roots": {"toy": toy.root},
        "options": {"bootstrap": {"replicates": 20, "interval": "bca"}, "overconfidence": {"slack": 0.25}},
    }  # fmt: skip
    board = pipeline.run(load_config(None, given, registry), toy.out, registry, Reporter(), False)
    (row,) = board["rows"]
    # Confidences 0.8, 1.0, 0.6 of a right, a wrong and a right answer.
    assert row["metrics"]["overconfidence"]["value"] == pytest.approx(0.75 / 3)
    assert board["interval"] == "bca"
    assert "| over ↓" in (toy.out / "leaderboard.md").read_text().replace("  ", "")
    with pytest.raises(ConfigError, match=r"overconfidence\.slak: unknown option 'slak'; did you mean 'slack'"):
        load_config(None, given | {"options": {"overconfidence": {"slak": 1}}}, registry)


def test_a_leaderboard_of_an_older_format_is_written_anew(toy: Toy) -> None:
    board, asked = toy.run(), toy.count()
    path = toy.out / "leaderboard.json"
    text = path.read_text()
    path.write_text(json.dumps({"format": 1, "rows": []}))
    assert toy.run() == board
    assert path.read_text() == text
    assert toy.count() == asked
