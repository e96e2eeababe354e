"""The front page: the rows of all bundles, by task, the newest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from conrad_bench.leaderboards.pages import wording
from conrad_bench.leaderboards.pages.html import document
from conrad_bench.leaderboards.pages.html_table import Cell, Column, estimate_cell, name_html, table
from conrad_bench.leaderboards.site.entries import Entry
from conrad_bench.text import html as escape

METRICS = ("skill", "brier", "ece_debiased", "ece", "auroc", "somers_d", "correctness")
"""Columns of the front page, as far as a task's boards have them."""


def front(found: Sequence[Entry], title: str) -> str:
    """Return index.html."""
    tasks = sorted({task for entry in found for task in entry.board["tasks"]})
    models = sorted({model for entry in found for model in _models(entry)})
    body = [
        '<a class="skip" href="#content">Skip to the content</a>',
        f'<header><h1>{escape(title)}</h1><p class="lead">{_lead(found)}</p>',
        '<p class="small">A number leads to its row: all metrics with intervals, configuration and hashes, and the '
        "records that it was computed from. A board's name leads to the whole board.</p></header>",
        '<main id="content">',
        *_controls(tasks, models),
        *(line for n, task in enumerate(tasks) for line in _section(found, task, n)),
        "</main>",
        "<footer><h2>Boards</h2><ul>",
        *(f"<li>{_about(entry)}</li>" for entry in found),
        "</ul><p>Rows of different boards are compared only where their data have the same fingerprint; methods are "
        "compared with intervals and tests on the boards themselves.</p></footer>",
    ]
    return document(title, "\n".join(body), "site.js")


def row_address(entry: Entry, method: str, task: str) -> str:
    """Return where the page of a row lies, from the front page, as a link's address."""
    return f"{quote(entry.name)}/rows/{quote(f'{method}@{task}')}.html"


def _lead(found: Sequence[Entry]) -> str:
    rows = sum(len(entry.board["rows"]) for entry in found)
    boards = f"{len(found)} board" + "s" * (len(found) != 1)
    return f"{rows:,} rows of {boards}, rendered from their records."


def _models(entry: Entry) -> list[str]:
    return sorted(entry.board.get("models") or {}) or [str(entry.board["model"])]


def _controls(tasks: Sequence[str], models: Sequence[str]) -> Iterator[str]:
    def choice(name: str, label: str, every: str, values: Sequence[str]) -> str:
        options = "".join(f"<option>{escape(value)}</option>" for value in values)
        return (
            f'<label><span>{label}</span> <select id="{name}" aria-label="{label}"><option value="">{every}</option>'
            f"{options}</select></label>"
        )

    yield (
        '<div class="bar-top"><div class="controls" role="search" aria-label="Filter the rows">'
        f"{choice('task', 'Task', 'all tasks', tasks)}{choice('model', 'Model', 'all models', models)}"
        '<label><span>Method</span> <input id="method" type="search" aria-label="Method" placeholder="filter methods">'
        '</label><button id="theme" type="button" aria-pressed="false">Dark</button>'
        '<span id="shown" role="status"></span></div></div>'
    )


def _section(found: Sequence[Entry], task: str, number: int) -> Iterator[str]:
    rows = [
        (entry, row)
        for entry in found
        if task in entry.board["tasks"]
        for row in wording.ranked(entry.board, task)
    ]  # fmt: skip
    shown = [name for name in METRICS if any(name in row["metrics"] for _, row in rows)]
    first = rows[0][0].board
    titles = [_title(found, task, name) for name in shown]
    header = [Column("method", "text"), *(Column(*title) for title in titles), Column("n"), Column("clusters")]
    header += [Column("model", "text"), Column("board", "text"), Column("records of", "text")]
    lines, data = [], []
    for entry, row in rows:
        address = row_address(entry, row["method"], task)
        cells = [_linked(estimate_cell(row["metrics"].get(name)), address) for name in shown]
        model = str(row.get("model") or entry.board["model"])
        board = f'<a href="{quote(entry.name)}/leaderboard.html">{name_html(entry.name)}</a>'
        cells += [Cell(f"{row['n']:,}", row["n"]), Cell(wording.clusters_text(row), row["n_clusters"])]
        cells += [
            Cell(escape(model), model, "text"),
            Cell(board, entry.name, "text"),
            Cell(entry.day, entry.day, "text whole"),
        ]
        lines.append((row["method"], cells))
        data.append({"model": model})
    about = first["tasks"][task]
    yield f'<section class="task" data-task="{escape(task)}" aria-labelledby="task-{number}">'
    yield f'<h2 id="task-{number}">{name_html(task)}</h2>'
    yield table(
        f"{task}: correctness is {about['label']}; 95 % intervals in brackets", header, lines, "main", data=data
    )
    yield "</section>"


def _title(found: Sequence[Entry], task: str, metric: str) -> tuple[str, str, str]:
    """Return the head of a metric's column, from the first board that has it."""
    for entry in found:
        if task in entry.board["tasks"] and any(info["name"] == metric for info in entry.board["metrics"]):
            info = wording.metric_info(entry.board, metric)
            return wording.column_title(entry.board, task, metric), "", str(info.get("summary", ""))
    return metric, "", ""


def _linked(cell: Cell, address: str) -> Cell:
    if cell.value is None:
        return cell
    number, bracket, interval = cell.html.partition('<span class="ci">')
    return cell._replace(html=f'<a href="{address}">{number}</a>{bracket}{interval}')


def _about(entry: Entry) -> str:
    board = entry.board
    said = f'<a href="{quote(entry.name)}/leaderboard.html">{name_html(entry.name)}</a> ({entry.day}): '
    said += f"{escape(board['title'])}; {len(board['rows'])} rows, conrad-bench {escape(board['version'])}"
    notes: list[Any] = [wording.phantom_note(board)] if board["phantom"] else []
    return said + "".join(f'<p class="small">{escape(str(note))}</p>' for note in notes)
