"""Weights of an ensemble, fitted on validation claims.

Confidences of different methods lie on different scales: each is read as its rank among the validation claims, the
share of them that have less and half of those that have the same. With r_j the rank by method j,

    confidence = sigmoid(b + sum over j of w_j r_j),   w_j >= 0

b and w minimise the soft-label cross-entropy of the validation claims, with 0.0001 times the sum of squares of w. No
weight is below 0, so that no method's higher confidence lowers that of the ensemble; what does not help has 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conrad_bench.errors import StorageError, TrainingError

RIDGE = 1e-4

Array = NDArray[np.float64]


def fit_fusion(names: Sequence[str], rows: Sequence[tuple[tuple[float, ...], float]]) -> str:
    """Fit the weights on (confidences by each method, correctness) of claims, all in [0, 1]; return them as JSON.

    Raises TrainingError where there is no claim.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    if not rows:
        raise TrainingError(
            "the ensemble has nothing to learn from: no validation claim has a confidence by each method"
        )
    confidences = np.array([row for row, _ in rows])
    correctness = np.array([value for _, value in rows])
    scales = [_ranks(column) for column in confidences.T]
    inputs = np.column_stack([_read(column, *scale) for column, scale in zip(confidences.T, scales, strict=True)])

    def loss(parameters: Array) -> tuple[float, Array]:
        weights, z = parameters[:-1], inputs @ parameters[:-1] + parameters[-1]
        residual = expit(z) - correctness
        value = (np.logaddexp(0.0, z) - correctness * z).mean() + RIDGE * float(weights @ weights)
        gradient = np.append(inputs.T @ residual / len(z) + 2 * RIDGE * weights, residual.mean())
        return float(value), gradient

    start = np.append(np.full(len(names), 1 / len(names)), 0.0)
    bounds = [(0.0, None)] * len(names) + [(-30.0, 30.0)]
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-12, "gtol": 1e-8})
    methods = [
        {"name": name, "weight": float(weight), "confidences": scale[0].tolist(), "ranks": scale[1].tolist()}
        for name, weight, scale in zip(names, found.x[:-1], scales, strict=True)
    ]
    return json.dumps({"kind": "ensemble", "n": len(rows), "offset": float(found.x[-1]), "methods": methods}) + "\n"


def load_fusion(path: Path) -> Callable[[Sequence[float]], float]:
    """Return the map that `fit_fusion` wrote to a file. Raises StorageError if it is damaged."""
    from scipy.special import expit

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        offset = float(content["offset"])
        scales = [(np.array(m["confidences"], float), np.array(m["ranks"], float)) for m in content["methods"]]
        weights = [float(method["weight"]) for method in content["methods"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} holds no ensemble; remove its folder and run the command again") from error

    def mapped(confidences: Sequence[float]) -> float:
        ranks = [float(_read(np.array(c), *scale)) for c, scale in zip(confidences, scales, strict=True)]
        return float(expit(offset + sum(weight * rank for weight, rank in zip(weights, ranks, strict=True))))

    return mapped


def _ranks(confidences: Array) -> tuple[Array, Array]:
    """Return the different confidences (m,), ascending, and the rank of each in (0, 1)."""
    values, counts = np.unique(confidences, return_counts=True)
    return values, (np.cumsum(counts) - counts / 2) / counts.sum()


def _read(confidences: Array, values: Array, ranks: Array) -> Array:
    """Return ranks of confidences, linear between those that are known."""
    return np.asarray(np.interp(confidences, values, ranks))
