"""leaderboard.html: one page without network, third-party scripts or further files, from leaderboard.json alone.

Every number stands in a real table, every plot has a text alternative; sorting, filtering and the choice of a baseline
are a page of JavaScript, without which the page shows everything else. All text that comes from the board is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from conrad_bench.leaderboards.pages import wording
from conrad_bench.leaderboards.pages.html_table import name_html
from conrad_bench.leaderboards.pages.html_task import task_section
from conrad_bench.leaderboards.pages.html_top import top
from conrad_bench.leaderboards.pages.models import html_overview
from conrad_bench.text import html as escape


def page(board: dict[str, Any]) -> str:
    """Return the text of leaderboard.html; the same board gives the same bytes."""
    methods = sorted({row["method"] for row in board["rows"]})
    colours = {method: number for number, method in enumerate(methods)}
    body = "\n".join(
        [
            '<a class="skip" href="#content">Skip to the content</a>',
            *_header(board),
            '<main id="content">',
            *top(board),
            *html_overview(board),
            *_controls(board),
            *(line for n, task in enumerate(board["tasks"]) for line in task_section(board, task, n, colours)),
            "</main>",
            *_footer(board),
        ]
    )
    return document(board["title"], body, "leaderboard.js")


def document(title: str, body: str, script_name: str) -> str:
    """Return a whole page: it may load nothing, and runs the scripts that all pages share and the named one alone."""
    style, common, own = (asset(name) for name in ("leaderboard.css", "common.js", script_name))
    script = common + own
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{body}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def asset(name: str) -> str:
    """Return a style sheet, script or drawing of the pages."""
    return (files("conrad_bench.leaderboards.pages") / "assets" / name).read_text(encoding="utf-8")


def policy(script: str) -> str:
    """Return the security policy: the page may load nothing, whatever its text says, and run this script alone."""
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


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


def _controls(board: dict[str, Any]) -> Iterator[str]:
    options = "".join(f"<option>{escape(task)}</option>" for task in board["tasks"])
    yield (
        '<div class="bar-top"><div class="controls" role="search" aria-label="Filter the rows">'
        '<label><span>Task</span> <select id="task" aria-label="Task"><option value="">all tasks</option>'
        f"{options}</select></label>"
        '<label><span>Method</span> <input id="method" type="search" aria-label="Method" placeholder="filter methods">'
        '</label><button id="theme" type="button" aria-pressed="false">Dark</button>'
        '<span id="shown" role="status"></span></div></div>'
    )


def _footer(board: dict[str, Any]) -> Iterator[str]:
    yield '<footer><h2 id="methods">Methods</h2><dl>'
    for name, text in board["methods"].items():
        yield f"<dt><code>{name_html(name)}</code></dt><dd>{escape(text)}</dd>"
    yield "</dl>"
    if board["runs"]:
        yield "<h2>Runs</h2><ul>"
        for run in board["runs"]:
            yield f"<li>{escape(wording.run_text(run))}</li>"
        yield "</ul>"
    yield '<h2 id="metrics">Metrics</h2><details><summary>What each metric is, and where it comes from</summary><dl>'
    for metric in board["metrics"]:
        yield f"<dt>{escape(metric['label'])} ({metric['better']} is better)</dt>"
        yield f"<dd>{escape('; '.join(filter(None, [metric['summary'], metric['source']])))}</dd>"
    yield '</dl></details><h2 id="made">How these numbers were made</h2><ul>'
    for note in (wording.REFERENCE_NOTE, *wording.footnotes(board)):
        yield f"<li>{escape(note)}</li>"
    yield "</ul></footer>"
