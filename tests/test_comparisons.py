"""Comparisons: permutation tests against brute force, Holm, rank intervals, letters, power, pairing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from test_board import board_of, frame, row_of

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.inference.comparisons import (
    detectable,
    holm,
    letter_display,
    permutation_p,
    rank_intervals,
)
from conrad_bench.leaderboards.metrics.base import Metric, Sample
from conrad_bench.leaderboards.metrics.calibration import ECE, Brier
from conrad_bench.leaderboards.metrics.discrimination import AUROC, Pearson
from conrad_bench.leaderboards.pages.tables import markdown

TASK = "mimic_report"


def pair(units: int, size: int = 3, shift: float = 0.1, seed: int = 0) -> tuple[Sample, Sample]:
    """Two methods about the same claims, the second one's confidences shifted."""
    random = np.random.default_rng(seed)
    n = units * size
    correctness, unit = random.random(n), np.repeat(np.arange(units), size)
    first = np.rint(10 * random.random(n)) / 10
    second = np.clip(np.rint(10 * (random.random(n) + shift)) / 10, 0, 1)
    return Sample(first, correctness, unit, units), Sample(second, correctness, unit, units)


@pytest.mark.parametrize("metric", [Brier(), Pearson(), ECE()])
def test_permutation_p_is_that_of_all_swaps(metric: Metric) -> None:
    a, b = pair(8)
    differences = []
    for swap in itertools.product((0, 1), repeat=8):
        rows = [np.array(swap)[side.unit].astype(bool) for side in (a, b)]
        sides = []
        for keep, other, kept, swapped in ((a, b, ~rows[0], rows[1]), (b, a, ~rows[1], rows[0])):
            confidence = np.concatenate([keep.stated()[kept], other.stated()[swapped]])
            correctness = np.concatenate([keep.correctness[kept], other.correctness[swapped]])
            unit = np.concatenate([keep.unit[kept], other.unit[swapped]])
            sides.append(Sample(confidence, correctness, unit, 8))
        first, second = (side.value(metric.statistic(side)) for side in sides)
        differences.append(abs(first - second))
    exact = np.mean(np.array(differences) >= differences[0] - 1e-12)
    (p,) = permutation_p([(a, b)], metric, 8, 4_000, 0)
    assert p == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_auroc_under_swaps_is_that_of_the_swapped_claims(seed: int) -> None:
    random = np.random.default_rng(seed)
    unit = random.integers(0, 12, 90)
    sides = []
    for n in (90, 70):  # the methods' answers differ, and so does their number
        confidence = random.random(n) if seed % 2 else np.rint(4 * random.random(n)) / 4
        sides.append(Sample(confidence, random.integers(0, 2, n).astype(float), unit[:n], 12))
    swaps = random.integers(0, 2, (30, 12)).astype(float)
    plain = Metric.swapped(AUROC(), *sides)(swaps)
    np.testing.assert_allclose(AUROC().swapped(*sides)(swaps), plain, atol=1e-12)


def test_a_p_value_is_never_zero_and_one_for_equal_methods() -> None:
    a, _ = pair(60)
    wrong = Sample(1 - np.rint(a.correctness), a.correctness, a.unit, 60)
    assert permutation_p([(a, wrong), (a, a)], Brier(), 60, 199, 0) == [1 / 200, 1.0]


def test_the_permutation_test_keeps_its_level_for_clustered_claims() -> None:
    """Exchangeable methods whose claims depend on the patient: about 5 of 100 tests reject."""
    rejected = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        unit = np.repeat(np.arange(40), 5)
        chance = np.clip(0.5 + 0.25 * random.standard_normal(40), 0, 1)[unit]
        sides = [np.clip(chance + 0.3 * np.repeat(random.standard_normal(40), 5), 0, 1) for _ in range(2)]
        right = (random.random(200) < chance).astype(float)
        a, b = (Sample(side, right, unit, 40) for side in sides)
        rejected += permutation_p([(a, b)], Brier(), 40, 199, seed)[0] < 0.05
    assert rejected <= 11


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_its_definition(p: list[float]) -> None:
    adjusted = holm(p)
    for alpha in (0.01, 0.05, 0.3):
        rejected = set()
        for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[i] * (len(p) - step) >= alpha:
                break
            rejected.add(i)
        assert rejected == {i for i, q in enumerate(adjusted) if q < alpha}
    assert all(q >= own for q, own in zip(adjusted, p, strict=True))


names = st.integers(2, 6).map(lambda n: [f"m{i}" for i in range(n)])


@settings(deadline=None)
@given(names, st.data())
def test_letters_are_shared_exactly_by_those_that_cannot_be_told_apart(methods: list[str], data: st.DataObject) -> None:
    beats = {pair for pair in itertools.combinations(methods, 2) if data.draw(st.booleans())}
    letters = letter_display(methods, beats)
    for a, b in itertools.combinations(methods, 2):
        assert bool(set(letters[a]) & set(letters[b])) == ((a, b) not in beats)
    assert letters[methods[0]].startswith("a")
    groups = [{m for m in methods if letter in letters[m]} for letter in sorted(set("".join(letters.values())))]
    assert not any(one < other for one in groups for other in groups)


def test_rank_intervals() -> None:
    assert rank_intervals(["a", "b", "c"], {("a", "b"), ("a", "c")}) == {"a": [1, 1], "b": [2, 3], "c": [2, 3]}
    assert rank_intervals(["a", "b", "c"], {("a", "c")}) == {"a": [1, 2], "b": [1, 3], "c": [2, 3]}
    assert rank_intervals(["a"], set()) == {"a": [1, 1]}


