"""The files of a leaderboard, all written from the content of leaderboard.json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from conrad_bench.leaderboards.board.build import before_training, build, run_records
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.board.counterfactuals import counterfactuals, run_counterfactuals
from conrad_bench.leaderboards.board.schema import Board
from conrad_bench.leaderboards.pages import figures, html, latex, tables
from conrad_bench.storage import write_bytes, write_text
from conrad_bench.text import csv_cell


def write_leaderboard(run: Path, context: BoardContext) -> dict[str, Any]:
    """Write the leaderboard of the records in a run folder into that folder; return the content of leaderboard.json.

    Raises DataError when there are no records or a file is not what its name says, StorageError when a file is damaged
    or cannot be written.
    """
    records = run_records(run, context.scorers)
    board = build(records, context) | counterfactuals(records, run_counterfactuals(run, records), context)
    write_files(run, board)
    return board


def write_files(folder: Path, board: dict[str, Any]) -> None:
    """Write leaderboard.md, .csv, .tex, .html, .json and figures/ into a folder. Raises StorageError.

    Raises ValueError (pydantic's) where the board is not as `schema.Board` says.
    """
    Board.model_validate(board)
    for path, drawn in figure_files(board):
        for suffix, data in drawn.items():
            write_bytes((folder / path).with_suffix(suffix), data)
    for name, render in RENDERED.items():
        write_text(folder / name, render(board))
    # The JSON comes last: where it is, the rest is.
    write_text(folder / "leaderboard.json", json_text(board))


def json_text(board: Mapping[str, Any]) -> str:
    """Return the text of leaderboard.json."""
    return json.dumps(board, indent=1, allow_nan=False) + "\n"


def csv_text(board: Mapping[str, Any]) -> str:
    """Return the text of leaderboard.csv: a line for each row (and subgroup), a column for each number.

    A metric m has the columns m, m_low and m_high; a cell is empty where there is no number. Text that a spreadsheet
    would take for a formula has a quote before it.
    """
    rows = [*board["rows"], *board.get("subgroups", [])]
    metrics = [metric["name"] for metric in board["metrics"] if any(metric["name"] in row["metrics"] for row in rows)]
    statuses = sorted({status for row in rows for status in row["unparsed"]})
    header = ["task", "method", *(["subgroup", "subgroup_value"] if board.get("subgroups") else [])]
    header += [
        "n",
        "n_clusters",
        "effective_clusters",
        "claims",
        "unparsed_rate",
        *(f"unparsed_{status}" for status in statuses),
    ]
    header += ["distinct", "entropy", "largest_mass"]
    header += ["tokens_read", "tokens_written", "training_steps"] if any("cost" in row for row in rows) else []
    for metric in metrics:
        header += [metric, f"{metric}_low", f"{metric}_high"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, header, lineterminator="\n")
    writer.writerow({key: csv_cell(key) for key in header})
    for row in rows:
        line = {key: row[key] for key in ("task", "method", "n", "n_clusters", "claims", "unparsed_rate")}
        line["effective_clusters"] = row.get("effective_clusters")
        line |= {f"unparsed_{status}": row["unparsed"].get(status, 0) for status in statuses}
        line |= row.get("collapse", {})
        line |= {key: value for key, value in row.get("cost", {}).items() if key in header}
        if "subgroup" in row:
            line |= {"subgroup": row["subgroup"]["column"], "subgroup_value": row["subgroup"]["value"]}
        for metric, estimate in row["metrics"].items():
            line |= {metric: estimate["value"], f"{metric}_low": estimate["low"], f"{metric}_high": estimate["high"]}
        writer.writerow({key: csv_cell(line.get(key)) for key in header})
    return buffer.getvalue()


RENDERED = {
    "leaderboard.md": tables.markdown,
    "leaderboard.csv": csv_text,
    "leaderboard.tex": latex.tex,
    "leaderboard.html": html.page,
}
"""The files that hold text, and what makes them of leaderboard.json; the same board gives the same bytes."""


def figure_files(
    board: dict[str, Any], suffixes: Collection[str] = figures.SUFFIXES
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the path of each figure that a leaderboard names, and its files by suffix; equal boards, equal bytes."""
    for row in board["rows"]:
        if "figure" in row:
            yield row["figure"], figures.reliability_diagram(row, board, suffixes)
        if "before_after" in row:
            before = before_training(row, board["rows"])
            assert before is not None
            methods = before["method"], row["method"]
            yield row["before_after"], figures.before_after(board, row["task"], *methods, suffixes)
        if "token_figure" in row:
            yield row["token_figure"], figures.token_heat_map(row, board, suffixes)
