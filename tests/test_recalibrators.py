"""Recalibrators against independent implementations, and what must hold for every map."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from conrad_bench.errors import StorageError, TrainingError
from conrad_bench.trainers.recalibrators import KINDS, Kind, fit_recalibrator, load_recalibrator


def mapped(kind: Kind, confidence: np.ndarray, correctness: np.ndarray, folder: Path) -> Callable[[float], float]:
    path = folder / "map.json"
    path.write_text(fit_recalibrator(kind, list(zip(confidence.tolist(), correctness.tolist(), strict=True))))
    return load_recalibrator(path)


@pytest.fixture
def overconfident() -> tuple[np.ndarray, np.ndarray]:
    """Claims whose confidence c is right with probability sigmoid(0.5 logit(c) - 1), and their binary correctness."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.02, 0.98, 4000)
    return confidence, (rng.random(4000) < expit(0.5 * logit(confidence) - 1)).astype(float)


def test_platt_is_logistic_regression_on_the_logit(
    overconfident: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    confidence, correctness = overconfident
    recalibrate = mapped("platt", confidence, correctness, tmp_path)
    model = LogisticRegression(C=1e8).fit(logit(confidence)[:, None], correctness)
    for c in (0.05, 0.3, 0.7, 0.95):
        assert recalibrate(c) == pytest.approx(model.predict_proba([[logit(c)]])[0, 1], abs=1e-3)


def test_platt_and_temperature_find_what_made_the_data(tmp_path: Path) -> None:
    confidence = np.linspace(0.01, 0.99, 500)
    recalibrate = mapped("platt", confidence, expit(0.5 * logit(confidence) - 1), tmp_path)
    assert recalibrate(0.9) == pytest.approx(expit(0.5 * logit(0.9) - 1), abs=1e-3)
    recalibrate = mapped("temperature", confidence, expit(logit(confidence) / 2.5), tmp_path)
    assert recalibrate(0.9) == pytest.approx(expit(logit(0.9) / 2.5), abs=1e-3)
    assert recalibrate(0.5) == pytest.approx(0.5)


def test_isotonic_is_scikit_learns(overconfident: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    confidence, correctness = overconfident
    recalibrate = mapped("isotonic", confidence, correctness, tmp_path)
    model = IsotonicRegression(out_of_bounds="clip").fit(confidence, correctness)
    for c in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert recalibrate(c) == pytest.approx(model.predict([c])[0])


def test_histogram_gives_each_levels_mean(tmp_path: Path) -> None:
    confidence = np.array([0.8, 0.8, 0.9, 0.9, 1.0])
    correctness = np.array([0.2, 0.4, 0.5, 0.7, 0.6])
    recalibrate = mapped("histogram", confidence, correctness, tmp_path)
    assert [recalibrate(c) for c in (0.8, 0.9, 1.0)] == pytest.approx([0.3, 0.6, 0.6])
    assert recalibrate(0.0) == pytest.approx(0.3)  # the nearest level


def test_histogram_bins_many_values(overconfident: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    confidence, correctness = overconfident
    recalibrate = mapped("histogram", confidence, correctness, tmp_path)
    inside = (confidence > 0.2) & (confidence <= 0.3)
    assert recalibrate(0.25) == pytest.approx(correctness[inside].mean())
    assert recalibrate(0.3) == pytest.approx(correctness[inside].mean())  # closed on the right


@pytest.mark.parametrize("kind", KINDS)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40),
    asked=st.floats(0, 1),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_map_stays_in_range(kind: Kind, pairs: list[tuple[float, float]], asked: float, tmp_path: Path) -> None:
    confidence, correctness = np.array(pairs).T
    value = mapped(kind, confidence, correctness, tmp_path)(asked)
    assert 0.0 <= value <= 1.0


@pytest.mark.parametrize("kind", ["isotonic", "histogram"])
def test_the_mean_of_the_fitted_data_is_kept(
    kind: Kind, overconfident: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    confidence, correctness = overconfident
    recalibrate = mapped(kind, confidence, correctness, tmp_path)
    assert np.mean([recalibrate(c) for c in confidence]) == pytest.approx(correctness.mean(), abs=0.005)


def test_nothing_to_fit_and_a_damaged_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="platt has nothing to learn from"):
        fit_recalibrator("platt", [])
    path = tmp_path / "map.json"
    for content in ("", "{", json.dumps({"kind": "platt"})):
        path.write_text(content)
        with pytest.raises(StorageError, match=r"map\.json holds no recalibrator"):
            load_recalibrator(path)