def test_the_detectable_difference_is_found_with_that_probability() -> None:
    random = np.random.default_rng(0)
    spread = 0.02
    found = detectable([spread * random.standard_normal(50_000) for _ in range(6)])
    assert found["comparisons"] == 6
    threshold = norm.ppf(1 - 0.05 / 12) * spread
    power = np.mean(np.abs(found["difference"] + spread * random.standard_normal(50_000)) > threshold)
    assert power == pytest.approx(0.8, abs=0.02)
    assert found["low"] <= found["difference"] <= found["high"]


def comparisons(*frames: pd.DataFrame, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = board_of(*frames, **changes)["tasks"][TASK]["comparisons"]
    return found


def test_every_pair_is_compared_by_every_headline_metric() -> None:
    found = comparisons(*(frame(method, n=120) for method in ("conrad", "probe", "verbalized")))
    assert set(found) == {"metrics", "pairs", "ranks", "letters", "power"}
    assert found["metrics"] == ["ece", "pearson", "brier", "correctness"]
    assert len(found["pairs"]) == 3 * 4
    for entry in found["pairs"]:
        assert set(entry) == {"metric", "a", "b", "n_units", "value", "low", "high", "p", "p_holm"}
        assert entry["p"] <= entry["p_holm"] <= 1
        assert entry["n_units"] == 30
    same = [entry for entry in found["pairs"] if entry["metric"] == "correctness"]
    assert all((entry["value"], entry["p_holm"]) == (0.0, 1.0) for entry in same)
    assert found["ranks"]["correctness"] == {method: [1, 3] for method in ("conrad", "probe", "verbalized")}


def test_a_pair_agrees_with_the_difference_to_the_baseline() -> None:
    board = board_of(frame("conrad"), frame("verbalized", unparsed=10))
    entries = {e["metric"]: e for e in board["tasks"][TASK]["comparisons"]["pairs"]}
    for name, difference in row_of(board, "conrad")["difference"]["metrics"].items():
        assert {key: entries[name][key] for key in ("value", "low", "high")} == difference


def test_pairs_are_compared_on_shared_examples_and_the_board_says_so() -> None:
    """Half of each cluster's examples are missing, so the clusters alone would not pair them."""
    kept = frame("conrad")[::2]
    board = board_of(kept, frame("verbalized"))
    half = board_of(kept, frame("verbalized")[::2])
    assert board["tasks"][TASK]["missing"] == {"conrad": 40}
    assert half["tasks"][TASK]["missing"] == {}
    for a, b in zip(*(each["tasks"][TASK]["comparisons"]["pairs"] for each in (board, half)), strict=True):
        assert (a["metric"], a["value"], a["n_units"]) == (b["metric"], b["value"], b["n_units"])
    assert "Examples that a method lacks and others have: `conrad` 40" in markdown(board)


def test_a_clear_best_is_bold_and_a_shared_place_is_not() -> None:
    truth = frame("probe", n=160)
    exact = truth.assign(method="conrad", confidence=np.round(truth["correctness"], 1))
    board = board_of(exact, truth, frame("verbalized", n=160))
    found = board["tasks"][TASK]["comparisons"]
    assert found["ranks"]["ece"]["conrad"] == [1, 1]
    assert found["letters"]["ece"]["conrad"] == "a"
    page = markdown(board)
    line = next(line for line in page.splitlines() if line.startswith("| conrad"))
    assert f"**{row_of(board, 'conrad')['metrics']['ece']['value']:.3f}** [" in line
    assert page.count("**") == 2 * sum(ranks["conrad"] == [1, 1] for ranks in found["ranks"].values())
    assert "### Comparisons on mimic_report" in page
    assert "would have been found here with probability 0.8" in page


def test_methods_without_a_value_have_no_rank() -> None:
    constant = frame("verbalized").assign(confidence=0.8)
    found = comparisons(frame("conrad"), frame("probe"), constant, frame("base", stated=False))
    assert set(found["ranks"]["pearson"]) == {"conrad", "probe"}
    assert set(found["ranks"]["ece"]) == {"conrad", "probe", "verbalized"}
    assert set(found["ranks"]["correctness"]) == {"base", "conrad", "probe", "verbalized"}
    alone = comparisons(frame("conrad"))
    assert alone == {"metrics": [], "pairs": [], "ranks": {}, "letters": {}, "power": {}}
    assert comparisons(frame("conrad", unparsed=80), frame("probe"))["pairs"] == []


def test_methods_that_disagree_about_a_cluster_are_refused() -> None:
    other = frame("probe")
    other.loc[3, "cluster"] = "p7"
    with pytest.raises(DataError, match=r"conrad and probe put the same example into two clusters"):
        board_of(frame("conrad"), other)


@pytest.mark.parametrize("kind", ["percentile", "basic", "bca"])
def test_the_kind_of_interval_is_said_and_keeps_the_values(kind: str) -> None:
    frames = frame("conrad"), frame("verbalized")
    usual, board = board_of(*frames), board_of(*frames, interval=kind)
    a, b = (row_of(each, "conrad")["metrics"] for each in (usual, board))
    assert {name: x["value"] for name, x in a.items()} == {name: x["value"] for name, x in b.items()}
    assert (a["ece"] == b["ece"]) == (kind != "basic")
    assert (a["brier"] == b["brier"]) == (kind == "percentile")
    assert {"percentile": "95 % percentile", "basic": "95 % basic", "bca": "95 % BCa"}[kind] in markdown(board)
