"""Clinical ratings of reports against the confidences of a run (ConRad, Table 4).

Raters give every sentence of a report a score from 1 (reject) to 5 (accept). A file of ratings is a csv with a header:

| column | meaning |
| --- | --- |
| rater | name or number of the rater |
| report | id of the example in the records |
| sentence | index of the sentence in the report, from 0 |
| rating | 1, 2, 3, 4 or 5 |
| method | optional: the method whose report was rated; needed where the methods of the run wrote different reports |

Ratings belong to a report as it was written: methods with the same response share them. Two clinician ratings of a
report come of its sentences, each in [0, 1], and are compared with report-level confidences:

- mean: the mean over sentences and raters, x -> (x - 1) / 4
- all accepted: 1 if every sentence has at least 4 from a majority (more than half) of its raters, else 0
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.inference.bootstrap import bootstrap, interval
from conrad_bench.leaderboards.metrics.base import FloatArray, IntArray, Sample, Statistic
from conrad_bench.leaderboards.metrics.calibration import ECE
from conrad_bench.leaderboards.metrics.discrimination import AUROC, Pearson
from conrad_bench.leaderboards.pages.wording import is_tiny
from conrad_bench.records import read_records
from conrad_bench.storage import load_json, read_regular
from conrad_bench.text import markdown as plain

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
SCORES = 5
ACCEPTED = 4
"""The lowest rating that accepts a sentence."""
COLUMNS = ("rater", "report", "sentence", "rating")
_MOST_BYTES = 64 * 2**20
USABLE = ("ok", "scorer_failed")
"""Statuses of claims with a confidence; that the task's own scorer failed is nothing to the raters."""
AGGREGATIONS = {"mean": "Mean aggregation", "all_accepted": "All accepted"}

_METRICS = {metric.name: metric for metric in (ECE(), Pearson(), AUROC())}


def read_ratings(path: Path) -> pd.DataFrame:
    """Read a file of ratings: columns rater, report, method ("" without that column), sentence, rating, line.

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
            wanted = [name for name in (*COLUMNS, "method") if name in (reader.fieldnames or ())]
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
                key = (row["rater"], row.setdefault("method", ""), row["report"], str(int(row["sentence"])))
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
    return pd.DataFrame(rows)[["rater", "report", "method", "sentence", "rating", "line"]]


def mean_rating(ratings: pd.DataFrame) -> float:
    """Return the mean of one report's ratings over sentences and raters, in [0, 1]."""
    return float((ratings["rating"].mean() - 1) / (SCORES - 1))


def all_accepted(ratings: pd.DataFrame) -> float:
    """Return 1 if more than half of the raters of every sentence of one report gave at least 4, else 0."""
    accepted = (ratings["rating"] >= ACCEPTED).groupby(ratings["sentence"]).mean() > 0.5
    return float(accepted.all())


def agreement(item: IntArray, rating: IntArray, unit: IntArray, units: int) -> Statistic:
    """Krippendorff's alpha for ordinal ratings, as a function of weights of the units.

    item (n,) says which sentence a rating belongs to, rating (n,) is 1 to 5, unit (n,) the resampling unit among
    `units` of them. Sentences with one rating say nothing and are left out; NaN where all ratings are equal.
    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section D.
    """
    cells = np.zeros((units, SCORES, SCORES))
    for one in np.unique(item):
        counts = np.bincount(rating[item == one] - 1, minlength=SCORES)
        if counts.sum() > 1:
            pairs = np.outer(counts, counts) - np.diag(counts)
            cells[unit[item == one][0]] += pairs / (counts.sum() - 1)
    flat = cells.reshape(units, -1)

    def statistic(weights: FloatArray) -> FloatArray:
        coincidences = (weights @ flat).reshape(-1, SCORES, SCORES)
        totals = coincidences.sum(axis=2)
        n = totals.sum(axis=1)
        # The squared number of ratings between two values, half of those at the ends counted.
        below = np.cumsum(totals, axis=1) - totals / 2
        distance = (below[:, :, None] - below[:, None, :]) ** 2
        observed = (coincidences * distance).sum(axis=(1, 2))
        expected = (totals[:, :, None] * totals[:, None, :] * distance).sum(axis=(1, 2))
        ratio = np.divide((n - 1) * observed, expected, out=np.full_like(n, np.nan), where=expected > 0)
        return np.asarray(1 - ratio)

    return statistic


