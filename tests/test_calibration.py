"""Calibration metrics agree with independent implementations, and with their definitions in plain Python."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss
from test_metrics import Rows, all_rows, rows_binary, sample

from conrad_bench.leaderboards.inference.bootstrap import Estimates
from conrad_bench.leaderboards.inference.null_band import null_band
from conrad_bench.leaderboards.metrics.base import Metric, Sample, by_level, groups, mass_groups
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
    if by_level(np.array(confidence)):
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
def test_the_debiased_error_is_the_mean_product_of_different_units(rows: Rows) -> None:
    """Exact sums over pairs of claims of one group and different units, in fractions."""
    group = groups(np.array([c for c, _, _ in rows]))
    total, n = Fraction(0), 0
    for wanted in set(group):
        of = [(Fraction(c) - Fraction(y), unit) for (c, y, unit), g in zip(rows, group, strict=True) if g == wanted]
        pairs = [a * b for a, one in of for b, other in of if one != other]
        if pairs:
            total += len(of) * sum(pairs) / len(pairs)
            n += len(of)
    expected = math.nan if not n else math.copysign(math.sqrt(abs(total / n)), total)
    assert value(DebiasedECE(), rows) == pytest.approx(expected, abs=1e-7, nan_ok=True)


def test_with_one_claim_a_unit_the_debiased_error_is_the_gap_less_its_variance() -> None:
    data = world(900, 3, levels=True, bias=0.05)
    total = 0.0
    for level in np.unique(data.groups):
        residual = (data.stated() - data.correctness)[data.groups == level]
        total += len(residual) * (residual.mean() ** 2 - residual.var(ddof=1) / len(residual)) / 900
    assert data.value(DebiasedECE().statistic(data)) == pytest.approx(math.copysign(math.sqrt(abs(total)), total))


@pytest.mark.parametrize("truth", [0.0, 0.03, 0.1])
def test_the_debiased_error_is_right_on_average_and_its_interval_covers(truth: float) -> None:
    """Patients with several claims each, whose residuals depend on each other."""
    squares, covered, eces = [], 0, []
    for seed in range(150):
        random = np.random.default_rng(seed)
        unit = np.repeat(np.arange(100), 4)
        confidence = random.integers(3, 8, 400) / 10
        shift = 0.1 * random.uniform(-1, 1, 100)[unit] + 0.1 * random.uniform(-1, 1, 400)
        data = Sample(confidence, confidence - truth + shift, unit, 100)
        found = Estimates([(data, DebiasedECE()), (data, ECE())], 100, 300, seed)
        error = found.of(data, DebiasedECE())
        squares.append(error["value"] * abs(error["value"]))
        covered += error["low"] <= truth <= error["high"]
        eces.append(found.of(data, ECE())["value"])
        assert error["low"] <= error["value"] <= error["high"]
        assert math.isnan(found.of(data, ECE())["low"])
    assert np.mean(squares) == pytest.approx(truth**2, abs=4 * np.std(squares) / math.sqrt(150) + 1e-6)
    assert covered >= 136
    if truth == 0:
        assert np.mean(eces) > 0.005


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


def test_smooth_ece_is_the_fixed_point_where_confidences_are_0_or_1() -> None:
    """Half of a kernel at 1 lies outside and is folded back, which relplot's grid does not do in full."""
    random = np.random.default_rng(0)
    confidence = np.where(random.random(600) < 0.8, 1.0, 0.5)
    right = (random.random(600) < confidence - 0.1).astype(float)

    def error(width: float) -> float:
        points = (np.arange(2_000) + 0.5) / 2_000
        images = [
            norm.pdf(points[:, None], 2 * k + side, width) for k in range(-2, 3) for side in (confidence, -confidence)
        ]
        return float(np.abs(sum(images) @ (confidence - right)).mean() / 600)

    data = Sample(confidence, right, np.arange(600), 600)
    found = data.value(SmoothECE().statistic(data))
    assert found == pytest.approx(brentq(lambda width: error(width) - width, 0.01, 0.5), abs=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that relplot imports
        relplot = pytest.importorskip("relplot")
    assert relplot.smECE(confidence, right) > 1.03 * found


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


def band_of(data: Sample, replicates: int, seed: int) -> dict[str, float]:
    band = null_band(data, replicates, seed)
    assert isinstance(band, dict), band
    return band


def test_the_null_band_holds_a_calibrated_ece_and_not_another() -> None:
    inside, small = 0, 0
    for seed in range(60):
        data = world(400, seed, levels=True, size=4)
        band = band_of(data, 400, seed)
        assert 0 < band["low"] <= band["mean"] <= band["high"]
        ece = data.value(ECE().statistic(data))
        inside += band["low"] <= ece <= band["high"]
        small += band["p"] < 0.05
    assert inside >= 52
    assert small <= 8
    assert band_of(world(400, 0, levels=True, bias=-0.2), 400, 0)["p"] == pytest.approx(1 / 401)


def test_the_null_band_is_that_of_simulated_calibration() -> None:
    """Against the distribution of ECE over many calibrated data sets with the same confidences."""
    data = world(900, 1, levels=True)
    band = band_of(data, 4_000, 0)
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(1_000):
        again = Sample(data.stated(), (random.random(900) < data.stated()).astype(float), data.unit, data.units)
        drawn.append(again.value(ECE().statistic(again)))
    assert band["mean"] == pytest.approx(np.mean(drawn), rel=0.06)
    assert (band["low"], band["high"]) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))), rel=0.15)


