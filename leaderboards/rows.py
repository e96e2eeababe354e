"""The rows of one task: each method's metrics with intervals, and what its tables and figures are drawn from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from conrad_bench.leaderboards import flagging, tokens
from conrad_bench.leaderboards.bootstrap import bootstrap, interval
from conrad_bench.leaderboards.flagging import Threshold
from conrad_bench.leaderboards.metrics import (
    COLUMNS,
    CORRECTNESS,
    FloatArray,
    IntArray,
    Metric,
    Sample,
    by_level,
    collapse,
    groups,
)
from conrad_bench.leaderboards.tokens import Tokens
from conrad_bench.records import QUALITY

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "verbalized"
"""The method that the others are compared with where nothing else is said, and where a task has it."""
WORST_CASE_ABOVE = 0.01
"""Share of unparsed claims above which a row shows its worst case."""

Samples = dict[str, Sample]
"""What the metrics of one method see: the parsed claims under "claim", the whole responses under "example"."""


@dataclass(frozen=True)
class _Cell:
    """One method on one task, cut into the samples that its row needs."""

    samples: Samples
    worst: Sample
    """All claims, the unparsed ones with confidence 1 and correctness 0."""
    points: dict[int, Sample]
    """The groups of ECE that have claims, by index in rising order."""
    pair: tuple[Samples, Samples] | None
    """This method and the baseline on the units that both have, or None for the baseline itself and without one."""
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
    task: str,
    frames: Mapping[str, pd.DataFrame],
    unit: Literal["cluster", "claim"],
    replicates: int,
    seed: int,
    quality: bool = False,
    sentences: bool = False,
    baseline: str = BASELINE,
) -> list[dict[str, Any]]:
    """Return a row for each method's records, as `conrad_bench.leaderboards.board` describes them, unrounded.

    `baseline`: the method that the others are compared with, if the task has it.
    `quality`: whether the task has a scorer of whole responses; `sentences`: whether its claims are sentences, so that
    flagging them is of interest. All intervals come from one set of bootstrap weights over the task's units (clusters,
    or claims), those of unparsed claims included.
    """
    # In one order, so that sums have the same digits whatever the order in a file.
    frames = {method: frame.sort_values(["example", "claim"]) for method, frame in frames.items()}
    cells, units = _cells(frames, unit, quality, sentences, baseline)
    metrics = [metric for metric in COLUMNS if not metric.binary or _is_binary(cells)]
    wanted: dict[tuple[Sample, Metric], None] = {}  # a dictionary, to keep their order and drop what occurs twice
    for cell in cells.values():
        for samples in (cell.samples, *(cell.pair or ())):
            wanted.update(((samples[metric.per], metric), None) for metric in _fitting(metrics, samples))
        wanted.update(((sample, CORRECTNESS), None) for sample in cell.means())
    statistics = {key: key[1].statistic(key[0]) for key in wanted}
    width = max(len(cell.samples["claim"]) for cell in cells.values())
    drawn = dict(zip(statistics, bootstrap(list(statistics.values()), units, replicates, seed, width), strict=True))
    values = {key: key[0].value(statistic) for key, statistic in statistics.items()}

    def estimate(sample: Sample, metric: Metric = CORRECTNESS) -> dict[str, float]:
        return _estimate(sample, values[sample, metric], drawn[sample, metric])

    def difference(mine: Sample, base: Sample, metric: Metric = CORRECTNESS) -> dict[str, float]:
        value = values[mine, metric] - values[base, metric]
        return _estimate(mine, value, drawn[mine, metric] - drawn[base, metric])

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
            "metrics": {m.name: estimate(cell.samples[m.per], m) for m in _fitting(metrics, cell.samples)},
        }
        if row["unparsed_rate"] > WORST_CASE_ABOVE:
            fitting = [metric for metric in _fitting(metrics, {"claim": cell.worst}) if metric.worst_case]
            row["worst_case"] = {metric.name: cell.worst.value(metric.statistic(cell.worst)) for metric in fitting}
        if cell.points:
            confidence = ok.stated()
            row["collapse"] = collapse(confidence)
            row["grouping"] = "level" if by_level(confidence) else "bin"
            row["reliability"] = [
                {
                    "group": group,
                    "confidence": float(point.stated().mean()),
                    "correctness": estimate(point),
                    "n": len(point),
                }
                for group, point in cell.points.items()
            ]
        if cell.pair:
            mine, base = cell.pair
            row["difference"] = {
                "baseline": baseline_of(method, baseline, frames),
                "n_units": len(np.unique(mine["claim"].unit)),
                "metrics": {
                    metric.name: difference(mine[metric.per], base[metric.per], metric)
                    for metric in _fitting(_fitting(metrics, mine), base)
                },
            }
        if cell.cuts:
            row["flagging"] = flagging.entry(cell.cuts, estimate, difference)
        if cell.tokens:
            row["tokens"] = tokens.entry(cell.tokens, estimate)
        rows.append(row)
    return rows


def baseline_of(method: str, baseline: str, methods: Collection[str]) -> str | None:
    """Return which of a task's methods one is compared with; None for the baseline itself, and where there is none.

    "conrad [b]", in a merged leaderboard the conrad of run b, is compared with "verbalized [b]" if that is there.
    """
    name, bracket, run = method.partition(" [")
    if name == baseline:
        return None
    return next((each for each in (f"{baseline}{bracket}{run}", baseline) if each in methods), None)


def _cells(
    frames: Mapping[str, pd.DataFrame],
    unit: Literal["cluster", "claim"],
    quality: bool,
    sentences: bool,
    baseline: str,
) -> tuple[dict[str, _Cell], int]:
    """Return the samples of each method over the task's units, and the number of units."""
    names = {method: _unit_names(frame, unit) for method, frame in frames.items()}
    # Sorted, so that the weights of a unit depend neither on the order of rows nor on that of methods.
    units = {name: i for i, name in enumerate(sorted(set().union(*names.values())))}
    index = {method: np.array([units[name] for name in names[method]], np.int64) for method in frames}
    qualities = {method: _qualities(frame, index[method], len(units)) for method, frame in frames.items()}
    samples: dict[str, Samples] = {}
    for method, frame in frames.items():
        samples[method] = {"claim": _parsed(frame, index[method], len(units))}
        if quality and "quality" in qualities[method]:
            samples[method]["example"] = qualities[method]["quality"]
    cells = {}
    for method, frame in frames.items():
        ok = samples[method]["claim"]
        base = baseline_of(method, baseline, samples)
        pair = _shared(samples[method], samples[base]) if base else None
        points: dict[int, Sample] = {}
        cuts: list[Threshold] = []
        if ok.confidence is not None and len(ok):
            group = groups(ok.confidence)
            points = {int(g): ok.take(group == g) for g in np.unique(group)}
            cuts = flagging.thresholds(ok, qualities[method] if quality else {}) if sentences else []
        cells[method] = _Cell(
            samples[method],
            _worst_case(frame, index[method], ok),
            points,
            pair,
            cuts,
            tokens.tokens(frame, index[method], len(units)),
        )
    return cells, len(units)


