"""Metrics of order agree with scipy and scikit-learn, and with all orders of tied claims written out."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, somersd, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from test_metrics import Rows, rows_binary, sample

from conrad_bench.leaderboards.inference.bootstrap import bootstrap, interval
from conrad_bench.leaderboards.metrics import ranking
from conrad_bench.leaderboards.metrics.base import Metric, Sample
from conrad_bench.leaderboards.metrics.discrimination import AUPRC, AUROC, Kendall, Pearson, SomersD, Spearman
from conrad_bench.leaderboards.metrics.selective import AUGRC, AURC, CoverageAtRisk, ExcessAURC, risk_coverage, workload

quick = settings(deadline=None, max_examples=50)
coarse = st.integers(0, 4).map(lambda c: c / 4)
digits = st.floats(0, 1).map(lambda x: float(f"{x:.9g}"))
mixed = st.lists(st.tuples(coarse | digits, coarse | digits, st.integers(0, 5)), min_size=1, max_size=50)
ORDERED = (Spearman(), AUROC(), AUPRC(), AURC(), ExcessAURC(), AUGRC(), CoverageAtRisk())
few = st.lists(st.tuples(coarse, coarse, st.integers(0, 2)), min_size=1, max_size=6)


def value(metric: Metric, rows: Rows) -> float:
    data = sample(rows)
    return data.value(metric.statistic(data))


@quick
@given(mixed)
def test_rank_correlations_agree_with_scipy(rows: Rows) -> None:
    x, y, _ = (np.array(column) for column in zip(*rows, strict=True))
    found = [value(metric, rows) for metric in (Spearman(), Kendall(), SomersD())]
    if len(set(y)) == 1:
        assert all(math.isnan(each) for each in found)
        return
    if len(set(x)) == 1:
        assert math.isnan(found[0])
        assert math.isnan(found[1])
        assert found[2] == 0
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [spearmanr(x, y).statistic, kendalltau(x, y).statistic, somersd(y, x).statistic]
    assert found == pytest.approx(expected, abs=1e-9)


@quick
@given(rows_binary)
def test_auprc_and_somers_d_agree_with_scikit_learn(rows: Rows) -> None:
    confidence, correctness, _ = zip(*rows, strict=True)
    if 1.0 not in correctness:
        assert math.isnan(value(AUPRC(), rows))
        return
    assert value(AUPRC(), rows) == pytest.approx(average_precision_score(correctness, confidence), abs=1e-12)
    if 0.0 in correctness:
        assert value(SomersD(), rows) == pytest.approx(2 * roc_auc_score(correctness, confidence) - 1, abs=1e-12)


def orders(rows: Rows) -> list[list[float]]:
    """Return the risks in every order that puts no lower confidence before a higher one."""
    found = []
    for order in itertools.permutations(range(len(rows))):
        if all(rows[i][0] >= rows[j][0] for i, j in itertools.pairwise(order)):
            found.append([1 - rows[i][1] for i in order])
    return found


def running(risks: list[float]) -> list[float]:
    return [sum(risks[:k]) / k for k in range(1, len(risks) + 1)]


@quick
@given(few)
def test_selective_metrics_are_means_over_the_orders_of_ties(rows: Rows) -> None:
    n, every = len(rows), orders(rows)
    curve = np.mean([running(risks) for risks in every], axis=0)
    coverage, risk = risk_coverage(sample(rows))
    assert coverage == pytest.approx([k / n for k in range(1, n + 1)])
    assert risk == pytest.approx(curve)
    assert value(AURC(), rows) == pytest.approx(curve.mean())
    best = np.mean(running(sorted(1 - y for _, y, _ in rows)))
    assert value(ExcessAURC(), rows) == pytest.approx(max(curve.mean() - best, 0), abs=1e-12)
    kept = np.concatenate([[0], curve * np.arange(1, n + 1) / n])
    assert value(AUGRC(), rows) == pytest.approx(np.mean((kept[1:] + kept[:-1]) / 2))
    for allowed in (0.0, 0.2, 0.5, 1.0):
        largest = max((k for k in range(1, n + 1) if curve[k - 1] <= allowed + 1e-12), default=0)
        assert value(CoverageAtRisk(risk=allowed), rows) == pytest.approx(largest / n), allowed


@quick
@given(rows_binary)
def test_augrc_is_a_function_of_auroc_and_accuracy(rows: Rows) -> None:
    p = np.mean([y for _, y, _ in rows])
    assume(0 < p < 1)
    expected = (1 - value(AUROC(), rows)) * p * (1 - p) + (1 - p) ** 2 / 2
    assert value(AUGRC(), rows) == pytest.approx(expected, abs=1e-12)


@quick
@given(mixed, st.data())
def test_all_ways_to_sum_by_level_give_the_same_numbers(rows: Rows, data: st.DataObject) -> None:
    """Claims are gathered, or summed by a sparse or a dense matrix; in blocks of any size."""
    weights = np.array([data.draw(st.lists(st.integers(0, 3), min_size=6, max_size=6)) for _ in range(3)], float)
    assume((weights.sum(axis=1) > 0).all())
    found = []
    # Pairs of unit and level for each claim that make a dense matrix, claims by level that make any, cells of a block.
    for dense, tied, cells in ((0, 10**9, 2**15), (0, 10**9, 21), (0, 0, 2**15), (10**9, 0, 2**15)):
        with pytest.MonkeyPatch.context() as patch:
            for name, number in (("_DENSE", dense), ("_TIED", tied), ("_BLOCK_CELLS", cells)):
                patch.setattr(ranking, name, number)
            each = sample(rows)
            found.append([metric.statistic(each)(weights) for metric in ORDERED])
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, atol=1e-9)


def test_linearised_replicates_have_the_interval_of_exact_ones() -> None:
    random = np.random.default_rng(0)
    unit = np.repeat(np.arange(80), 4)
    x = np.rint(10 * random.random(320)) / 10
    y = np.clip(0.5 * x + 0.5 * random.random(320), 0, 1)
    data = Sample(x, y, unit, 80)
    fast = [interval(each) for each in bootstrap([Kendall().statistic(data), SomersD().statistic(data)], 80, 2_000, 0)]
    generator = np.random.default_rng(1)
    exact = []
    for _ in range(400):
        rows = np.concatenate([np.arange(4 * c, 4 * c + 4) for c in generator.integers(80, size=80)])
        exact.append((kendalltau(x[rows], y[rows]).statistic, somersd(y[rows], x[rows]).statistic))
    for (low, high), drawn in zip(fast, np.array(exact).T, strict=True):
        assert (low, high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))), abs=0.02)


def test_tiny_confidences_are_not_ties() -> None:
    """Products of many probabilities are far below a billionth; their order still counts."""
    rows: Rows = [(10.0 ** -(30 + i), float(i < 5), i % 6) for i in range(10)]
    assert value(AUROC(), rows) == value(AUPRC(), rows) == 1.0
    assert value(AUROC(), [(0.1 + 0.2, 0.0, 0), (0.3, 1.0, 1)]) == 0.5


def test_a_hundred_thousand_claims() -> None:
    random = np.random.default_rng(0)
    x = random.random(100_000)
    y = (random.random(100_000) < x).astype(float)
    data = Sample(x, y, np.arange(100_000), 100_000)
    assert data.value(AUROC().statistic(data)) == pytest.approx(roc_auc_score(y, x), abs=1e-12)
    assert data.value(AUPRC().statistic(data)) == pytest.approx(average_precision_score(y, x), abs=1e-12)
    assert data.value(Spearman().statistic(data)) == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)
    assert data.value(Kendall().statistic(data)) == pytest.approx(kendalltau(x, y).statistic, abs=1e-9)
    assert data.value(Pearson().statistic(data)) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    order = np.argsort(-x)
    slow = np.mean(np.cumsum(1 - y[order]) / np.arange(1, 100_001))
    assert data.value(AURC().statistic(data)) == pytest.approx(slow, abs=1e-9)


@quick
@given(few)
def test_the_workload_curve_is_the_mean_over_all_orders_of_responses(rows: Rows) -> None:
    confidence, correctness, example = (np.array(column) for column in zip(*rows, strict=True))
    found = Sample(confidence, correctness, example, 3, example)
    responses = sorted(set(example))
    lowest = [confidence[example == e].min() for e in responses]
    errors = [(1 - correctness[example == e]).sum() for e in responses]
    read, caught, perfect = workload(found)
    assert read.tolist() == pytest.approx([(k + 1) / len(responses) for k in range(len(responses))])
    if sum(errors) == 0:
        assert np.isnan(caught).all()
        return
    orders = [
        order
        for order in itertools.permutations(range(len(responses)))
        if all(lowest[a] <= lowest[b] for a, b in itertools.pairwise(order))
    ]
    expected = np.mean([np.cumsum([errors[i] for i in order]) for order in orders], axis=0) / sum(errors)
    assert caught.tolist() == pytest.approx(expected.tolist())
    best = max(itertools.permutations(errors), key=lambda order: np.cumsum(order).tolist())
    assert perfect.tolist() == pytest.approx((np.cumsum(best) / sum(errors)).tolist())
    assert (caught <= perfect + 1e-12).all()
