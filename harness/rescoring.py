"""A finished run judged anew by another scorer, in a folder of its own: `conrad-bench score`.

The new folder has the answers and the fits of the run, as further names of the same files where the disk allows, and
its configuration with the scorers replaced: `scorer` is the new one, `fit_scorer` that by which methods learned. The
ordinary pipeline does the rest, with an engine that has the identity which the manifest names and answers nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import new_class
from typing import TYPE_CHECKING, Any

from conrad_bench.config import RunConfig, dump_config, load_config
from conrad_bench.counterfactual import PICTURES
from conrad_bench.engines.calls import METHODS
from conrad_bench.errors import ConfigError, DataError, ModelError
from conrad_bench.fingerprints import ARTIFACT, artifact_files
from conrad_bench.pipeline import carry_out, check_folder
from conrad_bench.plan import Plan, make_plan
from conrad_bench.registry import unknown
from conrad_bench.staleness import MANIFEST
from conrad_bench.storage import make_private, read_json, storage_errors, write_text

if TYPE_CHECKING:
    from conrad_bench.engines.base import Engine
    from conrad_bench.progress import Reporter
    from conrad_bench.registry import Registry


def score(
    run: Path,
    scorers: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    registry: Registry,
    reporter: Reporter,
    out: Path | None = None,
    metrics: Sequence[str] | None = None,
    keep_stale: bool = False,
) -> tuple[dict[str, Any], Path]:
    """Judge a finished run by other scorers; return the content of leaderboard.json, and the new run's folder.

    `scorers` holds "NAME" for every task and "TASK=NAME" for one; `options` are by plugin. `out` is a folder beside the
    run's unless given; the same call again goes on. `metrics` names those that the board has. Nothing is generated but
    by a scorer's own model. Raises ConfigError for names that there are not and a folder in use, DataError where the
    run is not finished or holds no answers, ModelError where an answer or a fit would have to be made.
    """
    described = read_json(run / MANIFEST)
    if not (run / "config.yaml").is_file():
        raise DataError(f"{run} holds no run: name a folder that `run` wrote")
    if not (run / "rollouts").is_dir():
        raise DataError(f"{run} holds no answers: a published bundle has none; name the run folder that it was made of")
    if described is None:
        raise DataError(f"{run} is not finished (no {MANIFEST}); the same `run` command finishes it")
    config = rescored(load_config(run / "config.yaml", registry=registry), scorers, options, registry)
    out = out or run.parent / f"{run.name}-{re.sub('[:=,]', '-', '-'.join(scorers)).replace('/', '_')}"
    if out.resolve() == run.resolve():
        raise ConfigError(f"--out {out} is the run itself; name another folder")
    plan = make_plan(config, registry)
    notes = ((read_json(run / "context.json") or {}).get("context") or {}).get("notes") or []
    plan = replace(plan, engine=answered(plan.engine, described.get("model") or plan.engine.identity(), notes, run))
    if metrics is not None:
        plan = replace(plan, metrics=_chosen(metrics, plan))
    check_folder(out, plan)
    make_private(out)
    write_text(out / "config.yaml", dump_config(plan.config))
    for source, target in _kept(run, out):
        _link(source, target)
    board = carry_out(plan, out, reporter, None, keep_stale, strict=False)
    if metrics is not None and {metric["name"] for metric in board["metrics"]} != {m.name for m in plan.metrics}:
        raise ConfigError(
            f"{out} was judged before, with other metrics; `conrad-bench leaderboard {out} --metrics "
            f"{','.join(metrics)} --out DIR` makes a board with these"
        )
    return board, out


def rescored(
    config: RunConfig, scorers: Sequence[str], options: Mapping[str, Mapping[str, Any]], registry: Registry
) -> RunConfig:
    """Return a run's configuration with other scorers, and the ones by which its methods learned as `fit_scorer`.

    Raises ConfigError for a task that the run has not, and where no task gets another scorer.
    """
    wanted: dict[str, str] = {}
    for given in scorers:
        task, equals, name = given.partition("=")
        if equals and task not in config.tasks:
            raise ConfigError(f"--scorer {given}: {unknown('task', task, config.tasks)}")
        wanted |= {task: name} if equals else {each: given for each in config.tasks if each not in wanted}
    tasks = make_plan(config, registry).tasks
    sections = {name: dict(section) for name, section in options.items()}
    for name, scorer in wanted.items():
        before = tasks[name].fit_scorer or tasks[name].scorer
        sections[name] = {
            **sections.get(name, {}),
            "scorer": scorer,
            "fit_scorer": None if scorer == before else before,
        }
    if not options and all(tasks[name].scorer == scorer for name, scorer in wanted.items()):
        raise ConfigError(f"the run was judged by {', '.join(sorted({*wanted.values()}))} already; name another scorer")
    merged = {name: {**config.options.get(name, {}), **section} for name, section in sections.items()}
    # Checked as a config file is.
    values = {**config.model_dump(), "options": {**config.options, **merged}}
    return load_config(None, values, registry)


def answered(engine: Engine, identity: Mapping[str, str], notes: Sequence[str], run: Path) -> Engine:
    """Return an engine as it was when a run was made, which knows that run's answers and gives no others.

    It has the `identity` of then, whatever the versions are now and wherever the weights are, and the run's notes.
    """

    def refuse(*_: Any, **__: Any) -> Any:
        raise ModelError(
            f"{run} does not hold all answers that its methods ask for, and `score` generates none: the data, the "
            "options or the fits are not those of the run any more (what changed is named above). Let the same `run` "
            "command go on in that folder first, or take fits as they are with --keep-stale"
        )

    cls = type(engine)
    methods = {
        **dict.fromkeys((*METHODS, "stream", "torch_model"), refuse),
        "name": cls.name,
        "identity": lambda self: dict(identity),
        "notes": lambda self, pictures: tuple(map(str, notes)),
        "check_prompts": lambda self: None,
        "check_training": lambda self, joint=False: None,
        # Of the same source as the engine's class: it is the code of the answers.
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    kept: Any = new_class(cls.__name__, (cls,), exec_body=lambda body: body.update(methods))
    found: Engine = kept.model_validate(engine.model_dump())
    return found


def _chosen(names: Sequence[str], plan: Plan) -> tuple[Any, ...]:
    """Return the plan's metrics of those names, in the order of the table. Raises ConfigError for one there is not."""
    known = {metric.name: metric for metric in plan.metrics}
    for name in names:
        if name not in known:
            raise ConfigError(f"--metrics: {unknown('metric', name, list(known))}")
    return tuple(metric for name, metric in known.items() if name in names)


def _kept(run: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files of a run that one with other scorers needs too, and where they lie in its folder."""
    names = ["digests.json", *(f"rollouts/{path.name}" for path in sorted((run / "rollouts").glob("*.parquet")))]
    names += [f"{PICTURES}/{path.name}" for path in sorted((run / PICTURES).glob("*.png"))]
    for marker in sorted(run.glob(f"artifacts/*@*/{ARTIFACT}")):
        folder = marker.parent
        if ".stale-" not in folder.name:
            place = folder.relative_to(run).as_posix()
            names += [f"{place}/{name}" for name in artifact_files(folder)]
            names.append(f"{place}/{ARTIFACT}")  # last: it says that the others are there
    for name in names:
        if (run / name).is_file():
            yield run / name, out / name


def _link(source: Path, target: Path) -> None:
    """Give a file another name, or copy it where that cannot be. What is there stays. Raises StorageError."""
    if target.exists():
        return
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:
            return
        except OSError:  # another disk, or one that knows no such names
            temporary = target.with_name(f".{target.name}.tmp")
            shutil.copyfile(source, temporary)
            os.replace(temporary, target)
