"""Other pictures on a board's pages: does the confidence notice (`board.counterfactuals`)?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conrad_bench.leaderboards.pages.html_table import Cell, Column, estimate_cell, table
from conrad_bench.leaderboards.pages.wording import estimate_text
from conrad_bench.text import html as escape

READINGS = {"given": "original", "anew": "its own"}
"""Whose response a confidence under other pictures is about."""
NAMES = ("method", "pictures", "response")
NUMBERS = {
    "drop": ("drop ↑", "mean confidence with the original pictures less that with the others"),
    "rises": ("rises ↓", "share of claims whose confidence is higher with the others"),
    "ccg_auc": ("CCG-AUC ↑", "AUROC of the drop: claims that the others turned wrong against those still right"),
    "explained": ("R² ↓", "share of the confidences’ variance that those with the others explain"),
}
NOTE = (
    "The same test examples with other pictures: grey (blank), another patient’s of the same view (swapped), noisy. "
    "Response “original”: the confidence in the response to the original pictures, beside the others; a method that "
    "looks drops. Response “its own”: the method responds anew, so a new response may be as sure, and right about what "
    "is shown. CCG-AUC, in brackets how many turned wrong and stayed right: only where it is known what is right. R² "
    "under blank pictures is what the confidence knows without looking."
)


def entries(board: dict[str, Any], task: str) -> list[dict[str, Any]]:
    """Return a task's entries: those about original responses first, then by replacement and drop."""
    found = [each for each in board.get("counterfactuals", []) if each["task"] == task]
    return sorted(found, key=lambda each: (each["reading"] == "anew", each["replacement"], -each["drop"]["value"]))


def _turned(each: dict[str, Any]) -> str:
    return "" if each["turned"] is None else f" ({each['turned']:,}, {each['stayed']:,})"


def markdown_grounding(board: dict[str, Any], task: str) -> Iterator[tuple[str, list[str], list[list[str]], int]]:
    """Yield the table of a task, if it has one: title, header, lines, and number of columns with names."""
    if found := entries(board, task):
        lines = [
            [
                each["method"],
                each["replacement"],
                READINGS[each["reading"]],
                *(estimate_text(each[name]) + (_turned(each) if name == "ccg_auc" else "") for name in NUMBERS),
                f"{each['n']:,}",
            ]
            for each in found
        ]
        yield f"Other pictures on {task}", [*NAMES, *(title for title, _ in NUMBERS.values()), "n"], lines, 3


def html_grounding(board: dict[str, Any], task: str) -> Iterator[str]:
    """Yield the part of a task's section, if it has one."""
    found = entries(board, task)
    if not found:
        return
    header = [*(Column(name, "text") for name in NAMES), *(Column(title, "", said) for title, said in NUMBERS.values())]
    lines = []
    for each in found:
        names = (each["replacement"], READINGS[each["reading"]])
        cells = [Cell(escape(text), text, "text") for text in names]
        for name in NUMBERS:
            cell = estimate_cell(each[name], signed=name == "drop")
            cells.append(cell._replace(html=cell.html + escape(_turned(each))) if name == "ccg_auc" else cell)
        lines.append((each["method"], [*cells, Cell(f"{each['n']:,}", each["n"])]))
    yield f'<h3>Other pictures on {escape(task)}</h3><p class="small">{escape(NOTE)}</p>'
    yield table(f"Confidences on {task} with other pictures", [*header, Column("n")], lines, "grounding")
