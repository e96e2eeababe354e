"""Training curves on the way to a tracker, by the classes of accelerate. Numbers and options only, never a text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conrad_bench.errors import TrainingError
from conrad_bench.storage import write_text
from conrad_bench.trainers.group import place
from conrad_bench.trainers.settings import Tracker

PROJECT = "conrad-bench"
"""The project (MLflow: experiment) of the curves, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names another."""

Report = Callable[[int, Mapping[str, float]], None]
"""Takes the number of a training step, from 1, and the numbers of this step by their names."""


def log_line(step: int, values: Mapping[str, float]) -> str:
    """Return the line of training.jsonl about a step, its numbers with six significant digits."""
    return json.dumps({"step": step, **{name: float(f"{value:.6g}") for name, value in values.items()}}) + "\n"


def keep_log_until(log: Path, step: int) -> None:
    """Drop the lines of an interrupted training that will be trained again; every step wrote one line.

    Where there is no log yet, make its folder.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.is_file():
        write_text(log, "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[:step]))


@contextmanager
def tracked(report_to: Tracker, out: Path, options: Mapping[str, Any], done: int = 0) -> Iterator[Report]:
    """Yield the function that reports the steps of a training whose artifact is left in the folder `out`.

    The tracker is told the method's `options` first. With `report_to="none"`, and in all workers of a group but the
    first, the function does nothing. `done` is the number of steps that an interrupted training goes on after.
    Raises TrainingError if the tracker fails.
    """
    if report_to == "none" or place()[0] > 0:
        yield lambda step, values: None
        return
    from accelerate import PartialState

    PartialState()  # the trackers ask it which process this is

    def asked(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except Exception as error:
            raise TrainingError(
                f"report_to={report_to} failed ({type(error).__name__}: {error}); the same command continues, with "
                "another report_to, too"
            ) from error

    tracker = asked(_tracker, report_to, out, done)
    asked(tracker.start)
    try:
        asked(tracker.store_init_configuration, dict(options))
        yield lambda step, values: asked(tracker.log, dict(values), step=step)
    finally:
        asked(tracker.finish)


def _tracker(report_to: Tracker, out: Path, done: int) -> Any:
    """Return a tracker that was not started yet; the run in it is named after the run folder, method and task."""
    from accelerate import tracking

    name = f"{out.parent.parent.name}-{out.name}"
    if report_to == "tensorboard":  # from purge_step on, what an interrupted training wrote is hidden
        return tracking.TensorBoardTracker("tensorboard", logging_dir=out, purge_step=done + 1)
    if report_to == "wandb":
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        return tracking.WandBTracker(project, name=name, dir=str(out), settings={"console": "off"})
    if report_to == "mlflow":
        return tracking.MLflowTracker(PROJECT, run_name=name)
    return tracking.TrackioTracker(PROJECT, name=name, resume="allow" if done else "never")