def test_the_p_of_calibration_is_that_of_all_signs() -> None:
    """Ten patients decide: half of the sign patterns of each would do, so all 1,024 are counted."""
    random = np.random.default_rng(2)
    data = world(40, 4, levels=True, size=1)
    few = Sample(np.full(40, 0.5), np.where(np.arange(40) < 12, data.correctness, 0.5), np.arange(40), 40)
    residual = 0.5 - few.correctness[few.correctness != 0.5]
    signs = np.array(list(itertools.product((-1, 1), repeat=len(residual))))
    exact = np.mean(np.abs(signs @ residual) >= abs(residual.sum()) - 1e-12)
    assert band_of(few, 20_000, int(random.integers(99)))["p"] == pytest.approx(exact, abs=0.02)


def many(n: int, groups: int, sizes: list[int] | None = None) -> Sample:
    random = np.random.default_rng(0)
    unit = np.repeat(np.arange(len(sizes)), sizes) if sizes else np.arange(n)
    confidence = np.tile((np.arange(groups) + 1) / (groups + 1), -(-n // groups))[:n]
    return Sample(confidence, (random.random(n) < confidence).astype(float), unit, int(unit.max()) + 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Sample(np.array([0.5]), np.array([1.0]), np.array([0]), 1), "1.0 effective clusters, fewer than 30"),
        (Sample(np.linspace(0.5, 0.78, 20), np.zeros(20), np.arange(20), 20), "20.0 effective clusters"),
        (many(80, 2, [40] + [1] * 40), "3.9 effective clusters"),
        (many(60, 20), "100% of the claims are in groups of fewer than 5 clusters"),
        (Sample(np.full(300, 0.99), np.ones(300), np.arange(300), 300), "0.0 effective clusters, fewer than 10"),
        (Sample(np.full(300, 0.99), np.ones(300), np.arange(300) ** 2 // 900, 100), "0.0 effective clusters, fewer"),
        (Sample(np.full(300, 0.99), (np.arange(300) > 5) * 1.0, np.arange(300), 300), "too few answers differ"),
    ],
    ids=["one", "singletons", "a dominant patient", "small groups", "all right", "all right, unequal", "few wrong"],
)
def test_too_few_patients_have_no_null_band_and_the_reason(data: Sample, words: str) -> None:
    found = null_band(data, 100, 0)
    assert isinstance(found, str)
    assert words in found


def test_a_hundred_thousand_claims() -> None:
    data = world(100_000, 2)
    assert data.value(ECE().statistic(data)) < 0.01
    assert abs(data.value(DebiasedECE().statistic(data))) < 0.005
    assert data.value(SmoothECE().statistic(data)) < 0.01
    parts = [
        data.value(m().statistic(data)) for m in (BrierMiscalibration, BrierDiscrimination, BrierUncertainty, Brier)
    ]
    assert parts[0] - parts[1] + parts[2] == pytest.approx(parts[3], abs=1e-9)
