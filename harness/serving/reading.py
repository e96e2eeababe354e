"""What is reviewed: a run, or the reports for new pictures that `conrad-bench report --out` wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import DataError
from conrad_bench.reporting.reports import REPORTS
from conrad_bench.reporting.schema import Report
from conrad_bench.rollouts.digests import file_digest, remembered
from conrad_bench.runs import is_run
from conrad_bench.serving.server import read_run
from conrad_bench.serving.sources import Source
from conrad_bench.storage import file_sha256, read_json
from conrad_bench.types import Example

if TYPE_CHECKING:
    from conrad_bench.progress import Reporter
    from conrad_bench.serving.index import Index

_DIGESTS = "digests.json"


def read_folder(folder: Path, reporter: Reporter) -> tuple[Index, dict[str, Source], dict[str, Any]]:
    """Return what `read_run` does, of a run or of reports, whose tasks are named after their level.

    Raises what `read_run` raises, and DataError where the folder holds neither, or a line is no report.
    """
    if is_run(folder):
        return read_run(folder, reporter)
    if not (folder / REPORTS).is_file():
        raise DataError(
            f"{folder} holds neither a run nor {REPORTS}; name the folder that `run` or `report --out` wrote"
        )
    return _of_reports(folder)


def source_hashes(folder: Path) -> tuple[str, str]:
    """Return digests of a run's records (or of the reports) and of what is said of the model."""
    if not is_run(folder):
        models = sorted({report.model for report in _read(folder / REPORTS)})
        return file_sha256(folder / REPORTS), _digest(models)
    digest = hashlib.sha256()
    for path in sorted((folder / "records").glob("*.parquet")):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    model = (read_json(folder / "manifest.json") or {}).get("model")
    return digest.hexdigest(), _digest(model) if model else ""


def _of_reports(folder: Path) -> tuple[Index, dict[str, Source], dict[str, Any]]:
    import pandas as pd

    from conrad_bench.serving.index import Index

    found = _read(folder / REPORTS)
    there = _pictures(folder, found)
    rows: list[dict[str, Any]] = []
    sources: dict[str, Source] = {}
    for level in sorted({report.level for report in found}):
        examples, spans, notes, lost = {}, {}, {}, {}
        for report in (each for each in found if each.level == level):
            key = _digest([report.study, report.model, [p.sha256 for p in report.pictures], report.report])
            paths = [there.get((picture.file, picture.sha256)) for picture in report.pictures]
            images = tuple(path for path in paths if path is not None)
            examples[report.study] = Example(report.study, report.study, "test", images, report.indication, "")
            spans[key] = [(one.start, one.end) for one in report.statements]
            such = {one.such.level: one.such.said for one in report.statements if one.such is not None}
            notes[report.study] = [*report.warnings, *(said for _, said in sorted(such.items(), reverse=True))]
            lost[report.study] = len(paths) - len(images)
            rows += [
                {
                    "task": level, "method": report.method, "example": report.study, "cluster": report.study,
                    "claim": number, "confidence": one.confidence, "correctness": None, "status": one.status,
                    "response": key, "text": report.report,
                }
                for number, one in enumerate(report.statements)
            ]  # fmt: skip
        sources[level] = Source(None, examples, written=level, spans=spans, notes=notes, lost=lost)
    if not rows:
        raise DataError(f"{folder / REPORTS} holds no report with a statement")
    frame = pd.DataFrame(rows).astype({"confidence": float, "correctness": float})
    known = {
        "run": folder.resolve().name,
        "model": ", ".join(sorted({report.model for report in found})),
        "data": "",
        "phantom": False,
        "home": "/",
        "local": True,
    }
    return Index(frame), sources, known


def _read(path: Path) -> list[Report]:
    """Return the reports of a file. Raises DataError naming the line and what is wrong, without its text."""
    from pydantic import ValidationError

    found: dict[str, Report] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text; write it anew with `report`") from error
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            report = Report.model_validate_json(line)
        except ValidationError as error:
            key = ".".join(map(str, error.errors()[0]["loc"])) or "the line"
            raise DataError(f"{where}: {key} is not as this version writes it; write it anew with `report`") from None
        if any(report.report[one.start : one.end] != one.text for one in report.statements):
            raise DataError(f"{where}: a statement is not where it is said to be in the report")
        if report.study in found:
            raise DataError(f"{where}: this study stands in an earlier line")
        found[report.study] = report
    return list(found.values())


def _pictures(folder: Path, reports: Sequence[Report]) -> Mapping[tuple[str, str | None], str]:
    """Return the paths of the pictures that are there as the model saw them, by the file's name and digest."""
    wanted = {(picture.file, picture.sha256) for report in reports for picture in report.pictures}
    names = {name for name, _ in wanted}
    found: dict[tuple[str, str | None], str] = {}
    with remembered(folder / _DIGESTS):
        for place in read_json(folder / _DIGESTS) or {}:
            path = Path(place)
            if path.name in names and path.is_file():
                found.setdefault((path.name, file_digest(path)), place)
    return {key: place for key, place in found.items() if key in wanted}


def _digest(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
