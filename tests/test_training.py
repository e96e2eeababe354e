"""Training by several workers: the adapter of one process, whatever their number, and whichever of them die."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from test_cluster import pytestmark as pytestmark
from test_grpo import World, fit, low_is_good
from test_grpo import settings as options
from test_joint_sft import OPTIONS as JOINT_SFT
from test_joint_sft import fit as fit_joint_sft
from test_joint_sft import targets
from test_levels import World as Claims
from test_levels import fit as fit_levels
from test_tracking import curves, logged, needs_tensorboard

from conrad_bench.cluster.cluster import LOCAL, Cluster
from conrad_bench.errors import ConfigError
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.model import Model
from conrad_bench.trainers.conrad import train_conrad
from conrad_bench.trainers.joint_sft import train_joint_sft
from conrad_bench.trainers.levels import train_levels
from conrad_bench.trainers.objectives import expected_reward, sampled, supervised
from conrad_bench.trainers.settings import GRPOSettings, LevelSettings

WORKERS = 2
TOLERANCE = 1e-4
"""Of an adapter's weights, which these trainings move by up to 0.01: sums over two parts differ in the last digits."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray", reason="ray is not installed")
    if (os.cpu_count() or 1) < WORKERS:
        pytest.skip(f"{WORKERS} workers need {WORKERS} CPUs")
    with Cluster(LOCAL, train_workers=WORKERS) as started:
        yield started


@pytest.fixture(scope="module")
def small(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(base_model, tmp_path_factory.mktemp("studies"))


def assert_same_adapter(found: Path, expected: Path) -> None:
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (found, expected))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < TOLERANCE
    assert max(float(value.abs().max()) for name, value in theirs.items() if "lora_B" in name) > 10 * TOLERANCE
    assert (found / "adapter_config.json").read_bytes() == (expected / "adapter_config.json").read_bytes()
    steps = [folder / "training.jsonl" for folder in (found, expected)]
    assert len({path.read_text().count("\n") for path in steps}) == 1
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}


def train(cluster: Cluster, small: World, chosen: GRPOSettings, out: Path, reward: Any, reporter: Any = None) -> None:
    data = {
        "settings": chosen,
        "prompts": small.prompts,
        "base_model": "base",
        "seed": 0,
        "out": out,
    }
    model = Model(small.engine, {}, reporter or Reporter(quiet=True), pool=cluster)  # type: ignore[arg-type]
    model.train(train_conrad, data, {"reward": reward})


def training_workers(root: int) -> list[int]:
    """Return the processes below process `root` that train."""
    parents, names = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = status.read_text().split(" (", 1)[1].rsplit(") ", 1)
            command = status.with_name("cmdline").read_bytes().decode()
        except OSError:
            continue
        parents[int(status.parent.name)], names[int(status.parent.name)] = int(rest.split()[1]), name + command
    found = []
    for process, name in names.items():
        above = process
        while above in parents and above != root:
            above = parents[above]
        if above == root and "TrainWorker" in name:
            found.append(process)
    return sorted(found)


def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint(
    cluster: Cluster, small: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = options(epochs=1.0)
    fit(small, tmp_path / "whole", chosen)
    asked = itertools.count(1)
    killed = []

    def reward(rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float], list[bool]]:
        if next(asked) == 5 * WORKERS:
            killed.extend(training_workers(os.getpid()))
            os.kill(killed[-1], signal.SIGKILL)
        return low_is_good(rows, texts)

    train(cluster, small, chosen, tmp_path / "group", reward)
    assert len(killed) == WORKERS
    assert_same_adapter(tmp_path / "group", tmp_path / "whole")
    assert 8 * WORKERS < next(asked) - 1 < (8 + 5) * WORKERS  # it went on from the checkpoint of step 2 or 4
    assert capfd.readouterr().err == ""


