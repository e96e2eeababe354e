"""What a run will do, checked before any model is loaded."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.config import PhantomOptions, RunConfig, resolve_data_root, with_phantom_profile
from conrad_bench.contracts import checked_examples
from conrad_bench.engines.base import Engine
from conrad_bench.errors import DataError, HubUnreachable, PlanError
from conrad_bench.making import make_method
from conrad_bench.methods.base import Method
from conrad_bench.methods.recalibrated import chance_seed, learner, leaves
from conrad_bench.records import reserved
from conrad_bench.registry import Registry
from conrad_bench.seeds import with_seeds
from conrad_bench.storage import cache_folder, working_folder
from conrad_bench.tasks.base import Loaded, Scorer, Task
from conrad_bench.tasks.phantom import SIGNATURE
from conrad_bench.tasks.scorers.panel import make_scorer, single
from conrad_bench.trainers.settings import GRPOSettings, TrainingSettings
from conrad_bench.types import FITTING, Split

if TYPE_CHECKING:
    from conrad_bench.leaderboards.metrics.base import Metric
    from conrad_bench.progress import Reporter

PHANTOM_MODEL = "phantom"
"""The name of the embedded base model; any other name is a folder or a hub id."""

PHANTOM_DATA = "phantom (synthetic)"
"""What phantom data are called wherever data are named."""

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
    """The tasks of the run, and behind them those that methods are fitted on only."""
    scorers: dict[str, Scorer]
    """The scorer of each task, by the task's name."""
    qualities: dict[str, Scorer]
    """The scorer of whole responses, for the tasks that have one."""
    teachers: dict[str, Scorer]
    """The scorer of each task by which methods learn and compare samples: the task's own unless `fit_scorer` is set."""
    judges: dict[str, Engine]
    """The engine of each scorer that asks a model, by the scorer's name, and of each expert that a method asks
    (`expert_name`)."""
    roots: dict[str, Path | None]
    """The data root of each task; None where the phantom data stand in, or the data come from the hub."""
    metrics: tuple[Metric, ...]
    """The metrics of the leaderboard, in the order of its columns."""
    unchecked: dict[str, str] = field(default_factory=dict)
    """The models that could not be looked up, and why; empty but for a dry run or a rehearsal without the hub."""

    def source(self, task: str) -> str:
        """Return where a task's data come from: its root, its hub id, or the phantom world."""
        return str(self.roots[task] or self.tasks[task].hub_id() or PHANTOM_DATA)

    def free_keys(self) -> set[str]:
        """Return the keys of the configuration that change no answer: options of engines, the judges' among them."""
        engines = {self.config.engine: self.engine, **self.judges}
        return {f"options.{section}.{option}" for section, engine in engines.items() for option in engine.free}

    @property
    def model_label(self) -> str:
        """The model's name in titles: of a local checkpoint the folder's name and a digest, never its path."""
        model = str(self.config.model)
        if model == PHANTOM_MODEL:
            return "phantom-gemma3 (embedded)"
        if not _is_path(model):
            return model
        name, weights = Path(model).resolve().name, self.engine.identity().get("model", "")
        return f"{name} ({weights.removeprefix('sha256:')[:8]})" if weights.startswith("sha256:") else name


def make_metrics(config: RunConfig, registry: Registry) -> tuple[Metric, ...]:
    """Return every metric that works, with its options. Raises ConfigError for options that do not fit."""
    from conrad_bench.leaderboards.metrics.catalogue import in_order

    return in_order(registry.create("metrics", name, config.section(name)) for name in registry.available("metrics"))


