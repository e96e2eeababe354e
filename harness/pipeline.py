"""The run: plan -> fit -> estimate -> score -> records -> leaderboard. The same command again continues it."""

from __future__ import annotations

import json
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.config import RunConfig, differences, dump_config, load_config
from conrad_bench.contracts import NO_RESPONSE, Estimated, estimated, said
from conrad_bench.counterfactual import PICTURES, Counterfactual, Replaced, counterfactuals, replaced
from conrad_bench.course import Course, rehearsed
from conrad_bench.errors import ConfigError, DataError, PluginError, StorageError
from conrad_bench.fits import fit, fit_side_by_side
from conrad_bench.judging import make_judge, response_qualities
from conrad_bench.methods.recalibrated import chance_seed, leaves
from conrad_bench.plan import Plan, check_models, experts, make_plan, prepare
from conrad_bench.registry import Registry
from conrad_bench.storage import make_private, read_json, write_text
from conrad_bench.trainers.settings import TrainingSettings, sharing_problem
from conrad_bench.types import TRAINING
from conrad_bench.variants import learner_name, plugin_name

if TYPE_CHECKING:
    from conrad_bench.cluster.cluster import Cluster
    from conrad_bench.methods.base import Method
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
    keep_stale: bool = False,
    strict: bool = False,
) -> dict[str, Any]:
    """Carry out a run in the folder `out` and return the content of leaderboard.json (of the plan, when dry).

    What is there already is used, unless it is damaged or made from other data, options, code or weights than the run
    has now: then that is said, and it is made again (not with `keep_stale`).

    A method that fails does not stop the others: the first error is raised at the end, after the leaderboard of what
    did work is written. An image that cannot be read costs its example, which is left out of fits and has the status
    `image_unreadable` on the leaderboard; `strict` makes it an error. With a `cluster`, replicas of the model on Ray
    answer what the store lacks, and adapters are trained there.

    Raises ConfigError if `out` holds a run of another configuration, or the cluster's training workers cannot share a
    method's steps.
    """
    plan = make_plan(config, registry)
    if cluster is not None:
        _check_sharing(plan, cluster.train_workers)
    check_folder(out, plan)
    if dry_run:
        from conrad_bench.preview import find_stale, look_at_images, preview

        data = prepare(plan, reporter, tolerant=True)
        check_models(plan, tolerant=True)
        images = look_at_images(plan, data, reporter)
        if strict:
            _refuse_unreadable(images)
        stale = [] if keep_stale else find_stale(plan, data, out)
        return {**preview(plan, out, reporter, data, stale), "images": images}
    return carry_out(plan, out, reporter, cluster, keep_stale, strict)


def _refuse_unreadable(images: dict[str, Any]) -> None:
    """Raise DataError if headers of images, as `look_at_images` found them, cannot be read."""
    if images["unreadable"]:
        raise DataError(
            f"{images['unreadable']:,} of {images['opened']:,} images cannot be read, and --strict makes that an "
            f"error:\n" + "\n".join(f"  - {message}" for message in images["first"])
        )


def _check_sharing(plan: Plan, workers: int) -> None:
    """Raise ConfigError if the training workers cannot share a method's steps."""
    for name, method in plan.methods.items():
        for learns in leaves(name, method).values():
            if isinstance(learns, TrainingSettings) and (problem := sharing_problem(learns, workers)):
                raise ConfigError(f"method {name!r}: {problem}")


