"""Comparisons: tests against brute force and scipy, Holm, rank intervals, letters, power, pairing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_rel
from test_board import board_of, frame, row_of

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.inference.bootstrap import Difference, Estimates
from conrad_bench.leaderboards.inference.comparisons import (
    detectable,
    holm,
    letter_display,
    rank_intervals,
)
from conrad_bench.leaderboards.metrics.base import CORRECTNESS, Metric, Sample
from conrad_bench.leaderboards.metrics.calibration import ECE, Brier, DebiasedECE
from conrad_bench.leaderboards.metrics.discrimination import AUROC, Pearson
from conrad_bench.leaderboards.pages.summary import sentences
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


METRICS = (Brier(), Pearson(), ECE(), AUROC(), CORRECTNESS)


def contrast(a: Sample, b: Sample, metric: Metric, replicates: int = 400, seed: int = 0) -> Difference:
    return Estimates([(a, metric), (b, metric)], a.units, replicates, seed).test(a, b, metric)


def slow(metric: Metric, sample: Sample, units: list[int], groups: np.ndarray[Any, Any]) -> float:
    """A metric on the rows of the drawn units, copied out one by one; the groups of ECE are the sample's own."""
    rows = np.concatenate([np.flatnonzero(sample.unit == unit) for unit in units])
    c, y, g = sample.stated()[rows], sample.correctness[rows], groups[rows]
    if isinstance(metric, ECE):
        return float(sum(abs((c[g == v] - y[g == v]).sum()) for v in np.unique(g)) / len(c))
    if isinstance(metric, DebiasedECE):
        total, n, residual = 0.0, 0, sample.stated() - sample.correctness
        for v in np.unique(g):
            inside = groups == v
            if len(np.unique(sample.unit[inside])) > 1:
                each = [(sample.unit == unit) & inside for unit in units]
                sums, sizes = np.array([residual[m].sum() for m in each]), np.array([m.sum() for m in each])
                apart = sizes.sum() ** 2 - (sizes**2).sum()
                n += sizes.sum()
                total += sizes.sum() * (sums.sum() ** 2 - (sums**2).sum()) / apart if apart else 0.0
        return float(np.copysign(np.sqrt(abs(total / n)), total))
    if isinstance(metric, Pearson):
        return float(np.corrcoef(c, y)[0, 1])
    return float(np.mean((c - y) ** 2))


@pytest.mark.parametrize("metric", [Brier(), Pearson(), ECE(), DebiasedECE()])
def test_a_test_is_t_on_the_standard_error_of_resampled_rows(metric: Metric) -> None:
    """Against rows that are copied out draw by draw, numpy's deviation and scipy's t."""
    a, b = pair(12)
    found = contrast(a, b, metric, 60, 5)
    generator = np.random.default_rng(5)
    draws = [generator.integers(12, size=12).tolist() for _ in range(60)]
    power = (lambda x: x * abs(x)) if metric.squared else (lambda x: x)
    root = (lambda x: np.copysign(np.sqrt(abs(x)), x)) if metric.squared else (lambda x: x)
    values = [
        power(slow(metric, a, units, a.groups)) - power(slow(metric, b, units, b.groups))
        for units in (list(range(12)), *draws)
    ]
    error = np.std(values[1:], ddof=1)
    assert found.error == pytest.approx(error)
    assert found.value == pytest.approx(root(values[0]))
    assert found.p == pytest.approx(2 * t.sf(abs(values[0]) / error, 11))
    ends = [root(end) for end in t.interval(0.95, 11, values[0], error)]
    assert (found.low, found.high) == pytest.approx(ends)


def test_with_a_mean_the_test_is_the_paired_t_test() -> None:
    a, b = pair(200, size=1)
    found = contrast(a, b, Brier(), 20_000)
    losses = [(side.stated() - side.correctness) ** 2 for side in (a, b)]
    # Both are in the order of their units, one claim each.
    expected = ttest_rel(*losses)
    assert found.p == pytest.approx(expected.pvalue, rel=0.1, abs=1e-6)
    ends = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=2e-3)