def ratings_table(run: Path, ratings: Path) -> dict[str, Any]:
    """Compare the report-level confidences of a finished run with the ratings of its reports.

    Returns `title`, `model`, `phantom`, `seed`, `replicates` and `unit` of the run's leaderboard, the numbers of
    `raters`, `reports`, `sentences` and `ratings`, the `median` of the mean ratings, `agreement` (Krippendorff's alpha,
    ordinal) and `rows`: for each task, aggregation and method that states confidences n, unparsed and `metrics`
    {pearson, auroc, ece}. An estimate is {value, low, high}: 95 % bootstrap over patients (or whatever the leaderboard
    resamples), all under the same weights; null where it is undefined.

    AUROC needs two classes: for the mean, reports rated above the median of all rated reports against the others. This
    choice is ours; the paper reports the number and does not say how it was made.

    Raises DataError naming the line of a report that is not in the run's records, of a sentence without a rating, and
    where methods wrote different reports and the file does not say whose were rated.
    """
    board = _board(run)
    frames = _report_records(run)
    given = read_ratings(ratings)
    given["response"] = _responses(given, frames, ratings)
    _check_reports(given, ratings)
    rated = {str(response): group for response, group in given.groupby("response")}
    means = {response: mean_rating(group) for response, group in rated.items()}
    median = float(np.median(list(means.values())))
    targets = {
        "mean": means,
        "all_accepted": {response: all_accepted(group) for response, group in rated.items()},
        "above_median": {response: float(value > median) for response, value in means.items()},
    }
    frames = {key: frame[frame["response"].isin(list(rated))] for key, frame in frames.items()}
    by = "example" if board["unit"] == "claim" else "cluster"
    unit_of = {r: str(u) for frame in frames.values() for r, u in zip(frame["response"], frame[by], strict=True)}
    names = sorted(set(unit_of.values()))

    def units(responses: pd.Series[str]) -> IntArray:
        return np.array([names.index(unit_of[response]) for response in responses], np.int64)

    items = np.array(given.groupby(["response", "sentence"]).ngroup(), np.int64)
    alpha = agreement(items, given["rating"].to_numpy(np.int64), units(given["response"]), len(names))
    wanted: list[tuple[dict[str, Any], str, Statistic, bool]] = []
    top: dict[str, Any] = {}
    wanted.append((top, "agreement", alpha, len(names) > 1))
    rows: list[dict[str, Any]] = []
    for aggregation in AGGREGATIONS:
        for (task, method), frame in frames.items():
            ok = frame[frame["status"].isin(USABLE) & frame["confidence"].notna()]
            if ok.empty:
                continue
            row = {"task": task, "aggregation": aggregation, "method": method}
            rows.append({**row, "n": len(ok), "unparsed": len(frame) - len(ok), "metrics": {}})
            unit = units(ok["response"])
            for name, metric in _METRICS.items():
                target = targets["above_median" if (aggregation, name) == ("mean", "auroc") else aggregation]
                correctness = np.array([target[response] for response in ok["response"]])
                sample = Sample(ok["confidence"].to_numpy(float), correctness, unit, len(names))
                wanted.append(
                    (rows[-1]["metrics"], name, metric.statistic(sample), metric.interval and sample.varies())
                )
    if not rows:
        raise DataError(f"{run}: no method of this run states a confidence for the rated reports")
    drawn = bootstrap([item[2] for item in wanted], len(names), board["replicates"], board["seed"], len(rated))
    for (where, name, statistic, has_interval), replicates in zip(wanted, drawn, strict=True):
        where[name] = _estimate(float(statistic(np.ones((1, len(names))))[0]), replicates, has_interval)
    return {
        "format": FORMAT,
        **board,
        "raters": int(given["rater"].nunique()),
        "reports": len(rated),
        "sentences": len(np.unique(items)),
        "ratings": len(given),
        "median": median,
        **top,
        "rows": rows,
    }


