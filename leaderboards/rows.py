"""The rows of one task: each method's metrics with intervals, and what its tables and figures are drawn from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from conrad_bench.errors import DataError
from conrad_bench.leaderboards import flagging, tokens
from conrad_bench.leaderboards.bootstrap import Estimates
from conrad_bench.leaderboards.comparisons import Samples, comparisons
from conrad_bench.leaderboards.flagging import Threshold
from conrad_bench.leaderboards.metrics import CORRECTNESS, IntArray, Metric, Sample, by_level, collapse, groups
from conrad_bench.leaderboards.null_band import null_band
from conrad_bench.leaderboards.selective import risk_coverage
from conrad_bench.leaderboards.tokens import Tokens
from conrad_bench.records import QUALITY

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.leaderboards.board import BoardContext

BASELINE = "verbalized"
"""The method that the others are compared with where nothing else is said, and where a task has it."""
WORST_CASE_ABOVE = 0.01
"""Share of unparsed claims above which a row shows its worst case."""
_COVERAGES = 20
"""Points of the risk-coverage curve in a row."""


@dataclass(frozen=True)
class _Cell:
    """One method on one task, cut into the samples that its row needs."""

    samples: Samples
    """The parsed claims under "claim", the whole responses under "example"."""
    worst: Sample
    """All claims, the unparsed ones with confidence 1 and correctness 0."""
    points: dict[int, Sample]
    """The groups of ECE that have claims, by index in rising order."""
    cuts: list[Threshold]
    """The thresholds of flagging; empty where nothing is to be flagged."""
    tokens: Tokens | None

    def means(self) -> Iterator[Sample]:
        """Yield the samples whose mean correctness the row shows beside its metrics."""
        yield from self.points.values()
        for cut in self.cuts:
            yield from (cut.kept, cut.share)
            if cut.quality is not None:
                yield cut.quality
        if self.tokens:
            yield from self.tokens.measures.values()


def task_rows(
    task: str, frames: Mapping[str, pd.DataFrame], context: BoardContext
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row for each method's records, and the comparisons between them, unrounded.

    `conrad_bench.leaderboards.board` describes both. All intervals come from one set of bootstrap weights over the
    task's units (clusters, or claims), those of unparsed claims included. Raises DataError where two methods disagree
    about an example's cluster.
    """
    _check_clusters(task, frames)
    # In one order, so that sums have the same digits whatever the order in a file.
    frames = {method: frame.sort_values(["example", "claim"]) for method, frame in frames.items()}
    quality, sentences = task in context.quality, context.granularities.get(task) == "sentence"
    cells, units = _cells(frames, context.unit, quality, sentences)
    metrics = [metric for metric in context.metrics if not metric.binary or _is_binary(cells)]
    headline = [metric for metric in metrics if metric.headline]
    pairs = {(a, b): _shared(cells[a].samples, cells[b].samples) for a, b in combinations(cells, 2)}
    wanted: dict[tuple[Sample, Metric], None] = {}  # a dictionary, to keep their order and drop what occurs twice
    for cell in cells.values():
        wanted.update(((cell.samples[metric.per], metric), None) for metric in _fitting(metrics, cell.samples))
        wanted.update(((sample, CORRECTNESS), None) for sample in cell.means())
    for samples in (samples for sides in pairs.values() for samples in sides):
        wanted.update(((samples[metric.per], metric), None) for metric in _fitting(headline, samples))
    estimates = Estimates(wanted, units, context.replicates, context.seed, context.interval)
    rows = []
    for method, cell in cells.items():
        frame, ok = frames[method], cell.samples["claim"]
        parsed = frame["status"] == "ok"
        row: dict[str, Any] = {
            "task": task,
            "method": method,
            "n": len(ok),
            "n_clusters": int(frame.loc[parsed, "cluster"].nunique()),
            "claims": len(frame),
            "unparsed": {str(status): int(n) for status, n in frame.loc[~parsed, "status"].value_counts().items()},
            "unparsed_rate": (len(frame) - len(ok)) / len(frame),
            "metrics": {m.name: estimates.of(cell.samples[m.per], m) for m in _fitting(metrics, cell.samples)},
        }
        if row["unparsed_rate"] > WORST_CASE_ABOVE:
            fitting = [metric for metric in _fitting(metrics, {"claim": cell.worst}) if metric.worst_case]
            row["worst_case"] = {metric.name: cell.worst.value(metric.statistic(cell.worst)) for metric in fitting}
        if cell.points:
            row.update(
                _confidences(ok, cell.points, estimates), ece_null=null_band(ok, context.replicates, context.seed)
            )
        base = baseline_of(method, context.baseline, cells)
        if base is not None:
            row["difference"] = _difference(pairs, method, base, headline, estimates)
        if cell.cuts:
            row["flagging"] = flagging.entry(cell.cuts, estimates.of, estimates.difference)
        if cell.tokens:
            row["tokens"] = tokens.entry(cell.tokens, estimates.of)
        rows.append(row)
    values = {
        metric.name: {
            row["method"]: row["metrics"][metric.name]["value"]
            for row in rows
            if not np.isnan(row["metrics"].get(metric.name, {}).get("value", np.nan))
        }
        for metric in headline
    }
    return rows, comparisons(pairs, headline, values, estimates, units, context.replicates, context.seed)


