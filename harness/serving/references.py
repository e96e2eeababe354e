"""Corrected reports as the references of a csv task (tasks/csv_task.py), for training or as better references."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.reviews.exports import Exported, Reviewed, corrected, left_out, reviewed
from conrad_bench.serving.reading import read_folder
from conrad_bench.storage import make_private, write_text
from conrad_bench.tasks.csv_task import OURS
from conrad_bench.text import csv_cell

if TYPE_CHECKING:
    from conrad_bench.progress import Reporter
    from conrad_bench.types import Example

TASK, TABLE = "corrected_reports.yaml", "corrected_reports.csv"


def write_references(run: Path, out: Path, rater: str | None, reporter: Reporter) -> Exported:
    """Write the reports that a rater has decided on, sentence by sentence, as a task in the folder `out`.

    Where a study has several such reports, the one that the rater changed last counts. Raises ConfigError where several
    raters have decided and none is named, DataError where no report is left, and what `read_folder` raises.
    """
    found = reviewed(run)
    who = _rater(found, rater)
    _, sources, known = read_folder(run, reporter)
    there = {(name, id): example for name, source in sources.items() for id, example in source.examples.items()}
    texts: dict[str, tuple[int, str, Example]] = {}
    undecided = empty = absent = 0
    for number, review in ((n, r) for (each, n), r in found.reviews.items() if each == who and r.decisions):
        report = found.reports[number]
        text = corrected(report, review)
        example = there.get((report.task, report.example))
        undecided += text is None
        empty += text == ""
        absent += bool(text) and example is None
        if text and example is not None:
            last = review.done[-1].id
            if last > texts.get(report.example, (0,))[0]:
                texts[report.example] = last, text, example
    gone = left_out(undecided=undecided, empty=empty, absent=absent, outdated=found.outdated)
    if not texts:
        raise DataError(f"{run}: no corrected report can be written: {'; '.join(gone) or 'no sentence is decided on'}")
    examples = [(text, example) for _, (_, text, example) in sorted(texts.items())]
    others = sorted({name for _, example in examples for name in example.attributes} - set(OURS))
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    asked = "indication" if any(source.written for source in sources.values()) else "question"
    rows.writerow(["id", "patient", "split", "images", asked, "reference", *others])
    for text, example in examples:
        attributes = ["" if example.attributes.get(name) is None else example.attributes[name] for name in others]
        images = ";".join(str(Path(path).absolute()) for path in example.images)
        rows.writerow([example.id, example.cluster, example.split, images, example.context, text,
                       *(csv_cell(value) for value in attributes)])  # fmt: skip
    task = {"title": "Corrected reports", "granularity": "report", "file": TABLE}
    if known["phantom"]:
        task["scorer"] = "phantom_green"
    make_private(out)
    write_text(out / TABLE, table.getvalue())
    write_text(out / TASK, yaml.safe_dump(task, sort_keys=False))
    return Exported(f"{len(examples)} references", out / TASK, gone)


def _rater(found: Reviewed, name: str | None) -> int:
    """Return whose decisions are wanted."""
    decided = sorted({found.raters[rater] for (rater, _), review in found.reviews.items() if review.decisions})
    if not decided:
        raise DataError("nobody has accepted, edited or rejected a sentence in this review")
    if name is None and len(decided) > 1:
        raise ConfigError(
            f"several raters have decided; --rater NAME says whose reports are meant: {', '.join(decided)}"
        )
    if name is not None and name not in decided:
        raise ConfigError(f"--rater: nobody of this name has decided on a sentence; there are {', '.join(decided)}")
    chosen = name or decided[0]
    return next(number for number, each in found.raters.items() if each == chosen)
