"""The subgroups of leaderboard.html: their rows, and the gaps between the best and the worst."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conrad_bench.leaderboards.pages import wording
from conrad_bench.leaderboards.pages.html_table import Cell, Column, estimate_cell, table
from conrad_bench.text import html as escape


def subgroup_tables(board: dict[str, Any], task: str) -> Iterator[str]:
    """Yield the tables of a task's subgroups, if it has any."""
    rows = [row for row in board.get("subgroups", []) if row["task"] == task]
    if not rows:
        return
    metrics = wording.columns(board, rows, headline=True)
    column = rows[0]["subgroup"]["column"]
    header = [Column("method", "text"), Column(column, "text")]
    header += [Column(wording.column_title(board, task, metric)) for metric in metrics]
    header += [Column("n"), Column("clusters (effective)"), Column("warning", "text")]
    lines = []
    for row in rows:
        about = row["subgroup"]
        cells = [Cell(escape(about["value"]), about["value"], "text")]
        cells += [estimate_cell(row["metrics"].get(metric)) for metric in metrics]
        cells += [Cell(f"{row['n']:,}", row["n"]), Cell(wording.clusters_text(row), row["n_clusters"])]
        cells.append(Cell(escape(about["warning"] or ""), about["warning"] or "", "text prose"))
        lines.append((row["method"], cells))
    yield table(f"{task} by {column}; each part with intervals of its own", header, lines, "parts")
    yield from _gaps(board, task)


def _gaps(board: dict[str, Any], task: str) -> Iterator[str]:
    gaps = [gap for gap in board.get("subgroup_gaps", []) if gap["task"] == task]
    if not gaps:
        return
    for note in wording.gap_notes(board, task):
        yield f'<p class="small">{escape(note)}</p>'
    header = [
        Column("method", "text"),
        Column("metric", "text"),
        Column("best", "text"),
        Column("worst", "text"),
        Column("gap"),
    ]
    header += [Column("p"), Column("p, Holm")]
    lines = []
    for gap in gaps:
        label = wording.column_title(board, task, gap["metric"])
        names = [Cell(escape(text), text, "text") for text in (label, gap["best"], gap["worst"])]
        tests = [Cell(escape(wording.p_text(gap[key])), gap[key]) for key in ("p", "p_holm")]
        lines.append((gap["method"], [*names, estimate_cell(gap), *tests]))
    yield table(f"{task}: the best against the worst {gaps[0]['column']}", header, lines, "gaps")
