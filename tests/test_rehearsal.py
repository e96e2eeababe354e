"""`conrad-bench rehearse`: stages at full size, their memory and time, and a run folder that stays as it is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_cli import conrad_bench, refused

from conrad_bench.errors import EngineError
from conrad_bench.measuring import Measured, MeasuringReporter
from conrad_bench.rehearsal import heaviest
from conrad_bench.rehearsal_report import Played, is_out_of_memory, remedy
from conrad_bench.types import Example

TOY = str(Path(__file__).with_name("toy.py"))

SMALL = ("--tasks", "mimic_report", "-o", "phantom.studies=60", "-o", "transformers.batch_size=8")

JUDGED = """
from conrad_bench import Scorer, register_scorer

@register_scorer
class Judged(Scorer):
    name = "judged"
    summary = "asks a model of the hub"
    label = "judged"

    def judge(self):
        return "transformers", {"model": "nobody/nothing"}
"""


@pytest.fixture
def toy(tmp_path: Path) -> tuple[str, ...]:
    """The flags of a rehearsal of the toy task."""
    root = tmp_path / "questions"
    root.mkdir()
    rows = [
        {
            "id": f"{split}{i}",
            "patient": f"{split}{i}",
            "split": split,
            "says": f"yes Confidence: {i % 11}",
            "answer": "yes",
        }
        for split in ("train", "validate", "test")
        for i in range(40)
    ]
    (root / "questions.json").write_text(json.dumps(rows))
    return ("--tasks", "toy", "--engine", "echo", "--plugin", TOY, "--data-root", f"toy={root}", "--model", "echo")


def stages(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = json.loads(path.read_text())["stages"]
    return {(row["method"], row["part"], row["stage"]): row for row in rows}


@pytest.mark.slow
def test_each_stage_of_the_phantom_study_is_played(tmp_path: Path) -> None:
    arguments = (
        "--methods",
        "verbalized,conrad",
        *SMALL,
        "-o",
        "conrad.batch_size=16",
        "-o",
        "bootstrap.replicates=20",
    )
    done = conrad_bench("rehearse", *arguments, "--json", "found.json", "--steps", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["format"], found["examples"], found["failed"]) == (1, 8, 0)
    assert found["scorers"] == {"mimic_report": "phantom_green"}
    assert "mimic_report: judged by phantom_green" in done.stdout
    rows = stages(tmp_path / "found.json")
    training = rows["conrad", "fit", "training the confidence"]
    assert training["items"] == 4  # 8 examples, each with 8 rollouts, 16 a step
    plan = conrad_bench("run", *arguments, "--dry-run", cwd=tmp_path)
    assert ", judged by phantom_green" in plan.stdout
    assert f" {training['run_items']} " in next(line for line in plan.stdout.splitlines() if "steps of GRPO" in line)
    assert training["seconds_each"] > 0
    assert 0 < rows["verbalized", "estimate", "generate"]["host_gib"] < 8
    # The responses that verbalized asked for are there when conrad asks for them: what is generated are numbers alone.
    assert rows["conrad", "estimate", "generate"]["items"] == 8
    assert found["hours"] == pytest.approx(sum(row["hours"] for row in found["stages"]), rel=0.01)
    assert "training the confidence" in done.stdout
    # Nothing else is left: neither answers nor adapters.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "runs"]
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_stage_that_fails_is_a_row_and_the_others_go_on(tmp_path: Path, toy: tuple[str, ...]) -> None:
    failing = ("-o", f"mean.ready={tmp_path / 'absent'}", "-o", "mean.bug=true")
    done = conrad_bench("rehearse", "--methods", "mean,stated", *toy, *failing, "--out", "kept", cwd=tmp_path)
    assert done.returncode == 1
    assert "patient" not in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: 1 stage(s) of the rehearsal failed; each is named above with its remedy"
    )
    rows = json.loads((tmp_path / "kept" / "rehearsal.json").read_text())["stages"]
    states = {(row["method"], row["part"]): (row["status"], row["problem"]) for row in rows if row["status"] != "ok"}
    assert states == {
        ("mean", "fit"): ("failed", "unexpected RuntimeError"),
        ("mean", "estimate"): ("not played", "not played: the fit failed"),
    }
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["rehearsal.json"]


def test_a_run_folder_stays_as_it_is(tmp_path: Path, toy: tuple[str, ...]) -> None:
    done = conrad_bench(
        "run", "--methods", "stated", *toy, "--out", "run", "-o", "bootstrap.replicates=20", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    message = refused(conrad_bench("rehearse", "--methods", "stated", *toy, "--out", "run", cwd=tmp_path))
    assert "run holds a run; a rehearsal keeps out of it" in message
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_run_may_begin_where_its_rehearsal_left_the_result(tmp_path: Path, toy: tuple[str, ...]) -> None:
    for command in ("rehearse", "run"):
        arguments = ("--methods", "stated", *toy, "--out", "run", "-o", "bootstrap.replicates=20")
        done = conrad_bench(command, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_judge_out_of_reach_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "judged.py").write_text(JUDGED)
    judged = ("--plugin", "judged.py", "-o", "mimic_report.scorer=judged", "--json", "found.json")
    done = offline("rehearse", "--methods", "sft", *SMALL, *judged, cwd=tmp_path)
    assert done.returncode == 1
    rows = stages(tmp_path / "found.json")
    failed = [key for key, row in rows.items() if row["status"] == "failed"]
    assert failed == [("", "load nobody/nothing for judged", "")]
    assert rows["sft", "fit", "training the confidence"]["items"] >= 3


def test_a_dry_run_without_the_hub_says_what_it_could_not_check(tmp_path: Path) -> None:
    arguments = ("run", "--methods", "verbalized", *SMALL, "--model", "nobody/nothing")
    done = offline(*arguments, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not checked: model 'nobody/nothing' is neither a local folder nor in the local cache" in done.stdout
    assert "hub cannot be reached" in refused(offline(*arguments, cwd=tmp_path))
    wrong = tmp_path / "folder"
    wrong.mkdir()
    assert "is no checkpoint" in refused(offline(*arguments[:-1], str(wrong), "--dry-run", cwd=tmp_path))


def offline(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return conrad_bench(*arguments, cwd=cwd, HF_HUB_OFFLINE="1")


def test_the_heaviest_examples_have_the_most_images_then_the_longest_texts() -> None:
    def example(name: str, images: int, words: int) -> Example:
        return Example(name, name, "test", ("x.jpg",) * images, "", "word " * words, {})

    few = [example("a", 1, 50), example("b", 3, 2), example("c", 1, 60), example("d", 3, 9)]
    assert [e.id for e in heaviest(few, 3)] == ["d", "b", "c"]


def test_stages_are_measured_with_what_lies_within_them() -> None:
    reporter = MeasuringReporter(quiet=True)
    with pytest.raises(ValueError, match="x"), reporter.measure("fit") as outer:  # noqa: PT012
        with reporter.stage("generate", 4) as advance:
            block = bytearray(200 * 2**20)
            advance(4)
        del block
        with reporter.stage("training", 3):
            raise ValueError("x")
    generate, training = outer.within
    assert (generate.items, generate.error) == (4, None)
    assert isinstance(training.error, ValueError)
    assert outer.error is None
    assert outer.peak.host >= generate.peak.host > training.peak.host
    assert outer.own_seconds < outer.seconds


def test_the_first_step_does_not_count_where_others_follow() -> None:
    assert Measured("training", marks=[(1, 9.0), (1, 2.0), (1, 3.0), (1, 2.5)]).seconds_each() == 2.5
    assert Measured("generate", marks=[(16, 8.0)]).seconds_each() == 0.5
    assert Measured("fit").seconds_each() is None


def test_memory_that_is_too_small_is_answered_with_the_option_that_helps() -> None:
    import torch

    wrapped = EngineError("the device's memory is too small")
    wrapped.__cause__ = torch.OutOfMemoryError()
    assert is_out_of_memory(wrapped)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    method = SimpleNamespace(batch_size=64, accumulation=1, generations=8)
    engine = SimpleNamespace(name="transformers", batch_size=16, quantization="none")
    plan: Any = SimpleNamespace(methods={"conrad": method}, engine=engine, judges={})
    training = Played("fit", "mimic_report", "conrad")
    assert remedy(plan, training, "training ConRad") == (
        "-o conrad.batch_size=32 -o conrad.accumulation=2 or -o transformers.quantization=nf4"
    )
    assert remedy(plan, training, "generate").startswith("-o transformers.batch_size=8 or ")
