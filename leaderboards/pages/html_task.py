"""A task of leaderboard.html on a screen or two: its table, the differences, the curves, the reliability diagrams."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from conrad_bench.leaderboards.pages import plots, wording
from conrad_bench.leaderboards.pages.grounding import html_grounding
from conrad_bench.leaderboards.pages.html_details import details, metric_columns
from conrad_bench.leaderboards.pages.html_forest import forest
from conrad_bench.leaderboards.pages.html_table import Cell, Column, estimate_cell, name_html, table
from conrad_bench.leaderboards.pages.judges import judges_note
from conrad_bench.leaderboards.pages.seeds import seed_notes, seed_values
from conrad_bench.text import html as escape

SEEDS_SHOWN = 8
"""Of more methods than this the values of each training seed are folded away."""


def task_section(board: dict[str, Any], task: str, number: int, colours: dict[str, int]) -> Iterator[str]:
    """Yield the section of a task; `colours` has a number for each method."""
    rows = list(wording.ranked(board, task))
    yield f'<section class="task" data-task="{escape(task)}" aria-labelledby="task-{number}">'
    yield f'<h2 id="task-{number}">{name_html(task)}</h2>'
    yield f'<p class="small">{escape(_about(board, task, rows))}</p>'
    yield _scores(board, task, rows)
    each = list(seed_values(board, task, rows))
    folded = each if len(each) > SEEDS_SHOWN else []
    notes = [wording.same_note(board, task, rows), *wording.few_notes(rows), *(each if not folded else [])]
    notes += [*seed_notes(board, rows), *wording.written_notes(rows)]
    if any(notes):
        yield f'<p class="small">{escape(" ".join(filter(None, notes)))}</p>'
    if folded:
        lines = "".join(f'<p class="small">{escape(note)}</p>' for note in folded)
        yield f"<details><summary>Each training seed</summary>{lines}</details>"
    sides = [*forest(board, task, number, rows)]
    curves = [row for row in rows if row.get("risk_coverage")]
    if curves:
        drawn = plots.risk_coverage(curves, colours, board["tasks"][task]["label"])
        sides += [
            f'<div><h3>Risk and coverage on {escape(task)}</h3><p class="small">How wrong the claims are that are '
            "kept when only the most confident ones are; the best curve is the lowest.</p>"
            f'<div class="scroll" role="region" tabindex="0" aria-label="Risk and coverage on {escape(task)}">{drawn}'
            "</div></div>"
        ]
    if loads := [row for row in rows if row.get("workload")]:
        drawn = plots.workload(loads, colours)
        sides += [
            f'<div><h3>Workload on {escape(task)}</h3><p class="small">Which share of the errors is caught by reading '
            "a share of the responses, the least confident first; the best curve is the highest. Dashed: random order, "
            f'and an order that knows the errors.</p><div class="scroll" role="region" tabindex="0" '
            f'aria-label="Workload on {escape(task)}">{drawn}</div></div>'
        ]
    if sides:
        yield f'<div class="sides">{"".join(sides)}</div>'
    yield from _reliability(task, [row for row in rows if "reliability" in row], board["tasks"][task]["label"])
    yield from html_grounding(board, task)
    yield from details(board, task, rows)
    yield "</section>"


def _about(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> str:
    """Return what correctness is here, of whom the claims are, and what was left out."""
    about = board["tasks"][task]
    whole = about["quality"]
    said = f"Correctness is {about['label']} (scorer {about['scorer']})"
    said += f", quality of whole responses {whole['label']} (scorer {whole['scorer']})" if whole else ""
    said += f"; {about['n_clusters']:,} clusters (patients; images in questions)."
    said += "".join(f" {note}" for note in (judges_note(rows), wording.fitted_note(about)) if note)
    if variants := wording.variants_of(board, task):
        said += f" Variants: {'; '.join(f'{name}: {text}' for name, text in variants.items())}."
    if about["left_out"]:
        said += f" Left out of the data: {'; '.join(f'{why} ({n:,})' for why, n in about['left_out'].items())}."
    return said


def _scores(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> str:
    """Return the main table of a task."""
    found = board["tasks"][task].get("comparisons") or {}
    ranks, letters = found.get("ranks", {}), found.get("letters", {})
    metrics, differing = wording.columns(board, rows, headline=True), wording.counts(rows)
    worst = any(row.get("worst_case") for row in rows)
    header = [Column("method", "text")]
    header += [Column("rank", "", "the ranks by Brier score that the method may have")] if "brier" in ranks else []
    header += [*metric_columns(board, task, metrics)]
    header += [Column(title, "", wording.COUNTS_SAID[title]) for title in differing]
    header += [Column("worst case", "text", wording.WORST_SAID)] if worst else []
    lines = []
    for row, name in wording.with_reference(rows):
        cells = []
        if "brier" in ranks:
            rank = ranks["brier"].get(name)
            cells.append(Cell(wording.rank_text(board, task, name), sum(rank) / 2 if rank else None))
        for metric in metrics:
            if row is None:
                cells.append(_of_reference(metric, rows))
                continue
            rank, letter = ranks.get(metric, {}).get(name), letters.get(metric, {}).get(name, "")
            cells.append(estimate_cell(row["metrics"].get(metric), rank, letter))
        for title in differing:
            shown = escape("–" if row is None else wording.COUNTS[title](row))
            if title.startswith("clusters"):
                shown = re.sub(r" (\(.*\))$", r'<span class="ci">\1</span>', shown)
            cells.append(Cell(shown, None if row is None else _count(title, row)))
        if worst:
            cells.append(Cell(escape(wording.worst_text(board, task, row) if row else ""), "", "text prose"))
        lines.append((name, cells))
    note = " Methods that share a letter cannot be told apart." if letters else ""
    caption = f"All methods on {task}, lowest Brier score first.{note}"
    said = {row["method"]: board["methods"].get(row["method"], "") for row in rows}
    return table(caption, header, lines, "main", by="Brier", said=said)


def _count(title: str, row: dict[str, Any]) -> float | None:
    """Return what a column of counts is sorted by."""
    if title == "cost":
        return float(row["cost"]["tokens_read"] + row["cost"]["tokens_written"]) if "cost" in row else None
    return float(row[{"n": "n", "unparsed": "unparsed_rate"}.get(title, "n_clusters")])


def _of_reference(metric: str, rows: Sequence[dict[str, Any]]) -> Cell:
    """Return the cell of the row that always states the mean."""
    text, found = wording.reference_text(metric, rows), wording.always_mean(rows)
    value = None if text == "–" else sum(found) / 2 if metric == "brier" and found else float(text)
    return Cell(text, value)


def _reliability(task: str, rows: Sequence[dict[str, Any]], label: str) -> Iterator[str]:
    if not rows:
        return
    yield f"<h3>Reliability on {escape(task)}</h3>"
    yield (
        f'<p class="small">To the right: stated confidence; up: mean {escape(label)} of the claims that state it, with '
        "its 95 % interval. A calibrated method’s points lie on the diagonal; the band is where they would be in 95 % "
        "of samples. Below: how many claims.</p>"
    )
    yield f'<div class="cards">{"".join(map(_diagram, rows))}</div>'


def _diagram(row: dict[str, Any]) -> str:
    name = row["method"]
    said = " · ".join(
        f"{label} {wording.estimate_text(row['metrics'].get(metric)).partition(' ')[0]}".replace("-", "−")
        for metric, label in (("ece", "ECE"), ("ece_debiased", "cal. error"))
        if row["metrics"].get(metric)
    )
    null = row.get("ece_null")
    chance = (
        f' title="If calibrated, ECE would be {null["low"]:.3f} to {null["high"]:.3f} '
        f'(p: {escape(wording.p_text(null["p"]))})"'
        if null
        else ""
    )
    return (
        f'<figure class="card" data-method="{escape(name)}"><figcaption><span class="name">{name_html(name)}</span>'
        f'<span class="small"{chance}>{escape(said)}</span></figcaption>{plots.reliability(row)}</figure>'
    )
