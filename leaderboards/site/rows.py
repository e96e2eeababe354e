"""The page of one row: every metric of it, what it was made with, and the records behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from conrad_bench.leaderboards.pages import wording
from conrad_bench.leaderboards.pages.html import document
from conrad_bench.leaderboards.pages.html_table import Cell, Column, estimate_cell, name_html, table
from conrad_bench.leaderboards.site.entries import Entry
from conrad_bench.storage import file_sha256
from conrad_bench.text import html as escape


def row_page(entry: Entry, row: dict[str, Any]) -> str:
    """Return the page of a row; it lies in the folder `rows` of its bundle."""
    board, task, method = entry.board, row["task"], row["method"]
    title = f"{method} on {task}"
    about = board["tasks"][task]
    model = str(row.get("model") or board["model"])
    data = entry.manifest.get("data", {}).get(task, {})
    facts = [
        ("board", f'<a href="../leaderboard.html">{name_html(entry.name)}</a>, records of {entry.day}'),
        ("method", escape(board["methods"].get(method, ""))),
        ("model", escape(model)),
        ("correctness", f"{escape(about['label'])} (scorer <code>{escape(about['scorer'])}</code>)"),
        ("claims, clusters", f"{row['n']:,}, {escape(wording.clusters_text(row))}"),
        ("without a confidence", f"{row['unparsed_rate']:.1%}"),
        ("cost", escape(wording.cost_text(row))),
        ("data's fingerprint", f"<code>{escape(str(data.get('fingerprint', 'not recorded')))}</code>"),
        ("software", f"conrad-bench {escape(board['version'])} {escape(str(board['commit'] or '')[:12])}"),
    ]
    files = [f'<li><a href="../{name}">{name}</a></li>' for name in ("config.yaml", "manifest.json", "bundle.json")]
    body = [
        '<a class="skip" href="#content">Skip to the content</a>',
        '<header><p class="small"><a href="../../index.html">All boards</a></p>'
        f'<h1>{escape(title)}</h1><button id="theme" type="button" aria-pressed="false">Dark</button></header>',
        '<main id="content"><dl class="facts">',
        *(f"<dt>{term}</dt><dd>{said}</dd>" for term, said in facts),
        "</dl>",
        _metrics(board, task, row),
        "<h2>Records</h2><p>Each line is a claim: hashed example and cluster, confidence, correctness, status.</p><ul>",
        *(_records(path) for path in entry.records(method, task)),
        f"</ul><h2>What it was made with</h2><ul>{''.join(files)}</ul>",
        "<p><code>conrad-bench verify</code> computes these numbers from the bundle's records again.</p></main>",
    ]
    return document(f"{title}: {entry.name}", "\n".join(body), "site.js")


def _metrics(board: dict[str, Any], task: str, row: dict[str, Any]) -> str:
    against = (row.get("difference") or {}).get("baseline")
    differences = (row.get("difference") or {}).get("metrics", {})
    header = [Column("metric", "text"), Column("value")]
    header += [Column(f"minus {against}")] if against else []
    header += [Column("what it is", "text")]
    lines: list[tuple[str, Sequence[Cell]]] = []
    for info in board["metrics"]:
        if info["name"] not in row["metrics"]:
            continue
        cells = [estimate_cell(row["metrics"][info["name"]])]
        cells += [estimate_cell(differences.get(info["name"]), signed=True)] if against else []
        cells.append(Cell(escape(str(info.get("summary", ""))), None, "text prose"))
        lines.append((wording.column_title(board, task, info["name"]), cells))
    return table(f"All metrics of {row['method']} on {task}", header, lines, "main", filtered=False)


def _records(path: Path) -> str:
    name = f"{path.stem}.csv"
    return (
        f'<li><a href="../records/{quote(name)}">{escape(name)}</a>, '
        f"from {escape(path.name)}, SHA-256 <code>{file_sha256(path)}</code></li>"
    )