def markdown(table: dict[str, Any]) -> str:
    """Return the table of `ratings_table` as a Markdown page."""
    import tabulate

    lines = [f"# Clinical ratings: {plain(table['title'])}", ""]
    if table["phantom"]:
        lines += [
            f"The rated reports were written by {'a tiny' if is_tiny(table) else 'a'} model about phantom images that "
            "a program drew. These numbers say nothing about real radiographs or about any medical model.",
            "",
        ]
    metrics = list(_METRICS)
    header = ["aggregation", "method", *(_METRICS[name].label for name in metrics), "n", "unparsed"]
    for task in sorted({row["task"] for row in table["rows"]}):
        body = [
            [
                AGGREGATIONS[row["aggregation"]],
                plain(row["method"]),
                *(_cell(row["metrics"][name]) for name in metrics),
                str(row["n"]),
                str(row["unparsed"]),
            ]
            for row in table["rows"]
            if row["task"] == task
        ]
        align = ["left", "left", *["right"] * (len(header) - 2)]
        lines += [
            f"## {plain(task)}",
            "",
            tabulate.tabulate(body, header, "pipe", colalign=align, disable_numparse=True),
            "",
        ]
    resampled = "single reports" if table["unit"] == "claim" else "patients"
    lines += [
        f"- {table['raters']} raters, {table['reports']} reports, {table['sentences']} sentences, {table['ratings']} "
        f"ratings. Agreement between raters (Krippendorff's alpha, ordinal): {_cell(table['agreement'])}.",
        "- Mean aggregation: the mean rating over sentences and raters, (x - 1) / 4. Its AUROC separates reports rated "
        f"above the median ({table['median']:.3f}) from the others; this cut is conrad-bench's own.",
        "- All accepted: every sentence has a rating of at least 4 from more than half of its raters.",
        f"- In brackets: 95 % percentile bootstrap, {table['replicates']:,} replicates over {resampled}, seed "
        f"{table['seed']}. A dash: undefined, as AUROC is where all reports are of one class.",
        "- Reports without a usable confidence are in no metric; unparsed counts them.",
        "",
    ]
    return "\n".join(lines)


def _board(run: Path) -> dict[str, Any]:
    """Return what the ratings take over from the run's leaderboard."""
    path = run / "leaderboard.json"
    try:
        board = load_json(path)
        return {name: board[name] for name in ("title", "model", "phantom", "seed", "replicates", "unit")}
    except FileNotFoundError as error:
        raise DataError(f"{run} holds no finished run (no leaderboard.json); finish the run first") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read; make it anew from the run's records") from error


def _report_records(run: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the records of each (task, method), of tasks with one claim for each example."""
    frames = {}
    for path in sorted((run / "records").glob("*.parquet")):
        frame = read_records(path)
        frames[str(frame["task"].iloc[0]), str(frame["method"].iloc[0])] = frame
    several = {task for (task, _), frame in frames.items() if frame["example"].duplicated().any()}
    kept = {key: frame for key, frame in frames.items() if key[0] not in several}
    if not kept:
        raise DataError(f"{run / 'records'} holds no report-level records, which ratings of reports are compared with")
    return kept


def _responses(given: pd.DataFrame, frames: dict[tuple[str, str], pd.DataFrame], path: Path) -> list[str]:
    """Return the key of the response that each rating is about. Raises DataError naming the line."""
    written: dict[tuple[str, str], set[str]] = {}
    for (_, method), frame in frames.items():
        for example, response in zip(frame["example"], frame["response"], strict=True):
            for whose in (method, ""):
                written.setdefault((whose, str(example)), set()).add(str(response))
    methods = {method for _, method in frames}
    found: list[str] = []
    for line, method, report in zip(given["line"], given["method"], given["report"], strict=True):
        where = f"{path}, line {line}"
        if method and method not in methods:
            raise DataError(f"{where}: the run has no report-level records of this method")
        responses = written.get((method, report))
        if responses is None:
            raise DataError(f"{where}: this report is not among the run's report-level records")
        if len(responses) > 1:
            advice = (
                "rate the reports of one task only" if method else "add a column 'method' that says whose was rated"
            )
            raise DataError(f"{where}: the run has {len(responses)} different reports about this example; {advice}")
        found.extend(responses)
    return found


def _check_reports(given: pd.DataFrame, path: Path) -> None:
    """Raise DataError for a report that one rater rated twice, or that has a sentence without rating."""
    twice = given.duplicated(["rater", "response", "sentence"])
    if twice.any():
        line = int(given.loc[twice, "line"].iloc[0])
        raise DataError(f"{path}, line {line}: this rater rated the same report before, as that of another method")
    for _, group in given.groupby("response", sort=False):
        gaps = set(range(int(group["sentence"].max()))) - set(group["sentence"])
        if gaps:
            line = int(group["line"].iloc[0])
            raise DataError(f"{path}, line {line}: sentence {min(gaps)} of this report has no rating")


def _estimate(value: float, replicates: FloatArray, several: bool) -> dict[str, float | None]:
    """Return a value with its interval; one unit alone says nothing of how units vary."""
    low, high = interval(replicates) if several and not np.isnan(value) else (float("nan"), float("nan"))
    return {name: None if np.isnan(x) else x for name, x in (("value", value), ("low", low), ("high", high))}


def _cell(estimate: dict[str, float | None]) -> str:
    if estimate["value"] is None:
        return "–"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:z.3f}"
    return f"{estimate['value']:z.3f} [{estimate['low']:z.3f}, {estimate['high']:z.3f}]"
