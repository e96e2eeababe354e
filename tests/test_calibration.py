"""Calibration metrics agree with independent implementations, and with their definitions in plain Python."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss
from test_metrics import Rows, all_rows, rows_binary, sample

from conrad_bench.leaderboards.inference.null_band import null_band
from conrad_bench.leaderboards.metrics.base import Metric, Sample, groups
from conrad_bench.leaderboards.metrics.calibration import (
    ECE,
    Brier,
    BrierDiscrimination,
    BrierMiscalibration,
    BrierUncertainty,
    DebiasedECE,
    EqualMassECE,
    InTheLarge,
    LogScore,
    MaximumError,
    SmoothECE,
    mass_groups,
)
from conrad_bench.leaderboards.metrics.ranking import rank_keys

quick = settings(deadline=None, max_examples=40)


def value(metric: Metric, rows: Rows) -> float:
    data = sample(rows)
    return data.value(metric.statistic(data))


def world(n: int, seed: int = 0, levels: bool = False, bias: float = 0.0, size: int = 1) -> Sample:
    """Claims whose correctness is 1 with probability confidence + bias."""
    random = np.random.default_rng(seed)
    confidence = random.integers(1, 10, n) / 10 if levels else random.uniform(0.05, 0.95, n)
    right = (random.random(n) < np.clip(confidence + bias, 0, 1)).astype(float)
    unit = np.arange(n) // size
    return Sample(confidence, right, unit, int(unit.max()) + 1)


@quick
@given(all_rows)
def test_equal_mass_bins_are_the_middle_ranks_of_their_claims(rows: Rows) -> None:
    confidence = [c for c, _, _ in rows]
    found = mass_groups(np.array(confidence))
    if len({round(c * 1e9) for c in confidence}) <= 21:
        assert found.tolist() == groups(np.array(confidence)).tolist()
        return
    members: dict[int, list[tuple[float, float]]] = {}
    for (c, y, _), group in zip(rows, found, strict=True):
        below = sum(round(d * 1e9) < round(c * 1e9) for d in confidence)
        same = sum(round(d * 1e9) == round(c * 1e9) for d in confidence)
        assert group == (10 * (2 * below + same)) // (2 * len(rows))
        members.setdefault(int(group), []).append((c, y))
    slow = sum(abs(sum(c - y for c, y in m)) for m in members.values()) / len(rows)
    assert value(EqualMassECE(), rows) == pytest.approx(slow, abs=1e-12)


def test_equal_mass_bins_hold_equally_many_distinct_claims() -> None:
    assert np.bincount(mass_groups(np.random.default_rng(0).random(1_000))).tolist() == [100] * 10


@quick
@given(all_rows)
def test_maximum_error_is_its_definition(rows: Rows) -> None:
    group = groups(np.array([c for c, _, _ in rows]))
    gaps = [
        abs(np.mean([c - y for (c, y, _), g in zip(rows, group, strict=True) if g == wanted])) for wanted in set(group)
    ]
    assert value(MaximumError(), rows) == pytest.approx(max(gaps), abs=1e-12)
    assert value(ECE(), rows) <= value(MaximumError(), rows) + 1e-12


@quick
@given(all_rows)
def test_debiased_ece_is_its_formula(rows: Rows) -> None:
    group = groups(np.array([c for c, _, _ in rows]))
    total = 0.0
    for wanted in set(group):
        sums = [0.0] * 6
        for (c, y, unit), g in zip(rows, group, strict=True):
            sums[unit] += (c - y) * (g == wanted)
        gap, error = sum(sums), math.sqrt(sum(s * s for s in sums))
        if error:
            z = gap / error
            total += gap * math.erf(z / math.sqrt(2)) - error * math.sqrt(2 / math.pi) * math.exp(-z * z / 2)
    assert value(DebiasedECE(), rows) == pytest.approx(total / len(rows), abs=1e-12)


def test_debiased_ece_is_the_mean_over_splits_into_halves() -> None:
    """One group: the size of one half's gap with the other half's sign, drawn many times, has the formula's mean."""
    random = np.random.default_rng(0)
    correctness = (random.random(400) < 0.47).astype(float)
    data = Sample(np.full(400, 0.5), correctness, np.arange(400), 400)
    residual = 0.5 - correctness
    halves = np.array([random.permutation(residual).reshape(2, 200).mean(axis=1) for _ in range(20_000)])
    # A split without replacement is less variable than two draws: the formula's scale is that of both halves' noise.
    wanted = np.mean(np.sign(halves[:, 0]) * halves[:, 1])
    assert data.value(DebiasedECE().statistic(data)) == pytest.approx(wanted, abs=0.002)


def test_debiased_ece_is_zero_on_average_where_ece_is_not() -> None:
    found = np.array(
        [
            [data.value(m.statistic(data)) for m in (ECE(), DebiasedECE())]
            for data in map(world, [600] * 200, range(200))
        ]
    )
    assert found[:, 0].mean() > 0.02
    assert abs(found[:, 1].mean()) < 3 * found[:, 1].std() / math.sqrt(200) + 0.001
    off = np.array(
        [data.value(DebiasedECE().statistic(data)) for data in (world(600, s, bias=-0.2) for s in range(60))]
    )
    # Below 0.2 the chance cannot fall by 0.2.
    assert off.mean() == pytest.approx(0.2 - 0.15**2 / 2 / 0.9, abs=0.005)


@pytest.mark.parametrize("bias", [0.0, -0.2])
def test_ece_agrees_with_torchmetrics_where_no_confidence_is_a_bin_edge(bias: float) -> None:
    calibration_error = torchmetrics_calibration_error()
    data = world(2_000, 5, bias=bias)
    expected = calibration_error(torch.tensor(data.stated()), torch.tensor(data.correctness.astype(int)), n_bins=10)
    assert data.value(ECE().statistic(data)) == pytest.approx(float(expected), abs=1e-9)


