"""Subgroups: rows of the examples with one value or band of an attribute."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_board import CONTEXT, board_of, frame, row_of

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.board.subgroups import subgroup_rows

TASK = "mimic_report"


def records(n: int = 240, **columns: object) -> dict[tuple[str, str], pd.DataFrame]:
    return {(TASK, method): frame(method, n=n).assign(**columns) for method in ("conrad", "verbalized")}


def view(n: int = 240) -> list[str]:
    return ["AP" if i % 3 else "PA" for i in range(n)]


def test_a_row_is_that_of_a_board_of_the_subgroup_alone() -> None:
    frames = records(view=view())
    rows = subgroup_rows(frames, CONTEXT, "view")
    assert [(row["method"], row["subgroup"]["value"]) for row in rows] == [
        ("conrad", "AP"), ("verbalized", "AP"), ("conrad", "PA"), ("verbalized", "PA"),
    ]  # fmt: skip
    alone = row_of(board_of(*(each[each["view"] == "PA"] for each in frames.values())), "conrad")
    row = rows[2]
    assert row["metrics"]["ece"] == alone["metrics"]["ece"]
    assert row["n"] == alone["n"] == 80
    assert row["subgroup"] == {"column": "view", "value": "PA", "warning": None}


def test_a_subgroup_of_few_clusters_has_a_warning() -> None:
    few = ["rare" if i < 100 else "usual" for i in range(240)]
    rows = subgroup_rows(records(finding=few), CONTEXT, "finding")
    warnings = {row["subgroup"]["value"]: row["subgroup"]["warning"] for row in rows}
    assert warnings["usual"] is None
    assert "fewer than 30 clusters" in warnings["rare"]


def test_numbers_are_cut_into_named_bands() -> None:
    rows = subgroup_rows(records(image_quality=np.linspace(0, 1, 240)), CONTEXT, "image_quality")
    sizes = {row["subgroup"]["value"]: row["n"] for row in rows}
    assert sizes == {"up to 0.333": 80, "0.333 to 0.667": 80, "above 0.667": 80}
    ages = [np.nan, 39.0, 40.0, 59.0, 79.5, 80.0] * 40
    rows = subgroup_rows(records(age=ages), CONTEXT, "age")
    assert list(dict.fromkeys(row["subgroup"]["value"] for row in rows)) == [
        "under 40", "40-59", "60-79", "80 and over", "(missing)",
    ]  # fmt: skip
    assert {row["subgroup"]["value"]: row["n"] for row in rows}["40-59"] == 80
    counts = subgroup_rows(records(images=[1.0, 2.0] * 120), CONTEXT, "images")
    assert {row["subgroup"]["value"] for row in counts} == {"1", "2"}


def test_nobody_is_dropped() -> None:
    values = [None, *view(239)]
    rows = subgroup_rows(records(view=values), CONTEXT, "view")
    assert sum(row["claims"] for row in rows if row["method"] == "conrad") == 240
    assert rows[-1]["subgroup"]["value"] == "(missing)"


def test_a_column_that_makes_no_subgroups_is_named() -> None:
    with pytest.raises(DataError, match=r"'sex': no records have this column \(columns: view\)"):
        subgroup_rows(records(view=view()), CONTEXT, "sex")
    with pytest.raises(DataError, match="no attribute"):
        subgroup_rows(records(), CONTEXT, "confidence")
    with pytest.raises(DataError, match="240 distinct values"):
        subgroup_rows(records(study=[f"s{i}" for i in range(240)]), CONTEXT, "study")
    frames = records(view=view())
    frames[TASK, "conrad"] = frames[TASK, "conrad"].drop(columns="view")
    with pytest.raises(DataError, match="records of conrad on mimic_report lack this column"):
        subgroup_rows(frames, CONTEXT, "view")
    other = {("yes_no", "conrad"): frame("conrad", "yes_no", binary=True)}
    assert {row["task"] for row in subgroup_rows(records(view=view()) | other, CONTEXT, "view")} == {TASK}
