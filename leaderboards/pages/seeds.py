"""What pages say of training seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conrad_bench.leaderboards.pages.wording import column_label, columns


def seed_values(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield each seed's values of the rows that are means over training seeds."""
    for row in (row for row in rows if row.get("seeds")):
        found = row["seeds"]
        said = "; ".join(
            f"{column_label(board, task, name)} " + ", ".join("–" if v is None else f"{v:z.3f}" for v in values)
            for name in columns(board, rows, headline=True)
            if (values := found["metrics"].get(name))
        )
        seeds = ", ".join(map(str, found["seeds"]))
        yield f"{row['method']}: mean over the training seeds {seeds}, and counts of all of them. Each seed: {said}."


def seed_notes(board: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what intervals know of training seeds, and which rows are of one training run."""
    if any(row.get("seeds") for row in rows):
        yield "Intervals and tests of these include how the seeds differ."
    alone = [row["method"] for row in rows if row["method"] in board.get("random", []) and not row.get("seeds")]
    if alone:
        yield f"One training run each, whose randomness is not in the intervals: {', '.join(alone)}."
