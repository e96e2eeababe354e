"""The run: plan -> fit -> estimate -> score -> records -> leaderboard. The same command again continues it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.config import RunConfig, differences, dump_config, load_config
from conrad_bench.errors import ConfigError, ConradBenchError, StorageError
from conrad_bench.fits import fit, fit_side_by_side
from conrad_bench.judging import make_judge, response_qualities
from conrad_bench.methods.base import TRAINING, Method
from conrad_bench.methods.recalibrated import Recalibrated, learner
from conrad_bench.plan import PHANTOM_DATA, Plan, check_overlap, is_phantom, load_task, make_plan
from conrad_bench.reading.elicitation import LEVELS
from conrad_bench.registry import Registry
from conrad_bench.storage import storage_errors, write_text
from conrad_bench.trainers.settings import GRPOSettings, LevelSettings, sharing_problem
from conrad_bench.types import Estimate, Example, Score

if TYPE_CHECKING:
    from conrad_bench.cluster.cluster import Cluster
    from conrad_bench.progress import Reporter
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Loaded, Task


def run(
    config: RunConfig,
    out: Path,
    registry: Registry,
    reporter: Reporter,
    dry_run: bool = False,
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Carry out a run in the folder `out` and return the content of leaderboard.json (of the plan, when dry).

    What is there already is used, never made again. A method that fails does not stop the others: the first error is
    raised at the end, after the leaderboard of what did work is written. With a `cluster`, replicas of the model on
    Ray answer what the store lacks, and adapters are trained there. Raises ConfigError if `out` holds a run of another
    configuration, or the cluster's training workers cannot share a method's steps.
    """
    plan = make_plan(config, registry)
    if cluster is not None:
        _check_sharing(plan, cluster.train_workers)
    check_folder(out, plan.config)
    if dry_run:
        from conrad_bench.preview import preview

        return preview(plan, out, reporter)
    if (out / "manifest.json").is_file() and (out / "leaderboard.json").is_file():
        from conrad_bench.leaderboards.board.build import FORMAT

        board = dict(json.loads((out / "leaderboard.json").read_text(encoding="utf-8")))
        if board["format"] == FORMAT:
            reporter.say(f"{out} holds this run, finished; nothing to do")
            return board
        reporter.say(f"{out} holds this run, finished; its leaderboard has an older format and is written anew")
    return _carry_out(plan, out, reporter, cluster)


def _check_sharing(plan: Plan, workers: int) -> None:
    """Raise ConfigError if the training workers cannot share a method's steps."""
    for name, method in plan.methods.items():
        learns = learner(method)
        if isinstance(learns, (GRPOSettings, LevelSettings)) and (problem := sharing_problem(learns, workers)):
            raise ConfigError(f"method {name!r}: {problem}")


def check_folder(out: Path, config: RunConfig) -> None:
    """Raise ConfigError if `out` belongs to a run with another configuration, naming the keys that differ."""
    path = out / "config.yaml"
    if not path.is_file():
        # A run that was killed while it wrote its config.yaml leaves that file's temporary.
        if out.is_dir() and any(not p.match(".config.yaml.*.tmp") for p in out.iterdir()):
            raise ConfigError(f"{out} is not empty and holds no run (no config.yaml); choose another folder with --out")
        return
    found = differences(load_config(path), config)
    if found:
        raise ConfigError(
            f"{out} holds a run with another configuration; choose another folder with --out, or use its settings:\n"
            + "\n".join(f"  - {line}" for line in found)
        )


