"""The rows of one task: each method's metrics, worst case, reliability points and difference to the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from conrad_bench.leaderboards.bootstrap import bootstrap, interval
from conrad_bench.leaderboards.metrics import METRICS, FloatArray, IntArray, Metric, Sample, by_level, collapse, groups

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "verbalized"
"""The method that the others are compared with, where a task has it."""
WORST_CASE_ABOVE = 0.01
"""Share of unparsed claims above which a row shows its worst case."""

_CORRECTNESS = next(metric for metric in METRICS if metric.name == "correctness")


@dataclass(frozen=True)
class _Cell:
    """One method on one task, cut into the samples that its row needs."""

    ok: Sample
    worst: Sample
    """All claims, the unparsed ones with confidence 1 and correctness 0."""
    points: dict[int, Sample]
    """The groups of ECE that have claims, by index in rising order."""
    pair: tuple[Sample, Sample] | None
    """This method and the baseline on the units that both have, or None for the baseline itself and without one."""


def task_rows(
    task: str, frames: Mapping[str, pd.DataFrame], unit: Literal["cluster", "claim"], replicates: int, seed: int
) -> list[dict[str, Any]]:
    """Return a row for each method's records, as `conrad_bench.leaderboards.board` describes them, unrounded.

    All intervals come from one set of bootstrap weights over the task's units (clusters, or claims), those of unparsed
    claims included.
    """
    cells, units = _cells(frames, unit)
    metrics = [metric for metric in METRICS if not metric.binary or _is_binary(cells)]
    wanted: dict[tuple[Sample, Metric], None] = {}  # a dictionary, to keep their order and drop what occurs twice
    for cell in cells.values():
        for sample in (cell.ok, *(cell.pair or ())):
            wanted.update(((sample, metric), None) for metric in _fitting(metrics, sample))
        wanted.update(((point, _CORRECTNESS), None) for point in cell.points.values())
    statistics = {key: key[1].statistic(key[0]) for key in wanted}
    width = max(len(cell.ok) for cell in cells.values())
    drawn = dict(zip(statistics, bootstrap(list(statistics.values()), units, replicates, seed, width), strict=True))
    values = {key: key[0].value(statistic) for key, statistic in statistics.items()}

    def estimate(sample: Sample, metric: Metric) -> dict[str, float]:
        return _estimate(sample, values[sample, metric], drawn[sample, metric])

    rows = []
    for method, cell in cells.items():
        frame = frames[method]
        parsed = frame["status"] == "ok"
        row: dict[str, Any] = {
            "task": task,
            "method": method,
            "n": len(cell.ok),
            "n_clusters": int(frame.loc[parsed, "cluster"].nunique()),
            "claims": len(frame),
            "unparsed": {str(status): int(n) for status, n in frame.loc[~parsed, "status"].value_counts().items()},
            "unparsed_rate": (len(frame) - len(cell.ok)) / len(frame),
            "metrics": {metric.name: estimate(cell.ok, metric) for metric in _fitting(metrics, cell.ok)},
        }
        if row["unparsed_rate"] > WORST_CASE_ABOVE:
            fitting = [metric for metric in _fitting(metrics, cell.worst) if metric.worst_case]
            row["worst_case"] = {metric.name: cell.worst.value(metric.statistic(cell.worst)) for metric in fitting}
        if cell.points:
            confidence = cell.ok.stated()
            row["collapse"] = collapse(confidence)
            row["grouping"] = "level" if by_level(confidence) else "bin"
            row["reliability"] = [
                {
                    "group": group,
                    "confidence": float(point.stated().mean()),
                    "correctness": estimate(point, _CORRECTNESS),
                    "n": len(point),
                }
                for group, point in cell.points.items()
            ]
            row["figure"] = f"figures/reliability_{method}@{task}.svg"
        if cell.pair:
            mine, base = cell.pair
            row["difference"] = {
                "baseline": BASELINE,
                "n_units": len(np.unique(mine.unit)),
                "metrics": {
                    metric.name: _estimate(
                        mine,
                        values[mine, metric] - values[base, metric],
                        drawn[mine, metric] - drawn[base, metric],
                    )
                    for metric in _fitting(_fitting(metrics, mine), base)
                },
            }
        rows.append(row)
    return rows


def _cells(frames: Mapping[str, pd.DataFrame], unit: Literal["cluster", "claim"]) -> tuple[dict[str, _Cell], int]:
    """Return the samples of each method over the task's units, and the number of units."""
    names = {method: _unit_names(frame, unit) for method, frame in frames.items()}
    # Sorted, so that the weights of a unit depend neither on the order of rows nor on that of methods.
    units = {name: i for i, name in enumerate(sorted(set().union(*names.values())))}
    index = {method: np.array([units[name] for name in names[method]], np.int64) for method in frames}
    ok = {method: _parsed(frame, index[method], len(units)) for method, frame in frames.items()}
    cells = {}
    for method, frame in frames.items():
        sample = ok[method]
        pair: tuple[Sample, Sample] | None = None
        points: dict[int, Sample] = {}
        if BASELINE in ok and method != BASELINE:
            shared = np.intersect1d(sample.unit, ok[BASELINE].unit)
            mine, base = (each.take(np.isin(each.unit, shared)) for each in (sample, ok[BASELINE]))
            pair = (mine, base)
        if sample.confidence is not None and len(sample):
            group = groups(sample.confidence)
            points = {int(g): sample.take(group == g) for g in np.unique(group)}
        cells[method] = _Cell(sample, _worst_case(frame, index[method], sample), points, pair)
    return cells, len(units)


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
    return all(bool(np.isin(cell.ok.correctness, (0.0, 1.0)).all()) for cell in cells.values())


def _fitting(metrics: Sequence[Metric], sample: Sample) -> list[Metric]:
    """Return the metrics that a sample has the columns for."""
    return [metric for metric in metrics if sample.confidence is not None or not metric.confidence]


def _estimate(sample: Sample, value: float, replicates: FloatArray) -> dict[str, float]:
    """Return a value with its interval; one unit alone says nothing of how units vary."""
    several = len(np.unique(sample.unit)) > 1 and not np.isnan(value)
    low, high = interval(replicates) if several else (float("nan"), float("nan"))
    return {"value": value, "low": low, "high": high}
