"""A leaderboard as a Markdown page, from the content of leaderboard.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from conrad_bench.leaderboards.pages.grounding import NOTE as GROUNDING_NOTE
from conrad_bench.leaderboards.pages.grounding import markdown_grounding
from conrad_bench.leaderboards.pages.judges import judges_note
from conrad_bench.leaderboards.pages.models import NOTE as MODELS_NOTE
from conrad_bench.leaderboards.pages.models import markdown_overview
from conrad_bench.leaderboards.pages.seeds import seed_notes, seed_values
from conrad_bench.leaderboards.pages.summary import MARKS, overview, sentences, skill_text
from conrad_bench.leaderboards.pages.wording import (
    CAVEATS,
    COUNTS,
    MEASURES,
    REFERENCE_NOTE,
    SKILL_NOTE,
    clusters_text,
    column_title,
    columns,
    counts,
    estimate_text,
    few_notes,
    fitted_note,
    footnotes,
    gap_notes,
    harmless,
    p_text,
    phantom_note,
    rank_text,
    ranked,
    reference_text,
    run_text,
    same_note,
    threshold_text,
    variants_of,
    with_reference,
    worst_text,
    written_notes,
)
from conrad_bench.text import code, link
from conrad_bench.text import markdown as plain

PICTURES_SHOWN = 24
"""A table of other pictures with more lines is folded away."""
WIDEST = 6
"""Methods beside each other in a table that has a column for each: more do not fit a page of a repository."""


def markdown(board: dict[str, Any]) -> str:
    """Return the page leaderboard.md: the tables of each task, how they were made, and links to the figures."""
    board = harmless(board, plain)
    lines = [f"# {board['title']}", ""]
    if board["phantom"]:
        lines += [phantom_note(board), ""]
    for note in board.get("notes", []):
        lines += [f"**{note}**", ""]
    if board.get("caveats"):
        lines += [f"**{CAVEATS}**", "", *(f"- {caveat}" for caveat in board["caveats"]), ""]
    if said := list(sentences(board)):
        lines += [f"**{said[0]}**", "", *(f"- {sentence}" for sentence in said[1:]), "", *_overview(board)]
    for title, header, body, named in markdown_overview(board):
        lines += [f"## {title}", "", _table(header, body, named), ""]
    if board.get("models"):
        lines += [MODELS_NOTE, ""]
    for task in board["tasks"]:
        rows = list(ranked(board, task))
        lines += [f"## {task}", "", _scores(board, task, rows), "", *_task_notes(board, task, rows), ""]
        for title, header, body, named in markdown_grounding(board, task):
            part = [_table(header, body, named), "", GROUNDING_NOTE, ""]
            if len(body) > PICTURES_SHOWN:
                lines += ["<details>", f"<summary>{title}</summary>", "", *part, "</details>", ""]
            else:
                lines += [f"### {title}", "", *part]
        for title, part in _behind(board, task, rows):
            lines += ["<details>", f"<summary>{title} on {task}</summary>", "", *part, "", "</details>", ""]
    lines += ["## Methods", "", *(f"- {code(name)}: {text}" for name, text in board["methods"].items()), ""]
    if board.get("runs"):
        lines += ["## Runs", "", *(f"- {run_text(run)}" for run in board["runs"]), ""]
    lines += ["## How these numbers were made", "", *(f"- {note}" for note in footnotes(board)), ""]
    return "\n".join(lines)


def _overview(board: dict[str, Any]) -> Iterator[str]:
    """Yield the table of skills, tasks by methods."""
    tasks, lines = overview(board)
    if lines:
        body = [
            [name, *("–" if cell is None else f"{skill_text(cell[0])} {cell[1]}".strip() for cell in cells)]
            for name, cells in lines
        ]
        yield from ("## Skill at a glance", "", _table(["method", *tasks], body, 1), "")
        yield from (
            f"{SKILL_NOTE} " + "; ".join(f"{mark} {said}" for mark, said in MARKS.items()) + ".",
            "",
            REFERENCE_NOTE,
            "",
        )


def _behind(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield what stands behind a click below a task's table: titles, and the lines of each."""
    more: list[str] = []
    for part in _shared_out(rows, WIDEST):
        more += [_more(board, task, part), ""]
    yield "More metrics", [*more, *_more_notes(board, rows)]
    if (board["tasks"][task].get("comparisons") or {}).get("pairs"):
        yield "Ranks and comparisons", [_ranks(board, task, rows), "", *_rank_notes(board, task)]
    parts = [row for row in board.get("subgroups", []) if row["task"] == task]
    if parts:
        title = f"By {parts[0]['subgroup']['column']}"
        notes = [line for note in gap_notes(board, task) for line in (note, "")]
        yield title, [_subgroups(board, task, parts), "", *notes, *_gaps(board, task)]
    figures = [
        f"{title}: {', '.join(links)}."
        for title, key in (("Reliability diagrams", "figure"), ("Before and after training", "before_after"))
        if (links := [link(row["method"], row[key]) for row in rows if key in row])
    ]
    if figures:  # a bundle has none
        yield "Figures", [line for figure in figures for line in (figure, "")]
    if flagged := [row for row in rows if "flagging" in row]:
        yield "Flagging", [_flagging(board, task, flagged), "", *_flagging_notes(flagged)]
    if with_tokens := [row for row in rows if "tokens" in row]:
        yield "Confidence answers", [_tokens(with_tokens), "", *_token_notes(with_tokens)]