def _carry_out(plan: Plan, out: Path, reporter: Reporter, cluster: Cluster | None) -> dict[str, Any]:
    from conrad_bench.leaderboards.board.build import write_leaderboard
    from conrad_bench.manifest import CONTEXT_FORMAT, data_fingerprint
    from conrad_bench.records import records_path
    from conrad_bench.rollouts.model import Model
    from conrad_bench.rollouts.store import RolloutStore

    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.yaml", dump_config(plan.config))
    data = {name: load_task(plan, name, reporter) for name in plan.tasks}
    for name in plan.config.tasks:
        check_overlap(plan.tasks[name], data)
    about, fingerprints = context(plan, data), {name: data_fingerprint(data[name].examples) for name in data}
    described = about.model_dump(mode="json", exclude={"metrics"})
    described["metrics"] = [
        {"name": metric.name, "options": metric.model_dump(mode="json")} for metric in about.metrics
    ]
    content = {"format": CONTEXT_FORMAT, "context": described, "fingerprints": fingerprints}
    write_text(out / "context.json", json.dumps(content, indent=1, sort_keys=True) + "\n")
    failures: list[Exception] = []
    with RolloutStore(out / "rollouts") as store, cluster or nullcontext():
        if cluster is not None:
            training = any(TRAINING in method.needs for method in plan.methods.values())
            reporter.say(f"on Ray: {cluster.share}" + f"; {cluster.training.of('training worker')}" * training)
        for leftover in out.rglob(".*.tmp"):  # of a killed run: the store's lock says that no other is at work
            leftover.unlink(missing_ok=True)
        if store.damaged:
            reporter.say(f"set aside {len(store.damaged)} damaged file(s) in {out / 'rollouts'}; they are made again")
        model = Model(plan.engine, store, reporter, pool=cluster)
        unfit = {} if cluster is None else fit_side_by_side(plan, data, model, out, reporter, cluster)
        for task_name in plan.config.tasks:
            for name in plan.methods:
                if records_path(out, name, task_name).is_file():
                    continue
                reporter.say(f"{name} on {task_name}")
                try:
                    _evaluate(plan, name, task_name, data, model, out, unfit)
                except StorageError:
                    raise
                except Exception as error:
                    # Other errors' messages could quote a report.
                    said = str(error) if isinstance(error, ConradBenchError) else f"unexpected {type(error).__name__}"
                    reporter.say(f"{name} on {task_name} failed: {said}")
                    failures.append(error)
        for engine in (plan.engine, *plan.judges.values()):
            engine.close()
        rollouts = store.counts()
    if failures and not any((out / "records").glob("*.parquet")):
        raise failures[0]
    with reporter.stage("leaderboard", 1) as advance:
        board = write_leaderboard(out, about)
        advance(1)
    if failures:
        raise failures[0]
    manifest = _manifest(plan, data, fingerprints, rollouts, reporter)
    write_text(out / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return board


def _evaluate(
    plan: Plan,
    name: str,
    task_name: str,
    data: dict[str, Loaded],
    model: Model,
    out: Path,
    unfit: dict[tuple[str, str], Exception],
) -> None:
    """Fit a method if it learns, estimate and score the test examples, and write their records.

    `unfit` holds the errors of fits that were tried already; they are raised again.
    """
    from conrad_bench.records import records_path, write_records

    method, task = plan.methods[name], plan.tasks[task_name]
    judge = make_judge(plan, task, model)
    test = data[task_name].split("test")
    artifact = None
    if TRAINING in method.needs:
        fit_on = task.fit_on or task_name
        if (name.partition("+")[0], fit_on) in unfit:
            raise unfit[name.partition("+")[0], fit_on]
        artifact = fit(plan, name, fit_on, data, model, out)
    estimates = method.estimate(task, test, model, judge, artifact)
    scores = judge(test, [estimate.claims for estimate in estimates])
    qualities = response_qualities(plan, task, test, estimates, model)
    rows = record_rows(name, task, test, estimates, scores, qualities)
    write_records(records_path(out, name, task_name), rows)


def record_rows(
    method: str,
    task: Task,
    examples: Sequence[Example],
    estimates: Sequence[Estimate],
    scores: Sequence[Sequence[Score]],
    qualities: Sequence[dict[str, float | None]],
) -> list[dict[str, object]]:
    """Return one record for each claim. A claim whose correctness is unknown becomes `scorer_failed`."""
    attributes = sorted({name for example in examples for name in example.attributes})
    read = any(claim.distribution for estimate in estimates for claim in estimate.claims)
    rows: list[dict[str, object]] = []
    for example, estimate, judged, quality in zip(examples, estimates, scores, qualities, strict=True):
        if estimate.example_id != example.id:
            raise ConradBenchError(f"method {method!r} returned its estimates in another order than the examples")
        for index, (claim, score) in enumerate(zip(estimate.claims, judged, strict=True)):
            failed = score.value is None and claim.status == "ok"
            p = claim.distribution or (None,) * LEVELS
            rows.append(
                {
                    "task": task.name,
                    "method": method,
                    "example": example.id,
                    "cluster": example.cluster,
                    "claim": index,
                    "confidence": claim.confidence,
                    "correctness": None if claim.status == "empty" else score.value,
                    "status": "scorer_failed" if failed else claim.status,
                    "response": estimate.response.key,
                    **quality,
                    **({f"p_{level}": p[level] for level in range(LEVELS)} if read else {}),
                    **{name: example.attributes.get(name) for name in attributes},
                }
            )
    return rows


def context(plan: Plan, data: dict[str, Loaded]) -> Any:
    """Return what the leaderboard says beside the records."""
    import conrad_bench
    from conrad_bench.leaderboards.board.build import BoardContext
    from conrad_bench.manifest import git_commit

    # A phantom tree that was named as a data root is known by its README, or by its scorer, which refuses real reports.
    phantom = any(plan.source(name) == PHANTOM_DATA or is_phantom(plan.roots[name]) for name in plan.tasks) or any(
        scorer.name == "phantom_green" for scorer in plan.scorers.values()
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
        granularities={name: task.granularity for name, task in tasks.items()},
        methods={name: _said(name, method) for name, method in plan.methods.items()},
        version=conrad_bench.__version__,
        commit=git_commit(),
        seed=plan.config.seed,
        replicates=options.replicates,
        unit="cluster" if options.unit == "cluster" else "claim",
        interval=options.interval,
        metrics=plan.metrics,
        left_out={name: dict(data[name].left_out) for name in tasks},
    )


def _said(name: str, method: Method) -> str:
    """Return one line about a method."""
    if not isinstance(method, Recalibrated):
        return method.summary
    return f"{method.method.summary}; {method.recalibrator} recalibration on validation claims"


def _manifest(
    plan: Plan, data: dict[str, Loaded], fingerprints: dict[str, str], rollouts: dict[str, int], reporter: Reporter
) -> dict[str, Any]:
    import conrad_bench
    from conrad_bench.manifest import git_commit, hardware, versions

    return {
        "format": 1,
        "version": conrad_bench.__version__,
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
        "rollouts": rollouts,
        "seconds": {stage: round(seconds, 3) for stage, seconds in reporter.times.items()},
    }
