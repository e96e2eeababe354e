"""What results were made from, so that a run that goes on mixes nothing: digests of data, options, code and models.

An artifact and a records file each carry a digest for every part that they depend on. Where one has changed, the result
is made again, and what changed is named.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.counterfactual import VERSION, Counterfactual
from conrad_bench.methods.recalibrated import Composed, learner, leaves
from conrad_bench.plan import expert_name
from conrad_bench.rollouts.digests import file_digest
from conrad_bench.storage import file_sha256, read_json
from conrad_bench.tasks.scorers.panel import Panel
from conrad_bench.types import Example

if TYPE_CHECKING:
    from pydantic import BaseModel

    from conrad_bench.methods.base import Method
    from conrad_bench.plan import Plan
    from conrad_bench.tasks.base import Loaded, Scorer, Task

Parts = dict[str, str]
"""A digest by the name of what it is about."""

ARTIFACT = "artifact.json"
_BESIDE = frozenset({"tensorboard", "wandb", "trackio", "mlruns", "checkpoints"})
"""Folders of an artifact that are no part of what was learned."""
_UNSAID = {"report_to"}
"""Options of methods that change nothing of what is computed."""
_LATER = {"reward": "log", "ranking": 0.0, "entailment": None}
"""Options that came later, with the value that changes nothing: what was made before them stays as it is."""


def examples_digest(examples: Iterable[Example]) -> str:
    """Return a digest of examples: ids, clusters, splits, texts, attributes, and the contents of their images.

    An image that cannot be read counts as such.
    """
    digest = hashlib.sha256()
    for e in sorted(examples, key=lambda e: e.id):
        images = [_image(path) for path in e.images]
        line = json.dumps([e.id, e.cluster, e.split, e.context, e.reference, dict(e.attributes), images])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _image(path: str) -> str:
    try:
        return file_digest(Path(path))
    except OSError:
        return "unreadable"


def fit_parts(plan: Plan, name: str, task_name: str, data: Mapping[str, Loaded], out: Path) -> Parts:
    """Return what the artifact of a method on a task is made from."""
    method, task, loaded = plan.methods[name], plan.tasks[task_name], data[task_name]
    taught = task.model_copy(update={"scorer": task.fit_scorer or task.scorer, "fit_scorer": None})
    parts = _common(plan, method, taught, plan.teachers[task_name])
    parts["training examples"] = examples_digest([*loaded.split("train"), *loaded.split("validate")])
    for inner, each in method.parts().items() if isinstance(method, Composed) else ():
        if each.learns():
            parts[f"artifact of {inner}"] = artifact_digest(artifact_folder(out, inner, task_name))
    return parts


def record_parts(plan: Plan, name: str, task_name: str, data: Mapping[str, Loaded], out: Path) -> Parts:
    """Return what the records of a method on a task are made from."""
    method, task = plan.methods[name], plan.tasks[task_name]
    parts = _common(plan, method, task, plan.scorers[task_name])
    if task.fit_scorer is not None:
        parts["scorer that the method sees"] = _judging(plan, plan.teachers[task_name])
    parts["test examples"] = examples_digest(data[task_name].split("test"))
    if task_name in plan.qualities:
        parts["quality scorer"] = _judging(plan, plan.qualities[task_name])
    if method.learns():
        parts["artifact"] = artifact_digest(artifact_folder(out, name, task.fit_on or task_name))
    return parts


def counterfactual_parts(plan: Plan, each: Counterfactual, data: Mapping[str, Loaded], out: Path) -> Parts:
    """Return what the records of a method under other pictures are made from: these follow from the test examples."""
    parts = record_parts(plan, each.method, each.task, data, out)
    return {**parts, "replacement": _digest([VERSION, each.replacement, each.reading, plan.config.seed])}


def _common(plan: Plan, method: Method, task: Task, scorer: Scorer) -> Parts:
    learns = learner(method)
    options = task.model_dump(mode="json")
    if options["fit_scorer"] is None:
        del options["fit_scorer"]  # what was made before there was this option stays as it is
    others = {name: code_digest(type(leaf)) for name, leaf in leaves("", method).items() if leaf is not learns}
    asked = [plan.judges[leaf] for leaf in map(expert_name, leaves("", method).values()) if leaf in plan.judges]
    return {
        **({"experts": _digest([engine.identity() for engine in asked])} if asked else {}),
        "options of the method": _digest(_chosen(method.model_dump(mode="json"))),
        "code of the method": code_digest(type(learns)),
        **{f"code of {name}": digest for name, digest in others.items()},
        "options of the task": _digest(options),
        "code of the task": code_digest(type(task)),
        "scorer": _judging(plan, scorer),
        **{f"model ({name})": _digest(value) for name, value in plan.engine.identity().items()},
        "code of the engine": code_digest(type(plan.engine)),
    }


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    """Return a method's options, those of the methods within it included, without what changes nothing."""
    kept = {name: value for name, value in options.items() if name not in _UNSAID and _LATER.get(name, ...) != value}
    return {name: _chosen(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _judging(plan: Plan, scorer: Any) -> str:
    """Return a digest of a scorer, the model that it asks included; of several judges that of each."""
    if isinstance(scorer, Panel):
        return _digest([_judging(plan, each) for each in scorer.members.values()])
    judge = plan.judges.get(scorer.name)
    asked = None if judge is None else judge.identity()
    free = set(judge.free) if judge is not None else set()
    return _digest([scorer.name, scorer.model_dump(mode="json", exclude=free), code_digest(type(scorer)), asked])


def code_digest(cls: type[BaseModel]) -> str:
    """Return a digest of a plugin's code: of its source file; of the package's version for what comes with it."""
    from conrad_bench.version import __version__

    if cls.__module__.partition(".")[0] == "conrad_bench":
        return f"conrad-bench {__version__}"
    try:
        return file_digest(Path(inspect.getfile(cls)))
    except (OSError, TypeError):  # defined in a notebook or at a prompt: there is no file
        return cls.__qualname__


def artifact_folder(out: Path, name: str, task_name: str) -> Path:
    """Return the folder of what a method learned on a task."""
    return out / "artifacts" / f"{name}@{task_name}"


def artifact_digest(folder: Path) -> str:
    """Return a digest of an artifact as its artifact.json describes it; "none" where there is none."""
    marker = folder / ARTIFACT
    return file_sha256(marker) if marker.is_file() else "none"


def artifact_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of an artifact, by its path in the folder.

    What trackers of training curves keep there, checkpoints and hidden files do not count.
    """
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): file_sha256(path)
        for name, path in paths.items()
        if name.name != ARTIFACT and not (name.parts[0].startswith(".") or name.parts[0] in _BESIDE)
    }


def artifact_problem(folder: Path, parts: Parts) -> str | None:
    """Return why the artifact in a folder cannot be used, or None: it is whole, and made from `parts`."""
    said = read_json(folder / ARTIFACT)
    if said is None:
        return f"{ARTIFACT} is damaged"
    found = artifact_files(folder)
    wrong = [name for name, digest in said.get("files", {}).items() if found.get(name) != digest]
    if wrong:
        return f"{', '.join(sorted(wrong))} changed or gone since the fit"
    return changed(said.get("made_from"), parts)


def changed(before: object, now: Parts) -> str | None:
    """Return which parts differ from what a result was made from, as text, or None."""
    if not isinstance(before, dict):
        return "made before this was kept track of"
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return f"changed since: {', '.join(names)}" if names else None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