def _shared(mine: Samples, base: Samples) -> tuple[Samples, Samples]:
    """Return both methods' samples, each on the units that both have in it."""
    pairs = {}
    for per in (per for per in mine if per in base):
        shared = np.intersect1d(mine[per].unit, base[per].unit)
        pairs[per] = [each.take(np.isin(each.unit, shared)) for each in (mine[per], base[per])]
    return {per: pair[0] for per, pair in pairs.items()}, {per: pair[1] for per, pair in pairs.items()}


def _qualities(frame: pd.DataFrame, unit: IntArray, units: int) -> dict[str, Sample]:
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
            samples[column] = Sample(None, values[rows], unit[rows], units)
    return samples


def _unit_names(frame: pd.DataFrame, unit: Literal["cluster", "claim"]) -> list[tuple[str, int]]:
    """Return the resampling unit of each record: (cluster, 0), or (example, claim)."""
    if unit == "cluster":
        return [(str(cluster), 0) for cluster in frame["cluster"]]
    return [(str(example), int(claim)) for example, claim in zip(frame["example"], frame["claim"], strict=True)]


def _parsed(frame: pd.DataFrame, unit: IntArray, units: int) -> Sample:
    """Return the claims with status ok."""
    ok = np.array(frame["status"] == "ok", bool)
    confidence, correctness = (np.array(frame[name], float)[ok] for name in ("confidence", "correctness"))
    # A method that states no confidence at all has ok records with correctness alone.
    states_none = len(confidence) > 0 and bool(np.isnan(confidence).all())
    return Sample(None if states_none else confidence, correctness, unit[ok], units)


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


def _estimate(sample: Sample, value: float, replicates: FloatArray) -> dict[str, float]:
    """Return a value with its interval; one unit alone says nothing of how units vary."""
    several = len(np.unique(sample.unit)) > 1 and not np.isnan(value)
    low, high = interval(replicates) if several else (float("nan"), float("nan"))
    return {"value": value, "low": low, "high": high}
