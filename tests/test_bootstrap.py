"""Bootstrap: agreement with a slow loop, pairing, coverage of clusters, and undefined replicates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from conrad_bench.leaderboards.inference.bootstrap import IntervalKind, bootstrap, interval, jackknife, weight_blocks
from conrad_bench.leaderboards.metrics.base import CORRECTNESS, FloatArray, Sample
from conrad_bench.leaderboards.metrics.calibration import ECE, Brier
from conrad_bench.leaderboards.metrics.discrimination import AUROC, Pearson

ece, pearson, mean_correctness = ECE().statistic, Pearson().statistic, CORRECTNESS.statistic
METRICS = (ECE(), Pearson(), Brier(), AUROC(), CORRECTNESS)


def clustered(clusters: int = 60, size: int = 8, seed: int = 3) -> Sample:
    """Claims whose correctness is shared within a cluster for the most part."""
    random = np.random.default_rng(seed)
    unit = np.repeat(np.arange(clusters), size)
    chance = np.clip(0.5 + 0.3 * random.standard_normal(clusters)[unit], 0, 1)
    confidence = np.rint(10 * np.clip(chance + 0.2 * random.standard_normal(len(unit)), 0, 1)) / 10
    return Sample(confidence, (random.random(len(unit)) < chance).astype(float), unit, clusters)


def test_replicates_agree_with_a_loop_over_resampled_rows() -> None:
    """The rows of the drawn clusters, copied out one by one, give the replicate (groups of ECE are levels here)."""
    data = clustered(12, 5)
    names = [metric.name for metric in METRICS]
    fast = bootstrap([metric.statistic(data) for metric in METRICS], 12, 40, 7, len(data))
    generator = np.random.default_rng(7)
    for b in range(40):
        rows = np.concatenate([np.flatnonzero(data.unit == c) for c in generator.integers(12, size=12)])
        x, y = data.stated()[rows], data.correctness[rows]
        slow = {
            "ece": sum(abs((x[x == v] - y[x == v]).sum()) for v in np.unique(x)) / len(x),
            "pearson": np.corrcoef(x, y)[0, 1],
            "brier": np.mean((x - y) ** 2),
            "auroc": np.mean([(p > q) + 0.5 * (p == q) for p in x[y == 1] for q in x[y == 0]]),
            "correctness": y.mean(),
        }
        assert fast[:, b] == pytest.approx([slow[name] for name in names], abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32), st.integers(1, 60))
def test_weights_count_draws_whatever_the_block(units: int, replicates: int, seed: int, block: int) -> None:
    weights = np.concatenate(list(weight_blocks(units, replicates, seed, block)))
    assert weights.shape == (replicates, units)
    assert (weights.sum(axis=1) == units).all()
    np.testing.assert_array_equal(weights, next(weight_blocks(units, replicates, seed, replicates)))


def test_weights_are_multinomial() -> None:
    weights = np.concatenate(list(weight_blocks(20, 20_000, 0, 5_000)))
    assert weights.mean(axis=0) == pytest.approx(np.ones(20), abs=0.03)
    assert weights.var(axis=0) == pytest.approx(np.full(20, 0.95), abs=0.05)
    assert np.cov(weights[:, 0], weights[:, 1])[0, 1] == pytest.approx(-1 / 20, abs=0.02)


def test_the_seed_decides_and_methods_share_the_weights() -> None:
    data = clustered()
    statistic = ece(data)
    first = bootstrap([statistic, pearson(data), statistic], data.units, 500, 1)
    np.testing.assert_array_equal(first[0], first[2])
    # Sums beside others are one product of matrices, whose last digits depend on its width.
    np.testing.assert_allclose(first[0], bootstrap([statistic], data.units, 500, 1)[0], atol=1e-15)
    assert (first[0] != bootstrap([statistic], data.units, 500, 2)[0]).any()


def test_clusters_widen_the_interval_and_leave_the_value() -> None:
    data = clustered()
    apart = Sample(data.confidence, data.correctness, np.arange(len(data)), len(data))
    widths = []
    for sample in (data, apart):
        low, high = interval(bootstrap([mean_correctness(sample)], sample.units, 4_000, 0)[0])
        widths.append(high - low)
        assert sample.value(mean_correctness(sample)) == pytest.approx(data.correctness.mean())
    assert widths[0] > 1.3 * widths[1]


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    random = np.random.default_rng(0)
    values = random.random(2_000)
    sample = Sample(None, values, np.arange(2_000), 2_000)
    low, high = interval(bootstrap([mean_correctness(sample)], 2_000, 10_000, 0)[0])
    half = 1.96 * values.std() / math.sqrt(2_000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)


def test_clustered_intervals_cover_and_iid_intervals_do_not() -> None:
    """Mean of clustered data whose truth is 0.5: nominal 95 % against far less when clusters are ignored."""
    random = np.random.default_rng(0)
    covered = np.zeros(2)
    for trial in range(120):
        centre = 0.5 + 0.2 * random.uniform(-1, 1, 50)
        values = np.clip(np.repeat(centre, 10) + 0.1 * random.standard_normal(500), 0, 1)
        for kind, unit in enumerate((np.repeat(np.arange(50), 10), np.arange(500))):
            sample = Sample(None, values, unit, int(unit.max()) + 1)
            low, high = interval(bootstrap([mean_correctness(sample)], sample.units, 400, trial)[0])
            covered[kind] += low <= 0.5 <= high
    assert covered[0] / 120 > 0.88
    assert covered[1] / 120 < 0.75


def test_undefined_replicates() -> None:
    def rate(undefined: int) -> FloatArray:
        return np.concatenate([np.full(undefined, np.nan), np.linspace(0, 1, 100 - undefined)])

    assert interval(rate(0)) == pytest.approx((0.025, 0.975))
    assert interval(rate(50)) == pytest.approx((0.025, 0.975))
    assert all(math.isnan(end) for end in interval(rate(51)))
    assert all(math.isnan(end) for end in interval(rate(100)))


def test_replicates_that_are_all_the_same_have_no_interval() -> None:
    assert all(math.isnan(end) for end in interval(np.full(100, 0.3)))


@pytest.mark.parametrize("units", [8, 12.5, 30, 300])
def test_intervals_reach_as_far_as_t_for_few_units(units: float) -> None:
    """Normal replicates with the spread that those of a mean have, the deviation's root of (n - 1) / n."""
    drawn = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000) * math.sqrt((units - 1) / units)
    low, high = interval(drawn, effective=units)
    assert (low, high) == pytest.approx((stats.t.ppf(0.025, units - 1), stats.t.ppf(0.975, units - 1)), rel=1e-3)
    assert interval(drawn)[1] == pytest.approx(1.96 * math.sqrt((units - 1) / units), rel=1e-3)