def make_plan(config: RunConfig, registry: Registry, known: Mapping[str, Path | None] | None = None) -> Plan:
    """Resolve the configuration and check that methods, tasks and engine fit together; reads no data, asks no hub.

    `known` are the data roots by task of a run that was made elsewhere. Raises PlanError with every mismatch at once,
    ConfigError for an unknown name or option, DataError for a data root that is no folder, ModelError for a model
    whose folder is not there or holds none.
    """
    tasks = {name: registry.create("tasks", name, config.section(name)) for name in config.tasks}
    learning = any(make_method(name, config, registry).learns() for name in config.methods)
    for task in list(tasks.values()) if learning else []:
        if task.fit_on is not None and task.fit_on not in tasks:
            tasks[task.fit_on] = registry.create("tasks", task.fit_on, config.section(task.fit_on))
    roots = {
        name: (resolve_data_root(name, task.root_variable, config) or task.default_root)
        if known is None
        else known.get(name)
        for name, task in tasks.items()
    }
    tasks = {
        name: task.on_phantom_data() if _on_phantom_data(task, roots[name]) else task for name, task in tasks.items()
    }
    model = config.model or (
        DEFAULT_MODEL if any(roots.values()) or any(t.hub_id() for t in tasks.values()) else PHANTOM_MODEL
    )
    there = {name: root for name, root in roots.items() if root is not None}
    config = config.model_copy(update={"model": model, "data_roots": there})
    if model == PHANTOM_MODEL:
        config = with_phantom_profile(config, registry)
    by_chance = [n for n in config.methods if chance_seed(make_method(n, config, registry)) is not None]
    config = with_seeds(config, by_chance)
    methods = {name: make_method(name, config, registry) for name in config.methods}
    scorers = {name: make_scorer(task.scorer, config, registry) for name, task in tasks.items()}
    qualities = {name: make_scorer(task.quality, config, registry) for name, task in tasks.items() if task.quality}
    teachers = {
        name: make_scorer(task.fit_scorer, config, registry) if task.fit_scorer else scorers[name]
        for name, task in tasks.items()
    }
    judges: dict[str, Engine] = {}
    every = (*scorers.values(), *qualities.values(), *teachers.values())
    for scorer in (one for each in every for one in single(each)):
        wanted = scorer.judge()
        if wanted is not None:
            judge = registry.create("engines", *wanted)
            # One model in memory for all scorers that ask the same one.
            judges[scorer.name] = next((known for known in judges.values() if known == judge), judge)
    for leaf in (leaf for name, method in methods.items() for leaf in leaves(name, method).values()):
        if (asked := leaf.expert()) is not None:
            engine_name, settings = asked
            given = embedded_model() if settings["model"] == PHANTOM_MODEL else settings["model"]
            judges[expert_name(leaf)] = registry.create("engines", engine_name, {**settings, "model": given})
    folder = embedded_model() if model == PHANTOM_MODEL else model
    engine = registry.create("engines", config.engine, {"model": folder, **config.section(config.engine)})
    problems = [*_mismatches(engine, methods, tasks, roots), *_misjudged(tasks, scorers, qualities, teachers)]
    if problems:
        raise PlanError("this run cannot work as planned:\n" + "\n".join(f"  - {problem}" for problem in problems))
    for each in (engine, *judges.values()):
        if _is_path(each.model):
            each.identity()  # raises ModelError now rather than after the data were read
    metrics = make_metrics(config, registry)
    return Plan(config, engine, methods, tasks, scorers, qualities, teachers, judges, roots, metrics)


def prepare(plan: Plan, reporter: Reporter, tolerant: bool = False) -> dict[str, Loaded]:
    """Load the examples of every task and look the models up, what is on this machine before what is far away.

    Raises DataError and ModelError. With `tolerant`, models that only the hub knows are noted as unchecked where it
    cannot be reached.
    """
    far = [name for name, task in plan.tasks.items() if not Path(task.hub_id() or ".").is_dir()]
    read: dict[Any, Loaded] = {}
    data = {name: load_task(plan, name, reporter, read) for name in plan.tasks if name not in far}
    for each in {id(engine): engine for engine in (plan.engine, *plan.judges.values())}.values():
        try:
            each.identity()
        except HubUnreachable as error:
            if not tolerant:
                raise
            plan.unchecked[each.model] = str(error)
    data |= {name: load_task(plan, name, reporter, read) for name in far}
    for name in plan.config.tasks:
        check_overlap(plan.tasks[name], data)
        if plan.config.counterfactual and not any(example.images for example in data[name].split("test")):
            raise DataError(f"task {name!r} has no pictures for --counterfactual to replace; leave out one of the two")
    return data


def check_models(plan: Plan, tolerant: bool = False) -> None:
    """Raise ModelError if no prompts can be made for a model, or an adapter is to be trained where it can have none.

    It loads processors and tries their chat templates, and builds the model's layers without their weights, which takes
    a moment: not for a run that is finished. With `tolerant`, what the hub does not give now is not looked at.
    """
    for engine in (plan.engine, *plan.judges.values()):
        if engine.model not in plan.unchecked:
            try:
                engine.check_prompts()
            except HubUnreachable:
                if not tolerant:
                    raise
    learners: list[Any] = [leaf for name, method in plan.methods.items() for leaf in leaves(name, method).values()]
    if plan.engine.model not in plan.unchecked and any(isinstance(each, TrainingSettings) for each in learners):
        joint = any(isinstance(each, GRPOSettings) and each.mode == "joint" for each in learners)
        plan.engine.check_training(joint)


