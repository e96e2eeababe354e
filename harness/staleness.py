"""What a run folder holds that no longer fits the run: set aside before the run goes on, and named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conrad_bench.counterfactual import counterfactuals
from conrad_bench.errors import ConradBenchError
from conrad_bench.fingerprints import (
    ARTIFACT,
    artifact_folder,
    artifact_problem,
    changed,
    counterfactual_parts,
    fit_parts,
    record_parts,
)
from conrad_bench.fits import with_inner
from conrad_bench.methods.recalibrated import within
from conrad_bench.records import COUNTERFACTUAL, made_from, records_path
from conrad_bench.storage import file_sha256, read_json, storage_errors

if TYPE_CHECKING:
    from conrad_bench.plan import Plan
    from conrad_bench.tasks.base import Loaded

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Stale:
    """A result that has to be made again."""

    path: Path
    what: str
    """What it is, for a person."""
    why: str


def stale_results(plan: Plan, data: Mapping[str, Loaded], out: Path) -> Iterator[Stale]:
    """Yield the artifacts and records in a run folder that are damaged, or made from other than what the run has now.

    Artifacts come before the records that depend on them; those of an artifact that is stale are stale, too.
    """
    sums = (read_json(out / MANIFEST) or {}).get("files", {})
    gone: set[Path] = set()
    for task_name in plan.config.tasks:
        for name, method in plan.methods.items():
            fitted_on = plan.tasks[task_name].fit_on or task_name
            fits = _fits_of(plan, name)
            for fit in fits if method.learns() else ():
                folder = artifact_folder(out, fit, fitted_on)
                if folder in gone or not (folder / ARTIFACT).is_file():
                    continue
                why = artifact_problem(folder, fit_parts(with_inner(plan, name), fit, fitted_on, data, out))
                inside = within(with_inner(plan, name).methods[fit])
                if why is None and gone & {artifact_folder(out, inner, fitted_on) for inner in inside}:
                    why = "what it maps is made again"
                if why is not None:
                    gone.add(folder)
                    yield Stale(folder, f"the artifact of {fit} on {fitted_on}", why)
            path = records_path(out, name, task_name)
            if path.is_file():
                why = _records_problem(path, sums.get(f"records/{path.name}"))
                why = why or changed(made_from(path), record_parts(plan, name, task_name, data, out))
                if why is None and gone & {artifact_folder(out, fit, fitted_on) for fit in fits}:
                    why = "its artifact is made again"
                if why is not None:
                    yield Stale(path, f"the records of {name} on {task_name}", why)
    for each in counterfactuals(plan):
        path = each.path(out)
        if path.is_file():
            why = _records_problem(path, sums.get(f"{COUNTERFACTUAL}/{path.name}"))
            why = why or changed(made_from(path), counterfactual_parts(plan, each, data, out))
            fitted_on = plan.tasks[each.task].fit_on or each.task
            if why is None and gone & {artifact_folder(out, fit, fitted_on) for fit in _fits_of(plan, each.method)}:
                why = "its artifact is made again"
            if why is not None:
                yield Stale(path, f"the records of {each.method} on {each}", why)


def _fits_of(plan: Plan, name: str) -> list[str]:
    """Return the names of the artifacts of a method: one that is made of others has theirs, too, before its own."""
    return [*within(plan.methods[name]), name]


def _records_problem(path: Path, expected: str | None) -> str | None:
    """Return what is wrong with a records file by itself; `expected` is its hash if the run had ended."""
    from conrad_bench.records import read_records

    if expected is not None and file_sha256(path) != expected:
        return "changed since the run ended"
    try:
        read_records(path)
    except ConradBenchError:
        return "damaged"
    return None


def set_aside(stale: Stale) -> None:
    """Move an artifact out of the way, as NAME.stale-1 and so on; remove records, which are made from what is kept."""
    with storage_errors(stale.path):
        if stale.path.is_file():
            stale.path.unlink()
            return
        number = 1
        while (aside := stale.path.with_name(f"{stale.path.name}.stale-{number}")).exists():
            number += 1
        stale.path.rename(aside)


def finished(out: Path) -> bool:
    """Return whether a run folder's manifest is whole and its leaderboard, context and records are those it names."""
    files = (read_json(out / MANIFEST) or {}).get("files")
    return bool(files) and files == result_sums(out)


def result_sums(out: Path) -> dict[str, str]:
    """Return the SHA-256 of the leaderboard, the context and all records of a run folder, by path."""
    records = [path for name in ("records", COUNTERFACTUAL) for path in sorted((out / name).glob("*.parquet"))]
    paths = [out / "leaderboard.json", out / "context.json", *records]
    return {path.relative_to(out).as_posix(): file_sha256(path) for path in paths if path.is_file()}