def test_reports_are_rolled_out_together(cluster: Cluster, small: World, tmp_path: Path) -> None:
    chosen = options(epochs=0.5, learning_rate=1e-3)
    fit(small, tmp_path / "whole", chosen)
    train(cluster, small, chosen, tmp_path / "group", low_is_good)
    assert_same_adapter(tmp_path / "group", tmp_path / "whole")


@pytest.mark.parametrize("objective", [expected_reward(100.0, 0.01, 0.0, False), sampled(100.0, 0.01, 4)])
def test_likelihoods_are_trained_on_together(
    cluster: Cluster, base_model: Path, tmp_path: Path, objective: Any
) -> None:
    claims = Claims(base_model, tmp_path)
    correctness = [i / len(claims.prompts) for i in range(len(claims.prompts))]
    changes: dict[str, Any] = {"batch_size": 3, "accumulation": 2, "epochs": 2.0, "learning_rate": 5e-3, "rank": 8}
    fit_levels(claims, tmp_path / "whole", objective, correctness, **changes)
    data = {
        "settings": LevelSettings(**changes),
        "objective": objective,
        "written": claims.written("\n"),
        "correctness": correctness,
        "between": "\n",
        "base_model": "base",
        "seed": 0,
        "out": tmp_path / "group",
    }
    Model(claims.engine, {}, Reporter(quiet=True), pool=cluster).train(train_levels, data, {})  # type: ignore[arg-type]
    assert_same_adapter(tmp_path / "group", tmp_path / "whole")


def test_report_and_confidence_are_learned_together(cluster: Cluster, base_model: Path, tmp_path: Path) -> None:
    claims = Claims(base_model, tmp_path)
    changes: dict[str, Any] = {"batch_size": 3, "accumulation": 2, "epochs": 1.0, "learning_rate": 2e-3}
    fit_joint_sft(claims, tmp_path / "whole", **changes)
    data = {
        "settings": LevelSettings(**{**JOINT_SFT, **changes}),
        "targets": targets(claims),
        "base_model": "base",
        "seed": 0,
        "out": tmp_path / "group",
    }
    Model(claims.engine, {}, Reporter(quiet=True), pool=cluster).train(train_joint_sft, data, {})  # type: ignore[arg-type]
    assert_same_adapter(tmp_path / "group", tmp_path / "whole")


@needs_tensorboard
def test_one_worker_reports_what_all_have_trained(
    cluster: Cluster, small: World, base_model: Path, tmp_path: Path
) -> None:
    claims = Claims(base_model, tmp_path)
    data = {
        "settings": LevelSettings(batch_size=4, epochs=1.0, rank=4, report_to="tensorboard"),
        "objective": supervised,
        "written": claims.written("\n"),
        "correctness": [0.3] * len(claims.prompts),
        "between": "\n",
        "base_model": "base",
        "seed": 0,
        "out": tmp_path / "levels",
    }
    Model(claims.engine, {}, Reporter(quiet=True), pool=cluster).train(train_levels, data, {})  # type: ignore[arg-type]
    train(cluster, small, options(epochs=0.5, report_to="tensorboard"), tmp_path / "grpo", low_is_good)
    for name in ("levels", "grpo"):
        events = [path for path in (tmp_path / name / "tensorboard").iterdir() if path.is_file()]
        assert len(events) == 1
        assert curves(tmp_path / name / "tensorboard")["loss"] == logged(tmp_path / name / "training.jsonl", "loss")


def test_an_error_of_a_reward_is_raised_as_it_is(cluster: Cluster, small: World, tmp_path: Path) -> None:
    def reward(rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float], list[bool]]:
        raise ZeroDivisionError("the report of a patient")

    with pytest.raises(ZeroDivisionError):
        train(cluster, small, options(), tmp_path, reward)


def test_an_error_of_a_worker_has_its_class_and_text(
    cluster: Cluster, small: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends the training at once: only what died is tried again."""
    with pytest.raises(ConfigError, match=r"3 groups of rollouts .* cannot be shared equally by 2 training workers"):
        train(cluster, small, options(batch_size=9, generations=3), tmp_path, low_is_good)
    assert capfd.readouterr().err == ""
