"""Tables of leaderboard.html: cells, estimates, and headers that sort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from conrad_bench.text import html as escape


class Cell(NamedTuple):
    """A cell of a table: its HTML, and what it is sorted by (None: last)."""

    html: str
    value: float | str | None
    kind: str = ""
    """Classes of the cell."""


class Column(NamedTuple):
    """The head of a column."""

    title: str
    kind: str = ""
    """"text", "plot" (the title is HTML), or "" for numbers."""
    said: str = ""
    """What it means, shown where a pointer rests on it and read by screen readers."""


def table(
    caption: str,
    header: Sequence[Column],
    lines: Iterable[tuple[str, Sequence[Cell]]],
    kind: str,
    filtered: bool = True,
    sortable: bool = True,
    by: str = "",
    said: Mapping[str, str] | None = None,
    data: Sequence[Mapping[str, str]] = (),
) -> str:
    """Return a table in a region that scrolls sideways; the first column heads the rows.

    `filtered` says whether rows belong to the method in the first column, `by` how the title begins of the column that
    sorts them. `said` has a line about methods, by name; a row whose name is not there is the reference's. `data` are
    further data attributes of each row.
    """
    heads = []
    for column in header:
        if column.kind == "plot":
            heads.append(f'<th scope="col" class="plot">{column.title}</th>')
            continue
        text = escape(column.title)
        for arrow, words in (("↓", "lower is better"), ("↑", "higher is better"), ("→ 0", "near 0 is better")):
            spoken = f'<span aria-hidden="true">{arrow}</span><span class="hidden-text">, {words}</span>'
            text = text.replace(f" {arrow}", f"\u00a0{spoken}")  # on one line with the word before it
        title = f' title="{escape(column.said)}"' if column.said else ""
        inside = f'<button type="button"{title}>{text}</button>' if sortable else text
        order = ' aria-sort="ascending"' if by and column.title.startswith(by) else ""
        heads.append(
            f'<th scope="col" class="{column.kind or "number"}"{order}{"" if sortable else title}>{inside}</th>'
        )
    body = []
    for number, (first, cells) in enumerate(lines):
        of_method = filtered and (said is None or first in said)
        mark = f' data-method="{escape(first)}"' if of_method else "" if said is None else ' class="reference"'
        mark += "".join(f' data-{key}="{escape(value)}"' for key, value in (data[number] if data else {}).items())
        title = f' title="{escape(said[first])}"' if said and first in said else ""
        tail = "".join(_td(cell) for cell in cells)
        body.append(f'<tr{mark}><th scope="row" data-value="{escape(first)}"{title}>{name_html(first)}</th>{tail}</tr>')
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table class="{kind}">'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def name_html(name: str) -> str:
    """Return a name with places where a narrow screen may break it."""
    return escape(name).replace("_", "_<wbr>").replace("+", "+<wbr>")


def _td(cell: Cell) -> str:
    value = "" if cell.value is None else escape(str(cell.value))
    return f'<td class="{cell.kind or "number"}" data-value="{value}">{cell.html}</td>'


def estimate_cell(
    estimate: dict[str, Any] | None, rank: Sequence[int] | None = None, letters: str = "", signed: bool = False
) -> Cell:
    """Return a value with its interval below it, and the letters of those it cannot be told from behind it.

    It is bold where its `rank` is 1 alone.
    """
    if estimate is None or estimate["value"] is None:
        return Cell("–", None)
    text = number_text(estimate["value"], signed)
    if letters:
        text += f' <span class="letters"><span class="hidden-text">group </span>{escape(letters)}</span>'
    if estimate["low"] is not None and estimate["high"] is not None:
        ends = f"{number_text(estimate['low'], signed)}, {number_text(estimate['high'], signed)}"
        text += f'<span class="ci">[{ends}]</span>'
    return Cell(text, estimate["value"], "number best" if rank and list(rank) == [1, 1] else "")


def number_text(value: float, signed: bool = False) -> str:
    """Return a number with three digits and a true minus sign."""
    return (f"{value:+z.3f}" if signed else f"{value:z.3f}").replace("-", "−")
