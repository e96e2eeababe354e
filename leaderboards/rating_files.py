"""Files of ratings: a csv with a header, and which responses of a run its rows are about.

| column | meaning |
| --- | --- |
| rater | name or number of the rater |
| report | id of the example in the records |
| sentence | index of the sentence in the report, from 0; of sentence-level records the index of the claim |
| rating | 1, 2, 3, 4 or 5 |
| method | optional: the method whose report was rated; needed where the methods of the run wrote different reports |
| response | optional: key of the rated response in the records, which says all of that at once |
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import DataError
from conrad_bench.records import read_records
from conrad_bench.storage import read_regular

if TYPE_CHECKING:
    import pandas as pd

SCORES = 5
COLUMNS = ("rater", "report", "sentence", "rating")
_OPTIONAL = ("method", "response")
_MOST_BYTES = 64 * 2**20

Frames = dict[tuple[str, str], "pd.DataFrame"]
"""Records by task and method."""


def read_ratings(path: Path) -> pd.DataFrame:
    """Read a file of ratings: columns rater, report, method, response, sentence, rating, line; "" where one lacks.

    Other columns of the file are ignored. Raises DataError naming the file and the line of a cell that is empty, a
    sentence that is no index, a rating that is none of 1 to 5, and a sentence that one rater rated twice.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], int] = {}
    try:
        with io.StringIO(read_regular(path, _MOST_BYTES).decode("utf-8-sig"), newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise DataError(
                    f"{path}, line 1: missing columns: {', '.join(lacking)} (a csv with commas is expected)"
                )
            wanted = [name for name in (*COLUMNS, *_OPTIONAL) if name in (reader.fieldnames or ())]
            for cells in reader:
                where = f"{path}, line {reader.line_num}"
                row = {name: (cells[name] or "").strip() for name in wanted}
                empty = [name for name, text in row.items() if not text]
                if empty:
                    raise DataError(f"{where}: no {empty[0]}")
                if not re.fullmatch(r"[0-9]{1,6}", row["sentence"]):
                    raise DataError(f"{where}: the sentence is no index (0, 1, 2, ...)")
                if row["rating"] not in {str(score) for score in range(1, SCORES + 1)}:
                    raise DataError(f"{where}: the rating is none of 1, 2, 3, 4, 5")
                row = dict.fromkeys(_OPTIONAL, "") | row
                key = (row["rater"], row["method"], row["response"], row["report"], str(int(row["sentence"])))
                if key in seen:
                    raise DataError(f"{where}: this rater rated the same sentence before, in line {seen[key]}")
                seen[key] = reader.line_num
                numbers = {name: int(row[name]) for name in ("sentence", "rating")}
                rows.append({**row, **numbers, "line": reader.line_num})
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: no csv in UTF-8 ({type(error).__name__})") from error
    if not rows:
        raise DataError(f"{path}: there are no ratings")
    return pd.DataFrame(rows)[["rater", "report", "method", "response", "sentence", "rating", "line"]]


def rated(run: Path, path: Path) -> tuple[pd.DataFrame, Frames, set[str]]:
    """Return a file's ratings with the key of the `response` that each is about, the run's records, and which of its
    tasks are of reports: one claim for each example.

    Raises DataError naming the line of a report that is not in the run's records, of a sentence without a rating or
    that the report does not have, and where methods wrote different reports and the file does not say whose were rated.
    """
    frames: Frames = {}
    for file in sorted((run / "records").glob("*.parquet")):
        frame = read_records(file)
        frames[str(frame["task"].iloc[0]), str(frame["method"].iloc[0])] = frame
    if not frames:
        raise DataError(f"{run / 'records'} holds no records, which ratings are compared with")
    several = {task for (task, _), frame in frames.items() if frame["example"].duplicated().any()}
    reports = {task for task, _ in frames} - several
    given = read_ratings(path)
    given["response"] = _responses(given, frames, reports, path)
    twice = given.duplicated(["rater", "response", "sentence"])
    if twice.any():
        line = int(given.loc[twice, "line"].iloc[0])
        raise DataError(f"{path}, line {line}: this rater rated the same report before, as that of another method")
    whole = {response for (task, _), frame in frames.items() if task in reports for response in frame["response"]}
    claims: dict[str, set[int]] = {}
    for (task, _), frame in frames.items():
        if task in several:
            chosen = frame[frame["response"].isin(given["response"])]
            for response, claim in zip(chosen["response"], chosen["claim"], strict=True):
                claims.setdefault(str(response), set()).add(int(claim))
    for response, group in given.groupby("response", sort=False):
        line = int(group["line"].iloc[0])
        if beyond := set(group["sentence"]) - claims.get(str(response), set(group["sentence"])):
            raise DataError(f"{path}, line {line}: this report has no sentence {min(beyond)}")
        gaps = set(range(int(group["sentence"].max()))) - set(group["sentence"])
        if response in whole and gaps:
            raise DataError(f"{path}, line {line}: sentence {min(gaps)} of this report has no rating")
    return given, frames, reports


def _responses(given: pd.DataFrame, frames: Frames, reports: set[str], path: Path) -> list[str]:
    """Return the key of the response that each rating is about; a report's is looked for before that of sentences."""
    written: dict[tuple[bool, str, str], set[str]] = {}
    for (task, method), frame in frames.items():
        for example, response in zip(frame["example"], frame["response"], strict=True):
            for whose in (method, ""):
                written.setdefault((task in reports, whose, str(example)), set()).add(str(response))
    methods = {method for _, method in frames}
    there = {response for responses in written.values() for response in responses}
    found: list[str] = []
    columns = (given[name] for name in ("line", "method", "report", "response"))
    for line, method, report, response in zip(*columns, strict=True):
        where = f"{path}, line {line}"
        if response:
            if response not in there:
                raise DataError(f"{where}: this response is not among the run's records")
            found.append(response)
            continue
        if method and method not in methods:
            raise DataError(f"{where}: the run has no records of this method")
        responses = written.get((True, method, report)) or written.get((False, method, report))
        if responses is None:
            raise DataError(f"{where}: this report is not among the run's records")
        if len(responses) > 1:
            advice = (
                "rate the reports of one task only" if method else "add a column 'method' that says whose was rated"
            )
            raise DataError(f"{where}: the run has {len(responses)} different reports about this example; {advice}")
        found.extend(responses)
    return found