def _scores(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> str:
    """Return the main table of a task, lowest Brier score first."""
    metrics, differing = columns(board, rows, headline=True), counts(rows)
    ranks = (board["tasks"][task].get("comparisons") or {}).get("ranks", {})
    worst = any("worst_case" in row for row in rows)
    header = ["method", *(["rank"] if ranks.get("brier") else [])]
    header += [*(column_title(board, task, metric) for metric in metrics), *differing]
    body = []
    for row, name in with_reference(rows):
        cells = [name, *([rank_text(board, task, name)] if ranks.get("brier") else [])]
        for metric in metrics:
            if row is None:
                cells.append(reference_text(metric, rows))
                continue
            clear = ranks.get(metric, {}).get(name) == [1, 1]
            cells.append(_bold(estimate_text(row["metrics"].get(metric)), clear))
        cells += ["–" if row is None else COUNTS[title](row) for title in differing]
        body.append([*cells, *([worst_text(board, task, row) if row else ""] if worst else [])])
    return _table([*header, *(["worst case"] if worst else [])], body, 1)


def _bold(cell: str, best: bool) -> str:
    value, space, bounds = cell.partition(" ")
    return f"**{value}**{space}{bounds}" if best else cell


def _more(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> str:
    """Return the table of the metrics that the main one leaves out, a line each."""
    header = ["metric", *(row["method"] for row in rows)]
    body = [
        [column_title(board, task, metric), *(estimate_text(row["metrics"].get(metric)) for row in rows)]
        for metric in columns(board, rows, headline=False)
    ]
    if any("collapse" in row for row in rows):
        body.append(["distinct (largest share)", *(_collapse(row) for row in rows)])
    for title, key in (("ECE if calibrated", None), ("p of calibration", "p")):
        nulls = [row.get("ece_null") for row in rows]
        if any(nulls):
            body.append([title, *(_null(null, key) for null in nulls)])
    return _table(header, body, 1)


def _shared_out(rows: list[dict[str, Any]], most: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows in their order, in as few parts as have at most so many rows, each about equally long."""
    parts = -(-len(rows) // most)
    for part in range(parts):
        yield rows[len(rows) * part // parts : len(rows) * (part + 1) // parts]


def _null(null: dict[str, float] | None, key: str | None) -> str:
    if null is None:
        return "–"
    return (
        p_text(null[key]) if key else estimate_text({"value": null["mean"], "low": null["low"], "high": null["high"]})
    )


def _more_notes(board: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines under a table of more metrics."""
    yield "`conrad-bench list metrics` says what each metric is. Without brackets: no interval."
    if any(row.get("ece_null") for row in rows):
        yield (
            "ECE if calibrated: mean and middle 95 % of the ECE that a perfectly calibrated method with these "
            "confidences and this many claims would have; p: how often it would be at least the one found."
        )


def _ranks(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> str:
    """Return the table of rank intervals and letters."""
    found = board["tasks"][task]["comparisons"]
    header = ["method", *(column_title(board, task, metric) for metric in found["metrics"])]
    body = []
    for row in rows:
        line = [row["method"]]
        for metric in found["metrics"]:
            ranks = found["ranks"][metric].get(row["method"])
            letters = found["letters"][metric].get(row["method"], "")
            line.append("–" if ranks is None else f"{'–'.join(str(r) for r in dict.fromkeys(ranks))} {letters}")
        body.append(line)
    return _table(header, body, 1)


def _rank_notes(board: dict[str, Any], task: str) -> Iterator[str]:
    """Yield the lines under a table of ranks."""
    about = board["tasks"][task]
    found = about["comparisons"]
    pairs = sum(pair["metric"] == found["metrics"][0] for pair in found["pairs"])
    yield (
        "Ranks that each method may have: those above it beat it, and it beats those below, by a t test of the paired "
        "difference with its bootstrap standard error over clusters, at 0.05 after Holm's adjustment for "
        f"{pairs} pair{'s' * (pairs > 1)} of methods. "
        "Methods with a letter in common cannot be told apart. In the first table, a best value is bold where its "
        "rank is clear."
    )
    power = found["power"]
    if power:
        yield (
            f"A difference in ECE of {power['difference']:.3f} would have been found here with probability "
            f"{power['power']:g} (from the bootstrap's standard error of the differences; over the pairs "
            f"{power['low']:.3f} to {power['high']:.3f}). Smaller ones may exist."
        )
    if about["missing"]:
        lacking = "; ".join(f"{code(method)} {n:,}" for method, n in about["missing"].items())
        yield f"Examples that a method lacks and others have: {lacking}. Pairs are compared on what both have."


def _subgroups(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> str:
    """Return the table of the parts of a task's examples, each with intervals of its own."""
    metrics = columns(board, rows, headline=True)
    header = ["method", rows[0]["subgroup"]["column"], *(column_title(board, task, metric) for metric in metrics)]
    body = [
        [
            *(row["method"], row["subgroup"]["value"]),
            *(estimate_text(row["metrics"].get(metric)) for metric in metrics),
            *(f"{row['n']:,}", clusters_text(row), row["subgroup"]["warning"] or ""),
        ]
        for row in rows
    ]
    return _table([*header, "n", "clusters (effective)", "warning"], body, 2)


def _gaps(board: dict[str, Any], task: str) -> Iterator[str]:
    """Yield the table of the gaps between the best and the worst subgroup."""
    gaps = [gap for gap in board.get("subgroup_gaps", []) if gap["task"] == task]
    if gaps:
        header = ["method", "metric", "best", "worst", "gap", "p", "p, Holm"]
        body = [
            [
                *(gap["method"], column_title(board, task, gap["metric"]), gap["best"], gap["worst"]),
                *(estimate_text(gap), p_text(gap["p"]), p_text(gap["p_holm"])),
            ]
            for gap in gaps
        ]
        yield from (_table(header, body, 4), "")


def _flagging(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> str:
    """Return the table of what is left above each threshold (ConRad, Table 3)."""
    quality = board["tasks"][task]["quality"]
    header = ["method", "confidence", "sentences", "share", f"{board['tasks'][task]['label']} ↑"]
    header += ["gain over all", *([f"{quality['label']} of what is left ↑"] if quality else [])]
    body = []
    for row in rows:
        for point in row["flagging"]["thresholds"]:
            line = [row["method"], threshold_text(point), f"{point['n']:,}", estimate_text(point["share"])]
            line += [estimate_text(point["precision"]), estimate_text(point.get("gain"))]
            body.append([*line, estimate_text(point["quality"])] if quality else line)
    return _table(header, body, 2)


def _flagging_notes(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines under a flagging table."""
    yield (
        "What is left when only the sentences with at least this confidence (of 10) are kept: their number, their "
        "share, their mean correctness (the precision), how much that is above the precision of all sentences, and the "
        "quality of the responses that they make up, 0 where nothing is left. All thresholds have the same resampling "
        "weights."
    )
    yield ""
    words = {
        "rises": "yes",
        "never falls": "no, but it never falls",
        "flat": "no, it stays the same",
        "falls": "no, it falls at least once",
        None: "cannot be told, since no threshold keeps a sentence",
    }
    trends = [(row["method"], words[row["flagging"]["trend"]]) for row in rows]
    yield (
        "Precision rises with every threshold (those that keep no sentence aside): "
        + "; ".join(f"{code(method)} {said}" for method, said in trends)
        + "."
    )


def _tokens(rows: list[dict[str, Any]]) -> str:
    """Return the table of how ordered the probabilities of the confidence answers are."""
    header = ["method", *MEASURES.values(), "n"]
    body = [
        [
            row["method"],
            *(estimate_text(row["tokens"]["measures"][name]) for name in MEASURES),
            f"{row['tokens']['n']:,}",
        ]
        for row in rows
    ]
    return _table(header, body, 1)


def _token_notes(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines under a table of confidence answers."""
    yield (
        "The model's probabilities of the answers 0 to 10 where it states its confidence. Likeliest: share of claims "
        "whose stated answer is (or ties for) the most probable one. Rank order: mean Spearman correlation between an "
        "answer's probability and its nearness to the stated one. One hump: share of claims whose probabilities rise "
        "up to the most probable answer and fall after it, humps of at most 0.01 aside. Malformed: mean probability of "
        "anything else."
    )
    links = [link(row["method"], row["token_figure"]) for row in rows if "token_figure" in row]
    if links:  # a bundle has no figures
        yield ""
        yield f"Heat maps: {', '.join(links)}."


def _table(header: Sequence[str], body: Sequence[Sequence[str]], names: int) -> str:
    """Return a Markdown table, the first `names` columns aligned left and the others right.

    Cells are not padded: a board of many methods would be twice as long.
    """
    rule = [":---"] * names + ["---:"] * (len(header) - names)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *body))


def _collapse(row: dict[str, Any]) -> str:
    if "collapse" not in row:
        return "–"
    return f"{row['collapse']['distinct']:,} ({row['collapse']['largest_mass']:.0%})"


def _task_notes(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines under a task's table."""
    about = board["tasks"][task]
    unit = f"{about['n_clusters']:,} clusters (patients; images in visual question answering)"
    whole = about["quality"]
    yield (
        f"Correctness is {about['label']} (scorer {code(about['scorer'])})"
        + (f", quality of whole responses {whole['label']} (scorer {code(whole['scorer'])})" if whole else "")
        + f"; the claims come from {unit}."
    )
    yield from filter(None, [judges_note(rows), fitted_note(about)])
    variants = variants_of(board, task)
    if variants:
        yield "Variants: " + "; ".join(f"{code(name)}: {said}" for name, said in variants.items()) + "."
    if about["left_out"]:
        yield "Left out of the data: " + "; ".join(f"{why} ({n:,})" for why, n in about["left_out"].items()) + "."
    yield from written_notes(rows)
    yield from filter(None, [same_note(board, task, rows)])
    yield from few_notes(rows)
    yield from seed_notes(board, rows)
    if each := list(seed_values(board, task, rows)):  # a long line for each method
        yield "\n".join(["<details>", "<summary>Each training seed</summary>", "", *each, "", "</details>"])
