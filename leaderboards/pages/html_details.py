"""What stands behind a click below a task of leaderboard.html: more metrics, comparisons, and the plots' numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from conrad_bench.leaderboards.pages import plots, wording
from conrad_bench.leaderboards.pages.html_forest import pair_data
from conrad_bench.leaderboards.pages.html_subgroups import subgroup_tables
from conrad_bench.leaderboards.pages.html_table import Cell, Column, estimate_cell, name_html, table
from conrad_bench.text import html as escape
from conrad_bench.types import STATUSES


def details(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield all that a task has to open, those parts that there are."""
    metrics = wording.columns(board, rows, headline=False)
    if metrics:
        yield from _folded(f"{len(metrics)} more metrics on {task}", _more(board, task, rows, metrics))
    pairs = (board["tasks"][task].get("comparisons") or {}).get("pairs", [])
    if pairs:
        title = f"Ranks, and all {len(pairs):,} paired comparisons on {task}"
        yield from _folded(title, (_ranks(board, task, rows), _pairs(board, task, pairs)))
    yield from _folded(f"By {_column(board, task)} on {task}", subgroup_tables(board, task))
    if curves := [row for row in rows if row.get("risk_coverage")]:
        title = f"Risk on {task} at the coverage nearest to each of these"
        numbers = _curve_numbers(title, curves, "risk_coverage", "coverage", "risk")
        yield from _folded(f"Numbers of the risk-coverage curves on {task}", [numbers])
    if loads := [row for row in rows if row.get("workload")]:
        title = f"Errors on {task} that are caught at the share of responses read nearest to each of these"
        numbers = _curve_numbers(title, loads, "workload", "read", "caught")
        yield from _folded(f"Numbers of the workload curves on {task}", [numbers])
    if drawn := [row for row in rows if "reliability" in row]:
        yield from _folded(f"Numbers of the reliability diagrams on {task}", [_points(board, task, drawn)])
    if flagged := [row for row in rows if "flagging" in row]:
        yield from _folded(f"Flagging on {task}", _flagging(board, task, flagged))
    if maps := [row for row in rows if "tokens" in row]:
        yield from _folded(f"Probabilities of the confidence answers on {task}", _heats(maps))
    if any(row["unparsed"] for row in rows):
        yield from _folded(f"Unparsed claims on {task}", _unparsed(task, rows))


def _folded(title: str, parts: Iterable[str]) -> Iterator[str]:
    """Yield a part to open; nothing where it is empty."""
    if inside := "".join(parts):
        yield f"<details><summary>{escape(title)}</summary>{inside}</details>"


def _column(board: dict[str, Any], task: str) -> str:
    return next((row["subgroup"]["column"] for row in board.get("subgroups", []) if row["task"] == task), "")


