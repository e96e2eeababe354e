"""leaderboard.html: one page without network, third-party scripts or further files, from leaderboard.json alone.

Every number stands in a real table, every plot has a text alternative; sorting and filtering are a few lines of
JavaScript, without which the page shows everything. All text that comes from the board is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from conrad_bench.leaderboards.pages import plots, wording
from conrad_bench.leaderboards.pages.html_subgroups import subgroup_tables
from conrad_bench.leaderboards.pages.html_table import Cell, estimate_cell, table
from conrad_bench.leaderboards.pages.models import html_overview
from conrad_bench.text import html as escape
from conrad_bench.types import STATUSES

_SECURITY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The page may load nothing, whatever its text says."""


def page(board: dict[str, Any]) -> str:
    """Return the text of leaderboard.html; the same board gives the same bytes."""
    assets = files("conrad_bench.leaderboards.pages") / "assets"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("leaderboard.css", "leaderboard.js"))
    methods = sorted({row["method"] for row in board["rows"]})
    colours = {method: number for number, method in enumerate(methods)}
    body = "\n".join(
        [
            '<a class="skip" href="#content">Skip to the tables</a>',
            *_header(board),
            '<main id="content">',
            *html_overview(board),
            *(line for number, task in enumerate(board["tasks"]) for line in _task(board, task, number, colours)),
            "</main>",
            *_footer(board),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_SECURITY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(board['title'])}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{body}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _header(board: dict[str, Any]) -> Iterator[str]:
    yield f"<header><h1>{escape(board['title'])}</h1>"
    if board["phantom"]:
        yield f'<p class="note">{escape(wording.phantom_note(board))}</p>'
    for note in board.get("notes", []):
        yield f'<p class="note">{escape(note)}</p>'
    if board.get("caveats"):
        said = "".join(f"<li>{escape(caveat)}</li>" for caveat in board["caveats"])
        yield f'<div class="note">{escape(wording.CAVEATS)}<ul>{said}</ul></div>'
    commit = f", commit <code>{escape(board['commit'][:12])}</code>" if board["commit"] else ""
    yield f'<p class="meta">conrad-bench {escape(board["version"])}{commit}. {escape(wording.interval_note(board))}</p>'
    yield "</header>"
    options = "".join(f"<option>{escape(task)}</option>" for task in board["tasks"])
    yield (
        '<div class="bar-top"><div class="controls" role="search" aria-label="Filter the rows">'
        '<label><span>Task</span> <select id="task" aria-label="Task"><option value="">all tasks</option>'
        f"{options}</select></label>"
        '<label><span>Method</span> <input id="method" type="search" aria-label="Method" placeholder="filter methods">'
        '</label><button id="theme" type="button" aria-pressed="false">Dark</button>'
        '<span id="shown" role="status"></span></div></div>'
    )


def _task(board: dict[str, Any], task: str, number: int, colours: dict[str, int]) -> Iterator[str]:
    rows = list(wording.ranked(board, task))
    about = board["tasks"][task]
    yield f'<section class="task" data-task="{escape(task)}" aria-labelledby="task-{number}">'
    yield f'<h2 id="task-{number}">{escape(task)}</h2>'
    whole = about["quality"]
    said = f"Correctness is {about['label']} (scorer {about['scorer']})"
    said += f", quality of whole responses {whole['label']} (scorer {whole['scorer']})" if whole else ""
    yield f'<p class="small">{escape(said)}; {about["n_clusters"]:,} clusters (patients; images in questions).'
    variants = wording.variants_of(board, task)
    if variants:
        yield f" Variants: {escape('; '.join(f'{name}: {text}' for name, text in variants.items()))}."
    if about["left_out"]:
        left = "; ".join(f"{why} ({n:,})" for why, n in about["left_out"].items())
        yield f" Left out of the data: {escape(left)}."
    yield "</p>"
    metrics = wording.columns(board, rows, headline=True)
    yield _scores(board, task, rows, metrics)
    for note in (*wording.few_notes(rows), *wording.seed_notes(board, task, rows)):
        yield f'<p class="small">{escape(note)}</p>'
    yield from _more(board, task, rows)
    if any("difference" in row for row in rows):
        yield f"<h3>Differences to a baseline on {escape(task)}</h3>"
        yield (
            '<p class="small">Method minus baseline on the units that both have, under the same resampling weights, '
            "with 95 % intervals. Green: the whole interval is on the better side; red: on the worse; grey: it holds "
            "0.</p>"
        )
        yield f'<div class="wide">{"".join(_forest(board, task, rows, metric) for metric in metrics)}</div>'
    yield from _comparisons(board, task)
    yield from subgroup_tables(board, task)
    curves = [row for row in rows if row.get("risk_coverage")]
    if curves:
        yield f"<h3>Risk and coverage on {escape(task)}</h3>"
        legend = "".join(f"<li>{plots.key(colours[row['method']])} {escape(row['method'])}</li>" for row in curves)
        drawn = plots.risk_coverage(curves, colours, about["label"])
        yield f'<figure class="card">{drawn}<ul class="legend">{legend}</ul>{_curve_numbers(curves)}</figure>'
    drawn_rows = [row for row in rows if "reliability" in row]
    if drawn_rows:
        yield f"<h3>Reliability on {escape(task)}</h3>"
        yield (
            '<p class="small">A point is a group of claims with one confidence (or a bin of them): its mean '
            "correctness with the 95 % interval. The band around the diagonal is where points would lie in 95 % of "
            "samples if they were calibrated. Below: number of claims.</p>"
        )
        yield f'<div class="cards">{"".join(_reliability(row, about["label"]) for row in drawn_rows)}</div>'
    yield from _flagging(board, task, [row for row in rows if "flagging" in row])
    maps = [row for row in rows if "tokens" in row]
    if maps:
        yield f"<h3>Probabilities of the confidence answers on {escape(task)}</h3>"
        yield (
            '<p class="small">Mean probability of each answer 0 to 10 (columns) where the model stated a confidence '
            "(rows). Framed: the stated answer. Below 0.005 a cell is empty.</p>"
        )
        yield f'<div class="wide">{"".join(_heat(row) for row in maps)}</div>'
    yield from _unparsed(task, rows)
    yield "</section>"


def _scores(board: dict[str, Any], task: str, rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> str:
    """Return the main table of a task."""
    comparisons = board["tasks"][task].get("comparisons", {})
    ranks, letters = comparisons.get("ranks", {}), comparisons.get("letters", {})
    header = [("method", "text"), *((wording.column_title(board, task, metric), "") for metric in metrics)]
    header += [("distinct", ""), ("n", ""), ("clusters (effective)", ""), ("unparsed", "")]
    worst = any(row.get("worst_case") for row in rows)
    header += [("worst case", "text")] if worst else []
    lines = []
    for row in rows:
        cells = []
        for metric in metrics:
            rank = ranks.get(metric, {}).get(row["method"])
            cells.append(
                estimate_cell(row["metrics"].get(metric), rank, letters.get(metric, {}).get(row["method"], ""))
            )
        collapse = row.get("collapse")
        distinct = f"{collapse['distinct']:,}" if collapse else "–"
        share = f'<span class="ci">largest {collapse["largest_mass"]:.0%}</span>' if collapse else ""
        cells.append(Cell(distinct + share, collapse["distinct"] if collapse else None))
        cells += [Cell(f"{row['n']:,}", row["n"]), Cell(wording.clusters_text(row), row["n_clusters"])]
        cells.append(Cell(f"{row['unparsed_rate']:.1%}", row["unparsed_rate"]))
        cells += [Cell(escape(wording.worst_text(board, task, row)), "", "text prose")] if worst else []
        lines.append((row["method"], cells))
    note = " Ranks are intervals; methods that share a letter cannot be told apart." if ranks else ""
    return table(
        f"All methods on {task}, lowest ECE first; the buttons in the header sort.{note}", header, lines, "main"
    )


def _more(board: dict[str, Any], task: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the table of the metrics that are not in the main one."""
    metrics = wording.columns(board, rows, headline=False)
    if not metrics:
        return
    header = [("method", "text"), *((wording.column_title(board, task, metric), "") for metric in metrics)]
    lines = [(row["method"], [estimate_cell(row["metrics"].get(metric)) for metric in metrics]) for row in rows]
    yield f"<details><summary>{len(metrics)} more metrics on {escape(task)}</summary>"
    yield table(f"More metrics on {task}; without brackets: no interval", header, lines, "more")
    yield "</details>"


def _forest(board: dict[str, Any], task: str, rows: Sequence[dict[str, Any]], metric: str) -> str:
    found = [
        (row["method"], row["difference"]["baseline"], row["difference"]["metrics"][metric], _seed_dots(row, metric))
        for row in rows
        if metric in row.get("difference", {}).get("metrics", {})
    ]
    ends = [e[end] for _, _, e, _ in found for end in ("value", "low", "high") if e[end] is not None]
    if not ends:
        return ""
    ends += [value for *_, seeds in found for value in seeds]
    low, high = min(0.0, *ends), max(0.0, *ends)
    if high - low < 1e-9:
        low, high = -0.01, 0.01
    lower = wording.metric_info(board, metric)["better"] == "lower"
    lines = []
    for method, _, estimate, seeds in found:
        good = None
        if estimate["low"] is not None and estimate["high"] is not None:
            sides = (estimate["high"] < 0, estimate["low"] > 0)
            good = None if not any(sides) else sides[0] == lower
        cell = estimate_cell(estimate, signed=True)
        lines.append((method, [cell, Cell(plots.strip(estimate, low, high, good, seeds), None, "strip-cell")]))
    bases = ", ".join(sorted({base for _, base, _, _ in found}))
    header = [("method", "text"), ("difference", ""), (plots.strip_axis(low, high), "plot")]
    caption = f"{wording.column_title(board, task, metric)}: difference to {bases}"
    return table(caption, header, lines, "forest")


def _seed_dots(row: dict[str, Any], metric: str) -> list[float]:
    """Return where a row's training seeds stand around its difference: as far as they are from their mean.

    None for the root of a squared error, whose differences do not add up.
    """
    values = row.get("seeds", {}).get("metrics", {}).get(metric, [])
    middle, mean = row["difference"]["metrics"][metric]["value"], row["metrics"][metric]["value"]
    if metric == "ece_debiased" or None in (middle, mean, *values):
        return []
    return [middle + value - mean for value in values]


def _comparisons(board: dict[str, Any], task: str) -> Iterator[str]:
    pairs = board["tasks"][task].get("comparisons", {}).get("pairs", [])
    if not pairs:
        return
    header = [
        ("metric", "text"),
        ("a", "text"),
        ("b", "text"),
        ("a − b", ""),
        ("p", ""),
        ("p, Holm", ""),
        ("units", ""),
    ]
    lines = []
    for pair in pairs:
        names = [Cell(escape(pair[side]), pair[side], "text") for side in ("a", "b")]
        label = wording.column_label(board, task, pair["metric"])
        tests = [Cell(escape(wording.p_text(pair[key])), pair[key]) for key in ("p", "p_holm")]
        lines.append(
            (label, [*names, estimate_cell(pair, signed=True), *tests, Cell(f"{pair['n_units']:,}", pair["n_units"])])
        )
    caption = f"Every two methods of {task} against each other: paired differences, p of their t test, Holm-adjusted p"
    yield f"<details><summary>All {len(pairs):,} paired comparisons on {escape(task)}</summary>"
    yield table(caption, header, lines, "pairs", filtered=False)
    yield "</details>"


def _reliability(row: dict[str, Any], label: str) -> str:
    header = [("confidence", ""), (f"mean {label}", ""), ("claims", "")]
    lines = [
        (f"{point['confidence']:.3f}", [estimate_cell(point["correctness"]), Cell(f"{point['n']:,}", point["n"])])
        for point in row["reliability"]
    ]
    ece = wording.estimate_text(row["metrics"].get("ece")).replace("-", "−")
    numbers = table(f"Groups of {row['method']}", header, lines, "points", filtered=False, sortable=False)
    null, chance = row.get("ece_null"), ""
    if null:
        ends = f"{null['low']:.3f} to {null['high']:.3f}"
        chance = f'<p class="small">If calibrated, ECE would be {ends} (p: {escape(wording.p_text(null["p"]))}).</p>'
    error = row["metrics"].get("ece_debiased")
    said = f"ECE {ece}" + (f", cal. error {wording.estimate_text(error)}" if error else "").replace("-", "−")
    return (
        f'<figure class="card" data-method="{escape(row["method"])}"><figcaption><h4>{escape(row["method"])}</h4>'
        f'<p class="small">{said}</p>{chance}</figcaption>'
        f"{plots.reliability(row, label)}<details><summary>Numbers</summary>{numbers}</details></figure>"
    )


def _curve_numbers(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table of the risks at round coverages, read off the curves."""
    wanted = [k / 10 for k in range(1, 11)]
    lines = []
    for row in rows:
        curve = [(p["coverage"], p["risk"]) for p in row["risk_coverage"] if None not in (p["coverage"], p["risk"])]
        cells = []
        for coverage in wanted:
            risk = min(curve, key=lambda point: abs(point[0] - coverage))[1] if curve else None
            cells.append(Cell("–" if risk is None else f"{risk:.3f}", risk))
        lines.append((row["method"], cells))
    header = [("coverage", "text"), *((f"{coverage:.1f}", "") for coverage in wanted)]
    numbers = table("Risk at the coverage nearest to each of these", header, lines, "curves", filtered=False)
    return f"<details><summary>Numbers</summary>{numbers}</details>"


def _flagging(board: dict[str, Any], task: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    about = board["tasks"][task]
    header = [("method", "text"), ("confidence", "text"), ("sentences", ""), ("share", "")]
    header += [(f"{about['label']} ↑", ""), ("gain over all", "")]
    header += [(f"{about['quality']['label']} of what is left ↑", "")] if about["quality"] else []
    lines = []
    for row in rows:
        for point in row["flagging"]["thresholds"]:
            least = -1.0 if point["confidence"] is None else point["confidence"]
            cells = [Cell(escape(wording.threshold_text(point)), f"{least:05.1f}", "text")]
            cells += [
                Cell(f"{point['n']:,}", point["n"]),
                estimate_cell(point["share"]),
                estimate_cell(point["precision"]),
            ]
            cells.append(estimate_cell(point.get("gain"), signed=True))
            cells += [estimate_cell(point["quality"])] if about["quality"] else []
            lines.append((row["method"], cells))
    yield f"<h3>Flagging on {escape(task)}</h3>"
    yield table(
        "What is left when only sentences with at least this confidence (of 10) are kept", header, lines, "flags"
    )


def _heat(row: dict[str, Any]) -> str:
    tokens = row["tokens"]
    head = "".join(f'<th scope="col">{level}</th>' for level in range(len(tokens["matrix"])))
    lines = []
    for stated, (line, count) in enumerate(zip(tokens["matrix"], tokens["counts"], strict=True)):
        cells = []
        for answer, p in enumerate(line):
            frame = ' class="stated"' if answer == stated and count else ""
            shown = f"{p:.2f}" if p is not None and p >= 0.005 else ""
            cells.append(f'<td{frame} style="--p:{0 if p is None else p:.3f}">{shown}</td>')
        lines.append(f'<tr><th scope="row">{stated}</th>{"".join(cells)}<td style="--p:0">{count:,}</td></tr>')
    measures = tokens["measures"]
    said = ", ".join(
        f"{words.removesuffix(' ↑').removesuffix(' ↓')} {wording.estimate_text(measures[name])}"
        for name, words in wording.MEASURES.items()
        if name in measures
    )
    name = escape(row["method"])
    return (
        f'<div class="card" data-method="{name}"><h4>{name}</h4><p class="small">{escape(said)}</p>'
        f'<div class="scroll" role="region" tabindex="0" aria-label="Confidence answers of {name}"><table class="heat">'
        f"<caption>Stated confidence (rows) against answer (columns)</caption>"
        f'<thead><tr><th scope="col"><span class="hidden-text">stated</span></th>{head}<th scope="col">claims</th></tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div></div>"
    )


def _unparsed(task: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for note in wording.written_notes(rows):
        yield f'<p class="small">{escape(note)}</p>'
    if not any(row["unparsed"] for row in rows):
        yield f'<p class="small">Every claim of every method on {escape(task)} could be used.</p>'
        return
    seen = [status for status in STATUSES if status != "ok" and any(status in row["unparsed"] for row in rows)]
    header = [("method", "text"), ("claims", ""), ("ok", ""), *((status.replace("_", " "), "") for status in seen)]
    header.append(("shares", "plot"))
    lines = []
    for row in rows:
        counts = [("ok", row["n"]), *((status, row["unparsed"].get(status, 0)) for status in seen)]
        cells = [Cell(f"{row['claims']:,}", row["claims"]), *(Cell(f"{n:,}", n) for _, n in counts)]
        bar = plots.shares([(f"s-{status}", n) for status, n in counts], row["claims"])
        lines.append((row["method"], [*cells, Cell(bar, None, "strip-cell")]))
    legend = "".join(
        f'<li><span class="swatch s-{status}"></span> {status.replace("_", " ")}</li>' for status in ("ok", *seen)
    )
    yield f"<h3>Unparsed claims on {escape(task)}</h3>"
    yield table("Claims that no metric could use, by reason", header, lines, "unparsed")
    yield f'<ul class="legend">{legend}</ul>'


def _footer(board: dict[str, Any]) -> Iterator[str]:
    yield "<footer><h2>Methods</h2><dl>"
    for name, text in board["methods"].items():
        yield f"<dt><code>{escape(name)}</code></dt><dd>{escape(text)}</dd>"
    yield "</dl>"
    if board["runs"]:
        yield "<h2>Runs</h2><ul>"
        for run in board["runs"]:
            yield f"<li>{escape(wording.run_text(run))}</li>"
        yield "</ul>"
    yield "<h2>Metrics</h2><dl>"
    for metric in board["metrics"]:
        yield f"<dt>{escape(metric['label'])} ({metric['better']} is better)</dt>"
        yield f"<dd>{escape('; '.join(filter(None, [metric['summary'], metric['source']])))}</dd>"
    yield "</dl><h2>How these numbers were made</h2><ul>"
    for note in wording.footnotes(board):
        yield f"<li>{escape(note)}</li>"
    yield "</ul></footer>"
