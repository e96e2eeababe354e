"""Metrics agree with independent implementations and hold their properties."""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import brier_score_loss, roc_auc_score

from conrad_bench.leaderboards.metrics.base import Metric, Quality, Sample, by_level, collapse, groups
from conrad_bench.leaderboards.metrics.catalogue import BUILT_IN
from conrad_bench.registry import Registry

METRICS = tuple(metric for metric in BUILT_IN if metric.per == "claim")
BY_NAME = {metric.name: metric for metric in METRICS}
Rows = list[tuple[float, float, int]]  # confidence, correctness, unit

tenths = st.integers(0, 10).map(lambda c: c / 10)
rows_of_tenths = st.lists(st.tuples(tenths, st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=60)
digits = st.floats(0, 1).map(lambda x: float(f"{x:.9g}"))  # nearer ones are ties to us, and not to other packages
rows_continuous = st.lists(st.tuples(digits, digits, st.integers(0, 5)), min_size=1, max_size=60)
rows_binary = st.lists(
    st.tuples(digits | tenths, st.sampled_from((0.0, 1.0)), st.integers(0, 5)), min_size=1, max_size=60
)
all_rows = rows_of_tenths | rows_continuous | rows_binary


def sample(rows: Rows, units: int = 6) -> Sample:
    confidence, correctness, unit = (np.array(column) for column in zip(*rows, strict=True))
    return Sample(confidence.astype(float), correctness.astype(float), unit.astype(np.int64), units)


def value(name: str, rows: Rows) -> float:
    data = sample(rows)
    return data.value(BY_NAME[name].statistic(data))


def slow_ece(rows: Rows) -> float:
    """ECE as its definition says, in plain Python with exact bin edges."""
    levels = {round(c * 10**9) for c, _, _ in rows}
    members: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for c, y, _ in rows:
        level = round(c * 10**9)
        key = level if len(levels) <= 21 and 2 * len(levels) <= len(rows) else max(1, math.ceil(Fraction(level, 10**8)))
        members[key].append((c, y))
    return sum(
        len(m) / len(rows) * abs(sum(c for c, _ in m) / len(m) - sum(y for _, y in m) / len(m))
        for m in members.values()
    )  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(all_rows)
def test_ece_is_its_definition(rows: Rows) -> None:
    assert value("ece", rows) == pytest.approx(slow_ece(rows), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(rows_binary)
def test_brier_and_auroc_agree_with_scikit_learn(rows: Rows) -> None:
    confidence, correctness, _ = zip(*rows, strict=True)
    assert value("brier", rows) == pytest.approx(brier_score_loss(correctness, confidence, pos_label=1), abs=1e-12)
    if len(set(correctness)) == 1:
        assert math.isnan(value("auroc", rows))
    else:
        assert value("auroc", rows) == pytest.approx(roc_auc_score(correctness, confidence), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(all_rows)
def test_pearson_agrees_with_scipy(rows: Rows) -> None:
    confidence, correctness, _ = zip(*rows, strict=True)
    ranges = max(confidence) - min(confidence), max(correctness) - min(correctness)
    assume(min(ranges) > 1e-6 or min(ranges) == 0)  # between, scipy warns of a nearly constant input
    got = value("pearson", rows)
    if min(ranges) == 0:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(pearsonr(confidence, correctness).statistic, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(all_rows)
def test_mean_correctness(rows: Rows) -> None:
    assert value("correctness", rows) == pytest.approx(math.fsum(y for _, y, _ in rows) / len(rows), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(all_rows, st.randoms())
def test_the_order_of_rows_changes_no_digit(rows: Rows, random: Random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    weights = np.arange(18.0).reshape(3, 6)
    for metric in METRICS:
        a, b = sample(rows), sample(shuffled)
        np.testing.assert_array_equal(metric.statistic(a)(weights), metric.statistic(b)(weights))


@settings(deadline=None, max_examples=50)
@given(rows_binary)
def test_values_are_in_range_and_do_not_depend_on_the_clusters(rows: Rows) -> None:
    split = [(c, y, i) for i, (c, y, _) in enumerate(rows)]
    for metric in METRICS:
        together, apart = sample(rows), sample(split, len(rows))
        got = together.value(metric.statistic(together))
        if metric.name != "ece_debiased":  # its correction is that of dependent claims
            assert got == pytest.approx(apart.value(metric.statistic(apart)), abs=1e-12, nan_ok=True)
        assert math.isnan(got) or metric.range[0] <= got <= metric.range[1] + 1e-12


UNLIKE_COPIES = {"kendall", "somers_d", "ece_mass", "smece", "aurc", "eaurc", "ece_debiased", "brier_mcb", "brier_dsc"}
"""Linearised replicates, or bins, a width and an order that look at the copies anew."""

GROUPED = {"ece", "mce"}
"""By level or in bins, as the values of the whole sample repeat or not."""


@settings(deadline=None, max_examples=50)
@given(rows_of_tenths | rows_binary, st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_a_weight_is_a_number_of_copies(rows: Rows, copies: list[int]) -> None:
    """A statistic under weights is the metric of the sample with each unit's rows repeated."""
    copies[rows[0][2]] = max(copies[rows[0][2]], 1)  # something is left
    repeated = [row for row in rows for _ in range(copies[row[2]])]
    data = sample(rows)
    unlike = set(UNLIKE_COPIES)
    if by_level(data.stated()) != by_level(sample(repeated).stated()):
        unlike |= GROUPED  # the groups are those of the sample: levels here, bins there
    binary = {y for _, y, _ in rows} <= {0.0, 1.0}
    for metric in METRICS:
        if (metric.binary and not binary) or metric.name in unlike:
            continue
        weighted = float(metric.statistic(data)(np.array([copies], float))[0])
        assert weighted == pytest.approx(value(metric.name, repeated), abs=1e-7, nan_ok=True)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 4)), min_size=1, max_size=12, unique_by=lambda t: t[0]))
def test_perfectly_calibrated_data_have_ece_zero(levels: list[tuple[int, int]]) -> None:
    rows: Rows = []
    for level, repeat in levels:
        rows += [(level / 10, 1.0, 0)] * (level * repeat) + [(level / 10, 0.0, 1)] * ((10 - level) * repeat)
    assert value("ece", rows) == pytest.approx(0, abs=1e-12)


def test_bins_are_closed_on_the_right() -> None:
    confidence = np.concatenate([np.arange(11) / 10, np.linspace(0.001, 0.999, 500)])
    assert not by_level(confidence)
    assert groups(confidence)[:11].tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    # 0.1 + 0.2 is a little above 0.3 in binary; both mean three tenths.
    assert groups(np.append(confidence, 0.1 + 0.2))[-1] == 2
    assert groups(np.append(confidence, 0.3000001))[-1] == 3


def test_up_to_21_distinct_confidences_are_levels() -> None:
    twenties = np.repeat(np.arange(21) / 20, 2)
    assert by_level(twenties)
    assert groups(twenties).tolist() == np.repeat(np.arange(21), 2).tolist()
    assert not by_level(np.append(twenties, [0.51, 0.51]))
    assert groups(np.array([0.3, 0.1 * 3])).tolist() == [0, 0]


def test_values_that_do_not_repeat_are_no_levels() -> None:
    """Each claim its own group would make an error of every claim; and one claim more would make another number."""
    random = np.random.default_rng(0)
    confidence, right = random.uniform(0.4, 0.9, 60), (random.random(60) < 0.65).astype(float)
    found = []
    for n in (20, 21, 22, 23):
        data = Sample(confidence[:n], right[:n], np.arange(n), n)
        assert not by_level(data.stated())
        found.append(data.value(BY_NAME["ece"].statistic(data)))
    assert max(np.abs(np.diff(found))) < 0.06
    assert not by_level(np.append(confidence[:20], confidence[0]))
    assert by_level(np.tile(confidence[:20], 2))


def test_one_claim_and_no_claim() -> None:
    assert value("ece", [(0.9, 0.4, 0)]) == pytest.approx(0.5)
    assert value("brier", [(0.9, 0.4, 0)]) == pytest.approx(0.25)
    assert math.isnan(value("pearson", [(0.9, 0.4, 0)]))
    empty = Sample(np.empty(0), np.empty(0), np.empty(0, np.int64), 3)
    for metric in METRICS:
        assert math.isnan(empty.value(metric.statistic(empty)))


def test_a_method_without_confidences_has_a_mean_correctness_alone() -> None:
    data = Sample(None, np.array([0.0, 1.0]), np.array([0, 1]), 2)
    for metric in METRICS:
        if metric.confidence:
            with pytest.raises(ValueError, match="states none"):
                data.value(metric.statistic(data))
        else:
            assert data.value(metric.statistic(data)) == (0.25 if metric.name == "brier_unc" else 0.5)


def test_quality_is_a_mean_over_whole_responses() -> None:
    assert [metric.name for metric in BUILT_IN if metric.per == "example"] == ["quality"]
    data = Sample(None, np.array([0.25, 1.0, 0.0]), np.array([0, 1, 1]), 2)
    statistic = Quality().statistic(data)
    assert data.value(statistic) == pytest.approx(1.25 / 3)
    assert statistic(np.array([[2.0, 0.0], [1.0, 3.0], [0.0, 0.0]])) == pytest.approx(
        [0.25, 3.25 / 7, np.nan], nan_ok=True
    )


def test_collapse() -> None:
    assert collapse(np.full(7, 0.8)) == {"distinct": 1, "entropy": 0.0, "largest_mass": 1.0}
    even = collapse(np.repeat([0.0, 0.5, 1.0], 4))
    assert even == pytest.approx({"distinct": 3, "entropy": math.log(3), "largest_mass": 1 / 3})


def test_the_built_in_metrics_come_through_the_same_door() -> None:
    registry = Registry()
    found = registry.available("metrics")
    assert set(found) == {metric.name for metric in BUILT_IN}
    assert not registry.failures
    for metric in BUILT_IN:
        assert isinstance(metric, Metric)
        assert found[metric.name] is type(metric)
        assert metric.label
        assert metric.source
        assert metric.range[0] < metric.range[1]
        assert type(metric).__doc__
    headline = [metric.name for metric in BUILT_IN if metric.headline]
    assert headline == [
        "brier",
        "skill",
        "ece_debiased",
        "ece",
        "auroc",
        "somers_d",
        "correctness",
        "quality",
        "pearson",
    ]


def test_skill_is_measured_against_the_mean_of_the_same_claims() -> None:
    random = np.random.default_rng(0)
    y = random.random(200)
    c = np.clip(y + 0.1 * random.standard_normal(200), 0, 1)
    rows: Rows = list(zip(c.tolist(), y.tolist(), [0] * 200, strict=True))
    assert value("skill", rows) == pytest.approx(1 - np.mean((c - y) ** 2) / np.var(y))
    mean = [(float(y.mean()), correct, 0) for correct in y.tolist()]
    assert value("skill", mean) == pytest.approx(0, abs=1e-12)
    assert value("skill", [(correct, correct, 0) for correct in y.tolist()]) == 1
    assert np.isnan(value("skill", [(0.5, 0.7, 0), (0.9, 0.7, 1)]))


def test_nan_is_refused() -> None:
    nan, one = np.array([0.5, np.nan]), np.array([0.5, 1.0])
    for confidence, correctness in ((nan, one), (one, nan), (None, nan)):
        with pytest.raises(ValueError, match="NaN"):
            Sample(confidence, correctness, np.array([0, 1]), 2)
