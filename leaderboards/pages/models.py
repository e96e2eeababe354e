"""The overview of a board of several models: a table of models x methods, and one method between models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conrad_bench.leaderboards.pages import wording
from conrad_bench.leaderboards.pages.html_table import Cell, Column, estimate_cell, table
from conrad_bench.text import html as escape

NOTE = (
    "Each method with each model, paired by patient: the same examples, the same resampling weights. p values are "
    "Holm-adjusted over the methods and pairs of models of a metric together. Below, each model has a section of its "
    "own, in which its methods are compared with each other."
)


def overviews(board: dict[str, Any]) -> Iterator[tuple[str, str, list[str], dict[str, dict[str, Any]]]]:
    """Yield each task of several models: its name, the metric shown, its methods, and the rows by model and method."""
    tasks: dict[str, dict[str, str]] = {}
    for section, (task, model) in board.get("models", {}).items():
        tasks.setdefault(task, {})[model] = section
    for task, sections in sorted(tasks.items()):
        rows = {
            model: {row["method"]: row for row in board["rows"] if row["task"] == section}
            for model, section in sections.items()
        }
        every = [row for found in rows.values() for row in found.values()]
        metrics = wording.columns(board, every, headline=True)
        methods = sorted({row["method"] for row in every})
        if metrics:
            yield task, "brier" if "brier" in metrics else metrics[0], methods, rows


def found_between(board: dict[str, Any], task: str, metric: str) -> list[dict[str, Any]]:
    """Return the comparisons of each method between two models of a task, by one metric."""
    found = [each for each in board.get("between_models", []) if each["task"] == task]
    return [pair for each in found for pair in each["pairs"] if pair["metric"] == metric]


def markdown_overview(board: dict[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]], int]]:
    """Yield the overview's tables: title, header, lines, and number of columns with names."""
    for task, metric, methods, rows in overviews(board):
        title = wording.metric_title(board, metric)
        lines = [
            [
                model,
                *(wording.estimate_text(found[m]["metrics"].get(metric)) if m in found else "–" for m in methods),
            ]
            for model, found in rows.items()
        ]
        yield f"{title} of {task}, models and methods", ["model", *methods], lines, 1
        pairs = found_between(board, task, metric)
        if pairs:
            header = ["method", "a", "b", "a − b", "p", "p, Holm"]
            lines = [
                [
                    *(pair["method"], pair["a"], pair["b"]),
                    *(wording.estimate_text(pair), wording.p_text(pair["p"]), wording.p_text(pair["p_holm"])),
                ]
                for pair in pairs
            ]
            yield f"{title} of {task}, one method between two models", header, lines, 3


def html_overview(board: dict[str, Any]) -> Iterator[str]:
    """Yield the overview of a page."""
    found = list(overviews(board))
    if not found:
        return
    yield '<section aria-labelledby="models"><h2 id="models">Models and methods</h2>'
    yield f'<p class="small">{escape(NOTE)}</p>'
    for task, metric, methods, rows in found:
        title = wording.metric_title(board, metric)
        lines = [
            (model, [estimate_cell(of[m]["metrics"].get(metric)) if m in of else Cell("–", None) for m in methods])
            for model, of in rows.items()
        ]
        header = [Column("model", "text"), *map(Column, methods)]
        yield table(f"{title} of {task}: models in rows, methods in columns", header, lines, "models", filtered=False)
        shown = [
            *found_between(board, task, metric),
            *(
                pair
                for each in board.get("between_models", [])
                if each["task"] == task
                for pair in each["pairs"]
                if pair["metric"] != metric
            ),
        ]
        if shown:
            heads = [Column(title, "text") for title in ("method", "metric", "a", "b")] + [Column("a − b"), Column("p")]
            between = []
            for pair in shown:
                label = wording.metric_title(board, pair["metric"])
                cells = [Cell(escape(text), text, "text") for text in (label, pair["a"], pair["b"])]
                tests = [Cell(escape(wording.p_text(pair[key])), pair[key]) for key in ("p", "p_holm")]
                between.append((pair["method"], [*cells, estimate_cell(pair, signed=True), *tests]))
            yield f"<details><summary>One method between two models on {escape(task)}</summary>"
            caption = f"{task}: the same method with two models, paired differences"
            yield table(caption, [*heads, Column("p, Holm")], between, "between", filtered=False)
            yield "</details>"
    yield "</section>"
