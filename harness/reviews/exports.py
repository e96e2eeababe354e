"""What a review leaves for others: its ratings as the csv that Table 4 is made of, and corrected reports."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from conrad_bench.errors import DataError
from conrad_bench.reviews.fold import Review
from conrad_bench.reviews.store import NAME, Store, Written
from conrad_bench.storage import storage_errors, write_text
from conrad_bench.text import csv_cell

COLUMNS = ("rater", "report", "sentence", "rating", "decision", "task", "response")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what of the review was not."""

    what: str
    path: Path
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Reviewed:
    """The reviews of a run as they stand."""

    raters: dict[int, str]
    reports: dict[int, Written]
    """By their number in the log; of a response whose sentences are read otherwise now the newest alone."""
    reviews: dict[tuple[int, int], Review]
    """By rater and report."""
    outdated: int
    """Older reports of such responses."""


def reviewed(run: Path) -> Reviewed:
    """Read a run's review. Raises DataError where there is none, and what `Store` raises."""
    if not (run / NAME).is_file():
        raise DataError(f"{run} holds no review ({NAME}); `conrad-bench review {run}` makes one")
    store = Store(run / NAME)
    try:
        reports, reviews, raters = store.reports(), store.reviews(), store.raters()
    finally:
        store.close()
    newest = {report.response: number for number, report in reports.items()}
    kept = {number: report for number, report in reports.items() if newest[report.response] == number}
    said = {key: review for key, review in reviews.items() if review.done}
    outdated = {number for _, number in said} - kept.keys()
    return Reviewed(raters, kept, {key: said[key] for key in said if key[1] in kept}, len(outdated))


def write_ratings(run: Path, path: Path) -> Exported:
    """Write the ratings of all raters. Reports with a sentence that nobody has rated are left out and counted.

    Raises what `reviewed` raises, DataError where no report is left, and StorageError.
    """
    found = reviewed(run)
    given: dict[int, set[int]] = {}
    for (_, number), review in found.reviews.items():
        given.setdefault(number, set()).update(review.ratings)
    whole = {number for number, rated in given.items() if rated >= found.reports[number].sentences.keys()}
    begun = {number for number, rated in given.items() if rated} - whole
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for (rater, number), review in sorted(found.reviews.items()):
        report = found.reports[number]
        for sentence, rating in sorted(review.ratings.items() if number in whole else ()):
            decision = review.decisions.get(sentence, {}).get("action", "")
            cells = (found.raters[rater], report.example, sentence, rating, decision, report.task, report.response)
            rows.writerow([csv_cell(cell) for cell in cells])
    if not whole:
        raise DataError(f"{run / NAME} holds no report of which every sentence has a rating")
    write_text(path, text.getvalue())
    with storage_errors(path):
        path.chmod(0o600)
    return Exported("ratings", path, left_out(begun=len(begun), outdated=found.outdated))


def corrected(report: Written, review: Review) -> str | None:
    """Return a report as a rater leaves it: accepted and corrected sentences; None while one is not decided on."""
    parts = []
    for number, text in report.sentences.items():
        decision = review.decisions.get(number)
        if decision is None:
            return None
        if decision["action"] != "reject":
            parts.append(decision.get("text", text))
    return " ".join(parts)


def left_out(**counts: int) -> tuple[str, ...]:
    """Say what was left out, a line for each reason that occurred."""
    said = {
        "begun": "{} reports with a sentence that nobody has rated",
        "undecided": "{} reports with a sentence that is not accepted, edited or rejected",
        "empty": "{} reports whose sentences are all rejected",
        "absent": "{} reports whose examples are not in the run's data",
        "outdated": "{} reports whose text is read in other sentences now than when they were reviewed",
    }
    return tuple(said[name].format(count) for name, count in counts.items() if count)
