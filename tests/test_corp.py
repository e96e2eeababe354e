"""The three parts of the Brier score beside model-diagnostics, which decomposes scores by isotonic regression too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from test_metrics import Rows, all_rows, sample

from conrad_bench.leaderboards.metrics.base import FloatArray, Sample
from conrad_bench.leaderboards.metrics.calibration import (
    Brier,
    BrierDiscrimination,
    BrierMiscalibration,
    BrierUncertainty,
)

scoring = pytest.importorskip("model_diagnostics.scoring", reason="model-diagnostics is not installed")
PARTS = (BrierMiscalibration(), BrierDiscrimination(), BrierUncertainty(), Brier())


def ours(data: Sample) -> list[float]:
    """MCB, DSC, UNC and the score."""
    return [data.value(metric.statistic(data)) for metric in PARTS]


def theirs(confidence: FloatArray, correctness: FloatArray) -> list[float]:
    found = scoring.decompose(
        y_obs=correctness,
        y_pred=confidence,
        scoring_function=scoring.SquaredError(),
        functional="mean",
    )
    return list(found.select("miscalibration", "discrimination", "uncertainty", "score").row(0))


def apart(rows: Rows) -> Rows:
    """Rows with confidences to nine decimals: nearer ones are ties to us, or to scikit-learn, which fits theirs."""
    return [(round(c, 9), y, unit) for c, y, unit in rows]


@settings(deadline=None, max_examples=60)
@given(all_rows.filter(lambda rows: len(rows) > 1))
@example([(0.5, 0.0, 0), (0.5, 1.0, 1), (0.5, 1.0, 2)])  # one confidence
@example([(0.2, 1.0, 0), (0.4, 1.0, 1)])  # one class
@example([(0.2, 0.0, 0), (0.4, 0.0, 1)])
@example([(0.2, 0.3, 0), (0.2, 0.3, 1)])  # everything equal
@example([(0.1, 1.0, 0), (0.2, 0.0, 1), (0.2, 1.0, 2), (0.9, 0.0, 3)])  # a tie within a pool
@example([(c / 10, 1 - c / 10, 0) for c in range(11)])  # all in one pool
@example([(c / 10, c / 10, 0) for c in range(11)])  # each its own
@example([(0.0, 0.0, 0), (1.0, 1.0, 1)])
def test_the_parts_agree(rows: Rows) -> None:
    rows = apart(rows)
    x, y = (np.array(column) for column in list(zip(*rows, strict=True))[:2])
    assert ours(sample(rows)) == pytest.approx(theirs(x, y), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(all_rows.filter(lambda rows: len(rows) > 1))
def test_ties_are_pooled_before_the_fit_by_both(rows: Rows) -> None:
    """With every tie replaced by its mean, as often as it occurs, the fit is the same: MCB and DSC less their UNC."""
    rows = apart(rows)
    means = {c: np.mean([y for d, y, _ in rows if d == c]) for c, _, _ in rows}
    pooled: Rows = [(c, float(means[c]), unit) for c, _, unit in rows]
    mine = [ours(sample(each)) for each in (rows, pooled)]
    other = [theirs(*(np.array(column) for column in list(zip(*each, strict=True))[:2])) for each in (rows, pooled)]
    # The spread within ties is in the score of the fit and in UNC, not in their difference.
    for found in (mine, other):
        assert found[0][:2] == pytest.approx(found[1][:2], abs=1e-12)
    assert mine[1] == pytest.approx(other[1], abs=1e-12)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_the_parts_agree_for_a_hundred_thousand_claims(binary: bool, tied: bool) -> None:
    random = np.random.default_rng(0)
    x = random.random(100_000)
    y = np.clip(x + 0.3 * random.standard_normal(100_000) - 0.1, 0, 1)
    y = (random.random(100_000) < y).astype(float) if binary else np.rint(7 * y) / 7
    x = np.rint(10 * x) / 10 if tied else x
    data = Sample(x, y, np.arange(100_000) // 8, 12_500)
    assert ours(data) == pytest.approx(theirs(x, y), abs=1e-11)


def test_where_theirs_is_not_defined_or_merges_confidences() -> None:
    # A single claim: their fit loses its dimension.
    one = np.array([0.7]), np.array([1.0])
    with pytest.raises(ValueError, match="cannot be applied"):
        theirs(*one)
    assert ours(Sample(*one, np.array([0]), 1)) == pytest.approx([0.09, 0.0, 0.0, 0.09])
    # scikit-learn's isotonic regression, which they use, ties what differs by less than 1e-15, whatever its size.
    tiny = np.array([0.0, 1e-45]), np.array([0.0, 1.0])
    assert theirs(*tiny) == pytest.approx([0.25, 0.0, 0.25, 0.5])
    assert ours(Sample(*tiny, np.arange(2), 2)) == pytest.approx([0.5, 0.25, 0.25, 0.5])
