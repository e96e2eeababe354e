"""The forest plot of leaderboard.html: differences to a baseline, which the reader can choose on the page.

Every pair's numbers lie in the table of comparisons (`pair_data`), from which the page's script draws another baseline
or metric; without the script the plot shows Brier against the board's baseline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conrad_bench.leaderboards.pages import wording
from conrad_bench.leaderboards.pages.html_table import Cell, Column, number_text, table
from conrad_bench.leaderboards.pages.plots import ticks
from conrad_bench.text import html as escape

LEVEL = 0.05
"""Below this adjusted p two methods differ."""
_TICKS = 3


def forest(board: dict[str, Any], task: str, number: int, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the forest plot of a task's methods, if they were compared."""
    found = board["tasks"][task].get("comparisons") or {}
    if not found.get("pairs"):
        return
    metric = "brier" if "brier" in found["metrics"] else found["metrics"][0]
    methods = [row["method"] for row in rows if any(row["method"] in (p["a"], p["b"]) for p in found["pairs"])]
    bases = Counter(row["difference"]["baseline"] for row in rows if row.get("difference"))
    base = bases.most_common(1)[0][0] if bases else methods[0]
    estimates = {name: _against(found["pairs"], metric, name, base) for name in methods}
    ends = [e[end] for e in estimates.values() if e for end in ("value", "low", "high") if e[end] is not None]
    marks = ticks(min(0.0, *ends), max(0.0, *ends), _TICKS) if ends else ticks(-0.01, 0.01, _TICKS)
    lower = wording.metric_info(board, metric)["better"] == "lower"
    lines, data = [], []
    for row in rows:
        name = row["method"]
        if name in estimates:
            estimate = estimates[name]
            dots = _seed_dots(row, metric, estimate)
            cells = [_number(estimate), Cell(strip(estimate, marks, lower, dots), None, "strip-cell")]
            lines.append((name, cells))
            data.append({"seeds": _seeds(row, found["metrics"]), **({"base": "1"} if name == base else {})})
    title = wording.column_label(board, task, metric)
    header = [Column("method", "text"), Column("difference"), Column(axis(marks), "plot")]
    metrics = "".join(
        f'<option value="{escape(name)}" data-lower="{int(wording.metric_info(board, name)["better"] == "lower")}"'
        f"{' selected' * (name == metric)}>{escape(wording.column_label(board, task, name))}</option>"
        for name in found["metrics"]
    )
    choices = "".join(f"<option{' selected' * (name == base)}>{escape(name)}</option>" for name in methods)
    yield f'<div class="forest" data-task="{escape(task)}"><h3>Differences on {escape(task)}</h3>'
    yield (
        f'<p class="choose" hidden><label for="metric-{number}">Metric</label> <select id="metric-{number}">{metrics}'
        f'</select> <label for="base-{number}">against</label> <select id="base-{number}">{choices}</select></p>'
    )
    yield table(f"{title}: method minus {base} on {task}", header, lines, "differences", sortable=False, data=data)
    yield "</div>"


def pair_data(pair: Mapping[str, Any]) -> dict[str, str]:
    """Return the data attributes of a pair's row in the table of comparisons."""
    ends = ",".join("" if pair[key] is None else f"{pair[key]:.6g}" for key in ("value", "low", "high", "p_holm"))
    return {"metric": pair["metric"], "a": pair["a"], "b": pair["b"], "ends": ends}


def strip(estimate: Mapping[str, Any] | None, marks: Sequence[float], lower: bool, seeds: Sequence[float] = ()) -> str:
    """Return a row of the plot: an interval on the axis of these `marks`; a small dot for each training seed.

    The dot is filled where the difference holds after Holm's adjustment. The script draws the same (leaderboard.js).
    """
    span = marks[-1] - marks[0]

    def at(value: float) -> str:
        return f"left:{100 * (value - marks[0]) / span:.2f}%"

    parts = [f'<i class="{"zero" if mark == 0 else "line"}" style="{at(mark)}"></i>' for mark in marks]
    mood = "open"
    if estimate and estimate["low"] is not None and estimate["high"] is not None:
        width = f"width:{100 * (estimate['high'] - estimate['low']) / span:.2f}%"
        parts.append(f'<i class="bar" style="{at(estimate["low"])};{width}"></i>')
        if estimate["high"] < 0 or estimate["low"] > 0:
            mood = "better" if (estimate["high"] < 0) == lower else "worse"
    if estimate and estimate["value"] is not None:
        sure = estimate["p_holm"] is not None and estimate["p_holm"] < LEVEL
        parts.append(f'<i class="dot{" sure" * sure}" style="{at(estimate["value"])}"></i>')
    parts += [f'<i class="seed" style="{at(value)}"></i>' for value in seeds]
    return f'<span class="strip {mood}" aria-hidden="true">{"".join(parts)}</span>'


def axis(marks: Sequence[float]) -> str:
    """Return the head of the plot's column: the axis with its marks."""
    span = marks[-1] - marks[0]
    shown = "".join(
        f'<span style="left:{100 * (mark - marks[0]) / span:.2f}%">{f"{mark:g}".replace("-", "−")}</span>'
        for mark in marks
    )
    spoken = '<span class="hidden-text">plot of the difference</span>'
    return f'{spoken}<span class="axis-marks" aria-hidden="true">{shown}</span>'


def _against(pairs: Sequence[Mapping[str, Any]], metric: str, method: str, base: str) -> dict[str, Any] | None:
    """Return a method's difference to a baseline; None where there is none."""
    for pair in pairs:
        if pair["metric"] == metric and {pair["a"], pair["b"]} == {method, base} and method != base:
            if pair["a"] == method:
                return {key: pair[key] for key in ("value", "low", "high", "p_holm")}
            turned = {"value": pair["value"], "low": pair["high"], "high": pair["low"]}
            return {k: None if v is None else -v for k, v in turned.items()} | {"p_holm": pair["p_holm"]}
    return None


def _number(estimate: Mapping[str, Any] | None) -> Cell:
    if estimate is None or estimate["value"] is None:
        return Cell("–", None)
    text = number_text(estimate["value"], signed=True)
    if estimate["low"] is not None and estimate["high"] is not None:
        ends = f"{number_text(estimate['low'], signed=True)}, {number_text(estimate['high'], signed=True)}"
        text += f' <span class="ci">[{ends}]</span>'
    return Cell(text, estimate["value"])


def _seed_offsets(row: Mapping[str, Any], metric: str) -> list[float]:
    """Return how far a row's training seeds stand from their mean; none for a root of squares, which do not add up."""
    values = (row.get("seeds") or {}).get("metrics", {}).get(metric, [])
    mean = row["metrics"].get(metric, {}).get("value")
    return [] if metric == "ece_debiased" or None in (mean, *values) else [value - mean for value in values]


def _seed_dots(row: Mapping[str, Any], metric: str, estimate: Mapping[str, Any] | None) -> list[float]:
    middle = estimate["value"] if estimate else None
    return [] if middle is None else [middle + offset for offset in _seed_offsets(row, metric)]


def _seeds(row: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Return what the script needs of a row's seeds: "brier:0.01,-0.01;..."."""
    known = {metric: offsets for metric in metrics if (offsets := _seed_offsets(row, metric))}
    return ";".join(f"{metric}:{','.join(f'{offset:.6g}' for offset in offsets)}" for metric, offsets in known.items())
