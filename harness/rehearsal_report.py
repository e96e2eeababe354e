"""What a rehearsal found: rows with memory, time, the hours of the whole run, and what helps where something failed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import ConradBenchError, EngineError
from conrad_bench.measuring import GIB, Measured
from conrad_bench.methods.recalibrated import learner
from conrad_bench.variants import learner_name

if TYPE_CHECKING:
    from conrad_bench.plan import Plan

FORMAT = 1
"""Format of rehearsal.json."""

TIGHT = 0.9
"""The share of a memory above which a stage that fits is called tight."""


@dataclass
class Played:
    """One part of the run as it was played: the loading of a model, a fit, an estimate, the scores of one."""

    part: str
    task: str
    method: str
    factor: float = 1.0
    """How many times as much of it the run has."""
    steps_factor: float = 1.0
    """The same for training steps."""
    step_factor: float = 1.0
    """How many times as long a training step of the run is: an epoch over more examples."""
    why: str = ""
    """Why it was not played, if it was not."""
    failed: bool = False
    measured: Measured = field(default_factory=lambda: Measured(""))


def report(plan: Plan, played: Sequence[Played], counted: dict[str, Any], examples: int) -> dict[str, Any]:
    """Return the content of rehearsal.json. `counted` is the dry run of the same plan (`preview`)."""
    machine = _machine()
    rows = [row for part in played for row in _rows(plan, part, counted, machine)]
    return {
        "format": FORMAT,
        "model": plan.model_label,
        "engine": plan.engine.name,
        "scorers": {name: plan.scorers[name].name for name in plan.config.tasks},
        "machine": machine,
        "examples": examples,
        "unchecked": list(plan.unchecked.values()),
        "stages": rows,
        "hours": sum(row["hours"] or 0.0 for row in rows),
        "failed": sum(row["status"] == "failed" for row in rows),
    }


def _machine() -> dict[str, Any]:
    """Return the GPU's name and memory, or None, and the memory and processors of the machine."""
    import os

    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "gpu": gpu.name if gpu else None,
        "gpu_gib": round(gpu.total_memory / GIB, 2) if gpu else None,
        "host_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 2),
        "cpus": os.cpu_count(),
    }


