"""What a report is made with: a finished run's model, prompt and fit, or a model and a method that needs no fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from conrad_bench.config import RunConfig, differences, load_config
from conrad_bench.errors import ConfigError, DataError, ModelError
from conrad_bench.fingerprints import ARTIFACT, artifact_folder, artifact_problem
from conrad_bench.making import make_method
from conrad_bench.methods.base import Method
from conrad_bench.plan import PHANTOM_DATA, PHANTOM_MODEL, Plan, make_plan
from conrad_bench.registry import Registry, unknown
from conrad_bench.rollouts.model import VERSIONS
from conrad_bench.staleness import MANIFEST, finished
from conrad_bench.storage import read_json
from conrad_bench.tasks.base import Task

Level = Literal["report", "sentence"]

LEVELS: dict[Level, str] = {"report": "mimic_report", "sentence": "mimic_sentence"}
"""The task whose prompt is asked where no run fixes one."""

DEFAULT_METHOD = "verbalized"


@dataclass(frozen=True)
class Making:
    """All that a report depends on beside its pictures."""

    plan: Plan
    name: str
    """The method's."""
    method: Method
    task: Task
    artifact: Path | None = None
    """What the method learned."""
    run: Path | None = None
    """The finished run that fixes it all."""
    notes: tuple[str, ...] = ()

    @property
    def phantom(self) -> bool:
        """Whether the model is the embedded one."""
        return self.plan.config.model == PHANTOM_MODEL


def plan_anew(
    model: str | None,
    engine: str | None,
    method: str | None,
    level: Level | None,
    options: Mapping[str, Mapping[str, Any]],
    registry: Registry,
) -> Making:
    """Return what makes reports with a method that needs no fit; the embedded model unless one is named.

    Raises ConfigError for a method that learns, and what `make_plan` raises.
    """
    name, task = method or DEFAULT_METHOD, LEVELS[level or "sentence"]
    given = {"methods": [name], "tasks": [task], "model": model or PHANTOM_MODEL, "engine": engine, "options": options}
    config = load_config(None, {key: value for key, value in given.items() if value is not None}, registry)
    # New pictures have no data root; with another model than the embedded one they are no phantoms.
    plan = make_plan(config, registry, {} if config.model == PHANTOM_MODEL else {task: Path("new studies")})
    if plan.methods[name].learns():
        raise ConfigError(
            f"method {name!r} learns before it estimates: name what it learned in a finished run, with --artifact "
            f"RUN/artifacts/{name}@TASK, or a method that learns nothing, such as {DEFAULT_METHOD}"
        )
    return Making(plan, name, plan.methods[name], plan.tasks[task])


def plan_from(
    folder: Path,
    model: str | None,
    method: str | None,
    level: Level | None,
    options: Mapping[str, Mapping[str, Any]],
    registry: Registry,
) -> Making:
    """Return what makes reports as a finished run made them.

    `folder` is an artifact of the run, or the run's own, with `method` one of its methods. `model` may say where the
    same weights lie now. Raises DataError where the run is not finished or was changed, ConfigError for what the run
    fixes otherwise, ModelError for other weights.
    """
    made = read_json(folder / ARTIFACT)
    run = folder.absolute().parents[1] if made is not None else folder
    if not (run / "config.yaml").is_file():
        raise DataError(f"{folder} is neither an artifact (RUN/artifacts/METHOD@TASK) nor the folder of a run")
    if not finished(run):
        raise DataError(f"{run} is not finished, or was changed since; the same `run` command finishes it")
    config = load_config(run / "config.yaml", registry=registry)
    config = _with_options(config, options, run, registry)
    if model is not None:
        config = config.model_copy(update={"model": model})
    described = read_json(run / MANIFEST) or {}
    roots = {name: entry["root"] for name, entry in described["data"].items()}
    known = {name: None if root == PHANTOM_DATA else Path(root) for name, root in roots.items()}
    plan = make_plan(config, registry, known)
    notes = _check_model(plan, described["model"], run)
    if made is not None:
        name, task_name = str(made["method"]), str(made["task"])
        if method not in (None, name):
            raise ConfigError(f"--method {method}: {folder.name} is what {name!r} learned; leave out --method")
        found = plan.methods.get(name) or make_method(name, config, registry)
    else:
        if method not in plan.methods:
            said = "--method names one" if method is None else unknown("method", method, list(plan.methods))
            raise ConfigError(f"{run} is a run of {', '.join(plan.methods)}: {said}")
        name, found, task_name = method, plan.methods[method], _task_of(plan, level, run)
    task = plan.tasks[task_name]
    if task.granularity not in LEVELS:
        raise ConfigError(f"task {task_name!r} answers questions; a report needs a run on reports or their sentences")
    if level not in (None, task.granularity):
        raise ConfigError(f"--level {level}: the run's confidences on {task_name} are of a {task.granularity} each")
    artifact = artifact_folder(run, name, task.fit_on or task_name) if found.learns() else None
    if made is not None:
        artifact = folder
    if artifact is not None:
        there = read_json(artifact / ARTIFACT)
        why = "is not there" if there is None else artifact_problem(artifact, there.get("made_from") or {})
        if why is not None:
            raise DataError(f"{artifact}: {why}; the same `run` command makes it again")
    return Making(plan, name, found, task, artifact, run, notes)


def _with_options(
    config: RunConfig, options: Mapping[str, Mapping[str, Any]], run: Path, registry: Registry
) -> RunConfig:
    """Return a run's configuration with options that change no answer. Raises ConfigError for others."""
    if not options:
        return config
    merged = {name: {**config.options.get(name, {}), **options.get(name, {})} for name in {*config.options, *options}}
    changed = load_config(None, {**config.model_dump(), "options": merged}, registry)
    free = set(registry.get("engines", config.engine).free)
    found = differences(config, changed, {f"options.{config.engine}.{option}" for option in free})
    if found:
        raise ConfigError(f"{run} fixes how its reports are made; leave out:\n" + "\n".join(f"  - {s}" for s in found))
    return changed


def _check_model(plan: Plan, before: Mapping[str, str], run: Path) -> tuple[str, ...]:
    """Raise ModelError unless the model is the run's; return what else differs from then, for a reader."""
    now = plan.engine.identity()
    other = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if wrong := [key for key in other if key not in VERSIONS]:
        raise ModelError(
            f"{run} was made with another model ({', '.join(wrong)} differ): its confidences are not this one's; "
            "--model names the folder or hub id with the run's own weights"
        )
    return tuple(f"the run had {key} {before.get(key)}, this is {now.get(key)}" for key in other)


def _task_of(plan: Plan, level: Level | None, run: Path) -> str:
    """Return the task of a run whose reports are meant. Raises ConfigError where that is not one."""
    level_of = {name: plan.tasks[name].granularity for name in plan.config.tasks}
    reports = [name for name, found in level_of.items() if found == (level or "sentence")]
    reports = reports or [name for name, found in level_of.items() if level is None and found in LEVELS]
    if len(reports) != 1:
        found = ", ".join(plan.config.tasks)
        raise ConfigError(f"{run} has the tasks {found}: --level sentence or --level report should leave one of them")
    return reports[0]
