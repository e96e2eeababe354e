"""Recalibrators: maps from confidence to confidence, fitted on (confidence, correctness) of validation claims.

Correctness may be continuous in [0, 1]: temperature and Platt minimise the soft-label cross-entropy, isotonic and
histogram the squared error. A map is JSON: {"kind": ..., its numbers, "n": number of claims}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from conrad_bench.errors import StorageError, TrainingError

Kind = Literal["temperature", "platt", "isotonic", "histogram"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HAC = "hac_platt"
"""The map of two confidences, written `METHOD+hac_platt:SECOND`."""


@dataclass(frozen=True, slots=True)
class About:
    """What a recalibrator is."""

    summary: str
    """The map of a confidence c."""
    source: str


ABOUT: dict[str, About] = {
    "temperature": About("sigmoid(logit(c) / T)", "Guo et al. 2017, section 4.2"),
    "platt": About("sigmoid(a logit(c) + b)", "Platt 1999, on the logit as in Guo et al. 2017"),
    "isotonic": About("the best non-decreasing step function, linear between its steps", "Zadrozny & Elkan 2002"),
    "histogram": About("the mean correctness of each bin", "Zadrozny & Elkan 2001"),
    HAC: About(
        "sigmoid(a logit(c) + b h + d), a >= 0 and b <= 0, h = -log of a second method's confidence",
        "hallucination-aware calibration as in medvlm 0.1.0; bounds and the penalty 0.01 b^2 are theirs",
    ),
}

PENALTY = 0.01
"""Times the square of the second signal's slope (medvlm's)."""
_EPS = 0.005
"""Confidences 0 and 1 have no logit, and 0 no logarithm: they are moved half a percent inwards."""
_BINS = 10
_MAX_LEVELS = 21
"""Up to this many distinct confidences, each is a bin of its own."""

Array = NDArray[np.float64]


def fit_recalibrator(kind: Kind, pairs: Sequence[tuple[float, float]]) -> str:
    """Fit a map on (confidence, correctness) pairs, both in [0, 1], and return it as JSON.

    Raises TrainingError where there is no pair.
    """
    if not pairs:
        raise TrainingError(f"{kind} has nothing to learn from: no validation claim has a confidence and a correctness")
    confidence, correctness = np.array(pairs, float).T
    fitted = {"temperature": _temperature, "platt": _platt, "isotonic": _isotonic, "histogram": _histogram}[kind]
    return json.dumps({"kind": kind, "n": len(pairs), **fitted(confidence, correctness)}) + "\n"


def load_recalibrator(path: Path) -> Callable[[float], float]:
    """Return the map that `fit_recalibrator` wrote to a file. Raises StorageError if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content["kind"]
        if kind in ("temperature", "platt"):
            slope, offset = float(content["slope"]), float(content["offset"])
            return lambda c: float(_sigmoid(slope * _logit(np.array(c)) + offset))
        if kind == "isotonic":
            x, y = np.array(content["x"], float), np.array(content["y"], float)
            return lambda c: float(np.interp(c, x, y))
        edges, means = np.array(content["edges"], float), np.array(content["means"], float)
        return lambda c: float(means[np.searchsorted(edges, c, side="left")])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} holds no recalibrator; remove its folder and run the command again") from error


def fit_hac(rows: Sequence[tuple[float, float, float]]) -> str:
    """Fit `hac_platt` on (confidence, second confidence, correctness), all in [0, 1], and return it as JSON.

    Raises TrainingError where there is no row.
    """
    from scipy.optimize import minimize

    if not rows:
        raise TrainingError(f"{HAC} has nothing to learn from: no validation claim has both confidences")
    confidence, second, correctness = np.array(rows, float).T
    inputs = np.column_stack([_logit(confidence), _surprise(second), np.ones(len(rows))])
    penalty = np.array([1e-6, PENALTY, 0.0])

    def loss(parameters: Array) -> tuple[float, Array]:
        z = inputs @ parameters
        value = _cross_entropy(z, correctness) + float(penalty @ parameters**2)
        return value, inputs.T @ (_sigmoid(z) - correctness) / len(z) + 2 * penalty * parameters

    bounds = [(0.0, None), (None, 0.0), (None, None)]
    found = minimize(loss, np.array([1.0, -0.5, 0.0]), jac=True, bounds=bounds, method="L-BFGS-B")
    slope, second_slope, offset = map(float, found.x)
    content = {"kind": HAC, "n": len(rows), "slope": slope, "second_slope": second_slope, "offset": offset}
    return json.dumps(content) + "\n"


def load_hac(path: Path) -> Callable[[float, float], float]:
    """Return the map that `fit_hac` wrote to a file. Raises StorageError if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        slope, second, offset = (float(content[key]) for key in ("slope", "second_slope", "offset"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} holds no recalibrator; remove its folder and run the command again") from error
    return lambda c, other: float(_sigmoid(slope * _logit(np.array(c)) + second * _surprise(np.array(other)) + offset))


def _surprise(confidence: Array) -> Array:
    """Return -log of a confidence: the uncertainty that it was made of where that was exp(-u)."""
    return np.asarray(-np.log(np.maximum(confidence, _EPS)))


def _temperature(confidence: Array, correctness: Array) -> dict[str, Any]:
    from scipy.optimize import minimize_scalar

    logit = _logit(confidence)
    found = minimize_scalar(
        lambda log_t: _cross_entropy(logit / np.exp(log_t), correctness), bounds=(-4.0, 4.0), method="bounded"
    )
    return {"slope": float(np.exp(-found.x)), "offset": 0.0}


def _platt(confidence: Array, correctness: Array) -> dict[str, Any]:
    from scipy.optimize import minimize

    logit = _logit(confidence)

    def loss(parameters: Array) -> tuple[float, Array]:
        z = parameters[0] * logit + parameters[1]
        residual = _sigmoid(z) - correctness
        # A trace of ridge keeps separable data finite.
        value = _cross_entropy(z, correctness) + 1e-6 * float(parameters @ parameters)
        return value, np.array([(residual * logit).mean(), residual.mean()]) + 2e-6 * parameters

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B")
    return {"slope": float(found.x[0]), "offset": float(found.x[1])}


def _isotonic(confidence: Array, correctness: Array) -> dict[str, Any]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(confidence, correctness)
    return {"x": fitted.X_thresholds_.tolist(), "y": fitted.y_thresholds_.tolist()}


def _histogram(confidence: Array, correctness: Array) -> dict[str, Any]:
    distinct = np.unique(confidence)
    # Where each level is a bin, a value in between belongs to the nearest level.
    by_level = len(distinct) <= _MAX_LEVELS
    edges = (distinct[1:] + distinct[:-1]) / 2 if by_level else np.arange(1, _BINS) / _BINS
    bins = np.searchsorted(edges, confidence, side="left")
    count = np.bincount(bins, minlength=len(edges) + 1)
    total = np.bincount(bins, correctness, minlength=len(edges) + 1)
    # A bin without a claim says nothing: it takes the mean of all.
    means = np.where(count > 0, total / np.maximum(count, 1), correctness.mean())
    return {"edges": edges.tolist(), "means": means.tolist()}


def _logit(confidence: Array) -> Array:
    c = np.clip(confidence, _EPS, 1 - _EPS)
    return np.asarray(np.log(c / (1 - c)))


def _sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)))


def _cross_entropy(z: Array, correctness: Array) -> float:
    """Return the mean soft-label cross-entropy of logits z (n,) and correctness (n,)."""
    return float((np.logaddexp(0.0, z) - correctness * z).mean())
