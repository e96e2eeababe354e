"""Curves of a training go nowhere unless asked, and a tracker that is not installed is named before anything runs."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_cli import conrad_bench, refused
from test_grpo import World as Reports
from test_grpo import fit as fit_conrad
from test_grpo import settings
from test_levels import World, fit

from conrad_bench.config import RunConfig, differences
from conrad_bench.errors import TrainingError
from conrad_bench.methods.conrad import ConRad
from conrad_bench.methods.conrad_exact import ConRadExact
from conrad_bench.methods.probe import Probe
from conrad_bench.methods.sft import SFT
from conrad_bench.trainers import levels
from conrad_bench.trainers.objectives import supervised
from conrad_bench.trainers.probe import train_probe
from conrad_bench.trainers.settings import tracker_problem
from conrad_bench.trainers.tracking import tracked

LEARNERS = (ConRad, ConRadExact, Probe, SFT)
MISSING = [name for name in ("trackio", "wandb", "mlflow", "tensorboard") if importlib.util.find_spec(name) is None]

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs the package tensorboard"
)


@pytest.fixture(scope="module")
def small(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(base_model, tmp_path_factory.mktemp("studies"))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the numbers in TensorBoard's event files: name: (step, value) in the order of the steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged(log: Path, name: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(line["step"], pytest.approx(line[name], rel=1e-4)) for line in lines]


@pytest.mark.parametrize("learner", LEARNERS)
def test_nothing_is_reported_by_default(learner: Any) -> None:
    assert learner().report_to == "none"
    assert learner().problem("report") is None


def test_without_a_tracker_nothing_is_imported_or_written(tmp_path: Path) -> None:
    with tracked("none", tmp_path, {"seed": 0}) as report:
        report(1, {"loss": 0.5})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not MISSING, reason="every tracker is installed")
def test_a_missing_tracker_is_answered_with_the_command_that_installs_it(tmp_path: Path) -> None:
    name = MISSING[0]
    assert tracker_problem(name) == f"report_to={name} needs the package {name}: pip install {name}"  # type: ignore[arg-type]
    methods = [learner.name for learner in LEARNERS] + ["sft+isotonic"]
    options = [part for learner in LEARNERS for part in ("-o", f"{learner.name}.report_to={name}")]
    command = ("run", "--methods", ",".join(methods), "--tasks", "mimic_report", *options, "--dry-run")
    lines = refused(conrad_bench(*command, cwd=tmp_path)).splitlines()
    for method in methods:
        assert [line for line in lines if f"method '{method}'" in line and f"pip install {name}" in line]


@pytest.mark.skipif(not MISSING, reason="every tracker is installed")
def test_a_tracker_that_does_not_start_ends_the_training_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"report_to={MISSING[0]} failed"), tracked(MISSING[0], tmp_path, {}):  # type: ignore[arg-type]
        pass


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    command = ("run", "--methods", "sft", "--tasks", "mimic_report", "-o", "sft.report_to=wandbb", "--dry-run")
    assert "sft.report_to" in refused(conrad_bench(*command, cwd=tmp_path))


def test_a_run_goes_on_with_another_tracker() -> None:
    one, other = ({"probe": {"report_to": name, "width": 8}} for name in ("wandb", "none"))
    config = {"methods": ["probe"], "tasks": ["mimic_report"], "model": "phantom"}
    assert differences(RunConfig(**config, options=one), RunConfig(**config, options=other)) == []
    other["probe"]["width"] = 9
    assert differences(RunConfig(**config, options=one), RunConfig(**config, options=other)) == [
        "options.probe.width: 8 -> 9"
    ]


@needs_tensorboard
def test_tensorboard_gets_the_curves_of_a_training_that_was_interrupted(
    small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step once, with the numbers of training.jsonl, also the steps that were trained twice."""
    correctness = [i / 12 for i in range(12)]
    changes: dict[str, Any] = {"epochs": 4.0, "checkpoints": 2, "schedule": "linear", "report_to": "tensorboard"}
    count, plain = itertools.count(), levels.answer_log_probabilities

    def interrupted(*arguments: Any) -> torch.Tensor:
        if next(count) == 6:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(levels, "answer_log_probabilities", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(small, tmp_path, supervised, correctness, **changes)
    assert [step for step, _ in curves(tmp_path / "tensorboard")["loss"]] == [1, 2, 3, 4, 5, 6]
    fit(small, tmp_path, supervised, correctness, **changes)
    found = curves(tmp_path / "tensorboard")
    assert set(found) == {"loss", "grad_norm", "reward", "parse_rate", "entropy", "learning_rate"}
    for name, points in found.items():
        assert points == logged(tmp_path / "training.jsonl", name)
        assert [step for step, _ in points] == list(range(1, 9))


@needs_tensorboard
def test_tensorboard_gets_the_curves_of_grpo(base_model: Path, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    out = tmp_path / "out"
    fit_conrad(Reports(base_model, tmp_path / "studies"), out, settings(epochs=0.5, report_to="tensorboard"))
    found = curves(out / "tensorboard")
    for name in ("loss", "grad_norm", "reward", "parse_rate", "learning_rate"):
        assert found[name] == logged(out / "training.jsonl", name)


@needs_tensorboard
def test_tensorboard_gets_both_losses_of_the_probe(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)).astype(np.float32), rng.uniform(size=60).astype(np.float32)
    probe = Probe(epochs=3, width=4, report_to="tensorboard")
    with tracked(probe.report_to, tmp_path, probe.model_dump(mode="json")) as report:
        history = train_probe(
            x, y, x, y, widths=(4,), epochs=3, learning_rate=1e-3, weight_decay=0.0, batch_size=20, patience=3, seed=0,
            advance=lambda steps: None, report=report, out=tmp_path,
        )  # fmt: skip
    found = curves(tmp_path / "tensorboard")
    for name in ("train_loss", "validation_loss"):
        assert found[name] == [(line["epoch"], pytest.approx(line[name], rel=1e-4)) for line in history]
    (told,) = (tmp_path / "tensorboard").glob("*/hparams.yml")
    assert "report_to: tensorboard" in told.read_text(encoding="utf-8")
