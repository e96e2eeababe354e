"""Text that travels: whatever it holds, no output lets it do anything but be read."""

from __future__ import annotations

import contextlib
import csv
import html.parser
import io
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_html import full_board

from conrad_bench import text
from conrad_bench.cli.common import say, show, tell
from conrad_bench.leaderboards.pages.console import table_for_console
from conrad_bench.leaderboards.pages.outputs import RENDERED
from conrad_bench.progress import Reporter

HOSTILE = (
    "\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\u202e", "\u2066", "\r", "\x00", "\x7f", "\u2028", "\ud800",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "](javascript:alert(1))", "![x](http://a/b)",
    "[x]: http://evil", "`", "``` \n", "|", "\\", "\n# title", "&lt;script&gt;", "=1+1", "+1", "-1-1", "@SUM(A1)",
    "\t=1", "\r=1", "＝1+1", "$x$ \\input{/etc/passwd}", "^^5cinput", "%", "'", '"', "-->", "]]>",
    "https://user:hunter2hunter2@host/v1", "http://host/v1?api_key=hunter2hunter2", "Bearer hunter2hunter2",
)  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=6)), max_size=5).map("".join)
PRINTED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def unprintable(shown: str, allowed: str = "\n\t") -> set[str]:
    return {c for c in shown if unicodedata.category(c) in PRINTED and c not in allowed}


@given(texts)
def test_nothing_but_letters_reaches_a_terminal(given_text: str) -> None:
    assert unprintable(text.console(given_text)) == set()
    assert unprintable(text.one_line(given_text), "") == set()


@pytest.mark.parametrize("plain", ["verbalized", "mimic_report", "probe.l10+isotonic", "ECE ↓", "Größe é 肺", "a b"])
def test_plain_text_stays_as_it_is(plain: str) -> None:
    for change in (text.console, text.one_line, text.markdown, text.html, text.csv_cell):
        assert change(plain) == plain


@given(texts)
def test_markdown_holds_no_html_link_or_code(given_text: str) -> None:
    shown = text.markdown(given_text)
    assert not re.search(r"<[A-Za-z/!?]", shown)
    assert not re.search(r"(?<!\\)(\\\\)*\]\(", shown)
    assert not re.search(r"(?<!\\)(\\\\)*[`|]", shown)
    assert "\n" not in shown
    spanned = text.code(shown)
    assert spanned == shown or re.fullmatch(r"`[^`]+`", spanned)


@given(texts)
def test_html_is_text(given_text: str) -> None:
    found: list[Any] = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, at: found.append((tag, at))  # type: ignore[method-assign]
    parser.handle_comment = found.append  # type: ignore[method-assign]
    shown = text.html(given_text)
    parser.feed(f'<p title="{shown}">{shown}</p>')
    parser.close()
    assert [tag for tag, _ in found] == ["p"]
    assert [name for name, _ in found[0][1]] == ["title"]
    assert unprintable(shown) == set()


@given(st.one_of(texts, st.floats(allow_nan=False), st.integers(), st.none()))
def test_a_cell_of_a_csv_is_no_formula(value: Any) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(["first", text.csv_cell(value)])
    ((_, shown),) = csv.reader(io.StringIO(buffer.getvalue()))
    if isinstance(value, int | float):
        assert float(shown) == value
    elif value is None:
        assert shown == ""
    else:
        formula = shown.startswith(("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠"))
        assert not formula or float(shown) is not None


@pytest.mark.parametrize(
    ("value", "cell"),
    [("=1+1", "'=1+1"), ("-2.5", "-2.5"), ("+1e-3", "+1e-3"), ("-2.5.1", "'-2.5.1"), ("-x", "'-x"), (-2.5, -2.5)],
)
def test_numbers_stay_numbers(value: object, cell: object) -> None:
    assert text.csv_cell(value) == cell


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("http://me:secret@host:8000/v1", "http://(hidden)@host:8000/v1"),
        ("see http://host/v1?a=1&api_key=abc.def&b=2", "see http://host/v1?a=1&api_key=(hidden)&b=2"),
        ("Authorization: Bearer abcdefgh12", "Authorization: Bearer (hidden)"),
        ("model sk-proj-abcdefgh12345678 is gone", "model (hidden) is gone"),
        ("hf_abcdefghijklmnopqrstuvwx", "(hidden)"),
        ("skeletal_muscle_segmentation", "skeletal_muscle_segmentation"),
        ("google/medgemma-4b-it", "google/medgemma-4b-it"),
        ("s3://bucket/key=1/x", "s3://bucket/key=1/x"),
    ],
)
def test_keys_are_hidden(said: str, shown: str) -> None:
    assert text.without_keys(said) == shown


def spoilt(value: Any, words: str, key: str = "") -> Any:
    """A board with these words behind every free text of it."""
    fixed = ("better", "unit", "grouping", "granularity", "interval", "name", "trend", "metric", "metrics", "tasks")
    fixed += ("task", "figure", "before_after", "token_figure")
    if isinstance(value, dict):
        return {f"{k}{words}" if key in ("methods", "left_out") else k: spoilt(v, words, k) for k, v in value.items()}
    if isinstance(value, list):
        return [spoilt(item, words, key) for item in value]
    return f"{value}{words}" if isinstance(value, str) and key not in fixed else value


BOARD = full_board()


@given(texts)
@settings(max_examples=20, deadline=None)
def test_no_page_passes_on_what_a_board_says(words: str) -> None:
    board = spoilt(BOARD, words)
    pages = {name: render(board) for name, render in RENDERED.items()}
    for page in pages.values():
        assert unprintable(page) == set()
        assert "hunter2" not in page
    ours = re.sub(r"(?m)^</?details>$|^<summary>(.*)</summary>$", r"\1", pages["leaderboard.md"])
    assert not re.search(r"<[A-Za-z/!?]", ours)
    assert not re.search(r"(?<!\\)\]\((?!figures/)", pages["leaderboard.md"])
    assert pages["leaderboard.html"].count("<script") == 1
    for row in csv.reader(io.StringIO(pages["leaderboard.csv"])):
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "\t")) or float(cell) is not None
    assert not re.search(r"(?<!\\)\\input\{/", pages["leaderboard.tex"])


@given(texts)
@settings(max_examples=20, deadline=None)
def test_no_command_passes_on_what_it_was_told(words: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        tell(words)
        say(words)
        show(table_for_console(spoilt(BOARD, words)))
        reporter = Reporter()
        reporter.say(words)
        with reporter.stage(words, 1) as advance:
            advance(1)
    for shown in (out.getvalue(), err.getvalue()):
        assert unprintable(shown) == set()
        assert "hunter2" not in shown


def test_pages_escape_by_one_module() -> None:
    """The standard library's escape lets control characters through."""
    folder = Path(text.__file__).parent
    users = [p for p in folder.rglob("*.py") if re.search(r"from html import|html\.escape", p.read_text())]
    assert [path.name for path in users] == ["text.py"]
