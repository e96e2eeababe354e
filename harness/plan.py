"""What a run will do, checked before any model is loaded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from conrad_bench.config import PhantomOptions, RunConfig, resolve_data_root, with_phantom_profile
from conrad_bench.engines.base import Engine
from conrad_bench.errors import DataError, PlanError
from conrad_bench.methods.base import TRAINING, Method
from conrad_bench.records import COLUMNS
from conrad_bench.registry import Registry
from conrad_bench.storage import storage_errors
from conrad_bench.tasks.base import Loaded, Scorer, Task
from conrad_bench.types import Example

if TYPE_CHECKING:
    from conrad_bench.progress import Reporter

PHANTOM_MODEL = "phantom"
"""The name of the embedded base model; any other name is a folder or a hub id."""

DEFAULT_MODEL = "google/medgemma-4b-it"
"""The model for real data where none is named (ConRad, section 3)."""


@dataclass(frozen=True)
class Plan:
    """Everything that a run needs, instantiated and checked, with no model loaded."""

    config: RunConfig
    """The resolved configuration, as it is written to the run folder."""
    engine: Engine
    methods: dict[str, Method]
    tasks: dict[str, Task]
    scorers: dict[str, Scorer]
    """The scorer of each task, by the task's name."""
    roots: dict[str, Path | None]
    """The data root of each task; None where the phantom data stand in."""

    @property
    def model_label(self) -> str:
        """The model's name in titles."""
        return "phantom-gemma3 (embedded)" if self.config.model == PHANTOM_MODEL else str(self.config.model)


def make_plan(config: RunConfig, registry: Registry) -> Plan:
    """Resolve the configuration and check that methods, tasks and engine fit together.

    Raises PlanError with every mismatch at once, ConfigError for an unknown name or option, DataError for a data root
    that is no folder.
    """
    classes = {name: registry.get("tasks", name) for name in config.tasks}
    roots = {name: resolve_data_root(name, task.root_variable, config) for name, task in classes.items()}
    model = config.model or (DEFAULT_MODEL if any(roots.values()) else PHANTOM_MODEL)
    config = config.model_copy(
        update={
            "model": model,
            "data_roots": {name: root for name, root in roots.items() if root is not None},
        }
    )
    if model == PHANTOM_MODEL:
        config = with_phantom_profile(config)
    tasks = {name: registry.create("tasks", name, config.section(name)) for name in config.tasks}
    methods = {
        name: registry.create("methods", name, {"seed": config.seed, **config.section(name)}) for name in config.methods
    }
    scorers = {
        name: registry.create("scorers", task.scorer, config.section(task.scorer)) for name, task in tasks.items()
    }
    folder = str(files("conrad_bench.tasks.phantom") / "base_model") if model == PHANTOM_MODEL else model
    engine = registry.create("engines", config.engine, {"model": folder, **config.section(config.engine)})
    problems = list(_mismatches(engine, methods, tasks, roots))
    if problems:
        raise PlanError("this run cannot work as planned:\n" + "\n".join(f"  - {problem}" for problem in problems))
    engine.identity()  # raises ModelError now rather than after the data were read
    return Plan(config, engine, methods, tasks, scorers, roots)


def _mismatches(
    engine: Engine, methods: dict[str, Method], tasks: dict[str, Task], roots: dict[str, Path | None]
) -> Iterable[str]:
    for name, method in methods.items():
        missing = sorted(method.needs - engine.provides)
        if missing:
            yield f"method {name!r} needs {', '.join(missing)}, which engine {engine.name!r} does not provide"
        for task in tasks.values():
            if task.granularity not in method.granularities:
                can = ", ".join(sorted(method.granularities))
                yield f"method {name!r} works at {can} level, task {task.name!r} at {task.granularity} level"
    for name, task in tasks.items():
        if roots[name] is None and task.phantom_layout is None:
            yield (
                f"task {name!r} has no phantom data and no data root; give --data-root {name}=DIR or set "
                f"{task.root_variable}"
            )


def load_task(plan: Plan, name: str, reporter: Reporter) -> Loaded:
    """Load the examples of a task, writing the phantom data first where they stand in.

    With a limit, only the first test examples (by id) are kept. Raises DataError if the data, the splits or the scorer
    do not fit.
    """
    task, root = plan.tasks[name], plan.roots[name]
    if root is None:
        root = phantom_root(str(task.phantom_layout), plan.config.phantom, reporter)
    loaded = task.load(root)
    test = loaded.split("test")
    if not test:
        raise DataError(f"task {name!r}: {root} holds no test examples")
    limit = plan.config.limit
    kept = {example.id for example in test[:limit]}
    examples = [e for e in loaded.examples if e.split != "test" or e.id in kept]
    _check_splits(name, examples)
    if any(TRAINING in method.needs for method in plan.methods.values()):
        for split in ("train", "validate"):
            if not any(e.split == split for e in examples):
                raise DataError(f"task {name!r}: {root} holds no {split} examples, which the methods that learn need")
    taken = sorted(set(COLUMNS) & {column for example in examples for column in example.attributes})
    if taken:
        raise DataError(
            f"task {name!r}: attribute columns must not be named {', '.join(taken)}; records use these names"
        )
    plan.scorers[name].check(test[:limit])
    return Loaded(examples=examples, left_out=loaded.left_out)


def _check_splits(name: str, examples: list[Example]) -> None:
    """Refuse data in which a cluster (patient, image) belongs to two splits: test numbers would not be honest."""
    split_of: dict[str, str] = {}
    for example in examples:
        first = split_of.setdefault(example.cluster, example.split)
        if first != example.split:
            raise DataError(
                f"task {name!r}: {example.cluster} is in the splits {first!r} and {example.split!r}; a patient (or "
                "image) must be in one split only"
            )


def phantom_root(layout: str, options: PhantomOptions, reporter: Reporter) -> Path:
    """Return the folder of the phantom data in a layout, written on first use into the user's cache.

    The cache lies in $CONRAD_BENCH_CACHE or ~/.cache/conrad-bench; its folder's name holds a digest of the phantom
    world's code, so that another version writes anew.
    """
    from conrad_bench.tasks.phantom.mimic_layout import write_mimic

    writers = {"mimic": write_mimic}
    cache = Path(os.environ.get("CONRAD_BENCH_CACHE") or Path.home() / ".cache" / "conrad-bench")
    code = hashlib.sha256()
    for source in sorted(Path(str(files("conrad_bench.tasks.phantom"))).glob("*.py")):
        code.update(source.read_bytes())
    folder = cache / f"phantom-{layout}-{options.studies}-{options.seed}-{code.hexdigest()[:12]}"
    if not folder.is_dir():
        with storage_errors(folder):
            cache.mkdir(parents=True, exist_ok=True)
            # Two runs may write at once: each writes beside the other, the first rename wins.
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{folder.name}-") as temporary:
                with reporter.stage("writing the phantom data", options.studies) as advance:
                    writers[layout](Path(temporary) / "tree", options.studies, options.seed, progress=advance)
                if not folder.is_dir():
                    os.replace(Path(temporary) / "tree", folder)
    return folder
