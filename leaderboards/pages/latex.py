"""The tables of a leaderboard for a paper: LaTeX with the package booktabs, from the content of leaderboard.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conrad_bench.leaderboards.pages import wording
from conrad_bench.text import latex as escape

_ALONE = ("skill", "ece")
"""Metrics without their intervals: the table has to fit the 345 points of an article's lines."""
_SHOWN = ("brier", "skill", "ece_debiased", "ece", "auroc", "somers_d")


def tex(board: dict[str, Any]) -> str:
    """Return the text of leaderboard.tex: a table for each task, to be read with \\input after \\usepackage{booktabs}.

    It has the columns that a paper quotes, and fits the lines of the class `article`; bold where a method's ranks are 1
    alone. Numbers of claims and mean correctness, which hardly differ between methods, stand in the caption.
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
    metrics = [metric for metric in wording.columns(board, rows, headline=True) if metric in _SHOWN]
    titles = [escape(wording.column_title(board, task, metric)) for metric in metrics]
    lines = [
        r"\begin{table}",
        rf"\caption{{{_caption(board, task, rows)}}}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{@{{}}p{{2.5cm}}{'r' * len(metrics)}@{{}}}}",
        r"\toprule",
        " & ".join(["method", *titles]) + r" \\",
        r"\midrule",
    ]
    ranks = (board["tasks"][task].get("comparisons") or {}).get("ranks", {})
    for row, name in wording.with_reference(rows):
        cells = [rf"\raggedright {_breakable(name)}"]
        for metric in metrics:
            if row is None:
                cells.append(_number_text(wording.reference_text(metric, rows)))
                continue
            best = ranks.get(metric, {}).get(name) == [1, 1]
            cells.append(_cell(row["metrics"].get(metric), best, metric not in _ALONE))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _caption(board: dict[str, Any], task: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the caption, in LaTeX."""
    about = board["tasks"][task]
    correctness = [row["metrics"]["correctness"]["value"] for row in rows if "correctness" in row["metrics"]]
    known = [f"{value:.3f}" for value in correctness if value is not None]
    unit = "clusters" if board["unit"] == "cluster" else "single claims"
    said = f"{board['title']}: {task}. Lowest Brier score first; in brackets 95 % bootstrap intervals over {unit}. "
    said += f"{_range([row['n'] for row in rows])} claims of {about['n_clusters']:,} clusters; "
    said += f"mean {about['label']} {' to '.join(dict.fromkeys((min(known), max(known))))}; " if known else ""
    return escape(f"{said}unparsed {100 * max(row['unparsed_rate'] for row in rows):.1f} % at most.")


def _range(numbers: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys(f"{number:,}" for number in (min(numbers), max(numbers))))


def _breakable(name: str) -> str:
    """Return a name that may be broken behind its underlines and plus signs."""
    return escape(name).replace(r"\_", r"\_\allowbreak{}").replace("+", r"+\allowbreak{}")


def _cell(estimate: Mapping[str, float | None] | None, best: bool, bounded: bool) -> str:
    if estimate is None or estimate["value"] is None:
        return "--"
    value = _number(estimate["value"])
    value = rf"\textbf{{{value}}}" if best else value
    if not bounded or estimate["low"] is None or estimate["high"] is None:
        return value
    # In braces: a bracket that follows \\ would be read as its argument.
    return rf"{value} {{\scriptsize[{_number(estimate['low'])}, {_number(estimate['high'])}]}}"


def _number(value: float) -> str:
    """Return a number with three digits, without the 0 before the point."""
    return _number_text(f"{value:z.3f}")


def _number_text(text: str) -> str:
    text = escape(text.replace("0.", ".") if text.startswith(("0.", "-0.")) else text)
    return f"$-${text[1:]}" if text.startswith("-") else text
