"""Clinical ratings of reports against the confidences of a run (ConRad, Table 4).

Raters give every sentence of a report a score from 1 (reject) to 5 (accept); `rating_files` says in which file. Ratings
belong to a report as it was written: methods with the same response share them. What confidences are compared with
comes of the ratings, each in [0, 1]. At report level:

- mean: the mean over sentences and raters, x -> (x - 1) / 4
- all accepted: 1 if every sentence has at least 4 from a majority (more than half) of its raters, else 0

At sentence level the same of each sentence: its mean over raters, and whether a majority accepts it.

Raters are a sample, as patients are: an interval draws both anew, whole (Owen 2007, "The pigeonhole bootstrap"), since
a report's ratings depend on each other through the report and through who gave them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.agreement import alpha, estimate, read_board, units_of
from conrad_bench.leaderboards.inference.bootstrap import bootstrap, weight_blocks
from conrad_bench.leaderboards.metrics.base import FloatArray, IntArray, Sample, Statistic
from conrad_bench.leaderboards.metrics.calibration import ECE
from conrad_bench.leaderboards.metrics.discrimination import AUROC, Pearson
from conrad_bench.leaderboards.pages.wording import estimate_text, is_tiny
from conrad_bench.leaderboards.rating_files import SCORES, rated
from conrad_bench.text import markdown as plain

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
ACCEPTED = 4
"""The lowest rating that accepts a sentence."""
USABLE = ("ok", "scorer_failed")
"""Statuses of claims with a confidence; that the task's own scorer failed is nothing to the raters."""
AGGREGATIONS = {
    "mean": "Mean aggregation",
    "all_accepted": "All accepted",
    "sentence_mean": "Sentences, mean",
    "sentence_accepted": "Sentences, accepted",
}

_METRICS = {metric.name: metric for metric in (ECE(), Pearson(), AUROC())}


@dataclass(frozen=True)
class Targets:
    """What confidences are compared with; NaN where no rater that counts has rated."""

    mean: FloatArray
    accepted: FloatArray
    above: FloatArray
    """Whether the mean lies above the median of all of them."""
    median: float


def targets(scores: FloatArray, report: IntArray, weights: FloatArray) -> Targets:
    """Return the targets of each report, from scores (sentences, raters), NaN where there is none.

    report (sentences,) is the number of each sentence's report, weights (raters,) how often each rater counts.
    """
    given = ~np.isnan(scores) * weights
    total = np.where(np.isnan(scores), 0.0, (scores - 1) / (SCORES - 1)) @ weights
    votes = (scores >= ACCEPTED) @ weights
    n = given.sum(axis=1)
    reports = int(report.max()) + 1
    ratings = np.bincount(report, n, reports)
    none = np.full(reports, np.nan)
    mean = np.divide(np.bincount(report, total, reports), ratings, out=none.copy(), where=ratings > 0)
    refused = np.bincount(report, (n > 0) & (2 * votes <= n), reports) > 0
    known = ratings > 0
    median = float(np.median(mean[known])) if known.any() else float("nan")
    # Equal ratings in another order differ in their last digits.
    above = np.where(known, (mean > median + 1e-12).astype(float), np.nan)
    return Targets(mean, np.where(known, (~refused).astype(float), np.nan), above, median)


@dataclass(frozen=True)
class _Row:
    """A row of the table: a method's confidences, and the number of the report or sentence that each is about."""

    shown: dict[str, Any]
    confidence: FloatArray
    about: IntArray
    unit: IntArray
    sentences: bool

    def statistics(self, found: Targets, units: int) -> list[tuple[Statistic, bool]]:
        """Return each metric's statistic, and whether it can have an interval."""
        accepts = self.shown["aggregation"].endswith("accepted")
        made: list[tuple[Statistic, bool]] = []
        for name, metric in _METRICS.items():
            target = (found.accepted if accepts else found.above if name == "auroc" else found.mean)[self.about]
            known = ~np.isnan(target)
            if not known.any():  # nobody whose ratings count in a replicate has rated these
                made.append((_undefined, False))
                continue
            sample = Sample(self.confidence[known], target[known], self.unit[known], units)
            made.append((metric.statistic(sample), metric.interval and sample.varies()))
        return made


def _undefined(weights: FloatArray) -> FloatArray:
    return np.full(len(weights), np.nan)


