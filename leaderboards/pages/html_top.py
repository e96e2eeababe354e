"""The top of leaderboard.html: what the board says in words, the overview, how to read it, where the rest is."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from conrad_bench.leaderboards.pages import wording
from conrad_bench.leaderboards.pages.html_table import name_html
from conrad_bench.leaderboards.pages.summary import MARKS, overview, sentences, skill_text
from conrad_bench.text import html as escape

DOWNLOADS = {
    "leaderboard.csv": "spreadsheets",
    "leaderboard.json": "programs",
    "leaderboard.md": "repositories",
    "leaderboard.tex": "papers",
}
"""The files beside the page, and what they are for."""


def top(board: dict[str, Any]) -> Iterator[str]:
    """Yield what stands between the title and the first task."""
    said = list(sentences(board))
    if said:
        yield f'<p class="lead">{escape(said[0])}</p><ul class="verdicts">'
        yield from (f"<li>{escape(sentence)}</li>" for sentence in said[1:])
        yield "</ul>"
    yield from _overview(board)
    for term, meaning in wording.FIELD.items():
        if _shows(board, term):
            yield f'<p class="small"><strong>{escape(term)}</strong>: {escape(meaning)}.</p>'
    yield from _how_to_read()
    yield '<nav aria-label="Contents"><h2>Contents</h2><ul class="contents">'
    yield from (f'<li><a href="#task-{n}">{name_html(task)}</a></li>' for n, task in enumerate(board["tasks"]))
    yield '<li><a href="#methods">methods</a></li><li><a href="#metrics">metrics</a></li>'
    yield '<li><a href="#made">how these numbers were made</a></li></ul></nav>'
    links = ", ".join(f'<a href="{name}">{name}</a> for {use}' for name, use in DOWNLOADS.items())
    yield f'<p class="small">Beside this page: {links}.</p>'
    yield from _citation(board)


def _overview(board: dict[str, Any]) -> Iterator[str]:
    tasks, lines = overview(board)
    if not lines:
        return
    heads = "".join(f'<th scope="col">{name_html(task)}</th>' for task in tasks)
    body = []
    for name, cells in lines:
        shown = []
        for cell in cells:
            if cell is None:
                shown.append("<td>–</td>")
                continue
            value, marks = cell
            strength = f"{min(1.0, abs(value) / 0.5):.2f}"
            spoken = "".join(f'<span class="hidden-text">; {escape(MARKS[mark])}</span>' for mark in marks)
            sign = f' <span aria-hidden="true">{marks}</span>' if marks else ""
            kind = "up" if value > 0 else "down"
            shown.append(f'<td class="{kind}" style="--p:{strength}">{skill_text(value)}{sign}{spoken}</td>')
        title = f' title="{escape(board["methods"].get(name, ""))}"'
        body.append(
            f'<tr data-method="{escape(name)}"><th scope="row"{title}>{name_html(name)}</th>{"".join(shown)}</tr>'
        )
    patients = "".join(f"<td>{wording.task_clusters(board, task)}</td>" for task in tasks)
    body.append(f'<tr class="n"><th scope="row">clusters (effective)</th>{patients}</tr>')
    yield '<h2 id="overview">Skill at a glance</h2>'
    yield (
        '<div class="scroll" role="region" tabindex="0" aria-label="Skill of all methods on all tasks">'
        f'<table class="overview"><caption><span>{escape(wording.SKILL_NOTE)}</span></caption>'
        f'<thead><tr><th scope="col" class="text">method</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
    marks = "; ".join(f"{mark} {said}" for mark, said in MARKS.items())
    yield f'<p class="small">{escape(marks)}.</p>'


def _how_to_read() -> Iterator[str]:
    picture = (files("conrad_bench.leaderboards.pages") / "assets" / "how_to_read.svg").read_text(encoding="utf-8")
    listed = "".join(f"<dt>{escape(term)}</dt><dd>{escape(said)}</dd>" for term, said in wording.WORDS.items())
    yield '<details class="how"><summary>How to read this page</summary>'
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="How to read the plots">{picture}</div>'
    yield f"<dl>{listed}</dl></details>"


def _shows(board: dict[str, Any], term: str) -> bool:
    labels = [about["label"] for about in board["tasks"].values()]
    labels += [about["quality"]["label"] for about in board["tasks"].values() if about["quality"]]
    return any(term in label for label in labels)


def _citation(board: dict[str, Any]) -> Iterator[str]:
    commit = f", commit {board['commit'][:12]}" if board["commit"] else ""
    text = (
        "@software{conrad_bench,\n"
        "  title = {conrad-bench: calibration benchmarks for medical vision-language models},\n"
        "  author = {{The conrad-bench maintainers}},\n"
        f"  version = {{{board['version']}{commit}}}\n}}"
    )
    yield (
        "<details><summary>Cite</summary><p>The software that made this page, and the papers of the methods that you "
        f'compare:</p><pre tabindex="0">{escape(text)}</pre></details>'
    )
