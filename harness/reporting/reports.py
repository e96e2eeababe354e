"""Makes reports for new studies: the estimates that a run would make of them, read for a person and for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from conrad_bench.contracts import checked_examples, estimated
from conrad_bench.counterfactual import PICTURES
from conrad_bench.errors import ConfigError, ImageError
from conrad_bench.judging import make_judge
from conrad_bench.plan import experts
from conrad_bench.reporting.calibrated import Calibrated, calibrated
from conrad_bench.reporting.making import Level, Making
from conrad_bench.reporting.schema import Picture, Report, Statement
from conrad_bench.reporting.scope import departures
from conrad_bench.rollouts.digests import file_digest, remembered
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.storage import make_private, write_text
from conrad_bench.types import Estimate, Example
from conrad_bench.version import __version__

if TYPE_CHECKING:
    from conrad_bench.cluster.cluster import Cluster
    from conrad_bench.progress import Reporter

REPORTS = "reports.jsonl"
_THREADS = min(16, os.cpu_count() or 1)

_PHANTOM = "The embedded model has seen synthetic pictures alone; what it says of a real one means nothing."
_UNCALIBRATED = (
    "No run tells what these confidences are worth: name one with --artifact; they are what the method says, unchecked."
)


def check_out(out: Path) -> None:
    """Raise ConfigError unless reports may be written into a folder: a new one, an empty one, or one with reports."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"--out {out} is no folder")
    names = {entry.name for entry in out.iterdir()}
    if "config.yaml" in names or (names and not names & {REPORTS, "rollouts"}):
        raise ConfigError(f"--out {out} holds something else than reports; name another folder")


def make_reports(
    making: Making, studies: Sequence[Example], folder: Path, reporter: Reporter, cluster: Cluster | None = None
) -> list[Report]:
    """Return a report for each study, in their order; `folder` holds the answers, which are not asked for twice.

    Raises ImageError if there is no study whose pictures can be read, and what methods and engines raise.
    """
    plan, task = making.plan, making.task
    examples = checked_examples(task, [replace(each, context=task.indicated(each.context)) for each in studies])
    make_private(folder)
    plan.engine.check_prompts()
    notes = [*making.notes, *plan.engine.notes(True)]
    judges = tuple(plan.judges.values())
    with RolloutStore(folder / "rollouts") as store, remembered(folder / "digests.json"), cluster or nullcontext():
        made = (folder / PICTURES).absolute()
        asked = experts(plan)
        model = Model(plan.engine, store, reporter, pool=cluster, beside=judges, pictures=made, experts=asked)
        judge = make_judge(plan, plan.teachers[task.name], task, model)
        found = estimated(making.method, task, examples, model, judge, making.artifact)
        for engine in (plan.engine, *judges):
            engine.close()
    if model.unreadable and all(each.response.finish_reason == "image_unreadable" for each in found.estimates):
        raise next(iter(model.unreadable.values()))
    for id, problem in found.failed.items():
        reporter.say(f"{making.name} failed on study {id}: {problem}")
    worth = calibrated(making)
    pictures = _pictures(studies, making.phantom, model.unreadable, reporter)
    return [
        _report(making, study, estimate, worth, [pictures[path] for path in study.images], model.unreadable, notes)
        for study, estimate in zip(studies, found.estimates, strict=True)
    ]


def _pictures(
    studies: Sequence[Example], phantom: bool, unreadable: Mapping[str, ImageError], reporter: Reporter
) -> dict[str, Picture]:
    """Return what is to be said of each picture, by its path: many at once, since each is decoded for it."""

    def look(path: str) -> Picture:
        if path in unreadable:
            return Picture(file=Path(path).name, sha256=None, out_of_scope=[])
        digest, apart = file_digest(Path(path)), departures(path, phantom)
        return Picture(file=Path(path).name, sha256=digest, out_of_scope=list(apart))

    found: dict[str, Picture] = {}
    paths = dict.fromkeys(path for study in studies for path in study.images)
    with reporter.stage("looking at the pictures", len(paths)) as advance, ThreadPoolExecutor(_THREADS) as pool:
        for path, picture in zip(paths, pool.map(look, paths), strict=True):
            found[path] = picture
            advance(1)
    return found


def _report(
    making: Making,
    study: Example,
    estimate: Estimate,
    worth: Calibrated | None,
    pictures: Sequence[Picture],
    unreadable: Mapping[str, ImageError],
    notes: Sequence[str],
) -> Report:
    text, statements = "", []
    unread = estimate.response.finish_reason == "image_unreadable"
    for claim in estimate.claims:
        start = len(text) + bool(text and claim.text)
        text = " ".join(filter(None, (text, claim.text)))
        such = None if worth is None or claim.confidence is None else worth.such(claim.confidence)
        statements.append(
            Statement(
                text=claim.text,
                start=start,
                end=start + len(claim.text),
                confidence=claim.confidence,
                status="image_unreadable" if unread else claim.status,
                such=such,
            )
        )
    warnings = [_PHANTOM] * making.phantom
    warnings += [str(unreadable[path]) for path in study.images if path in unreadable]
    warnings += [
        f"{picture.file} is unlike the pictures that the model was made for: {', '.join(picture.out_of_scope)}. Its "
        "confidences cannot be relied on."
        for picture in pictures
        if picture.out_of_scope
    ]
    warnings += [_UNCALIBRATED] * (worth is None)
    return Report(
        study=study.id,
        level=cast(Level, making.task.granularity),
        indication=study.context,
        pictures=list(pictures),
        report=text,
        statements=statements,
        model=making.plan.model_label,
        method=making.name,
        source=None if worth is None else worth.source,
        warnings=[*warnings, *notes],
        version=__version__,
    )


def lines(reports: Sequence[Report]) -> str:
    """Return reports as JSON lines in ASCII."""
    return "".join(json.dumps(report.model_dump(mode="json")) + "\n" for report in reports)


def write_reports(out: Path, reports: Sequence[Report]) -> Path:
    """Write reports into a folder for its owner alone, and return the file. Raises StorageError."""
    path = out / REPORTS
    write_text(path, lines(reports))
    return path