def _is_path(model: str) -> bool:
    """Tell whether a model's name can be no hub id: a folder, or a path to none."""
    return Path(model).is_dir() or model.startswith(("/", ".", "~")) or model.count("/") > 1


def embedded_model() -> str:
    """Return the folder of the embedded base model, which `PHANTOM_MODEL` names."""
    return str(files("conrad_bench.tasks.phantom") / "base_model")


def expert_name(method: Method) -> str:
    """Return what the engine of a method's expert is called among the judges of a plan."""
    return f"expert of {method.name}"


def experts(plan: Plan) -> dict[str, Engine]:
    """Return the engines of the models that methods ask beside the run's, by the methods' names."""
    every = (leaf for name, method in plan.methods.items() for leaf in leaves(name, method).values())
    return {leaf.name: plan.judges[expert_name(leaf)] for leaf in every if expert_name(leaf) in plan.judges}


def _mismatches(
    engine: Engine, methods: dict[str, Method], tasks: dict[str, Task], roots: dict[str, Path | None]
) -> Iterable[str]:
    for name, method in methods.items():
        missing = sorted(method.requirements() - engine.provides - {FITTING})
        if missing:
            yield f"method {name!r} needs {', '.join(missing)}, which engine {engine.name!r} does not provide"
        granularities = learner(method).granularities
        for task in tasks.values():
            problem = method.problem(task.granularity)
            if task.granularity not in granularities:
                can = ", ".join(sorted(granularities))
                yield f"method {name!r} works at {can} level, task {task.name!r} at {task.granularity} level"
            elif problem is not None:
                yield f"method {name!r} on task {task.name!r} ({task.granularity} level): {problem}"
    for name, task in tasks.items():
        source = tasks.get(task.fit_on) if task.fit_on is not None else None
        if source is not None and source.granularity != task.granularity:
            yield (
                f"task {name!r} ({task.granularity} level) cannot use methods that were fitted on {source.name!r} "
                f"({source.granularity} level); set {name}.fit_on"
            )
        if source is not None and (roots[name] is None) != (roots[source.name] is None):
            yield (
                f"task {name!r} and {source.name!r}, on which its methods are fitted, must both have a data root or "
                "both be phantoms"
            )
        if roots[name] is None and task.phantom_layout is None and task.hub_id() is None:
            yield (
                f"task {name!r} has no phantom data and no data root; give --data-root {name}=DIR or set "
                f"{task.root_variable}"
            )


def _misjudged(
    tasks: Mapping[str, Task],
    scorers: Mapping[str, Scorer],
    qualities: Mapping[str, Scorer],
    teachers: Mapping[str, Scorer],
) -> Iterable[str]:
    """Say which scorers cannot judge claims of their task's granularity."""
    for name, task in tasks.items():
        for scorer in {id(each): each for of in (scorers[name], teachers[name]) for each in single(of)}.values():
            if task.granularity not in scorer.granularities:
                can = ", ".join(sorted(scorer.granularities))
                yield f"scorer {scorer.name!r} judges claims at {can} level, task {name!r} has {task.granularity} level"
        if name in qualities and any("report" not in each.granularities for each in single(qualities[name])):
            yield f"scorer {task.quality!r} cannot judge whole reports; choose another {name}.quality"


def load_task(plan: Plan, name: str, reporter: Reporter, read: dict[Any, Loaded] | None = None) -> Loaded:
    """Load the examples of a task, writing the phantom data first where they stand in.

    With a limit, only the first test examples (by id) are kept. `read` holds what was read for other tasks: data that
    several tasks share are read once. Raises DataError if the data, the splits or the scorer do not fit.
    """
    task, root = plan.tasks[name], plan.roots[name]
    if task.hub_id() is not None:
        root = Path(str(task.hub_id()))
    elif root is None:
        root = phantom_root(str(task.phantom_layout), plan.config.phantom, reporter)
    read, learns = {} if read is None else read, any(method.learns() for method in plan.methods.values())
    key = root, task.data_options()
    if key not in read:
        try:
            read[key] = (task.load if learns else task.load_test)(root)
        except DataError as error:
            if plan.roots[name] is None and task.hub_id() is None:
                raise DataError(
                    f"{error}\nthe phantom data in {root} are damaged: remove that folder, and the same command writes "
                    "it anew"
                ) from error
            raise
    loaded = Loaded(examples=checked_examples(task, read[key].examples), left_out=read[key].left_out)
    test = loaded.split("test")
    if not test:
        raise DataError(_lacking(name, root, loaded, "test"))
    limit = task.limit or plan.config.limit
    kept = {example.id for example in test[:limit]}
    examples = [e for e in loaded.examples if e.split != "test" or e.id in kept]
    if task.fit_on is None and learns:
        for split in ("train", "validate"):
            if not any(e.split == split for e in examples):
                raise DataError(f"{_lacking(name, root, loaded, split)}; the methods that learn need some")
    taken = sorted(filter(reserved, {column for example in examples for column in example.attributes}))
    if taken:
        raise DataError(
            f"task {name!r}: attribute columns must not be named {', '.join(taken)}; records use these names"
        )
    judging = filter(None, (plan.scorers[name], plan.qualities.get(name), plan.teachers[name]))
    for scorer in {id(each): each for each in judging}.values():
        scorer.check(test[:limit])
    return Loaded(examples=examples, left_out=loaded.left_out)


