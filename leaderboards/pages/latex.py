"""The tables of a leaderboard for a paper: LaTeX with the package booktabs, from the content of leaderboard.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conrad_bench.leaderboards.pages import wording
from conrad_bench.text import latex as escape


def tex(board: dict[str, Any]) -> str:
    """Return the text of leaderboard.tex: a table for each task, to be read with \\input after \\usepackage{booktabs}.

    It holds the metrics of the page's main tables, intervals in brackets, and bold where a method's ranks are 1 alone.
    """
    parts = [
        f"% {escape(board['title'])}",
        f"% conrad-bench {escape(board['version'])}, commit {escape(board['commit'] or 'unknown')}; needs "
        "\\usepackage{booktabs}",
        *(f"% {escape(note)}" for note in board.get("notes", [])),
    ]
    parts += [_table(board, task) for task in board["tasks"]]
    return "\n\n".join(parts) + "\n"


def _table(board: dict[str, Any], task: str) -> str:
    rows = list(wording.ranked(board, task))
    metrics = wording.columns(board, rows, headline=True)
    titles = [escape(wording.column_title(board, task, metric)) for metric in metrics]
    unit = "clusters" if board["unit"] == "cluster" else "single claims"
    caption = f"{board['title']}: {task}. In brackets 95 % bootstrap intervals over {unit}."
    lines = [
        r"\begin{table}",
        rf"\caption{{{escape(caption)}}}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (len(metrics) + 2)}}}",
        r"\toprule",
        " & ".join(["method", *titles, "$n$", "unparsed"]) + r" \\",
        r"\midrule",
    ]
    ranks = board["tasks"][task].get("comparisons", {}).get("ranks", {})
    for row in rows:
        cells = [escape(row["method"])]
        for metric in metrics:
            best = ranks.get(metric, {}).get(row["method"]) == [1, 1]
            cells.append(_cell(row["metrics"].get(metric), best))
        cells += [f"{row['n']:,}".replace(",", r"\,"), escape(f"{row['unparsed_rate']:.1%}")]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _cell(estimate: Mapping[str, float | None] | None, best: bool) -> str:
    if estimate is None or estimate["value"] is None:
        return "--"
    value = _number(estimate["value"])
    value = rf"\textbf{{{value}}}" if best else value
    if estimate["low"] is None or estimate["high"] is None:
        return value
    # In braces: a bracket that follows \\ would be read as its argument.
    return rf"{value} {{\scriptsize[{_number(estimate['low'])}, {_number(estimate['high'])}]}}"


def _number(value: float) -> str:
    text = f"{value:z.3f}"
    return f"$-${text[1:]}" if text.startswith("-") else text