def ratings_table(run: Path, ratings: Path) -> dict[str, Any]:
    """Compare the confidences of a finished run with the ratings of its reports.

    Returns `title`, `model`, `phantom`, `seed`, `replicates` and `unit` of the run's leaderboard, the numbers of
    `raters`, `reports`, `sentences` and `ratings`, the `median` of the reports' and the `sentence_median` of the
    sentences' mean ratings, `agreement` (Krippendorff's alpha, ordinal) and `rows`: for each task, aggregation and
    method that states confidences n, unparsed and `metrics` {pearson, auroc, ece}. An estimate is {value, low, high}:
    95 % bootstrap over patients (or whatever the leaderboard resamples) and, where there are several, over raters, all
    under the same weights; null where it is undefined. That of the agreement takes the raters as they are.

    AUROC needs two classes: for means, reports (or sentences) rated above the median of all rated ones against the
    others. This choice is ours; the paper reports the number and does not say how it was made.

    Raises what `rated` raises, and DataError where no method states a confidence for what was rated.
    """
    board = read_board(run)
    given, frames, whole = rated(run, ratings)
    unit, units = units_of(given, frames, board["unit"])
    reports = {response: n for n, response in enumerate(dict.fromkeys(given["response"]))}
    pairs = list(zip(given["response"], given["sentence"], strict=True))
    items = {pair: n for n, pair in enumerate(dict.fromkeys(pairs))}
    names = sorted(given["rater"].unique())
    item = np.array([items[pair] for pair in pairs], np.int64)
    scores = np.full((len(items), len(names)), np.nan)
    scores[item, [names.index(name) for name in given["rater"]]] = given["rating"]
    of_report = np.array([reports[response] for response, _ in items], np.int64)
    places = reports, items, dict(zip(given["response"], unit, strict=True))
    rows = [
        made
        for aggregation in AGGREGATIONS
        for (task, method), frame in frames.items()
        if aggregation.startswith("sentence") != (task in whole)
        and (made := _row(task, method, aggregation, frame, *places)) is not None
    ]
    if not rows:
        raise DataError(f"{run}: no method of this run states a confidence for the rated reports")

    def both(weights: FloatArray) -> tuple[Targets, Targets]:
        return targets(scores, of_report, weights), targets(scores, np.arange(len(items)), weights)

    once = both(np.ones(len(names)))
    values = [row.statistics(once[row.sentences], units) for row in rows]
    drawn = _replicates(rows, both, len(names), units, board["replicates"], board["seed"])
    for row, found, replicates in zip(rows, values, drawn, strict=True):
        row.shown["metrics"] = {
            name: estimate(statistic, replicates[n], units, varies)
            for n, (name, (statistic, varies)) in enumerate(zip(_METRICS, found, strict=True))
        }
    agreement = alpha(item, given["rating"].to_numpy(np.int64), unit, units)
    return {
        "format": FORMAT,
        **board,
        "raters": len(names),
        "reports": len(reports),
        "sentences": len(items),
        "ratings": len(given),
        "median": once[0].median,
        "sentence_median": once[1].median,
        "agreement": estimate(agreement, bootstrap([agreement], units, board["replicates"], board["seed"])[0], units),
        "rows": [row.shown for row in rows],
    }


def _row(
    task: str,
    method: str,
    aggregation: str,
    frame: pd.DataFrame,
    reports: dict[str, int],
    items: dict[tuple[str, int], int],
    unit_of: dict[str, int],
) -> _Row | None:
    """Return the row of a method on a task; None where it states no confidence about what was rated."""
    sentences = aggregation.startswith("sentence")
    keys = list(zip(frame["response"], frame["claim"], strict=True))
    chosen = [key in items if sentences else key[0] in reports for key in keys]
    frame = frame[chosen]
    ok = frame[frame["status"].isin(USABLE) & frame["confidence"].notna()]
    if ok.empty:
        return None
    about = [
        items[response, claim] if sentences else reports[response]
        for response, claim in zip(ok["response"], ok["claim"], strict=True)
    ]
    shown = {"task": task, "aggregation": aggregation, "method": method, "n": len(ok), "unparsed": len(frame) - len(ok)}
    unit = np.array([unit_of[response] for response in ok["response"]], np.int64)
    return _Row(shown, ok["confidence"].to_numpy(float), np.array(about, np.int64), unit, sentences)


def _replicates(rows: list[_Row], both: Any, raters: int, units: int, replicates: int, seed: int) -> list[FloatArray]:
    """Return the replicates of each row's metrics, shape (metrics, replicates)."""
    weights = np.concatenate(list(weight_blocks(units, replicates, seed, replicates)))
    # One rater alone is taken as given. Others are drawn by a generator of their own, so that patients' draws stay.
    drawn = next(weight_blocks(raters, replicates, seed + 1, replicates)) if raters > 1 else np.ones((replicates, 1))
    found = [np.empty((len(_METRICS), replicates)) for _ in rows]
    for who in np.unique(drawn, axis=0):
        here = (drawn == who).all(axis=1)
        made = both(who)
        for row, values in zip(rows, found, strict=True):
            for n, (statistic, _) in enumerate(row.statistics(made[row.sentences], units)):
                values[n, here] = statistic(weights[here])
    return found


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
                *(estimate_text(row["metrics"][name]) for name in metrics),
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
    raters = " and raters" if table["raters"] > 1 else "; one rater, taken as given"
    whole = any(not row["aggregation"].startswith("sentence") for row in table["rows"])
    parts = any(row["aggregation"].startswith("sentence") for row in table["rows"])
    lines += [
        f"- {table['raters']} raters, {table['reports']} reports, {table['sentences']} sentences, {table['ratings']} "
        f"ratings. Agreement between raters (Krippendorff's alpha, ordinal): {estimate_text(table['agreement'])}.",
        *[
            "- Mean aggregation: the mean rating over sentences and raters, (x - 1) / 4. Its AUROC separates reports "
            f"rated above the median ({table['median']:.3f}) from the others; this cut is conrad-bench's own.",
            "- All accepted: every sentence has a rating of at least 4 from more than half of its raters.",
        ][: 2 * whole],
        *[
            "- Sentences: each sentence's own confidence, against its mean rating over raters (AUROC: above the median "
            f"{table['sentence_median']:.3f}), and against a rating of at least 4 from more than half of its raters.",
        ][:parts],
        f"- In brackets: 95 % percentile bootstrap, {table['replicates']:,} replicates over {resampled}{raters}, seed "
        f"{table['seed']}. A dash: undefined, as AUROC is where all reports are of one class.",
        "- What has no usable confidence is in no metric; unparsed counts it.",
        "",
    ]
    return "\n".join(lines)
