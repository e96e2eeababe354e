"""A leaderboard as console tables that fit 80 columns, from the content of leaderboard.json alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conrad_bench.leaderboards.pages.summary import sentences
from conrad_bench.leaderboards.pages.wording import (
    column_title,
    columns,
    estimate_text,
    few_notes,
    harmless,
    interval_note,
    ranked,
    same_note,
)
from conrad_bench.text import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType


def table_for_console(board: dict[str, Any]) -> RenderableType:
    """Return the leaderboard as rich tables that fit 80 columns."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    board = harmless(board, one_line)
    parts: list[RenderableType] = [Text(board["title"], style="bold"), *map(Text, board.get("notes", []))]
    for task in board["tasks"]:
        rows = list(ranked(board, task))
        metrics = columns(board, rows, headline=True)
        table = Table(title=task, title_justify="left", title_style="italic", box=box.SIMPLE_HEAD)
        table.show_edge, table.padding, table.pad_edge = False, 0, False
        table.add_column("method", no_wrap=True)
        for metric in metrics:
            title = column_title(board, task, metric).replace("-", "-\n").replace(" ", "\n")
            table.add_column(title, justify="right", overflow="fold")
        table.add_column("n\nunparsed", justify="right", no_wrap=True)
        for row in rows:
            # A word a line: rich would shrink columns until words break, rather than wrap between them.
            cells = [estimate_text(row["metrics"].get(metric)).replace(" ", "\n") for metric in metrics]
            # Text, not str: rich would read the brackets of an interval as markup.
            line = [_broken(row["method"]), *cells, f"{row['n']:,}\n{row['unparsed_rate']:.1%}"]
            table.add_row(*(Text(cell) for cell in line))
        parts += [Text(), table, Text(same_note(board, task, rows), style="dim")]
        parts += [Text(note, style="dim") for note in few_notes(rows)]
    if said := list(sentences(board)):
        parts += [Text(), *map(Text, said)]
    parts += [Text(), Text(f"{interval_note(board)} More in leaderboard.md.", style="dim")]
    return Group(*parts)


def _broken(method: str) -> str:
    """Return a method's name on short lines: each line of a row of the console's table has another number beside it."""
    short = method.replace("+", "\n+")
    return short if max(map(len, short.split("\n"))) <= 12 else short.replace("_", "_\n")
