"""The sentences on top of a leaderboard, against the numbers that they are about."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_board import board_of, frame, row_of
from test_html import full_board

from conrad_bench.leaderboards.pages.console import table_for_console
from conrad_bench.leaderboards.pages.html import page
from conrad_bench.leaderboards.pages.summary import LEADS, UNSURE, USELESS, listed, overview, sentences, verdicts
from conrad_bench.leaderboards.pages.tables import markdown
from conrad_bench.leaderboards.pages.wording import ALWAYS_MEAN, ranked
from conrad_bench.text import html as escape

HOUSE = Path(__file__).parents[1]


def world() -> dict[str, Any]:
    """A good method, two that are good alike, one that hardly knows, a constant, and one that is sure of everything."""
    truth = frame("probe", n=400)
    right = truth["correctness"].to_numpy()
    random = np.random.default_rng(0)

    def stating(method: str, confidence: Any) -> Any:
        return truth.assign(method=method, confidence=np.clip(confidence, 0, 1))

    near = [stating(name, right + 0.2 * random.standard_normal(400)) for name in ("probe", "sft")]
    faint = stating("faint", right.mean() + 0.1 * (right - right.mean()) + 0.12 * random.standard_normal(400))
    fixed = [stating("constant", np.full(400, right.mean())), stating("sure", np.full(400, 1.0))]
    return board_of(*near, stating("conrad", right + 0.05 * random.standard_normal(400)), faint, *fixed)


def test_who_leads_alone_and_who_is_useless_is_said() -> None:
    board = world()
    said = list(sentences(board))
    brier = row_of(board, "conrad")["metrics"]["brier"]
    assert said[0].endswith("told from it): conrad on mimic_report.")
    assert said[1].startswith(f"On mimic_report, conrad is ahead of all others (Brier {brier['value']:.3f} [")
    assert "skill at or below 0): constant and sure on mimic_report." in said[2]
    assert "the interval of the skill holds 0, or patients are too few): faint on mimic_report." in said[3]
    order = re.fullmatch(r"For triage, best at telling wrong claims from right ones: (.*)\.", said[-1])
    assert order is not None
    assert re.fullmatch(r"conrad on mimic_report \(Somers' D 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]\)", order[1])


def test_what_orders_well_and_misleads_is_said() -> None:
    random, right = np.random.default_rng(1), frame("verbalized")["correctness"].to_numpy()
    truth = frame("verbalized")
    shifted = truth.assign(method="shifted", confidence=np.clip(0.9 + 0.1 * right, 0, 1))
    noise = truth.assign(method="noise", confidence=np.clip(random.random(len(right)), 0, 1))
    said = list(sentences(board_of(shifted, noise)))
    assert said[-2].startswith("For triage, best at telling wrong claims from right ones: shifted on mimic_report (")
    assert "not to be told from" not in said[-2]
    assert said[-1].startswith("Good at telling them apart, though the numbers themselves mislead: shifted on ")


def test_an_order_at_chance_is_not_called_good() -> None:
    """Alone on the board it is the best of one, and still no better than chance; nor is a reversed order."""
    random, truth = np.random.default_rng(1), frame("verbalized", n=400)
    right = truth["correctness"].to_numpy()
    noise = truth.assign(method="noise", confidence=random.random(400))
    reversed_ = truth.assign(method="reversed", confidence=np.clip(0.9 - 0.1 * right, 0, 1))
    for frames in ((noise,), (noise, reversed_)):
        said = " ".join(sentences(board_of(*frames)))
        assert "No method is shown to tell wrong claims from right ones better than chance on mimic_report." in said
        assert "For triage" not in said
        assert "Good at telling" not in said


def test_those_that_cannot_be_told_apart_are_named() -> None:
    board = world()
    board["rows"] = [row for row in board["rows"] if row["method"] != "conrad"]
    found = board["tasks"]["mimic_report"]["comparisons"]
    found["pairs"] = [pair for pair in found["pairs"] if "conrad" not in (pair["a"], pair["b"])]
    first, second = (row["method"] for row in list(ranked(board, "mimic_report"))[:2])
    said = list(sentences(board))
    assert {first, second} == {"probe", "sft"}
    assert "told from it): probe and sft on mimic_report." in said[0]
    assert re.search(rf"^On mimic_report, {first} has the lowest .* cannot be told from {second}\.$", said[1])


@pytest.mark.parametrize("board", [world(), full_board(), board_of(frame("conrad"), frame("verbalized", unparsed=9))])
def test_the_verdict_is_that_of_the_numbers(board: dict[str, Any]) -> None:
    """Found anew from rows and pairs, in the simplest way."""
    tasks, lines = overview(board)
    cells = {(name, task): cell for name, of in lines for task, cell in zip(tasks, of, strict=True)}
    for verdict in verdicts(board):
        rows = [row for row in board["rows"] if row["task"] == verdict.task and "brier" in row["metrics"]]
        lowest = min(rows, key=lambda row: row["metrics"]["brier"]["value"])
        assert verdict.leader is lowest
        for row in rows:
            skill, method = row["metrics"]["skill"], row["method"]
            pair = next(
                (
                    pair
                    for pair in board["tasks"][verdict.task]["comparisons"]["pairs"]
                    if pair["metric"] == "brier" and {pair["a"], pair["b"]} == {method, lowest["method"]}
                ),
                {"p_holm": 1.0 if row is lowest else None},
            )
            marks = LEADS if pair["p_holm"] is not None and pair["p_holm"] >= 0.05 else ""
            marks += USELESS if skill["high"] <= 0 else UNSURE if skill["low"] <= 0 else ""
            assert cells[method, verdict.task] == (skill["value"], marks)


def test_few_patients_and_one_method_are_said() -> None:
    few = list(sentences(board_of(frame("conrad", n=20), frame("verbalized", n=20))))
    assert "whether others are worse could not be tested" in few[1]
    alone = list(sentences(board_of(frame("conrad"))))
    assert alone[0].startswith("On mimic_report, conrad is the only method with confidences (Brier ")
    assert list(sentences(board_of(frame("base", stated=False)))) == []
    assert overview(board_of(frame("base", stated=False))) == ([], [])


def test_all_pages_have_the_sentences_and_the_bar() -> None:
    from rich.console import Console

    board = world()
    text, tables = page(board), markdown(board)
    for sentence in sentences(board):
        assert escape(sentence) in text
        assert sentence in tables
    assert ALWAYS_MEAN in text
    bar = next(line for line in tables.splitlines() if line.startswith(f"| {ALWAYS_MEAN}"))
    assert f"| {row_of(board, 'conrad')['metrics']['brier_unc']['value']:.3f} | 0.000 | 0.000 | 0.000 |" in bar
    order = re.findall(r"(?m)^\| (\w[\w ]*) \| [\d–]+ \| ", tables[tables.index("## mimic_report") :])
    assert [name for name in order if name != ALWAYS_MEAN][:6] == [
        row["method"] for row in ranked(board, "mimic_report")
    ]
    buffer = io.StringIO()
    Console(width=200, file=buffer).print(table_for_console(board))
    assert "Among the best by Brier score" in buffer.getvalue()


@pytest.mark.parametrize("bundle", sorted((HOUSE / "leaderboards" / "published").glob("*/leaderboard.json")), ids=str)
def test_the_markdown_of_a_big_study_is_short_but_for_what_is_folded(bundle: Path) -> None:
    board = json.loads(bundle.read_text(encoding="utf-8"))
    text = markdown(board)
    seen = re.sub(r"(?s)<details>.*?</details>", "", text)
    assert len(seen.encode()) < 25_000
    assert seen.count("| method |") >= len(board["tasks"])
    assert text.count("<details>") == text.count("</details>") >= len(board["tasks"])


def test_names_are_listed_as_one_says_them() -> None:
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert listed("abcdefg") == "a, b, c, d, e, f and g"
    assert listed("abcdefghij") == "a, b, c, d, e, f and 4 others"