def _more(board: dict[str, Any], task: str, rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> Iterator[str]:
    header = [Column("method", "text"), *metric_columns(board, task, metrics), Column("distinct", "", _DISTINCT)]
    lines = []
    for row in rows:
        collapse = row.get("collapse")
        shown = f"{collapse['distinct']:,}" if collapse else "–"
        share = f'<span class="ci">largest {collapse["largest_mass"]:.0%}</span>' if collapse else ""
        cells = [estimate_cell(row["metrics"].get(metric)) for metric in metrics]
        lines.append((row["method"], [*cells, Cell(shown + share, collapse["distinct"] if collapse else None)]))
    yield table(f"More metrics on {task}; without brackets: no interval", header, lines, "more")


_DISTINCT = "number of distinct confidences, and the share of claims at the commonest one"


def metric_columns(board: dict[str, Any], task: str, metrics: Sequence[str]) -> list[Column]:
    """Return the heads of metrics' columns, each with what the metric is."""
    return [
        Column(wording.column_title(board, task, name), "", wording.metric_info(board, name).get("summary", ""))
        for name in metrics
    ]


def _ranks(board: dict[str, Any], task: str, rows: Sequence[dict[str, Any]]) -> str:
    found = board["tasks"][task]["comparisons"]
    header = [Column("method", "text"), *metric_columns(board, task, found["metrics"])]
    lines = []
    for row in rows:
        name, cells = row["method"], []
        for metric in found["metrics"]:
            ranks = found["ranks"].get(metric, {}).get(name)
            text = f"{wording.rank_text(board, task, name, metric)} {found['letters'].get(metric, {}).get(name, '')}"
            cells.append(Cell(escape(text.strip()), ranks[0] if ranks else None))
        lines.append((name, cells))
    note = "ranks that each may have; methods that share a letter cannot be told apart"
    return table(f"Ranks on {task}: {note}", header, lines, "ranks")


def _pairs(board: dict[str, Any], task: str, pairs: Sequence[dict[str, Any]]) -> str:
    header = [Column("metric", "text"), Column("a", "text"), Column("b", "text"), Column("a − b"), Column("p")]
    header += [Column("p, Holm"), Column("units")]
    lines = []
    for pair in pairs:
        names = [Cell(name_html(pair[side]), pair[side], "text") for side in ("a", "b")]
        label = wording.column_label(board, task, pair["metric"])
        tests = [Cell(escape(wording.p_text(pair[key])), pair[key]) for key in ("p", "p_holm")]
        units = Cell(f"{pair['n_units']:,}", pair["n_units"])
        lines.append((label, [*names, estimate_cell(pair, signed=True), *tests, units]))
    caption = f"Every two methods of {task} against each other: paired differences, p of their t test, Holm-adjusted p"
    return table(caption, header, lines, "pairs", filtered=False, data=[pair_data(pair) for pair in pairs])


def _points(board: dict[str, Any], task: str, rows: Sequence[dict[str, Any]]) -> str:
    label = board["tasks"][task]["label"]
    header = [Column("method", "text"), Column("confidence"), Column(f"mean {label}"), Column("claims")]
    lines = [
        (
            row["method"],
            [
                Cell(f"{point['confidence']:.3f}", point["confidence"]),
                estimate_cell(point["correctness"]),
                Cell(f"{point['n']:,}", point["n"]),
            ],
        )
        for row in rows
        for point in row["reliability"]
    ]
    return table(f"Groups of claims on {task}, as the reliability diagrams show them", header, lines, "points")


def _curve_numbers(title: str, rows: Sequence[dict[str, Any]], name: str, x: str, y: str) -> str:
    """Return a table of a curve's heights at round shares, read off it."""
    wanted = [k / 10 for k in range(1, 11)]
    lines = []
    for row in rows:
        curve = [(p[x], p[y]) for p in row[name] if None not in (p[x], p[y])]
        cells = []
        for share in wanted:
            height = min(curve, key=lambda point: abs(point[0] - share))[1] if curve else None
            cells.append(Cell("–" if height is None else f"{height:.3f}", height))
        lines.append((row["method"], cells))
    header = [Column(x, "text"), *(Column(f"{share:.1f}") for share in wanted)]
    return table(title, header, lines, "curves")


def _flagging(board: dict[str, Any], task: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    about = board["tasks"][task]
    header = [Column("method", "text"), Column("confidence", "text"), Column("sentences"), Column("share")]
    header += [Column(f"{about['label']} ↑"), Column("gain over all")]
    header += [Column(f"{about['quality']['label']} of what is left ↑")] if about["quality"] else []
    lines = []
    for row in rows:
        for point in row["flagging"]["thresholds"]:
            least = -1.0 if point["confidence"] is None else point["confidence"]
            cells = [Cell(escape(wording.threshold_text(point)), f"{least:05.1f}", "text")]
            cells += [
                Cell(f"{point['n']:,}", point["n"]),
                estimate_cell(point["share"]),
                estimate_cell(point["precision"]),
            ]
            cells.append(estimate_cell(point.get("gain"), signed=True))
            cells += [estimate_cell(point["quality"])] if about["quality"] else []
            lines.append((row["method"], cells))
    yield table(
        f"What is left on {task} when only sentences with at least this confidence (of 10) are kept",
        header,
        lines,
        "flags",
    )


def _heats(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield (
        '<p class="small">Mean probability of each answer 0 to 10 (columns) where the model stated a confidence '
        "(rows). Framed: the stated answer. Below 0.005 a cell is empty.</p>"
    )
    yield f'<div class="wide">{"".join(_heat(row) for row in rows)}</div>'


def _heat(row: dict[str, Any]) -> str:
    tokens = row["tokens"]
    head = "".join(f'<th scope="col">{level}</th>' for level in range(len(tokens["matrix"])))
    lines = []
    for stated, (line, count) in enumerate(zip(tokens["matrix"], tokens["counts"], strict=True)):
        cells = []
        for answer, p in enumerate(line):
            frame = ' class="stated"' if answer == stated and count else ""
            shown = f"{p:.2f}" if p is not None and p >= 0.005 else ""
            cells.append(f'<td{frame} style="--p:{0 if p is None else p:.3f}">{shown}</td>')
        lines.append(f'<tr><th scope="row">{stated}</th>{"".join(cells)}<td style="--p:0">{count:,}</td></tr>')
    measures = tokens["measures"]
    said = ", ".join(
        f"{words.removesuffix(' ↑').removesuffix(' ↓')} {wording.estimate_text(measures[name])}"
        for name, words in wording.MEASURES.items()
        if name in measures
    )
    name, region = escape(row["method"]), escape(f"Confidence answers of {row['method']} on {row['task']}")
    return (
        f'<div class="card" data-method="{name}"><p class="name">{name_html(row["method"])}</p>'
        f'<p class="small">{escape(said)}</p><div class="scroll" role="region" tabindex="0" aria-label="{region}">'
        '<table class="heat"><caption>Stated confidence (rows) against answer (columns)</caption>'
        f'<thead><tr><th scope="col"><span class="hidden-text">stated</span></th>{head}<th scope="col">claims</th></tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div></div>"
    )


def _unparsed(task: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    seen = [status for status in STATUSES if status != "ok" and any(status in row["unparsed"] for row in rows)]
    header = [
        Column("method", "text"),
        Column("claims"),
        Column("ok"),
        *(Column(status.replace("_", " ")) for status in seen),
    ]
    header.append(Column("shares", "plot"))
    lines = []
    for row in rows:
        counts = [("ok", row["n"]), *((status, row["unparsed"].get(status, 0)) for status in seen)]
        cells = [Cell(f"{row['claims']:,}", row["claims"]), *(Cell(f"{n:,}", n) for _, n in counts)]
        bar = plots.shares([(f"s-{status}", n) for status, n in counts], row["claims"])
        lines.append((row["method"], [*cells, Cell(bar, None, "strip-cell")]))
    legend = "".join(
        f'<li><span class="swatch s-{status}"></span> {status.replace("_", " ")}</li>' for status in ("ok", *seen)
    )
    yield table(f"Claims of {task} that no metric could use, by reason", header, lines, "unparsed")
    yield f'<ul class="legend">{legend}</ul>'