def try_engine(plan: Plan, data: Mapping[str, Loaded]) -> list[str]:
    """Let the engine try what the run takes for granted; return what boards must say about the model.

    Raises ModelError where it cannot do what it will be asked, a server's model that sees no pictures for one.
    """
    return list(plan.engine.notes(any(example.images for loaded in data.values() for example in loaded.examples)))


def _lacking(name: str, root: Path, loaded: Loaded, split: Split) -> str:
    """Say that a task has no examples of a split, which ones it has, and what was left out."""
    there = Counter(example.split for example in loaded.examples)
    others = "".join(f", but {number:,} {other}" for other, number in there.items())
    reasons = ", ".join(f"{why} ({number:,})" for why, number in loaded.left_out.most_common())
    return f"task {name!r}: {root} holds no {split} examples{others}" + (f": left out: {reasons}" if reasons else "")


def check_overlap(task: Task, data: Mapping[str, Loaded]) -> None:
    """Refuse a task whose test patients (or images) are among those of the task that its methods are fitted on."""
    if task.fit_on is None or task.fit_on not in data:
        return
    fitted = {e.cluster for e in data[task.fit_on].examples if e.split != "test"}
    shared = sorted({e.cluster for e in data[task.name].split("test")} & fitted)
    if shared:
        raise DataError(
            f"{len(shared)} test patients (or images) of task {task.name!r} are among those of {task.fit_on!r}, on "
            f"which its methods are fitted, for example {shared[0]}; take them out of one of the two data sets"
        )


def phantom_root(layout: str, options: PhantomOptions, reporter: Reporter) -> Path:
    """Return the folder of the phantom data in a layout, written on first use into the user's cache.

    The cache lies in $CONRAD_BENCH_CACHE or ~/.cache/conrad-bench; its folder's name holds a digest of the phantom
    world's code, so that another version writes anew.
    """
    number = phantom_size(layout, options.studies)
    code = hashlib.sha256()
    for source in sorted(Path(str(files("conrad_bench.tasks.phantom"))).glob("*.py")):
        code.update(source.read_bytes())
    name = f"phantom-{layout}-{number}-{options.seed}-{code.hexdigest()[:12]}"
    with cache_folder() as cache:
        folder = cache / name
        if folder.is_dir():
            return folder
        # Two runs may write at once: each writes beside the other, the first rename wins.
        with working_folder(cache, ".phantom-") as temporary:
            with reporter.stage("writing the phantom data", number) as advance:
                phantom_writer(layout)(temporary / "tree", number, options.seed, progress=advance)
            if not folder.is_dir():
                os.replace(temporary / "tree", folder)
    return folder


def _on_phantom_data(task: Task, root: Path | None) -> bool:
    """Tell whether a task has phantom data: the cached ones, or a tree of them that was named."""
    return is_phantom(root) if root is not None else task.hub_id() is None


def is_phantom(root: Path | None) -> bool:
    """Tell whether a data root is a tree that `conrad-bench data phantom` wrote; its README.txt says so."""
    if root is None or not (root / "README.txt").is_file():
        return False
    with open(root / "README.txt", "rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE.encode()


def phantom_size(layout: str, studies: int) -> int:
    """Return the number of studies in a layout: only the MIMIC-CXR one has training to do for three tasks."""
    return studies if layout == "mimic" else max(1, studies // 3)


def phantom_writer(layout: str) -> Callable[..., None]:
    """Return the function that writes a layout: (folder, number of studies, seed, progress=, size=)."""
    if layout == "mimic":
        from conrad_bench.tasks.phantom.mimic_layout import write_mimic

        return write_mimic
    if layout == "openi":
        from conrad_bench.tasks.phantom.openi_layout import write_openi

        return write_openi
    from conrad_bench.tasks.phantom.vqa_layout import write_vqa_rad

    return write_vqa_rad
