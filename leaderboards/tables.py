"""A leaderboard as a Markdown page and as console tables, from the content of leaderboard.json alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

_ARROWS = {"lower": "↓", "higher": "↑"}
_PHANTOM = (
    "These numbers come from phantom images that a program drew and a tiny model trained on them. They show that the "
    "software works; they say nothing about real radiographs or about any medical model."
)


def markdown(board: dict[str, Any]) -> str:
    """Return the page leaderboard.md: a table for each task, how it was made, and links to the figures."""
    import tabulate

    lines = [f"# {board['title']}", ""]
    if board["phantom"]:
        lines += [_PHANTOM, ""]
    for task in board["tasks"]:
        rows = list(_ranked(board, task))
        metrics = _metrics(board, rows)
        worst = any("worst_case" in row for row in rows)
        header = ["method", *(_title(board, task, metric) for metric in metrics), "distinct (largest share)"]
        header += ["n", "clusters", "unparsed", *(["worst case"] if worst else [])]
        body = []
        for row in rows:
            cells = [row["method"], *(_cell(row["metrics"].get(metric)) for metric in metrics), _collapse(row)]
            cells += [f"{row['n']:,}", f"{row['n_clusters']:,}", f"{row['unparsed_rate']:.1%}"]
            body.append([*cells, _worst(board, task, row)] if worst else cells)
        align = ["left", *["right"] * (len(header) - 1)]
        escaped = [[cell.replace("|", r"\|") for cell in line] for line in [header, *body]]
        table = tabulate.tabulate(
            escaped[1:], escaped[0], tablefmt="github", colalign=align, disable_numparse=True, preserve_whitespace=True
        )
        lines += [f"## {task}", "", table, "", *_task_notes(board, task, rows), ""]
    lines += ["## Methods", "", *(f"- `{name}`: {text}" for name, text in board["methods"].items()), ""]
    lines += ["## How these numbers were made", "", *(f"- {note}" for note in _notes(board)), ""]
    return "\n".join(lines)


def table_for_console(board: dict[str, Any]) -> RenderableType:
    """Return the leaderboard as rich tables that fit 80 columns."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(board["title"], style="bold")]
    for task in board["tasks"]:
        rows = list(_ranked(board, task))
        metrics = _metrics(board, rows)
        table = Table(title=task, title_justify="left", title_style="italic", box=box.SIMPLE_HEAD)
        table.show_edge, table.padding, table.pad_edge = False, (0, 1, 0, 0), False
        table.add_column("method", no_wrap=True)
        for metric in metrics:
            title = _title(board, task, metric).replace("-", "-\n").replace(" ", "\n")
            table.add_column(title, justify="right", overflow="fold")
        table.add_column("n\nunparsed", justify="right", no_wrap=True)
        for row in rows:
            cells = [_cell(row["metrics"].get(metric)).replace(" ", "\n", 1) for metric in metrics]
            # Text, not str: rich would read the brackets of an interval as markup.
            line = [row["method"], *cells, f"{row['n']:,}\n{row['unparsed_rate']:.1%}"]
            table.add_row(*(Text(cell) for cell in line))
        parts += [Text(), table]
    parts += [Text(), Text(f"{_intervals(board)} More in leaderboard.md.", style="dim")]
    return Group(*parts)


def _ranked(board: dict[str, Any], task: str) -> Iterator[dict[str, Any]]:
    """Return the rows of a task, lowest ECE first, those without one last."""

    def key(row: dict[str, Any]) -> tuple[bool, float, str]:
        value = row["metrics"].get("ece", {}).get("value")
        return value is None, value or 0.0, row["method"]

    return iter(sorted((row for row in board["rows"] if row["task"] == task), key=key))


def _metrics(board: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    return [metric["name"] for metric in board["metrics"] if any(metric["name"] in row["metrics"] for row in rows)]


def _metric(board: dict[str, Any], name: str) -> dict[str, Any]:
    return next(metric for metric in board["metrics"] if metric["name"] == name)


def _label(board: dict[str, Any], task: str, metric: str) -> str:
    """Return a metric's column title; mean correctness goes by the scorer's label."""
    return str(board["tasks"][task]["label"] if metric == "correctness" else _metric(board, metric)["label"])


def _title(board: dict[str, Any], task: str, metric: str) -> str:
    return f"{_label(board, task, metric)} {_ARROWS[_metric(board, metric)['better']]}"


def _cell(estimate: dict[str, float | None] | None) -> str:
    """Return "0.106 [0.093, 0.118]", without brackets where there is no interval and a dash where there is no value."""
    if estimate is None or estimate["value"] is None:
        return "–"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:z.3f}"
    return f"{estimate['value']:z.3f} [{estimate['low']:z.3f}, {estimate['high']:z.3f}]"


def _collapse(row: dict[str, Any]) -> str:
    if "collapse" not in row:
        return "–"
    return f"{row['collapse']['distinct']:,} ({row['collapse']['largest_mass']:.0%})"


def _worst(board: dict[str, Any], task: str, row: dict[str, Any]) -> str:
    values = row.get("worst_case", {})
    names = [metric["name"] for metric in board["metrics"] if values.get(metric["name"]) is not None]
    return ", ".join(f"{_label(board, task, name)} {values[name]:.3f}" for name in names)


def _task_notes(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines under a task's table."""
    about = board["tasks"][task]
    unit = f"{about['n_clusters']:,} clusters (patients; images in visual question answering)"
    yield f"Correctness is {about['label']} (scorer `{about['scorer']}`); the claims come from {unit}."
    if about["left_out"]:
        yield "Left out of the data: " + "; ".join(f"{why} ({n:,})" for why, n in about["left_out"].items()) + "."
    figures = [f"[{row['method']}]({row['figure']})" for row in rows if "figure" in row]
    if figures:
        yield "Reliability diagrams: " + ", ".join(figures) + "."


def _intervals(board: dict[str, Any]) -> str:
    unit = "clusters" if board["unit"] == "cluster" else "single claims, clusters ignored"
    return f"In brackets: 95 % percentile bootstrap, {board['replicates']:,} replicates over {unit}."


def _notes(board: dict[str, Any]) -> Iterator[str]:
    """Yield the footnotes."""
    yield (
        f"{_intervals(board)} Seed {board['seed']}. All methods of a task share the resampling weights; differences to "
        "a baseline with their intervals are in leaderboard.json."
    )
    yield (
        "ECE groups claims by distinct confidence where a method has at most 21 of them, otherwise into 10 equal-width "
        "bins closed on the right; the groups are those of all its claims and stay fixed under resampling. ECE is "
        "never negative, so near 0 it is biased upwards and its interval cannot reach 0."
    )
    yield (
        "Unparsed claims (no usable confidence, empty or cut off, or not judged by the scorer) are in no metric. Above "
        "1 % the worst case counts each as confidence 1 with correctness 0 (correlation has none)."
    )
    yield "Distinct (largest share): number of distinct confidences, and the share of claims at the commonest one."
    yield f"conrad-bench {board['version']}, commit {board['commit']}."