worlds = st.tuples(st.integers(8, 40), st.integers(1, 4), st.floats(-0.3, 0.3), st.integers(0, 2**20))


@settings(deadline=None, max_examples=60)
@given(worlds, st.sampled_from([Brier(), Pearson(), ECE(), DebiasedECE(), AUROC(), CORRECTNESS]))
def test_p_and_interval_never_contradict_each_other(world: tuple[int, int, float, int], metric: Metric) -> None:
    units, size, shift, seed = world
    a, b = pair(units, size, shift, seed)
    if metric.binary:
        a, b = (Sample(side.stated(), np.rint(side.correctness), side.unit, units) for side in (a, b))
    found = contrast(a, b, metric, 50, seed)
    if np.isnan(found.p):
        assert np.isnan([found.low, found.high, found.error]).all()
        return
    assert 0 <= found.p <= 1
    assert found.low <= found.value <= found.high
    if abs(found.p - 0.05) > 1e-9:
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_equal_methods_do_not_differ_and_the_order_of_a_pair_changes_the_sign_alone() -> None:
    a, b = pair(60)
    for metric in METRICS[:4]:
        if metric.binary:
            continue
        same, there, back = contrast(a, a, metric), contrast(a, b, metric), contrast(b, a, metric)
        assert (same.value, same.low, same.high, same.error, same.p) == (0.0, 0.0, 0.0, 0.0, 1.0)
        assert (there.value, there.low, there.high) == (-back.value, -back.high, -back.low)
        assert there.p == back.p


def test_what_cannot_be_told_has_no_p() -> None:
    """A difference that is the same in every replicate says nothing of how far the truth may lie from it."""
    unit = np.arange(40)
    a, b = (Sample(np.full(40, c), np.ones(40), unit, 40) for c in (0.99, 0.5))
    found = contrast(a, b, Brier())
    assert found.value == pytest.approx(0.01**2 - 0.25)
    assert np.isnan([found.low, found.high, found.p]).all()
    few = tuple(Sample(np.linspace(0.1, 0.9, 7) ** k, np.linspace(0, 1, 7), np.arange(7), 7) for k in (1, 2))
    assert np.isnan(contrast(*few, Brier()).p)


def claims(metric: str, seed: int, level_b: float = 0.55) -> tuple[Sample, Sample]:
    """Two methods with the same correlation with correctness, one of them far less confident."""
    random = np.random.default_rng(seed)
    unit = np.repeat(np.arange(60), 3)
    y = np.clip(0.5 + 0.1 * random.standard_normal(60)[unit] + 0.17 * random.standard_normal(180), 0, 1)
    z = (y - y.mean()) / y.std()
    sides = [
        np.clip(level + 0.05 * (0.3 * z + np.sqrt(1 - 0.3**2) * random.standard_normal(180)), 0, 1)
        for level in (0.9, level_b)
    ]
    if metric == "ece":
        sides = [np.clip(y + shift + 0.01 * random.standard_normal(180), 0, 1) for shift in (0.1, -0.1)]
    a, b = (Sample(side, y, unit, 60) for side in sides)
    return a, b


@pytest.mark.parametrize("metric", [Pearson(), ECE()])
def test_the_test_keeps_its_level_where_confidences_are_on_unlike_scales(metric: Metric) -> None:
    """Equal Pearson with confidences around .9 and .55; equal ECE above and below correctness: some 5 of 100 reject."""
    rejected = sum(contrast(*claims(metric.name, seed), metric, 200, seed).p < 0.05 for seed in range(100))
    assert 1 <= rejected <= 11


