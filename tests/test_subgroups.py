"""Subgroups: rows of the examples with one value or band of an attribute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_rel
from test_board import CONTEXT, board_of, frame, row_of

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.board.subgroups import subgroups
from conrad_bench.leaderboards.inference.gaps import widest_gap
from conrad_bench.leaderboards.pages.html import page
from conrad_bench.leaderboards.pages.tables import markdown

TASK = "mimic_report"


def rows_of(frames: dict[tuple[str, str], pd.DataFrame], context: BoardContext, column: str) -> list[dict[str, Any]]:
    return subgroups(frames, context, column)["subgroups"]


def records(n: int = 240, **columns: object) -> dict[tuple[str, str], pd.DataFrame]:
    return {(TASK, method): frame(method, n=n).assign(**columns) for method in ("conrad", "verbalized")}


def view(n: int = 240) -> list[str]:
    return ["AP" if i % 3 else "PA" for i in range(n)]


def test_a_row_is_that_of_a_board_of_the_subgroup_alone() -> None:
    frames = records(view=view())
    rows = rows_of(frames, CONTEXT, "view")
    assert [(row["method"], row["subgroup"]["value"]) for row in rows] == [
        ("conrad", "AP"), ("verbalized", "AP"), ("conrad", "PA"), ("verbalized", "PA"),
    ]  # fmt: skip
    alone = row_of(board_of(*(each[each["view"] == "PA"] for each in frames.values())), "conrad")
    row = rows[2]
    assert row["metrics"] == alone["metrics"]
    assert row["difference"] == alone["difference"]
    assert row["n"] == alone["n"] == 80
    assert row["subgroup"] == {"column": "view", "value": "PA", "warning": None}


def test_a_subgroup_of_few_clusters_has_a_warning() -> None:
    few = ["rare" if i < 100 else "usual" for i in range(240)]
    rows = rows_of(records(finding=few), CONTEXT, "finding")
    warnings = {row["subgroup"]["value"]: row["subgroup"]["warning"] for row in rows}
    assert warnings["usual"] is None
    assert warnings["rare"] == "25.0 effective clusters, fewer than 30: intervals and p values are rough"


def test_numbers_are_cut_into_named_bands() -> None:
    rows = rows_of(records(image_quality=np.linspace(0, 1, 240)), CONTEXT, "image_quality")
    sizes = {row["subgroup"]["value"]: row["n"] for row in rows}
    assert sizes == {"up to 0.333": 80, "0.333 to 0.667": 80, "above 0.667": 80}
    ages = [np.nan, 39.0, 40.0, 59.0, 79.5, 80.0] * 40
    rows = rows_of(records(age=ages), CONTEXT, "age")
    assert list(dict.fromkeys(row["subgroup"]["value"] for row in rows)) == [
        "under 40", "40-59", "60-79", "80 and over", "(missing)",
    ]  # fmt: skip
    assert {row["subgroup"]["value"]: row["n"] for row in rows}["40-59"] == 80
    counts = rows_of(records(images=[1.0, 2.0] * 120), CONTEXT, "images")
    assert {row["subgroup"]["value"] for row in counts} == {"1", "2"}


def test_nobody_is_dropped() -> None:
    values = [None, *view(239)]
    rows = rows_of(records(view=values), CONTEXT, "view")
    assert sum(row["claims"] for row in rows if row["method"] == "conrad") == 240
    assert rows[-1]["subgroup"]["value"] == "(missing)"


def test_a_column_that_makes_no_subgroups_is_named() -> None:
    with pytest.raises(DataError, match=r"'sex': no records have this column \(columns: view\)"):
        rows_of(records(view=view()), CONTEXT, "sex")
    with pytest.raises(DataError, match="no attribute"):
        rows_of(records(), CONTEXT, "confidence")
    with pytest.raises(DataError, match="240 distinct values"):
        rows_of(records(study=[f"s{i}" for i in range(240)]), CONTEXT, "study")
    frames = records(view=view())
    frames[TASK, "conrad"] = frames[TASK, "conrad"].drop(columns="view")
    with pytest.raises(DataError, match="records of conrad on mimic_report lack this column"):
        rows_of(frames, CONTEXT, "view")
    other = {("yes_no", "conrad"): frame("conrad", "yes_no", binary=True)}
    assert {row["task"] for row in rows_of(records(view=view()) | other, CONTEXT, "view")} == {TASK}


def test_the_gap_of_two_subgroups_is_a_paired_t_test() -> None:
    """Two parts of every patient: the range of two errors is the error of their difference."""
    random = np.random.default_rng(0)
    shared = random.standard_normal(40)
    sides = [shared + random.standard_normal(40), shared + 0.3 + random.standard_normal(40)]
    weights = random.multinomial(40, np.full(40, 1 / 40), size=20_000)
    drawn = np.stack([weights @ side / 40 for side in sides])
    gap = widest_gap(np.array([side.mean() for side in sides]), drawn, [40.0, 40.0])
    expected = ttest_rel(sides[1], sides[0])
    assert (gap.lowest, gap.highest) == (0, 1)
    assert gap.value == pytest.approx(expected.statistic * (sides[1] - sides[0]).std(ddof=1) / np.sqrt(40))
    ends = expected.confidence_interval(0.95)
    half = (ends.high - ends.low) / 2
    assert (gap.low, gap.high) == pytest.approx((ends.low, ends.high), abs=0.03 * half)
    assert gap.p == pytest.approx(expected.pvalue, abs=0.02)
    assert half == pytest.approx(t.ppf(0.975, 39) * (sides[1] - sides[0]).std(ddof=1) / np.sqrt(40))


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 6), st.integers(20, 300), st.floats(0, 4), st.integers(0, 2**20))
def test_p_and_interval_of_a_gap_never_contradict_each_other(k: int, replicates: int, size: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = size * random.random(k)
    gap = widest_gap(values, values[:, None] + random.standard_normal((k, replicates)), [20.0] * k)
    assert gap.low <= gap.value <= gap.high
    assert (gap.p < 0.05) == (gap.low > 0)


def test_equal_subgroups_rarely_have_a_gap_although_the_worst_was_picked() -> None:
    """Five parts that are alike: two picked by looking would differ in 3 of 10 worlds by a t test."""
    found = 0
    for seed in range(150):
        random = np.random.default_rng(seed)
        sizes = [40, 40, 30, 20, 20]
        sides = [random.standard_normal(n) for n in sizes]
        drawn = np.stack([random.choice(side, (400, len(side))).mean(axis=1) for side in sides])
        found += widest_gap(np.array([side.mean() for side in sides]), drawn, [float(n) for n in sizes]).p < 0.05
    assert 1 <= found <= 15


def gaps_of(frames: dict[tuple[str, str], pd.DataFrame], column: str = "view") -> list[dict[str, Any]]:
    return subgroups(frames, CONTEXT, column)["subgroup_gaps"]


def test_a_board_says_which_subgroup_is_worse_and_how_sure_that_is() -> None:
    frames = records(480, view=view(480))
    for data in frames.values():
        worse = (data["view"] == "AP") & (data["method"] == "conrad")
        data.loc[worse, "confidence"] = np.round(1 - data.loc[worse, "correctness"].clip(0, 1), 1)
    found = subgroups(frames, CONTEXT, "view")
    by = {(gap["method"], gap["metric"]): gap for gap in found["subgroup_gaps"]}
    assert {metric for _, metric in by} == {"ece_debiased", "somers_d", "pearson", "brier", "correctness"}
    gap = by["conrad", "brier"]
    assert (gap["best"], gap["worst"], gap["n_subgroups"], gap["column"]) == ("PA", "AP", 2, "view")
    rows = {(row["method"], row["subgroup"]["value"]): row["metrics"] for row in found["subgroups"]}
    apart = rows["conrad", "AP"]["brier"]["value"] - rows["conrad", "PA"]["brier"]["value"]
    assert gap["value"] == pytest.approx(apart, abs=1e-8)
    assert gap["low"] > 0
    assert gap["p"] <= gap["p_holm"] < 0.05
    assert by["verbalized", "brier"]["p"] > 0.05
    squares = [np.sign(v) * v**2 for v in (rows["conrad", side]["ece_debiased"]["value"] for side in ("AP", "PA"))]
    assert by["conrad", "ece_debiased"]["value"] == pytest.approx(np.sqrt(squares[0] - squares[1]), abs=1e-6)
    board = board_of(*frames.values()) | found
    for text in (markdown(board), page(board)):
        assert "Gap between the best and the worst subgroup" in text
        assert text.count("p, Holm") >= 1


def test_subgroups_of_few_patients_and_examples_without_a_value_are_in_no_gap() -> None:
    values = ["rare" if i < 28 else None if i < 60 else ("AP", "PA")[i % 2] for i in range(240)]
    for gap in gaps_of(records(240, view=values)):
        assert gap["n_subgroups"] == 2
        assert {gap["best"], gap["worst"]} == {"AP", "PA"}
    assert gaps_of(records(240, view=["AP"] * 240)) == []
