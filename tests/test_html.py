"""leaderboard.html: valid, escaped, self-contained, and alive in a real browser where one is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_board import SENTENCES, board_of, frame, sentences

from conrad_bench.leaderboards.board.schema import Board
from conrad_bench.leaderboards.pages import plots, wording
from conrad_bench.leaderboards.pages.html import page, policy
from conrad_bench.leaderboards.pages.outputs import RENDERED

VOID = {"meta", "wbr", "link", "br", "input", "img", "hr"}
HOSTILE = "<script>alert('x')</script>\"&"
HOUSE = Path(__file__).parents[1]
AXE = next((f for f in HOUSE.glob("node_modules/axe-core/axe.min.js") if f.is_file()), None)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


def full_board() -> dict[str, Any]:
    """A board with everything that a page can show, on two tasks."""
    found = [frame(m, unparsed=n) for m, n in (("conrad", 0), ("verbalized", 8), ("p_true+platt", 3))]
    found += [sentences(m, unparsed=n) for m, n in (("sft", 0), ("verbalized", 4))]
    scorers = {"mimic_report": ("phantom_green", "phantom-GREEN"), **SENTENCES["scorers"]}
    board = board_of(*found, **{**SENTENCES, "scorers": scorers})
    for row in board["rows"]:
        row["metrics"]["skill"] = {"value": 0.4, "low": 0.3, "high": 0.5}
        start = 0.1 if row["method"] == "conrad" else 0.3
        row["risk_coverage"] = [{"coverage": k / 20, "risk": start + 0.4 * k / 20} for k in range(1, 21)]
        row["ece_null"] = {"mean": 0.03, "low": 0.01, "high": 0.07, "p": 0.0004}
    methods = ["conrad", "p_true+platt", "verbalized"]
    board["tasks"]["mimic_report"]["comparisons"] = {
        "metrics": ["brier"],
        "pairs": [
            {
                "metric": "brier", "a": a, "b": b, "n_units": 20, "value": -0.1, "low": -0.2, "high": -0.01,
                "p": 0.0001, "p_holm": 0.03,
            }
            for a in methods for b in methods if a < b
        ],
        "ranks": {"brier": {"conrad": [1, 1], "p_true+platt": [2, 3], "verbalized": [2, 3]}},
        "letters": {"brier": {"conrad": "a", "p_true+platt": "b", "verbalized": "b"}},
        "power": {},
    }  # fmt: skip
    parts = [row for row in board["rows"] if row["task"] == "mimic_report"]
    board["subgroups"] = [
        {**row, "subgroup": {"column": "view", "value": value, "warning": warning}}
        for row in parts
        for value, warning in (("AP", None), ("PA", "fewer than 30 clusters: the intervals are too narrow"))
    ]
    board["runs"] = [{"name": "a", "model": "tiny", "version": "0.1.0", "commit": "abc", "finished": False}]
    Board.model_validate(board)
    return board


class Checker(HTMLParser):
    """Checks that tags nest, and collects what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return checker


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    text = page(full_board())
    found = checked(text)
    assert not [tag for tag, at in found.tags if at.keys() & {"src", "srcset", "action", "data", "poster"}]
    links = {str(at["href"]) for _, at in found.tags if "href" in at}
    assert {link for link in links if not link.startswith("#")} == {*RENDERED, "leaderboard.json"} - {
        "leaderboard.html"
    }
    assert {link[1:] for link in links if link.startswith("#")} <= {at.get("id") for _, at in found.tags}
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in found.tags}
    assert not re.search(r"url\(|@import|https?:|fetch\(|import\(", text)
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" in text
    assert page(full_board()) == text


def test_tables_have_captions_headers_and_plots_their_texts() -> None:
    found = checked(page(full_board()))
    kinds = [tag for tag, _ in found.tags]
    assert kinds.count("table") == kinds.count("caption") > 10
    assert all(at.get("scope") in ("col", "row") for tag, at in found.tags if tag == "th")
    for tag, at in found.tags:
        if tag == "svg":
            assert at.get("aria-hidden") == "true" or (at["role"] == "img" and str(at["aria-label"]))
        if tag == "div" and at.get("class") == "scroll":
            assert at["tabindex"] == "0"
            assert at["role"] == "region"
    ids = [at["id"] for _, at in found.tags if "id" in at]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "words",
    [
        "the band is where they would be", "Risk and coverage on mimic_report",
        "Brier: method minus verbalized on mimic_report", "always states the mean",
        "Flagging on mimic_sentence", "Probabilities of the confidence answers", "Unparsed claims on mimic_report",
        "all 3 paired comparisons", "2–3 b", "Among the best by Brier score", "Skill at a glance",
        "<strong>GREEN</strong>: how much of a report is right", "How to read this page",
        "By view on mimic_report", "fewer than 30 clusters",
        "If calibrated, ECE would be 0.010 to 0.070 (p: &lt; 0.001)",
        "a: tiny, conrad-bench 0.1.0, commit abc, not finished",
        "no confidence",
    ],
)  # fmt: skip
def test_the_page_shows_what_the_board_has(words: str) -> None:
    assert words in page(full_board())


def test_no_two_of_many_methods_have_the_same_line() -> None:
    assert len({plots.line_style(number) for number in range(64)}) == 64


def test_one_scorer_of_sentences_and_responses_has_two_titles() -> None:
    board = full_board()
    board["tasks"]["mimic_sentence"]["quality"]["label"] = board["tasks"]["mimic_sentence"]["label"]
    titles = [wording.column_title(board, "mimic_sentence", metric) for metric in ("correctness", "quality")]
    assert titles[1] == titles[0].replace(" ↑", " (whole) ↑")


