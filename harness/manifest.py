"""What a run says of itself: context.json before its first method, manifest.json behind its last.

The manifest is written last, so its presence means that the run is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.methods.base import Method
from conrad_bench.methods.recalibrated import HallucinationAware, Recalibrated, chance_seed, learner
from conrad_bench.plan import PHANTOM_DATA, PHANTOM_MODEL, Plan, is_phantom, make_plan, try_engine
from conrad_bench.provenance import git_commit, hardware, versions
from conrad_bench.seeds import row_name, seed_of
from conrad_bench.storage import read_json
from conrad_bench.tasks.scorers.panel import single
from conrad_bench.variants import learner_name, plugin_name, set_apart

if TYPE_CHECKING:
    from conrad_bench.config import RunConfig
    from conrad_bench.leaderboards.board.context import BoardContext
    from conrad_bench.progress import Reporter
    from conrad_bench.registry import Registry
    from conrad_bench.tasks.base import Loaded, Scorer, Task


def board_context(plan: Plan, data: dict[str, Loaded], notes: Sequence[str] = ()) -> BoardContext:
    """Return what the leaderboard says beside the records, the engine's `notes` among it."""
    from conrad_bench.leaderboards.board.context import BoardContext
    from conrad_bench.version import __version__

    # A phantom tree that was named as a data root is known by its README, or by its scorer, which refuses real reports.
    phantom = any(plan.source(name) == PHANTOM_DATA or is_phantom(plan.roots[name]) for name in plan.tasks) or any(
        plugin_name(each.name) == "phantom_green" for scorer in plan.scorers.values() for each in single(scorer)
    )
    tasks = {name: plan.tasks[name] for name in plan.config.tasks}
    sources = sorted({task.summary.partition(":")[0] for task in tasks.values()})
    options = plan.config.bootstrap
    return BoardContext(
        model=plan.model_label,
        data=PHANTOM_DATA if phantom else ", ".join(sources),
        phantom=phantom,
        scorers={name: (plan.scorers[name].name, plan.scorers[name].label) for name in tasks},
        quality={
            name: (plan.qualities[name].name, plan.qualities[name].label) for name in tasks if tasks[name].quality
        },
        fitted_by=_fitted_by(plan),
        granularities={name: task.granularity for name, task in tasks.items()},
        methods={row_name(name, plan.config): _said(plan, name, method) for name, method in plan.methods.items()},
        seeds={name: found for name in plan.methods if (found := seed_of(name, plan.config))},
        random=sorted(
            {row_name(name, plan.config) for name, method in plan.methods.items() if chance_seed(method) is not None}
        ),
        variants=_variants(plan),
        version=__version__,
        commit=git_commit(),
        seed=plan.config.seed,
        replicates=options.replicates,
        unit="cluster" if options.unit == "cluster" else "claim",
        interval=options.interval,
        metrics=plan.metrics,
        left_out={name: dict(data[name].left_out) for name in tasks},
        notes=list(notes),
    )


@dataclass(frozen=True)
class Again:
    """What a run said of itself, from its configuration."""

    context: BoardContext
    asks: bool
    """Whether its engine asked somebody for notes on the model, which are no part of this context."""
    model: str
    """Hash or hub id of the model."""


def context_again(
    config: RunConfig,
    registry: Registry,
    roots: Mapping[str, Path | None],
    left_out: Mapping[str, Mapping[str, int]],
) -> Again:
    """Return what the leaderboard of a run said beside the records, without its data: a run that was made elsewhere.

    `roots` and `left_out` are those of its manifest, by task. Raises what `make_plan` raises.
    """
    from conrad_bench.engines.base import Engine
    from conrad_bench.tasks.base import Loaded

    plan = make_plan(config, registry, roots)
    data = {name: Loaded(examples=[], left_out=Counter(left_out.get(name, {}))) for name in plan.tasks}
    asks = type(plan.engine).notes is not Engine.notes
    embedded = config.model == PHANTOM_MODEL  # others may be far away
    return Again(board_context(plan, data), asks, plan.engine.identity()["model"] if embedded else plan.engine.model)


def engine_notes(plan: Plan, data: dict[str, Loaded], out: Path) -> list[str]:
    """Return what the engine has to say about its model; asked once, and then kept in the run's context.json."""
    try:
        return [str(note) for note in (read_json(out / "context.json") or {})["context"]["notes"]]
    except (KeyError, TypeError):
        return try_engine(plan, data)


def _said(plan: Plan, name: str, method: Method) -> str:
    """Return one line about a method, with what sets a variant apart."""
    learns, row = learner(method), row_name(name, plan.config)
    seed = learns.seed if row != name else plan.config.seed
    apart = _set_apart(plan, learns, {"seed": seed}) if plugin_name(row) != learner_name(row) else ""
    mapped = ""
    if isinstance(method, Recalibrated | HallucinationAware):
        mapped = f"{method.recalibrator} recalibration on validation claims"
    return "; ".join(filter(None, (learns.summary, apart, mapped)))


def _variants(plan: Plan) -> dict[str, str]:
    """Return what sets the run's variants of tasks and scorers apart."""
    scorers = (*plan.scorers.values(), *plan.qualities.values(), *plan.teachers.values())
    named: list[Task | Scorer] = [*plan.tasks.values(), *(each for scorer in scorers for each in single(scorer))]
    return {each.name: _set_apart(plan, each) for each in named if plugin_name(each.name) != each.name}


def _set_apart(plan: Plan, variant: Method | Task | Scorer, defaults: Mapping[str, Any] | None = None) -> str:
    """Return the options in which a variant differs from its plugin as this run has it."""
    plugin = plugin_name(variant.name)
    own = plan.config.options.get(variant.name, {})
    return set_apart(variant, own, {**(defaults or {}), **plan.config.section(plugin)}) or f"set as {plugin}"


def _fitted_by(plan: Plan) -> dict[str, tuple[str, str]]:
    """Return name and label of the scorer by which methods learned or compared samples, for tasks judged by another."""
    if not any(method.learns() or chance_seed(method) is not None for method in plan.methods.values()):
        return {}
    found = {name: plan.teachers.get(plan.tasks[name].fit_on or name) for name in plan.config.tasks}
    return {name: (by.name, by.label) for name, by in found.items() if by is not None and by != plan.scorers[name]}


def manifest(
    plan: Plan,
    data: dict[str, Loaded],
    fingerprints: dict[str, str],
    rollouts: dict[str, int],
    sums: dict[str, str],
    reporter: Reporter,
) -> dict[str, Any]:
    """Return the content of manifest.json; `sums` are the SHA-256 of the result files."""
    from conrad_bench.version import __version__

    fitted = {task: scorer for task, (scorer, _) in _fitted_by(plan).items()}
    return {
        "format": 1,
        "version": __version__,
        "commit": git_commit(),
        "versions": versions(),
        "hardware": hardware(),
        "model": plan.engine.identity(),
        "methods": {name: method.model_dump(mode="json") for name, method in plan.methods.items()},
        "data": {
            name: {
                "root": plan.source(name),
                "fingerprint": fingerprints[name],
                "examples": {split: len(loaded.split(split)) for split in ("train", "validate", "test")},
                "left_out": dict(loaded.left_out),
            }
            for name, loaded in data.items()
        },
        "seed": plan.config.seed,
        **({"fitted_by": fitted} if fitted else {}),
        "rollouts": rollouts,
        "files": sums,
        "seconds": {stage: round(seconds, 3) for stage, seconds in reporter.times.items()},
    }