def test_intervals_cover_with_few_patients() -> None:
    """Means of 10 patients: percentiles as they are cover 0.90, widened ones 0.95."""
    covered = np.zeros(2)
    for trial in range(600):
        values = np.random.default_rng(trial).standard_normal(10)
        sample = Sample(None, values, np.arange(10), 10)
        drawn = bootstrap([mean_correctness(sample)], 10, 400, trial)[0]
        for kind, units in enumerate((math.inf, sample.effective)):
            low, high = interval(drawn, effective=units)
            covered[kind] += low <= 0 <= high
    assert covered[0] / 600 < 0.92
    assert 0.93 < covered[1] / 600 < 0.97


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_the_effective_number_of_units_is_kish(sizes: list[int]) -> None:
    unit = np.repeat(np.arange(len(sizes)), sizes)
    sample = Sample(None, np.zeros(len(unit)), unit, len(sizes) + 2)
    assert sample.effective == pytest.approx(sum(sizes) ** 2 / sum(size * size for size in sizes))
    assert 1 <= sample.effective <= len(sizes) + 1e-9
    assert Sample(None, np.empty(0), np.empty(0, np.int64), 3).effective == 0


def test_constant_confidences_have_no_correlation_in_any_replicate() -> None:
    unit = np.arange(30)
    sample = Sample(np.full(30, 0.8), np.linspace(0, 1, 30), unit, 30)
    assert np.isnan(bootstrap([pearson(sample)], 30, 50, 0)).all()
    # One claim differs: the replicates without it, about exp(-1) of them, are undefined.
    confidence = np.where(unit == 0, 0.3, 0.8)
    sample = Sample(confidence, np.linspace(0, 1, 30), unit, 30)
    undefined = np.isnan(bootstrap([pearson(sample)], 30, 5_000, 0)).mean()
    assert undefined == pytest.approx((29 / 30) ** 30, abs=0.03)


@pytest.mark.parametrize(("kind", "name"), [("percentile", "percentile"), ("basic", "basic"), ("bca", "BCa")])
def test_intervals_agree_with_scipy(kind: IntervalKind, name: str) -> None:
    """From scipy's own replicates of a skewed statistic, a correlation of 25 claims."""
    random = np.random.default_rng(4)
    x = np.clip(random.random(25), 0, 1)
    y = np.clip(x + 0.1 * random.standard_normal(25), 0, 1)
    found = stats.bootstrap(
        (x, y),
        lambda a, b: np.corrcoef(a, b)[0, 1],
        paired=True,
        n_resamples=1_000,
        method=name,
        vectorized=False,
        rng=0,
    )
    sample = Sample(x, y, np.arange(25), 25)
    statistic = pearson(sample)
    ends = interval(found.bootstrap_distribution, kind, sample.value(statistic), jackknife(statistic, 25))
    assert ends == pytest.approx(tuple(found.confidence_interval), abs=2e-3)


def test_bca_counts_ties_up_to_rounding() -> None:
    """A mean of few values has replicates equal to it; their last digits, up or down, must not move the interval."""
    values = np.array([0.1, 0.1, 0.7, 0.7, 0.7, 0.3, 0.3, 0.1])
    sample = Sample(None, values, np.arange(8), 8)
    drawn = bootstrap([mean_correctness(sample)], 8, 2_000, 0)[0]
    left_out = jackknife(mean_correctness(sample), 8)
    ends = [interval(drawn + shift, "bca", values.mean(), left_out) for shift in (-1e-15, 0.0, 1e-15)]
    assert (np.abs(drawn - values.mean()) < 1e-12).sum() > 100
    np.testing.assert_allclose(ends, np.broadcast_to(ends[0], (3, 2)), atol=1e-9)


def test_the_jackknife_leaves_out_each_unit_or_groups_of_them() -> None:
    values = np.random.default_rng(0).random(2_500)
    few = Sample(None, values[:40], np.arange(40), 40)
    slow = [np.delete(values[:40], i).mean() for i in range(40)]
    np.testing.assert_allclose(jackknife(mean_correctness(few), 40), slow)
    many = Sample(None, values, np.arange(2_500), 2_500)
    left_out = jackknife(mean_correctness(many), 2_500)
    assert len(left_out) == 1_000
    assert left_out[0] == pytest.approx(np.delete(values, [0, 1_000, 2_000]).mean())