def test_two_levels_share_a_bin_of_torchmetrics() -> None:
    """Its edges are those of linspace: in double precision 0.3 lies below the fourth one, in the bin of 0.2."""
    calibration_error = torchmetrics_calibration_error()
    confidence, right = np.array([0.2, 0.3] * 50), np.array([1.0, 0.0] * 50)
    data = Sample(confidence, right, np.arange(100), 100)
    assert data.value(ECE().statistic(data)) == pytest.approx((0.8 + 0.3) / 2)
    wrong = calibration_error(torch.tensor(confidence), torch.tensor(right.astype(int)), n_bins=10)
    assert float(wrong) == pytest.approx(0.25)


def torchmetrics_calibration_error() -> Callable[..., torch.Tensor]:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    found: Callable[..., torch.Tensor] = classification.binary_calibration_error
    return found


@pytest.mark.parametrize("bias", [0.0, 0.05, -0.3])
@pytest.mark.parametrize("levels", [True, False])
def test_smooth_ece_agrees_with_relplot(bias: float, levels: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that relplot imports
        relplot = pytest.importorskip("relplot")
    data = world(1_500, 3, levels, bias)
    expected = relplot.smECE(data.stated(), data.correctness)
    assert data.value(SmoothECE().statistic(data)) == pytest.approx(expected, rel=0.02, abs=0.001)


@quick
@given(all_rows)
@example([(0.0, 0.0, 0), (1e-45, 1.0, 0)])
def test_the_brier_score_is_its_three_parts(rows: Rows) -> None:
    x, y = (np.array(column) for column in list(zip(*rows, strict=True))[:2])
    parts = [value(m, rows) for m in (BrierMiscalibration(), BrierDiscrimination(), BrierUncertainty())]
    assert parts[0] - parts[1] + parts[2] == pytest.approx(value(Brier(), rows), abs=1e-9)
    # By rank: scikit-learn takes confidences for equal that differ by less than 1e-15, whatever their size.
    order = np.unique(rank_keys(x), return_inverse=True)[1].astype(float)
    fit = IsotonicRegression(out_of_bounds="clip").fit(order, y).predict(order)
    score = np.mean((fit - y) ** 2)
    assert parts[0] == pytest.approx(np.mean((x - y) ** 2) - score, abs=1e-9)
    assert parts[1] == pytest.approx(np.var(y) - score, abs=1e-9)
    assert parts[2] == pytest.approx(np.var(y), abs=1e-9)


@quick
@given(rows_binary)
def test_log_score_agrees_with_scikit_learn(rows: Rows) -> None:
    confidence = np.clip([c for c, _, _ in rows], 0.01, 0.99)
    assert value(LogScore(), rows) == pytest.approx(log_loss([y for _, y, _ in rows], confidence, labels=[0.0, 1.0]))


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 1))
def test_proper_scores_are_least_at_the_truth(correctness: list[float], other: float) -> None:
    """For continuous correctness too: its mean is what a proper score rewards."""
    truth = min(max(sum(correctness) / len(correctness), 0.0), 1.0)
    for metric in (Brier(), LogScore()):
        scores = [value(metric, [(c, y, 0) for y in correctness]) for c in (truth, other)]
        assert scores[0] <= scores[1] + 1e-9


def test_in_the_large_has_the_sign_of_overconfidence() -> None:
    assert value(InTheLarge(), [(0.9, 0.5, 0), (0.7, 0.5, 1)]) == pytest.approx(0.3)
    assert value(InTheLarge(), [(0.1, 0.5, 0)]) == pytest.approx(-0.4)


def test_the_null_band_holds_a_calibrated_ece_and_not_another() -> None:
    inside, small = 0, 0
    for seed in range(60):
        data = world(400, seed, levels=True, size=4)
        band = null_band(data, 400, seed)
        assert band is not None
        assert 0 <= band["low"] <= band["mean"] <= band["high"]
        ece = data.value(ECE().statistic(data))
        inside += band["low"] <= ece <= band["high"]
        small += band["p"] < 0.05
    assert inside >= 52
    assert small <= 8
    off = null_band(world(400, 0, levels=True, bias=-0.2), 400, 0)
    assert off is not None
    assert off["p"] == pytest.approx(1 / 401)


def test_the_null_band_is_that_of_simulated_calibration() -> None:
    """Against the distribution of ECE over many calibrated data sets with the same confidences."""
    data = world(900, 1, levels=True)
    band = null_band(data, 4_000, 0)
    assert band is not None
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(1_000):
        again = Sample(data.stated(), (random.random(900) < data.stated()).astype(float), data.unit, data.units)
        drawn.append(again.value(ECE().statistic(again)))
    assert band["mean"] == pytest.approx(np.mean(drawn), rel=0.06)
    assert (band["low"], band["high"]) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))), rel=0.15)
    assert null_band(Sample(np.array([0.5]), np.array([1.0]), np.array([0]), 1), 10, 0) is None


def test_a_hundred_thousand_claims() -> None:
    data = world(100_000, 2)
    assert data.value(ECE().statistic(data)) < 0.01
    assert abs(data.value(DebiasedECE().statistic(data))) < 0.005
    assert data.value(SmoothECE().statistic(data)) < 0.01
    parts = [
        data.value(m().statistic(data)) for m in (BrierMiscalibration, BrierDiscrimination, BrierUncertainty, Brier)
    ]
    assert parts[0] - parts[1] + parts[2] == pytest.approx(parts[3], abs=1e-9)
