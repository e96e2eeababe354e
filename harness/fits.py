"""Fits: what methods learn before they estimate, one after another, or side by side on a cluster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from conrad_bench.contracts import declared, place
from conrad_bench.counterfactual import PICTURES
from conrad_bench.errors import PluginError, StorageError, TrainingError
from conrad_bench.fingerprints import ARTIFACT, artifact_files, artifact_folder, fit_parts
from conrad_bench.judging import make_judge
from conrad_bench.methods.base import Judge, Method
from conrad_bench.methods.recalibrated import Composed, learner, leaves, within
from conrad_bench.plan import Plan
from conrad_bench.storage import read_json, storage_errors, write_text

if TYPE_CHECKING:
    from conrad_bench.cluster.cluster import Cluster
    from conrad_bench.progress import Reporter
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Loaded, Task
    from conrad_bench.types import Example


BEGUN = ".begun.json"
"""What a fit that has not ended is made from, in its folder: only the same fit goes on from its checkpoints."""

Files = dict[Path, tuple[int, int]]
"""Size and time of change (ns) by path."""


def fit_side_by_side(
    plan: Plan, data: dict[str, Loaded], model: Model, out: Path, reporter: Reporter, cluster: Cluster
) -> dict[tuple[str, str], Exception]:
    """Fit the methods that learn, several at once, and return what went wrong, by (method, task fitted on).

    A fit that is alone, or has to be, is left to the method's turn, as are the maps of recalibrated methods.
    """
    from conrad_bench.progress import NamedReporter
    from conrad_bench.records import records_path

    wanted = {
        (learner_name, plan.tasks[task_name].fit_on or task_name): learns
        for task_name in plan.config.tasks
        for name, method in plan.methods.items()
        for learner_name, learns in leaves(name, method).items()
        if learns.learns() and not learns.asks_while_training() and not records_path(out, name, task_name).is_file()
    }
    places = [place for place in wanted if not (artifact_folder(out, *place) / ARTIFACT).is_file()]
    if len(places) < 2:
        return {}
    fitted = replace(plan, methods={**plan.methods, **{name: wanted[name, task] for name, task in places}})
    names = [f"{name} on {task}" for name, task in places]
    reporter.say(f"fitting side by side: {', '.join(names)}")
    jobs = [
        partial(fit, fitted, *place, data, replace(model, reporter=NamedReporter(reporter, name)), out)
        for name, place in zip(names, places, strict=True)
    ]
    found = {place: error for place, error in zip(places, cluster.side_by_side(jobs), strict=True) if error is not None}
    for error in found.values():
        if isinstance(error, StorageError):
            raise error
    return found


def fit(plan: Plan, name: str, task_name: str, data: dict[str, Loaded], model: Model, out: Path) -> Path:
    """Return the artifact of a method, fitting it on a task's examples unless a complete one is there.

    artifact.json is written last: a folder without it is a fit that was interrupted, which the trainer continues from
    its last checkpoint.
    """
    method, task, loaded = plan.methods[name], plan.tasks[task_name], data[task_name]
    folder = artifact_folder(out, name, task_name)
    for part, inner in method.parts().items() if isinstance(method, Composed) else ():
        if inner.learns():
            fit(with_inner(plan, name), part, task_name, data, model, out)
    marker = folder / ARTIFACT
    if marker.is_file():
        return folder
    parts = fit_parts(plan, name, task_name, data, out)
    begun = folder / BEGUN
    model.store.check_there()
    with storage_errors(folder):
        if folder.exists() and read_json(begun) != parts:
            shutil.rmtree(folder)  # checkpoints of a fit to other data, options, code or weights
        folder.mkdir(parents=True, exist_ok=True)
    write_text(begun, json.dumps(parts, indent=1, sort_keys=True) + "\n")
    train, validation = loaded.split("train"), loaded.split("validate")
    met = replace(model, unreadable={})
    judge = make_judge(plan, plan.teachers[task_name], task, met)
    learn(plan, method, task, train, validation, met, judge, out, folder)
    model.unreadable.update(met.unreadable)
    check_weights(folder)
    content = {
        "method": name,
        "task": task_name,
        "options": method.model_dump(mode="json"),
        "model": model.engine.identity(),
        "made_from": parts,
        "files": artifact_files(folder),
        "clusters": len({e.cluster for e in (*train, *validation)}),
        "image_unreadable": sum(any(p in met.unreadable for p in e.images) for e in (*train, *validation)),
    }
    write_text(marker, json.dumps(content, indent=1, sort_keys=True) + "\n")
    begun.unlink()
    return folder


def with_inner(plan: Plan, name: str) -> Plan:
    """Return the plan with the methods that a method is made of among its methods."""
    return replace(plan, methods={**within(plan.methods[name]), **plan.methods})


def learn(
    plan: Plan,
    method: Method,
    task: Task,
    train: Sequence[Example],
    validation: Sequence[Example],
    model: Model,
    judge: Judge,
    run: Path,
    folder: Path,
) -> None:
    """Let a method learn in a folder of a run's. Raises PluginError where it does what it must not (`check_fit`)."""
    before = finished_files(run)
    method.fit(task, train, validation, declared(fitting(plan, method, model), method), judge, folder)
    model.store.check_there()
    check_fit(method, run, folder, before)


def finished_files(run: Path) -> Files:
    """Return the files of a run that no fit has any business with: all but the rollouts and fits in the making."""
    found = {}
    for top in run.iterdir():
        making = top.name == "artifacts"
        # Who starts the same run meanwhile is refused, but remembers the digests of files first.
        for path in () if top.name in ("rollouts", "digests.json", PICTURES) else (top, *top.rglob("*")):
            ours = not making or (top / path.relative_to(top).parts[0] / ARTIFACT).is_file() if path != top else True
            if ours and path.is_file() and not path.name.endswith(".tmp"):
                status = path.stat()
                found[path] = (status.st_size, status.st_mtime_ns)
    return found


def check_fit(method: Method, run: Path, folder: Path, before: Files) -> None:
    """Raise PluginError unless a fit left something in its folder, and nothing elsewhere in the run's.

    `before` are the `finished_files` of the time when it began.
    """
    where = f"method {method.name!r} ({place(type(learner(method)), 'fit')})"
    if not any(path.is_file() and not path.name.startswith(".") for path in folder.rglob("*")):
        raise PluginError(f"{where}: fit left nothing in its folder; it must write what it learned into `out`")
    after = finished_files(run)
    changed = sorted(path for path in before if after.get(path) != before[path])
    made = sorted(path for path in after.keys() - before.keys() if path.relative_to(run).parts[0] != "artifacts")
    if changed or made:
        what = (changed + made)[0].relative_to(run)
        raise PluginError(f"{where}: fit wrote outside its folder ({what}); it must write into `out` alone")


def check_weights(folder: Path) -> None:
    """Raise TrainingError if a fit left weights that are not finite."""
    import numpy as np
    from safetensors.numpy import load_file

    for path in folder.rglob("*.safetensors"):
        if not all(np.isfinite(tensor).all() for tensor in load_file(path).values()):
            raise TrainingError(f"{path.name}: the fit ended with weights that are no numbers; lower the learning rate")


def fitting(plan: Plan, method: Method, model: Model) -> Model:
    """Return the model for a method's fit: a training has the judges' memory, too, unless it asks them as it goes."""
    beside = () if learner(method).asks_while_training() else tuple(plan.judges.values())
    return replace(model, beside=beside)
