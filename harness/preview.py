"""`run --dry-run`: what a run would train, generate and score, and what is there already. Loads no model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from conrad_bench.counterfactual import counterfactuals, steps_again
from conrad_bench.engines.base import Engine
from conrad_bench.engines.opening import check_header, unreadable
from conrad_bench.fingerprints import artifact_folder
from conrad_bench.plan import Plan

if TYPE_CHECKING:
    from conrad_bench.progress import Reporter
    from conrad_bench.staleness import Stale
    from conrad_bench.tasks.base import Loaded


class _Unreached(Engine):
    """Stands in for an engine whose model only the hub knows, so that equal requests can be counted once."""

    def identity(self) -> dict[str, str]:
        return {"model": self.model}


_NAMED = 3
"""Images that cannot be read that are named."""


def look_at_images(plan: Plan, data: dict[str, Loaded], reporter: Reporter) -> dict[str, Any]:
    """Open the header of every image that a run may use: {"opened": number, "unreadable": number, "first": messages}.

    Those of training and validation examples count where a method learns. A file that is whole in its header and torn
    behind it is found when it is decoded. Films take about 0.1 ms each on a local disk.
    """
    learns = any(method.learns() for method in plan.methods.values())
    paths = dict.fromkeys(
        path
        for name, loaded in data.items()
        for example in loaded.examples
        if learns or (example.split == "test" and name in plan.config.tasks)
        for path in example.images
    )
    with reporter.stage("opening the images' headers", len(paths)) as advance:
        broken = unreadable(paths, check_header, advance)
    first = [str(error) for error in list(broken.values())[:_NAMED]]
    return {"opened": len(paths), "unreadable": len(broken), "first": first}


def find_stale(plan: Plan, data: dict[str, Loaded], out: Path) -> list[Stale] | None:
    """Return what of a run folder a run would make again; None where that depends on a model that was not checked."""
    from conrad_bench.rollouts.digests import remembered
    from conrad_bench.staleness import stale_results

    if plan.unchecked:
        return None
    with remembered(out / "digests.json"):
        return list(stale_results(plan, data, out))


def preview(
    plan: Plan, out: Path, reporter: Reporter, data: dict[str, Loaded], stale: Sequence[Stale] | None = ()
) -> dict[str, Any]:
    """Return the plan: {"tasks", "steps": [{"task", "method", "action", "count", "what", "there"}], "unique", ...}.

    `data` are the examples of the plan's tasks (`prepare`); `stale` is what `find_stale` says. It counts as not there.

    `there` counts the answers that need not be generated: those in the store, and those that an earlier step of the
    same plan will have generated. It is None where the prompts are not known beforehand. `unique` is the number of
    different responses that the base model writes for all steps together.
    """
    from conrad_bench.records import records_path
    from conrad_bench.rollouts.model import Model
    from conrad_bench.rollouts.store import RolloutStore

    again = {each.path for each in stale or ()}
    steps: list[dict[str, Any]] = []
    tasks: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = out / "rollouts"
        if not folder.is_dir():  # a run that has not begun
            folder = Path(stack.enter_context(TemporaryDirectory()))
        store = stack.enter_context(RolloutStore(folder))
        unknown = plan.engine.model in plan.unchecked
        model = Model(_Unreached(model=plan.engine.model) if unknown else plan.engine, store, reporter)
        planned: set[str] = set()
        fits: set[Path] = set()
        for name in plan.config.tasks:
            task = plan.tasks[name]
            source = task.fit_on if task.fit_on in data else name
            loaded, test = data[name], data[name].split("test")
            train, validation = data[source].split("train"), data[source].split("validate")
            tasks[name] = {
                "root": plan.source(name),
                "examples": {"train": len(train), "validate": len(validation), "test": len(test)},
                "left_out": dict(loaded.left_out),
                "scorer": plan.scorers[name].name,
            }
            for method_name, method in plan.methods.items():
                records = records_path(out, method_name, name)
                done = records.is_file() and records not in again
                artifact = artifact_folder(out, method_name, source)
                fitted = artifact in fits or ((artifact / "artifact.json").is_file() and artifact not in again)
                fits.add(artifact)
                for step in method.steps(task, train, validation, test):
                    there = None
                    keys = {key for row in model.keys(step.prompts, step.sampling, step.n) for key in row}
                    if done or (step.action == "train" and fitted):
                        there = step.count
                    elif keys:
                        there = sum(key in planned or key in store for key in keys)
                    planned |= keys
                    steps.append(
                        {
                            "task": name,
                            "method": method_name,
                            "action": step.action,
                            "count": step.count,
                            "what": step.what,
                            "there": there,
                        }
                    )
                steps.append(
                    {
                        "task": name,
                        "method": method_name,
                        "action": "score",
                        "count": len(test),
                        "what": f"test responses with {plan.scorers[name].name}",
                        "there": len(test) if done else 0,
                    }
                )
        for each in counterfactuals(plan):
            path, test = each.path(out), data[each.task].split("test")
            done = path.is_file() and path not in again
            steps += [
                {
                    "task": each.task,
                    "method": each.method,
                    "action": step.action,
                    "count": step.count,
                    "what": f"{step.what} ({each.what})",
                    "there": step.count if done else None,
                }
                for step in steps_again(plan, each, test)
            ]
    return {
        "model": plan.model_label,
        "engine": plan.engine.name,
        "tasks": tasks,
        "steps": steps,
        "unique": len(planned),
        "unchecked": list(plan.unchecked.values()),
        "stale": None if stale is None else [f"{each.what} cannot be used ({each.why})" for each in stale],
    }


def plan_for_console(plan: dict[str, Any]) -> Any:
    """Return a dry run's plan, with `images` as `look_at_images` gives them, as rich text and a table."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = [f"model {plan['model']}, engine {plan['engine']}; nothing was loaded or generated"]
    lines += [f"not checked: {what}" for what in plan["unchecked"]]
    if plan["stale"] is None:
        lines.append("not checked: whether what is there was made from the same model, data, options and code")
    lines += [f"would be made again: {what}" for what in plan["stale"] or ()]
    for name, task in plan["tasks"].items():
        counts = ", ".join(f"{number:,} {split}" for split, number in task["examples"].items() if number)
        lines.append(f"{name}: {counts} examples from {task['root']}, judged by {task['scorer']}")
        lines += [f"  left out: {why} ({number:,})" for why, number in task["left_out"].items()]
    images = plan["images"]
    lines.append(f"images: {images['opened']:,} opened, of which cannot be read: {images['unreadable']:,}")
    lines += [f"  {message}" for message in images["first"]]
    if images["unreadable"] > len(images["first"]):
        lines.append(f"  and {images['unreadable'] - len(images['first']):,} more")
    lines.append(f"{plan['unique']:,} different responses of the base model serve all methods")
    table = Table("task", "method", "action", "what", box=None)
    table.add_column("count", justify="right")
    table.add_column("already there", justify="right")
    for step in plan["steps"]:
        there = "-" if step["there"] is None else f"{step['there']:,}"
        table.add_row(step["task"], step["method"], step["action"], step["what"], f"{step['count']:,}", there)
    return Group(Text("\n".join(lines)), table)