def _rows(plan: Plan, played: Played, counted: dict[str, Any], machine: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one part: one for each kind of stage within it, and one for what lies between them."""
    place = {"task": played.task, "method": played.method, "part": played.part}
    if played.why:
        problem = {"status": "not played", "problem": played.why, "remedy": ""}
        yield {**place, "stage": "", **_numbers(Measured("")), **problem}
        return
    asked = _asked(plan, counted, played)
    kinds = _kinds(played.measured)
    generated = sum(measured.items for path, measured, _ in kinds if path == "generate")
    for path, measured, inside in kinds:
        numbers = _numbers(measured)
        scoring, training = path.startswith("score by"), path.startswith("training")
        factor, longer = played.factor, 1.0
        if played.part == "fit" and training:
            factor, longer = played.steps_factor, played.step_factor
        elif played.part == "fit" and (scoring or path == "generate") and asked is not None and generated:
            factor = asked / generated  # responses that an earlier method of the plan asks for will be there
        if measured.items:
            numbers["run_items"] = round(measured.items * factor)
            seconds = measured.items * (measured.seconds_each() or 0.0) * factor * longer
        else:
            seconds = measured.own_seconds * (factor if scoring else 1.0)
        numbers["hours"] = 0.0 if inside else seconds / 3600
        state = _state(plan, played, path, measured, machine)
        if state["status"] == "failed":
            numbers["hours"] = None
        yield {**place, "stage": path, **numbers, **state}


def _asked(plan: Plan, counted: dict[str, Any], played: Played) -> int | None:
    """Return how many responses the run's fit has to generate that no earlier step of the plan generates."""
    first = next((n for n in plan.config.tasks if (plan.tasks[n].fit_on or n) == played.task), "")
    steps = [step for step in counted["steps"] if (step["task"], step["method"]) == (first, played.method)]
    trained = next((i for i, step in enumerate(steps) if step["action"] == "train"), len(steps))
    generated = [step for step in steps[:trained] if step["action"] == "generate"]
    if all(step["there"] is None for step in generated):
        return None
    # Of what is not known beforehand, such as responses to pictures that are made first, nothing is there.
    left: list[int] = [step["count"] - (step["there"] or 0) for step in generated]
    return sum(left)


def _kinds(part: Measured) -> list[tuple[str, Measured, bool]]:
    """Return (path, measured, whether the time of an outer stage holds its own) of each kind of stage, in order.

    Stages of one kind are put together. The part itself comes last, under the empty path: what lies between. The
    loading of an engine is a part of its own.
    """
    found: dict[str, tuple[Measured, bool]] = {}

    def walk(stage: Measured, path: str, inside: bool) -> None:
        kind = found.setdefault(path, (Measured(path), inside))[0]
        kind.seconds += stage.seconds
        kind.marks += stage.marks
        kind.within += stage.within
        kind.peak.widen(stage.peak)
        kind.error = kind.error or stage.error
        for within in stage.within:
            walk(within, f"{path}: {within.name}", inside or bool(stage.items))

    for stage in part.within:
        if not stage.name.startswith("load "):
            walk(stage, stage.name, False)
    kinds = [(path, measured, inside) for path, (measured, inside) in found.items()]
    # A scorer that asks a model is seen by what the model does.
    kinds = [(path, m, inside) for path, m, inside in kinds if m.items or m.error or not m.within]
    return [*kinds, ("", part, False)]


def _numbers(measured: Measured) -> dict[str, Any]:
    peak = measured.peak
    return {
        "items": measured.items,
        "seconds": measured.seconds if measured.items else measured.own_seconds,
        "seconds_each": measured.seconds_each(),
        "run_items": None,
        "hours": None,
        "host_gib": peak.host / GIB,
        "gpu_allocated_gib": None if peak.allocated is None else peak.allocated / GIB,
        "gpu_reserved_gib": None if peak.reserved is None else peak.reserved / GIB,
    }


def _state(plan: Plan, played: Played, path: str, measured: Measured, machine: dict[str, Any]) -> dict[str, str]:
    """Return status, problem and remedy of one row."""
    error, peak = measured.error, measured.peak
    if error is not None:
        full = is_out_of_memory(error)
        # Other errors' messages could quote a report.
        known = str(error) if isinstance(error, ConradBenchError) else f"unexpected {type(error).__name__}"
        problem = "the memory is too small" if full else known
        return {"status": "failed", "problem": problem, "remedy": remedy(plan, played, path) if full else ""}
    if peak.misses:
        problem = "a batch did not fit and was halved, which takes time"
        return {"status": "halved", "problem": problem, "remedy": remedy(plan, played, path)}
    for what, used, total in (
        ("GPU", peak.reserved, machine["gpu_gib"]),
        ("host", peak.host, machine["host_gib"]),
    ):
        if used is not None and total is not None and used / GIB > TIGHT * total:
            problem = f"more than {TIGHT:.0%} of the {what}'s memory"
            return {"status": "tight", "problem": problem, "remedy": remedy(plan, played, path)}
    return {"status": "ok", "problem": "", "remedy": ""}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a GPU's or the machine's memory is too small."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, EngineError) and error.__cause__ is not None:
        return is_out_of_memory(error.__cause__)
    # torch has no class of its own for this one.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def remedy(plan: Plan, played: Played, path: str) -> str:
    """Return the options that make a stage smaller."""
    options: list[str] = []
    if path.rpartition("training")[1] and "score by" not in path:
        method = learner(plan.methods[played.method]) if played.method in plan.methods else None
        options += _smaller_training(learner_name(played.method), method)
    else:
        name, engine = plan.engine.name, plan.engine
        for scorer, judge in plan.judges.items():
            if f"score by {scorer}" in path or played.part.endswith(f" for {scorer}"):
                name, engine = scorer, judge
        size = "concurrency" if hasattr(engine, "concurrency") else "batch_size"
        if getattr(engine, size) > 1 and not played.part.startswith("load"):
            options.append(f"-o {name}.{size}={getattr(engine, size) // 2}")
        if getattr(engine, "quantization", None) == "none":
            options.append(f"-o {name}.quantization=nf4")
    if path.rpartition("training")[1] and getattr(plan.engine, "quantization", None) == "none":
        options.append(f"-o {plan.engine.name}.quantization=nf4")
    return " or ".join(options) or "more memory: these options are at their least"


def _smaller_training(section: str, method: Any) -> list[str]:
    """Return the option for smaller training batches: as many claims (or rollouts) a step, in twice as many parts."""
    size, parts = getattr(method, "batch_size", 1), getattr(method, "accumulation", None)
    least = getattr(method, "generations", 1)
    if parts is None or size // 2 < 1 or (size // 2) % least:
        return []
    return [f"-o {section}.batch_size={size // 2} -o {section}.accumulation={parts * 2}"]


def as_json(result: dict[str, Any]) -> str:
    """Return the text of rehearsal.json: numbers with four significant digits."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        if isinstance(value, dict):
            return {key: rounded(entry) for key, entry in value.items()}
        return [rounded(entry) for entry in value] if isinstance(value, list) else value

    return json.dumps(rounded(result), indent=1) + "\n"


def for_console(result: dict[str, Any]) -> Any:
    """Return a rehearsal's result as rich text and a table."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    machine = result["machine"]
    gpu = f"{machine['gpu']} with {machine['gpu_gib']:.0f} GiB" if machine["gpu"] else "no GPU"
    lines = [
        f"model {result['model']}, engine {result['engine']}; {gpu}, {machine['host_gib']:.0f} GiB of memory, "
        f"{machine['cpus']} processors",
        *(f"{task}: judged by {scorer}" for task, scorer in result["scorers"].items()),
        *(f"not checked: {what}" for what in result["unchecked"]),
    ]
    names = ("task", "method", "stage", "done", *(["GPU GiB"] if machine["gpu"] else []))
    table = Table(*names, "host GiB", "s each", "in the run", "hours", "", box=None)
    for column in table.columns[3:-1]:
        column.justify = "right"
    problems = []
    for row in result["stages"]:
        between = row["part"] in ("fit", "estimate", "score") and not row["stage"]
        if row["status"] == "ok" and row["seconds"] < (0.5 if between else 0.05):
            continue  # a line that tells nobody anything
        stage = ": ".join(filter(None, (row["part"], row["stage"], "the rest" if between else "")))
        if row["status"] != "ok":
            place = " on ".join(filter(None, (row["method"], row["task"])))
            what = f"{row['problem']}; try {row['remedy']}" if row["remedy"] else row["problem"]
            problems.append(f"{row['status']}: {', '.join(filter(None, (place, stage)))}: {what}")
        cells = [row["task"], row["method"], stage, f"{row['items']:,}" if row["items"] else "-"]
        cells += [_number(row["gpu_reserved_gib"])] if machine["gpu"] else []
        cells += [_number(row["host_gib"]), _number(row["seconds_each"])]
        cells += ["-" if row["run_items"] is None else f"{row['run_items']:,}", _number(row["hours"])]
        table.add_row(*cells, "" if row["status"] == "ok" else row["status"])
    total = f"about {result['hours']:.2g} hours for the whole run, if its examples were all as heavy as these"
    if result["failed"]:
        total += f"; {result['failed']} stage(s) failed and are not counted"
    return Group(Text("\n".join(lines)), table, Text("\n".join([*problems, total])))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 99.5 else f"{value:.2g}"