def check_folder(out: Path, plan: Plan) -> None:
    """Raise ConfigError if `out` is no run's folder, or that of a run with another configuration."""
    if (out / "config.yaml").is_file():
        check_config(out, plan)
        return
    # What a run has before its config.yaml, that file's temporary among it; a rehearsal leaves its result.
    ours = (".config.yaml.*.tmp", "rehearsal.json", "rollouts", "digests.json")
    if out.is_dir() and not all(any(map(entry.match, ours)) for entry in out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no run (no config.yaml); choose another folder with --out")


def check_config(out: Path, plan: Plan) -> list[str]:
    """Return in which settings that change no answer the config.yaml in `out`, if there is one, differs from the plan.

    Raises ConfigError where it differs in others.
    """
    path = out / "config.yaml"
    if not path.is_file():
        return []
    if not path.stat().st_size:
        raise ConfigError(
            f"{path} is empty, and should hold the run's configuration: write its settings into it, such as "
            "`methods: [verbalized]`, or choose another folder with --out"
        )
    before = load_config(path)
    free = plan.free_keys()
    if set(before.counterfactual) <= set(plan.config.counterfactual):
        free.add("counterfactual")  # what is there stays as it is, and is compared with more
        free |= set() if "noised" in before.counterfactual else {"options.counterfactual.noise"}
    if set(before.methods) <= set(plan.config.methods) and set(before.seeds) <= set(plan.config.seeds):
        free |= {"methods", "seeds", *_options_of_others(before, plan.config)}
    found = differences(before, plan.config, free)
    if found:
        raise ConfigError(
            f"{out} holds a run with another configuration; choose another folder with --out, or use its settings:\n"
            + "\n".join(f"  - {line}" for line in found)
        )
    return differences(before, plan.config)


def _options_of_others(before: RunConfig, now: RunConfig) -> set[str]:
    """Return the keys of the options of methods that a run has now and had not before."""
    there = {section for name in before.methods for section in (learner_name(name), plugin_name(name))}
    added = {section for name in now.methods for section in (learner_name(name), plugin_name(name))} - there
    return {
        f"options.{section}.{option}"
        for section in added
        for config in (before, now)
        for option in config.options.get(section, {})
    }


def carry_out(
    plan: Plan, out: Path, reporter: Reporter, cluster: Cluster | None, keep_stale: bool, strict: bool
) -> dict[str, Any]:
    """Carry out a plan in a folder that `check_folder` allows; arguments, result and errors as those of `run`."""
    from conrad_bench.fingerprints import examples_digest
    from conrad_bench.leaderboards.board.build import FORMAT
    from conrad_bench.leaderboards.board.context import context_file
    from conrad_bench.leaderboards.pages.outputs import write_leaderboard
    from conrad_bench.manifest import board_context, engine_notes, manifest
    from conrad_bench.records import records_path
    from conrad_bench.rollouts.digests import remembered
    from conrad_bench.rollouts.model import Model
    from conrad_bench.rollouts.store import RolloutStore
    from conrad_bench.staleness import finished, result_sums, set_aside, stale_results

    data = prepare(plan, reporter)
    with remembered(out / "digests.json"):
        fingerprints = {name: examples_digest(loaded.examples) for name, loaded in data.items()}
        stale = [] if keep_stale else list(stale_results(plan, data, out))
    board = read_json(out / "leaderboard.json")
    others = list(counterfactuals(plan))
    parts = [(name, task) for task in plan.config.tasks for name in plan.methods]
    paths = [*(records_path(out, *part) for part in parts), *(each.path(out) for each in others)]
    if not stale and board is not None and finished(out) and all(path.is_file() for path in paths):
        if board.get("format") == FORMAT:
            reporter.say(f"{out} holds this run, finished; nothing to do")
            return board
        reporter.say(f"{out} holds this run, finished; its leaderboard has an older format and is written anew")
    check_models(plan)
    if strict:
        from conrad_bench.preview import look_at_images

        _refuse_unreadable(look_at_images(plan, data, reporter))
    notes = engine_notes(plan, data, out)
    for note in notes:
        reporter.say(note)
    make_private(out)
    failures: dict[str, tuple[Exception, str]] = {}
    with RolloutStore(out / "rollouts") as store, remembered(out / "digests.json"), cluster or nullcontext():
        for line in check_config(out, plan):  # once more: only now nobody else can write one
            reporter.say(f"goes on with another setting that changes no answer: {line}")
        write_text(out / "config.yaml", dump_config(plan.config))
        for each in stale:
            reporter.say(f"{each.what} cannot be used ({each.why}); made again")
            set_aside(each)
        about = board_context(plan, data, notes)
        write_text(out / "context.json", context_file(about, fingerprints))
        if cluster is not None:
            every = (leaf for name, method in plan.methods.items() for leaf in leaves(name, method).values())
            training = any(TRAINING in leaf.needs for leaf in every)
            reporter.say(f"on Ray: {cluster.share}" + f"; {cluster.training.of('training worker')}" * training)
        for leftover in out.rglob(".*.tmp"):  # of a killed run: the store's lock says that no other is at work
            leftover.unlink(missing_ok=True)
        if store.damaged:
            reporter.say(f"set aside {len(store.damaged)} damaged file(s) in {out / 'rollouts'}; they are made again")
        judges = tuple(plan.judges.values())
        pictures = (out / PICTURES).absolute()
        model = Model(
            plan.engine,
            store,
            reporter,
            pool=cluster,
            beside=judges,
            strict=strict,
            pictures=pictures,
            experts=experts(plan),
        )
        told = 0
        left = [part for part in parts if not records_path(out, *part).is_file()]
        again = {(each.method, str(each)): each for each in others if not each.path(out).is_file()}
        shown = _Shown(plan, data, out, reporter)
        course = Course([*left, *again], rehearsed(out))
        reporter.whole = course.__str__
        unfit = {} if cluster is None else fit_side_by_side(plan, data, model, out, reporter, cluster)
        for name, task_name in (*left, *again):
            other = again.get((name, task_name))
            if other is not None and f"{name} on {other.task}" in failures:
                continue  # nothing to compare with
            reporter.say(f"{name} on {task_name} ({course})")
            try:
                with course.part((name, task_name)):
                    if other is None:
                        _evaluate(plan, name, task_name, data, model, out, unfit, reporter)
                    else:
                        _evaluate_again(plan, other, shown.of(other), data, model, out, reporter)
            except StorageError:
                raise
            except (Exception, SystemExit) as caught:
                # A plugin that ends the program fails like any other.
                error = caught if isinstance(caught, Exception) else PluginError(f"{name} tried to end the program")
                log = _write_log(out, name, task_name, "".join(traceback.format_exception(caught)))
                problem = f"{said(error, plan.methods[name])}; {log}"
                reporter.say(f"{name} on {task_name} failed: {problem}")
                failures[f"{name} on {task_name}"] = error, problem
                traceback.clear_frames(caught.__traceback__)  # they would keep the model of a training that failed
            if new := list(model.unreadable.values())[told:]:
                reporter.say(f"images that cannot be read, with their examples left out: {len(new):,}; {new[0]}")
                told += len(new)
        reporter.whole = str
        for engine in (plan.engine, *judges):
            engine.close()
        rollouts = store.counts()
        store.check_there()
    first = next((error for error, _ in failures.values()), None)
    if first is not None and not any((out / "records").glob("*.parquet")):
        raise first
    with reporter.stage("leaderboard", 1) as advance:
        board = write_leaderboard(out, about)
        advance(1)
    if first is not None:
        reporter.say(
            f"failed: {len(failures)} of {len(parts) + len(others)} (the same command tries them again)\n"
            + "".join(f"  - {part}: {problem}\n" for part, (_, problem) in failures.items())
            + f"the leaderboard of the others: {out / 'leaderboard.html'}"
        )
        raise first
    content = manifest(plan, data, fingerprints, rollouts, result_sums(out), reporter)
    write_text(out / "manifest.json", json.dumps(content, indent=1, sort_keys=True) + "\n")
    return board


def _write_log(out: Path, name: str, task_name: str, text: str) -> Path:
    """Write what went wrong with a method on a task into the run's folder, and return the file."""
    path = out / "logs" / f"{name}@{task_name}.log"
    write_text(path, f"This may quote reports: look before you pass it on.\n{text}")
    return path


def _evaluate(
    plan: Plan,
    name: str,
    task_name: str,
    data: dict[str, Loaded],
    model: Model,
    out: Path,
    unfit: dict[tuple[str, str], Exception],
    reporter: Reporter,
) -> None:
    """Fit a method if it learns, estimate and score the test examples, and write their records.

    `unfit` holds the errors of fits that were tried already; they are raised again.
    """
    from conrad_bench.fingerprints import record_parts
    from conrad_bench.records import record_rows, records_path, write_records
    from conrad_bench.rollouts.spending import Spending

    method, task = plan.methods[name], plan.tasks[task_name]
    judge = make_judge(plan, plan.scorers[task_name], task, model)
    teacher = make_judge(plan, plan.teachers[task_name], task, model)
    test = data[task_name].split("test")
    artifact = None
    if method.learns():
        fit_on = task.fit_on or task_name
        for part in leaves(name, method):
            if (part, fit_on) in unfit:
                raise unfit[part, fit_on]
        artifact = fit(plan, name, fit_on, data, model, out)
    spending = Spending()
    found = estimated(method, task, test, replace(model, spending=spending), teacher, artifact)
    estimates = found.estimates
    _say_failed(found, name, task_name, out, reporter)
    if all(estimate.response.finish_reason == "image_unreadable" for estimate in estimates):
        first = next(model.unreadable[p] for e in test for p in e.images if p in model.unreadable)
        raise DataError(f"not one of the {len(test):,} test examples has images that can be read; {first}")
    scores = judge(test, [estimate.claims for estimate in estimates])
    qualities = response_qualities(plan, task, test, estimates, model)
    model.store.check_there()
    spent = spending.each(len(test))
    if spent is not None:
        trained = leaves(name, method).values()
        spent["training_steps"] = sum(_training_steps(each, task, data[task_name]) for each in trained)
    rows = record_rows(name, task, test, estimates, scores, qualities, spent, seed=chance_seed(method))
    write_records(records_path(out, name, task_name), rows, record_parts(plan, name, task_name, data, out))


def _say_failed(found: Estimated, name: str, task_name: str, out: Path, reporter: Reporter) -> None:
    """Say on which examples a method failed, and write it down."""
    if found.failed:
        lines = [f"{id}: {problem}" for id, problem in found.failed.items()]
        log = _write_log(out, name, task_name, "\n".join(lines) + "\n")
        number = len(found.estimates)
        reporter.say(
            f"{name} on {task_name} failed on {len(lines):,} of {number:,} examples, first on {lines[0]}; {log}"
        )


class _Shown:
    """The test examples with other pictures, made once for all methods."""

    def __init__(self, plan: Plan, data: dict[str, Loaded], out: Path, reporter: Reporter) -> None:
        self._plan, self._data, self._out, self._reporter = plan, data, out, reporter
        self._made: tuple[tuple[str, str], Replaced] | None = None

    def of(self, each: Counterfactual) -> Replaced:
        """Return the examples of a counterfactual's task under its replacement; the last ones are kept."""
        key = each.task, each.replacement
        if self._made is None or self._made[0] != key:
            test = self._data[each.task].split("test")
            made = replaced(
                test, each.replacement, self._plan.config.seed, (self._out / PICTURES).absolute(), self._reporter
            )
            self._made = key, made
        return self._made[1]


def _evaluate_again(
    plan: Plan,
    each: Counterfactual,
    shown: Replaced,
    data: dict[str, Loaded],
    model: Model,
    out: Path,
    reporter: Reporter,
) -> None:
    """Estimate and score the test examples with other pictures by a method as it was fitted, and write the records."""
    from conrad_bench.fingerprints import artifact_folder, counterfactual_parts
    from conrad_bench.records import GIVEN, read_records, record_rows, records_path, write_records

    method, task = plan.methods[each.method], plan.tasks[each.task]
    judge = make_judge(plan, plan.scorers[each.task], task, model)
    teacher = make_judge(plan, plan.teachers[each.task], task, model)
    artifact = artifact_folder(out, each.method, task.fit_on or each.task) if method.learns() else None
    examples, judged = shown.shown, shown.original
    if each.reading == GIVEN:
        pairs = zip(examples, shown.original, strict=True)
        examples = [replace(example, answered=original.images) for example, original in pairs]
        # The reference of another study says what is right of the pictures shown; another question's answer does not.
        judged = shown.original if task.granularity == "answer" else shown.reports
    found = estimated(method, task, examples, model, teacher, artifact)
    _say_failed(found, each.method, f"{each.task}@{each.replacement}@{each.reading}", out, reporter)
    if each.reading == GIVEN:
        before = read_records(records_path(out, each.method, each.task))
        known = {NO_RESPONSE.key, *before["response"]}
        if any(estimate.response.key not in known for estimate in found.estimates):
            raise PluginError(
                f"method {each.method!r} says that it judges given responses, and returned others beside other "
                "pictures; it must get its responses from `respond`, or return False from `judges_given`"
            )
    scores = judge(judged, [estimate.claims for estimate in found.estimates])
    model.store.check_there()
    qualities: list[dict[str, float | None]] = [{} for _ in judged]
    rows = record_rows(each.method, task, judged, found.estimates, scores, qualities, seed=chance_seed(method))
    write_records(each.path(out), rows, counterfactual_parts(plan, each, data, out))


def _training_steps(method: Method, task: Task, loaded: Loaded) -> int:
    """Return how many steps a method plans to train the model for; 0 where it leaves the model as it is."""
    if TRAINING not in method.requirements():
        return 0
    train, validation, test = (loaded.split(part) for part in ("train", "validate", "test"))
    return sum(step.count for step in method.steps(task, train, validation, test) if step.action == "train")
