"""Curves of a training go nowhere unless asked, and a tracker that is not installed is named before anything runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from test_cli import conrad_bench, refused

from conrad_bench.methods.conrad import ConRad
from conrad_bench.trainers.settings import tracker_problem


def test_nothing_is_reported_by_default() -> None:
    assert ConRad().report_to == "none"
    assert ConRad().problem("report") is None


def test_a_missing_tracker_is_answered_with_the_command_that_installs_it(tmp_path: Path) -> None:
    missing = [name for name in ("trackio", "wandb", "mlflow") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("every tracker is installed")
    name = missing[0]
    assert tracker_problem(name) == f"report_to={name} needs the package {name}: pip install {name}"
    command = ("run", "--methods", "conrad", "--tasks", "mimic_report", "-o", f"conrad.report_to={name}", "--dry-run")
    assert f"pip install {name}" in refused(conrad_bench(*command, cwd=tmp_path))


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    command = ("run", "--methods", "conrad", "--tasks", "mimic_report", "-o", "conrad.report_to=wandbb", "--dry-run")
    assert "conrad.report_to" in refused(conrad_bench(*command, cwd=tmp_path))
