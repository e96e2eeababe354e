"""Flagging agrees with a plain loop over rows, its intervals are paired, and what it says of the trend is right."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_board import CONTEXT

from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.board.flagging import above, trend
from conrad_bench.leaderboards.board.rows import task_rows
from conrad_bench.leaderboards.inference.bootstrap import interval
from conrad_bench.records import QUALITY_ABOVE

LEAST = (None, 0.6, 0.8, 1.0)
REPLICATES = 200


def sentences(seed: int = 0, examples: int = 30, stated: bool = True) -> pd.DataFrame:
    """Records of reports of 1 to 5 sentences, three reports a patient, some sentences without a confidence."""
    world = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for e in range(examples):
        size = int(world.integers(1, 6))
        level = world.integers(0, 11, size)
        right = (world.random(size) < 0.2 + 0.06 * level).astype(float)
        ok = world.random(size) > 0.1
        left = {column: float(right[ok & (level >= 10 * t - 1e-6)].sum() / size) for column, t in QUALITY_ABOVE.items()}
        for i in range(size):
            rows.append(
                {
                    "task": "sentences", "method": "conrad", "example": f"e{e:02}", "cluster": f"p{e // 3}", "claim": i,
                    "confidence": level[i] / 10 if ok[i] and stated else np.nan, "correctness": right[i],
                    "status": "ok" if ok[i] or not stated else "no_confidence", "response": f"r{e}",
                    "quality": float(right.mean()), **left,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def context(**changes: Any) -> BoardContext:
    about = {"scorers": {}, "quality": {"sentences": ("s", "S")}, "granularities": {"sentences": "sentence"}}
    return CONTEXT.model_copy(update=about | changes)


def flagged(frame: pd.DataFrame, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"replicates": REPLICATES, "seed": 3} | changes
    row = task_rows("sentences", {"conrad": frame}, context(**settings))[0][0]
    return dict(row["flagging"])


def slow(frame: pd.DataFrame, least: float | None) -> dict[str, float]:
    """The numbers of one threshold by loops over the rows."""
    ok = [row for _, row in frame.iterrows() if row["status"] == "ok"]
    kept = [row for row in ok if least is None or round(10 * row["confidence"]) >= round(10 * least)]
    column = "quality" if least is None else f"quality_{round(10 * least)}"
    # Copies of an example that was drawn twice are different examples.
    quality = {(row["example"], row.get("copy", 0)): row[column] for _, row in frame.iterrows()}
    return {
        "n": len(kept),
        "share": len(kept) / len(ok) if ok else np.nan,
        "precision": float(np.mean([row["correctness"] for row in kept])) if kept else np.nan,
        "quality": float(np.mean(list(quality.values()))),
    }


@pytest.mark.parametrize("seed", range(4))
def test_values_agree_with_a_loop_over_the_rows(seed: int) -> None:
    frame = sentences(seed)
    found = flagged(frame)["thresholds"]
    assert [point["confidence"] for point in found] == list(LEAST)
    for point in found:
        expected = slow(frame, point["confidence"])
        assert point["n"] == expected["n"]
        for name in ("share", "precision", "quality"):
            assert point[name]["value"] == pytest.approx(expected[name], nan_ok=True)
    for point in found[1:]:
        gain = point["precision"]["value"] - found[0]["precision"]["value"]
        assert point["gain"]["value"] == pytest.approx(gain, nan_ok=True)


def test_intervals_agree_with_a_loop_over_resampled_patients() -> None:
    """All thresholds see the same draws, so that gains are paired."""
    frame, replicates = sentences(examples=42), 60
    parts = [part for _, part in frame.groupby("cluster")]  # sorted by cluster, as the units are
    ok, each = frame[frame["status"] == "ok"], frame.drop_duplicates("example")
    generator = np.random.default_rng(3)
    drawn = []
    for _ in range(replicates):
        chosen = generator.integers(len(parts), size=len(parts))
        again = pd.concat([parts[i].assign(copy=k) for k, i in enumerate(chosen)])
        drawn.append([slow(again, least) for least in LEAST])
    for t, point in enumerate(flagged(frame, replicates=replicates)["thresholds"]):
        series = {name: np.array([d[t][name] for d in drawn]) for name in ("share", "precision", "quality")}
        for name, values in series.items():
            sizes = {"share": ok, "precision": ok[ok["confidence"] > (LEAST[t] or 0) - 1e-9], "quality": each}[name]
            n = sizes.groupby("cluster").size().to_numpy(float)
            effective = n.sum() ** 2 / (n**2).sum()
            expected = interval(values, effective=effective) if effective >= 8 else (np.nan, np.nan)
            found = point[name]["low"], point[name]["high"]
            assert found == pytest.approx(expected, abs=1e-12, nan_ok=True), name
        if t and not np.isnan(point["gain"]["low"]):
            gains = series["precision"] - np.array([d[0]["precision"] for d in drawn])
            half = (point["gain"]["high"] - point["gain"]["low"]) / 2
            kept = ok[ok["confidence"] > (LEAST[t] or 0) - 1e-9]["cluster"].nunique()
            assert half == pytest.approx(stats.t.ppf(0.975, kept - 1) * np.nanstd(gains, ddof=1), abs=1e-12)


def test_single_claims_as_units_give_every_response_a_unit() -> None:
    frame = sentences()
    by_claim, by_patient = flagged(frame, unit="claim"), flagged(frame)
    for one, other in zip(by_claim["thresholds"], by_patient["thresholds"], strict=True):
        for name in ("share", "precision", "quality"):
            assert one[name]["value"] == pytest.approx(other[name]["value"], nan_ok=True)
    quality = by_claim["thresholds"][0]["quality"]
    each = frame.drop_duplicates("example")["quality"]
    # The plain bootstrap over responses: twice 1.96 standard errors wide.
    expected = 2 * 1.96 * each.std(ddof=0) / np.sqrt(len(each))
    assert quality["high"] - quality["low"] == pytest.approx(expected, rel=0.3)


def test_a_threshold_that_keeps_nothing() -> None:
    frame = sentences()
    low = flagged(frame.assign(confidence=frame["confidence"] * 0.7, quality_8=0.0, quality_10=0.0))
    last = low["thresholds"][-1]
    assert (last["n"], last["share"]["value"], last["quality"]["value"]) == (0, 0.0, 0.0)
    assert np.isnan([last["precision"]["value"], last["gain"]["value"], last["gain"]["low"]]).all()


def test_records_without_qualities_have_precisions_alone() -> None:
    frame = sentences().drop(columns=["quality", *QUALITY_ABOVE])
    assert all(point["quality"] is None for point in flagged(frame)["thresholds"])
    partly = sentences().drop(columns="quality_8")
    assert [point["quality"] is None for point in flagged(partly)["thresholds"]] == [False, False, True, False]


def test_only_sentences_with_confidences_are_flagged() -> None:
    frame = sentences(stated=False)
    bare = task_rows("sentences", {"base": frame}, context())[0][0]
    assert "flagging" not in bare
    assert {"correctness", "quality"} <= set(bare["metrics"])
    report = task_rows("sentences", {"conrad": sentences()}, context(granularities={}))[0][0]
    assert "flagging" not in report


@given(st.integers(0, 100), st.integers(1, 20))
def test_a_threshold_keeps_what_equals_it(percent: int, parts: int) -> None:
    """Also where adding up parts misses the threshold by rounding."""
    threshold = percent / 100
    added = sum([threshold / parts] * parts)
    confidence = np.array([threshold, added, threshold - 1e-6, threshold + 1e-6])
    assert above(confidence, threshold).tolist() == [True, True, False, True]


@given(st.lists(st.integers(0, 4), max_size=4))
def test_the_trend_is_told(tenths: list[int]) -> None:
    found = trend([t / 10 for t in tenths])
    pairs = list(itertools.pairwise(tenths))
    if not pairs:
        assert found is None
    elif all(a < b for a, b in pairs):
        assert found == "rises"
    elif any(a > b for a, b in pairs):
        assert found == "falls"
    else:
        assert found == ("flat" if len(set(tenths)) == 1 else "never falls")


def test_rounding_is_no_trend() -> None:
    assert trend([0.3, 0.1 + 0.2]) == "flat"