def _confidences(ok: Sample, points: Mapping[int, Sample], estimates: Estimates) -> dict[str, Any]:
    """Return the entries of a row that describe its confidences."""
    coverage, risk = risk_coverage(ok)
    kept = np.unique(np.ceil(np.arange(1, _COVERAGES + 1) / _COVERAGES * len(ok)).astype(int)) - 1
    return {
        "collapse": collapse(ok.stated()),
        "grouping": "level" if by_level(ok.stated()) else "bin",
        "reliability": [
            {
                "group": group,
                "confidence": float(point.stated().mean()),
                "correctness": estimates.of(point),
                "n": len(point),
            }
            for group, point in points.items()
        ],
        "risk_coverage": [{"coverage": float(coverage[k]), "risk": float(risk[k])} for k in kept],
    }


def _difference(
    pairs: Mapping[tuple[str, str], tuple[Samples, Samples]],
    method: str,
    baseline: str,
    metrics: Sequence[Metric],
    estimates: Estimates,
) -> dict[str, Any]:
    """Return a method's difference to the baseline, on what they share."""
    mine, base = pairs[method, baseline] if (method, baseline) in pairs else pairs[baseline, method][::-1]
    return {
        "baseline": baseline,
        "n_units": len(np.unique(mine["claim"].unit)),
        "metrics": {
            metric.name: estimates.difference(mine[metric.per], base[metric.per], metric)
            for metric in _fitting(_fitting(metrics, mine), base)
        },
    }


def _check_clusters(task: str, frames: Mapping[str, pd.DataFrame]) -> None:
    """Raise DataError unless all methods give an example the same cluster: else nothing of them is paired."""
    known: dict[str, tuple[str, str]] = {}
    for method, frame in frames.items():
        for example, cluster in frame[["example", "cluster"]].drop_duplicates().itertuples(index=False):
            other, theirs = known.setdefault(str(example), (method, str(cluster)))
            if theirs != str(cluster):
                raise DataError(
                    f"records of {task}: {other} and {method} put the same example into two clusters; they come from "
                    "different data, so delete the older records and run their method again"
                )


def baseline_of(method: str, baseline: str, methods: Collection[str]) -> str | None:
    """Return which of a task's methods one is compared with; None for the baseline itself, and where there is none.

    "conrad [b]", in a merged leaderboard the conrad of run b, is compared with "verbalized [b]" if that is there.
    """
    name, bracket, run = method.partition(" [")
    if name == baseline:
        return None
    return next((each for each in (f"{baseline}{bracket}{run}", baseline) if each in methods), None)


