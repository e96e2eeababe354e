"""Subgroups: the rows of a leaderboard for the examples with each value of an attribute (view, sex, age, finding).

Each subgroup has its own intervals, and each method a test of the gap between its best and its worst subgroup. A column
of numbers with more than five distinct ones is cut into bands: at the conventional ages for `age`, else at the terciles
of the examples, so that all methods have the same bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.board.rounding import rounded
from conrad_bench.leaderboards.board.rows import by_seed, task_rows
from conrad_bench.leaderboards.board.samples import fitting, numbered, samples_of
from conrad_bench.leaderboards.inference.bootstrap import LEAST_UNITS, Estimates, Seeds
from conrad_bench.leaderboards.inference.comparisons import holm, of
from conrad_bench.leaderboards.inference.gaps import widest_gap
from conrad_bench.leaderboards.metrics.base import Metric, signed_root
from conrad_bench.records import reserved

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.leaderboards.board.context import BoardContext

MISSING = "(missing)"
"""The subgroup of the examples without a value."""
_MOST_VALUES = 30
_CATEGORIES = 5
AGES = (40, 60, 80)
"""Where bands of ages begin; the first one begins at 0."""


def subgroups(
    frames: Mapping[tuple[str, str], pd.DataFrame], context: BoardContext, column: str
) -> dict[str, list[dict[str, Any]]]:
    """Return what leaderboard.json holds about subgroups by a column of the records: their rows, and the gaps.

    `frames` has the records of each (task, method). A row is as in leaderboard.json, with `subgroup`: its `column`,
    `value`, and a `warning` or None. Tasks whose records lack the column have no rows. Raises DataError where no task
    or not every method of a task has it, where it is no attribute, or where it has too many values to be one of groups.
    """
    if reserved(column):
        raise DataError(f"subgroups by {column!r}: this column is no attribute of examples; name one such as view")
    rows: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    having = {task for (task, _), frame in frames.items() if column in frame}
    if not having:
        known = sorted({str(n) for frame in frames.values() for n in frame.columns if not reserved(str(n))})
        raise DataError(f"subgroups by {column!r}: no records have this column (columns: {', '.join(known) or 'none'})")
    for task in sorted(having):
        of_task = {method: frame for (name, method), frame in sorted(frames.items()) if name == task}
        lacking = [method for method, frame in of_task.items() if column not in frame]
        if lacking:
            raise DataError(f"subgroups by {column!r}: the records of {', '.join(lacking)} on {task} lack this column")
        names, bands = _bands(of_task, column, task)
        for name in names:
            chosen = {method: frame[bands[method] == name] for method, frame in of_task.items()}
            found, _ = task_rows(task, {m: frame for m, frame in chosen.items() if len(frame)}, context, compared=False)
            rows += [{**row, "subgroup": {"column": column, "value": name, "warning": row["warning"]}} for row in found]
        gaps += [{"task": task, "column": column, **gap} for gap in _gaps(task, of_task, bands, names, context)]
    return {"subgroups": [rounded(row) for row in rows], "subgroup_gaps": [rounded(gap) for gap in gaps]}


def _gaps(
    task: str, frames: Mapping[str, pd.DataFrame], bands: Mapping[str, Any], names: list[str], context: BoardContext
) -> Iterator[dict[str, Any]]:
    """Yield each method's gap between its best and its worst subgroup, for the headline metrics with intervals.

    Subgroups of too few clusters are left out, and so is `MISSING`, which is none. Holm adjusts the p values of one
    metric for the number of methods.
    """
    records, _ = numbered(task, frames, context.unit)
    quality = task in context.quality
    parts = {
        (method, name): [
            samples_of(records[each].where(bands[each][records[each].order] == name), quality)
            for each in names_of.values()
        ]
        for method, names_of in by_seed(frames, context.seeds).items()
        for name in names
        if name != MISSING
    }
    binary = all(
        bool(np.isin(samples["claim"].correctness, (0.0, 1.0)).all()) for runs in parts.values() for samples in runs
    )
    metrics = [m for m in context.metrics if m.headline and m.compared and m.interval and (binary or not m.binary)]
    wanted = {
        (*key, metric): of(runs, metric)
        for key, runs in parts.items()
        for metric in metrics
        if all(metric in fitting([metric], samples) for samples in runs)
        and min(sample.effective for sample in of(runs, metric)) >= LEAST_UNITS
    }
    estimates = Estimates(
        dict.fromkeys((sample, metric) for (_, _, metric), samples in wanted.items() for sample in samples),
        next(iter(records.values())).units,
        context.replicates,
        context.seed,
    )
    for metric in metrics:
        found: list[dict[str, Any]] = []
        for method in dict.fromkeys(method for method, _ in parts):
            of_method = {n: s for (m, n, by), s in wanted.items() if (m, by) == (method, metric)}
            values = {name: estimates.of(samples, metric)["value"] for name, samples in of_method.items()}
            known = [name for name, value in values.items() if not np.isnan(value)]
            if len(known) > 1:
                found.append({"method": method, "metric": metric.name, **_gap(metric, known, of_method, estimates)})
        for gap, adjusted in zip(found, holm([gap["p"] for gap in found]), strict=True):
            yield {**gap, "p_holm": adjusted}


def _gap(metric: Metric, names: list[str], samples: Mapping[str, Seeds], estimates: Estimates) -> dict[str, Any]:
    """Return one method's gap in one metric; of a root of a squared error, the root of the difference of squares.

    Of several training seeds it is that of their means; how seeds differ is not in it.
    """
    values = np.array([estimates.mean(samples[name], metric) for name in names])
    drawn = np.stack([estimates.replicates(samples[name], metric) for name in names])
    effective = [min(sample.effective for sample in samples[name]) for name in names]
    gap = widest_gap(values, drawn, effective)
    ends = np.array([gap.value, gap.low, gap.high])
    value, low, high = (float(end) for end in (signed_root(ends) if metric.squared else ends))
    best, worst = (gap.highest, gap.lowest) if metric.better == "higher" else (gap.lowest, gap.highest)
    return {
        "best": names[best],
        "worst": names[worst],
        "n_subgroups": len(names),
        "value": value,
        "low": low,
        "high": high,
        "p": gap.p,
    }


def _bands(frames: Mapping[str, pd.DataFrame], column: str, task: str) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the subgroups in order, and each record's name, an array for each method."""
    import pandas as pd

    # Numbers that one file has as text make them all text.
    everything = pd.concat([frame[["example", column]] for frame in frames.values()])
    values = everything.drop_duplicates("example")[column].dropna()
    numeric = pd.api.types.is_numeric_dtype(everything[column]) and not pd.api.types.is_bool_dtype(values)
    if numeric and (values.nunique() > _CATEGORIES or column == "age"):
        edges = np.unique(AGES if column == "age" else np.quantile(values, (1 / 3, 2 / 3)))
        names = age_names() if column == "age" else _band_names(edges)
        # Ages from 40 belong to the band that starts at 40; a tercile itself to the band that it ends.
        side: Any = "right" if column == "age" else "left"
        bands = {
            method: _named(frame[column].to_numpy(np.float64), edges, names, side) for method, frame in frames.items()
        }
    else:
        order = sorted(values.unique())
        if len(order) > _MOST_VALUES:
            raise DataError(
                f"subgroups by {column!r}: {len(order)} distinct values on {task}; a column of at most "
                f"{_MOST_VALUES} values, or of numbers, makes subgroups"
            )
        text = {value: f"{value:g}" if numeric else str(value) for value in order}
        names = list(text.values())
        bands = {
            method: frame[column].map(lambda v: text.get(v, MISSING)).to_numpy(object)
            for method, frame in frames.items()
        }
    there = set().union(*(set(found) for found in bands.values()))
    return [name for name in (*names, MISSING) if name in there], bands


def _named(values: Any, edges: Any, names: list[str], side: Any) -> Any:
    """Return the band's name of each value (n,)."""
    named = np.array(names, object)[np.searchsorted(edges, values, side).clip(max=len(names) - 1)]
    named[np.isnan(values)] = MISSING
    return named


def _band_names(edges: Any) -> list[str]:
    """Name the bands that end at each edge, and the one above the last: "up to 0.2", "0.2 to 0.5", "above 0.5"."""
    ends = [f"{edge:.3g}" for edge in edges]
    middle = [f"{low} to {high}" for low, high in pairwise(ends)]
    return [f"up to {ends[0]}", *middle, f"above {ends[-1]}"]


def age_names() -> list[str]:
    """Return the names of the bands of ages, the youngest first."""
    middle = [f"{low}-{high - 1}" for low, high in pairwise(AGES)]
    return [f"under {AGES[0]}", *middle, f"{AGES[-1]} and over"]
