"""Tables of leaderboard.html: cells, estimates, and headers that sort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from conrad_bench.text import html as escape


class Cell(NamedTuple):
    """A cell of a table: its HTML, and what it is sorted by (None: last)."""

    html: str
    value: float | str | None
    kind: str = ""
    """Classes of the cell."""


def table(
    caption: str,
    header: Sequence[tuple[str, str]],
    lines: Iterable[tuple[str, Sequence[Cell]]],
    kind: str,
    filtered: bool = True,
    sortable: bool = True,
    by: str = "",
) -> str:
    """Return a table in a region that scrolls sideways; the first column heads the rows.

    `header` has each column's title and kind: "text", "plot" (the title is HTML) or "" for numbers. `filtered` says
    whether rows belong to the method in the first column, `by` how the title begins of the column that sorts them.
    """
    heads = []
    for title, column in header:
        if column == "plot":
            heads.append(f'<th scope="col">{title}</th>')
            continue
        text = escape(title)
        for arrow, words in (("↓", "lower is better"), ("↑", "higher is better"), ("→ 0", "near 0 is better")):
            spoken = f'<span aria-hidden="true">{arrow}</span><span class="hidden-text">, {words}</span>'
            text = text.replace(f" {arrow}", f"\u00a0{spoken}")  # on one line with the word before it
        inside = f'<button type="button">{text}</button>' if sortable else text
        order = ' aria-sort="ascending"' if by and title.startswith(by) else ""
        heads.append(f'<th scope="col" class="{column or "number"}"{order}>{inside}</th>')
    body = []
    for first, cells in lines:
        mark = f' data-method="{escape(first)}"' if filtered else ""
        tail = "".join(_td(cell) for cell in cells)
        name = escape(first).replace("_", "_<wbr>").replace("+", "+<wbr>")  # where a narrow screen may break it
        body.append(f'<tr{mark}><th scope="row" data-value="{escape(first)}">{name}</th>{tail}</tr>')
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table class="{kind}">'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _td(cell: Cell) -> str:
    value = "" if cell.value is None else escape(str(cell.value))
    return f'<td class="{cell.kind or "number"}" data-value="{value}">{cell.html}</td>'


def estimate_cell(
    estimate: dict[str, Any] | None, rank: Sequence[int] | None = None, letters: str = "", signed: bool = False
) -> Cell:
    """Return a value with its interval below it, and its rank and letters where there are any."""
    if estimate is None or estimate["value"] is None:
        return Cell("–", None)
    text = number_text(estimate["value"], signed)
    if estimate["low"] is not None and estimate["high"] is not None:
        ends = f"{number_text(estimate['low'], signed)}, {number_text(estimate['high'], signed)}"
        text += f'<span class="ci">[{ends}]</span>'
    if rank:
        span = f"{rank[0]}" if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"
        text += f'<span class="rank">rank {span}{f" · {escape(letters)}" if letters else ""}</span>'
    return Cell(text, estimate["value"], "best" if rank and list(rank) == [1, 1] else "")


def number_text(value: float, signed: bool = False) -> str:
    """Return a number with three digits and a true minus sign."""
    return (f"{value:+z.3f}" if signed else f"{value:z.3f}").replace("-", "−")