def _cells(
    frames: Mapping[str, pd.DataFrame], unit: Literal["cluster", "claim"], quality: bool, sentences: bool
) -> tuple[dict[str, _Cell], int]:
    """Return the samples of each method over the task's units, and the number of units."""
    names = {method: _unit_names(frame, unit) for method, frame in frames.items()}
    # Sorted, so that the weights of a unit depend neither on the order of rows nor on that of methods.
    units = {name: i for i, name in enumerate(sorted(set().union(*names.values())))}
    examples = {name: i for i, name in enumerate(sorted(set().union(*(frame["example"] for frame in frames.values()))))}
    cells = {}
    for method, frame in frames.items():
        index = np.array([units[name] for name in names[method]], np.int64)
        example = np.array([examples[name] for name in frame["example"]], np.int64)
        qualities = _qualities(frame, index, len(units), example)
        ok = _parsed(frame, index, len(units), example)
        samples = {"claim": ok}
        if quality and "quality" in qualities:
            samples["example"] = qualities["quality"]
        points: dict[int, Sample] = {}
        cuts: list[Threshold] = []
        if ok.confidence is not None and len(ok):
            group = groups(ok.confidence)
            points = {int(g): ok.take(group == g) for g in np.unique(group)}
            cuts = flagging.thresholds(ok, qualities if quality else {}) if sentences else []
        worst = _worst_case(frame, index, ok)
        cells[method] = _Cell(samples, worst, points, cuts, tokens.tokens(frame, index, len(units)))
    return cells, len(units)


def _shared(mine: Samples, other: Samples) -> tuple[Samples, Samples]:
    """Return both methods' samples, each on the examples that both have in it."""
    pairs = {}
    for per in (per for per in mine if per in other):
        a, b = (np.asarray(side[per].example) for side in (mine, other))
        shared = np.intersect1d(a, b)
        pairs[per] = mine[per].take(np.isin(a, shared)), other[per].take(np.isin(b, shared))
    return {per: pair[0] for per, pair in pairs.items()}, {per: pair[1] for per, pair in pairs.items()}


def _qualities(frame: pd.DataFrame, unit: IntArray, units: int, example: IntArray) -> dict[str, Sample]:
    """Return each quality column as a sample with one row for each example, those of unknown quality left out.

    The unit of an example is that of its first claim, parsed or not: where single claims are resampled, whole responses
    are thereby drawn independently of each other too.
    """
    first = ~frame["example"].duplicated().to_numpy(bool)
    samples = {}
    for column in QUALITY:
        if column in frame:
            values = frame[column].to_numpy(np.float64)
            rows = first & ~np.isnan(values)
            samples[column] = Sample(None, values[rows], unit[rows], units, example[rows])
    return samples


def _unit_names(frame: pd.DataFrame, unit: Literal["cluster", "claim"]) -> list[tuple[str, int]]:
    """Return the resampling unit of each record: (cluster, 0), or (example, claim)."""
    if unit == "cluster":
        return [(str(cluster), 0) for cluster in frame["cluster"]]
    return [(str(example), int(claim)) for example, claim in zip(frame["example"], frame["claim"], strict=True)]


def _parsed(frame: pd.DataFrame, unit: IntArray, units: int, example: IntArray) -> Sample:
    """Return the claims with status ok."""
    ok = np.array(frame["status"] == "ok", bool)
    confidence, correctness = (np.array(frame[name], float)[ok] for name in ("confidence", "correctness"))
    # A method that states no confidence at all has ok records with correctness alone.
    states_none = len(confidence) > 0 and bool(np.isnan(confidence).all())
    return Sample(None if states_none else confidence, correctness, unit[ok], units, example[ok])


def _worst_case(frame: pd.DataFrame, unit: IntArray, parsed: Sample) -> Sample:
    """Return all claims, the unparsed ones with confidence 1 and correctness 0."""
    ok = np.array(frame["status"] == "ok", bool)
    confidence = None if parsed.confidence is None else np.where(ok, np.array(frame["confidence"], float), 1.0)
    return Sample(confidence, np.where(ok, np.array(frame["correctness"], float), 0.0), unit, parsed.units)


def _is_binary(cells: Mapping[str, _Cell]) -> bool:
    """Tell whether every correctness of a task is 0 or 1."""
    return all(bool(np.isin(cell.samples["claim"].correctness, (0.0, 1.0)).all()) for cell in cells.values())


def _fitting(metrics: Sequence[Metric], samples: Samples) -> list[Metric]:
    """Return the metrics that have a sample, and the confidences they need."""
    found = [metric for metric in metrics if metric.per in samples]
    return [metric for metric in found if not metric.confidence or samples[metric.per].confidence is not None]