def test_a_true_difference_of_correlation_is_found_on_unlike_scales() -> None:
    found = 0
    for seed in range(20):
        a, b = claims("pearson", seed)
        z = (b.correctness - b.correctness.mean()) / b.correctness.std()
        better = Sample(np.clip(b.stated() + 0.06 * z, 0, 1), b.correctness, b.unit, 60)
        found += contrast(a, better, Pearson(), 200, seed).p < 0.05
    assert found >= 16


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_leaves_out_what_is_unknown(p: list[float]) -> None:
    spread = [value for each in p for value in (each, float("nan"))]
    assert holm(spread)[::2] == holm(p)
    assert np.isnan(holm(spread)[1::2]).all()


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
    """Estimates that scatter with an estimated standard error, tested as the pairs are."""
    random = np.random.default_rng(0)
    freedom, spread = 24, 0.02
    found = detectable([Difference(0.0, -1.0, 1.0, spread, 1.0, freedom)] * 6)
    assert found["comparisons"] == 6
    errors = spread * np.sqrt(random.chisquare(freedom, 50_000) / freedom)
    values = found["difference"] + spread * random.standard_normal(50_000)
    power = np.mean(2 * t.sf(np.abs(values) / errors, freedom) < 0.05 / 6)
    assert power == pytest.approx(0.8, abs=0.02)
    assert found["low"] <= found["difference"] <= found["high"]
    nan = float("nan")
    assert detectable([Difference(0.0, nan, nan, nan, nan, 3)]) == {}


def comparisons(*frames: pd.DataFrame, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = board_of(*frames, **changes)["tasks"][TASK]["comparisons"]
    return found


def test_every_pair_is_compared_by_every_headline_metric() -> None:
    found = comparisons(*(frame(method, n=120) for method in ("conrad", "probe", "verbalized")))
    assert set(found) == {"metrics", "pairs", "ranks", "letters", "power"}
    assert found["metrics"] == ["brier", "ece_debiased", "ece", "somers_d", "correctness", "pearson"]
    assert len(found["pairs"]) == 3 * 6
    for entry in found["pairs"]:
        assert set(entry) == {"metric", "a", "b", "n_units", "value", "low", "high", "se", "p", "p_holm"}
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
    assert found["ranks"]["brier"]["conrad"] == [1, 1]
    assert found["letters"]["brier"]["conrad"] == "a"
    page = markdown(board)
    line = next(line for line in page.splitlines() if line.startswith("| conrad | 1 |"))
    assert f"**{row_of(board, 'conrad')['metrics']['brier']['value']:.3f}** [" in line
    shown = ("brier", "ece_debiased", "ece", "somers_d")  # Pearson's r stands behind a click
    bold = page.replace(f"**{next(sentences(board))}**", "").count("**")
    assert bold == 2 * sum(found["ranks"][metric]["conrad"] == [1, 1] for metric in shown)
    assert "<summary>Ranks and comparisons on mimic_report</summary>" in page
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
    few = comparisons(frame("conrad", n=20), frame("probe", n=20))
    assert all(entry["p"] is entry["p_holm"] is entry["low"] is entry["se"] is None for entry in few["pairs"][:4])
    assert set(map(tuple, few["ranks"]["brier"].values())) == {(1, 2)}
    assert few["power"] == {}


def test_methods_that_disagree_about_a_cluster_are_refused() -> None:
    other = frame("probe")
    other.loc[3, "cluster"] = "p7"
    with pytest.raises(DataError, match=r"conrad and probe put the same example into two clusters"):
        board_of(frame("conrad"), other)


@pytest.mark.parametrize("kind", ["percentile", "basic", "bca"])
def test_the_kind_of_interval_is_said_and_keeps_the_values(kind: str) -> None:
    frames = frame("conrad", n=240), frame("verbalized", n=240)
    usual, board = board_of(*frames), board_of(*frames, interval=kind)
    a, b = (row_of(each, "conrad")["metrics"] for each in (usual, board))
    assert {name: x["value"] for name, x in a.items()} == {name: x["value"] for name, x in b.items()}
    for name in ("ece", "ece_debiased", "coverage_at_risk"):
        assert a[name] == b[name]
    assert (a["brier"] == b["brier"]) == (kind == "percentile")
    pairs = (each["tasks"][TASK]["comparisons"]["pairs"] for each in (usual, board))
    assert next(pairs) == next(pairs)
    few = [row_of(board_of(frame("conrad"), interval=each), "conrad") for each in ("percentile", kind)]
    assert few[0]["metrics"] == few[1]["metrics"]
    assert {"percentile": "95 % percentile", "basic": "95 % basic", "bca": "95 % BCa"}[kind] in markdown(board)