def test_every_text_of_the_board_is_escaped() -> None:
    def spoilt(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            free = key in ("methods", "left_out", "unparsed_texts")
            return {f"{k}{HOSTILE}" if free else k: spoilt(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoilt(item, key) for item in value]
        fixed = ("better", "unit", "grouping", "granularity", "interval", "name", "trend", "metric", "task", "metrics")
        return f"{value}{HOSTILE}" if isinstance(value, str) and key not in fixed else value

    text = page(spoilt(full_board()))
    checked(text)
    assert text.count("<script") == 1
    assert "alert(" in text
    assert "&lt;script&gt;" in text


def test_a_board_without_confidences_or_intervals_still_makes_a_page() -> None:
    board = board_of(frame("base", stated=False, n=4))
    checked(page(board))
    checked(page(board_of(frame("verbalized", n=2), frame("conrad", n=2))))


def seen_by_chromium(text: str, probe: str, folder: Path, width: int = 500) -> str:
    """Open a page in Chromium with a script behind its own, and return what that writes into body's data-seen."""
    alone = text[text.index("<script>\n") + len("<script>\n") : text.index("</script>")]
    longer = alone + probe
    file = folder / "page.html"
    file.write_text(text.replace(alone, longer).replace(policy(alone), policy(longer)))
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen is not None, done.stderr
    return unescape(seen[1])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_sorts_filters_and_reports_no_error(tmp_path: Path) -> None:
    """The page's own script runs in Chromium; a second script presses its buttons and writes down what it sees."""
    probe = """
    const see = [];
    addEventListener("error", (event) => see.push("error: " + event.message));
    const first = () => document.querySelector("table.main tr[data-method]:not([hidden])").dataset.method;
    const press = (n) => document.querySelectorAll("table.main")[0].querySelectorAll("th button")[n].click();
    see.push(first()); press(0); see.push(first()); press(0); see.push(first());
    see.push(document.querySelector("table.main th[aria-sort]").getAttribute("aria-sort"));
    const field = document.getElementById("method");
    field.value = "PLATT"; field.dispatchEvent(new Event("input"));
    see.push(document.getElementById("shown").textContent); see.push(first());
    field.value = ""; field.dispatchEvent(new Event("input"));
    const task = document.getElementById("task");
    task.value = "mimic_sentence"; task.dispatchEvent(new Event("change"));
    see.push(document.getElementById("shown").textContent);
    task.value = ""; task.dispatchEvent(new Event("change"));
    document.getElementById("theme").click();
    see.push(document.documentElement.dataset.theme);
    see.push(String(document.documentElement.scrollWidth <= innerWidth));
    const strip = () => document.querySelector(".forest tbody tr:not([hidden]) td").textContent;
    see.push(document.querySelector(".choose").hidden, strip(), document.querySelectorAll(".forest tr[hidden]").length);
    const base = document.querySelector(".choose select:last-of-type");
    base.value = "conrad"; base.dispatchEvent(new Event("change"));
    see.push(strip(), document.querySelector(".forest caption").textContent);
    see.push(document.querySelector(".dot.sure").className);
    document.body.dataset.seen = see.join("|");
    """
    board = full_board()
    seen = seen_by_chromium(page(board), probe, tmp_path)
    lowest = min(
        (row for row in board["rows"] if row["task"] == "mimic_report"),
        key=lambda row: row["metrics"]["brier"]["value"],
    )
    assert seen.split("|") == [
        lowest["method"], "conrad", "verbalized", "descending", "1 of 5 rows", "p_true+platt", "2 of 5 rows", "dark",
        "true", "false", "−0.100 [−0.200, −0.010]", "2", "+0.100 [+0.010, +0.200]",
        "Brier: method minus conrad on mimic_report", "dot sure",
    ]  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [500, 1400])
def test_no_text_is_too_small_and_nothing_is_wider_than_the_screen(tmp_path: Path, width: int) -> None:
    """Chromium's windows are at least 500 pixels wide; the frame in it is as narrow as a phone."""
    probe = """
    for (const part of document.querySelectorAll("details")) part.open = true;
    document.body.style.maxWidth = innerWidth < 600 ? "420px" : "";
    let least = 99;
    for (const element of document.querySelectorAll("body *")) {
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!own || !element.getClientRects().length) continue;
      const drawn = element.closest("svg[viewBox]");
      const scale = drawn ? drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width : 1;
      least = Math.min(least, scale * parseFloat(getComputedStyle(element).fontSize));
    }
    document.body.dataset.seen = `${least >= 10.999}|${document.body.scrollWidth > document.body.clientWidth}`;
    """
    assert seen_by_chromium(page(full_board()), probe, tmp_path, width) == "true|false"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.skipif(AXE is None, reason="no axe-core: `npm install axe-core` at the root of the repository")
def test_axe_finds_nothing(tmp_path: Path) -> None:
    """In both themes, all parts opened."""
    assert AXE is not None
    probe = """;
    for (const part of document.querySelectorAll("details")) part.open = true;
    (async () => {
      const seen = [];
      for (const theme of ["light", "dark"]) {
        document.documentElement.dataset.theme = theme;
        const found = await axe.run();
        const wrong = found.violations.map((each) => `${theme} ${each.id} ${each.nodes[0].html}`);
        seen.push(`${found.passes.length > 15}`, ...wrong);
      }
      document.body.dataset.seen = seen.join("|");
    })();
    """
    axe = AXE.read_text(encoding="utf-8").replace("</script", "<\\/script")
    assert seen_by_chromium(page(full_board()), axe + probe, tmp_path, 1400) == "true|true"
