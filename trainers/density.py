"""Densities of hidden states: Gaussians fitted to those of training claims, and how far a state lies from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Wide = NDArray[np.float64]


def fit_gaussians(states: Array, weights: list[Array], out: Path) -> None:
    """Fit one Gaussian to states (n, d) under each weighting (n,), and write `out`/density.safetensors.

    Covariances are shrunk to a multiple of the identity, all by what Ledoit & Wolf 2004 find for the unweighted states:
    of fewer states than dimensions the covariance has no inverse. States are standardised before.
    """
    from safetensors.numpy import save
    from sklearn.covariance import ledoit_wolf_shrinkage

    from conrad_bench.storage import write_bytes

    mean, deviation = states.mean(0, dtype=np.float64), states.std(0, dtype=np.float64) + 1e-6
    x = (states - mean) / deviation
    shrinkage = float(ledoit_wolf_shrinkage(x)) if len(x) > 1 else 1.0
    tensors = {"mean": mean, "deviation": deviation}
    for number, weight in enumerate(weights):
        w = weight.astype(np.float64) / weight.sum(dtype=np.float64)
        centre = w @ x
        covariance = (x - centre).T @ ((x - centre) * w[:, None])
        scale = np.trace(covariance) / len(centre)
        shrunk = (1 - shrinkage) * covariance + (shrinkage * scale + 1e-9) * np.eye(len(centre))
        tensors |= {f"centre.{number}": centre, f"factor.{number}": np.linalg.cholesky(shrunk)}
    write_bytes(out / "density.safetensors", save({name: np.ascontiguousarray(t) for name, t in tensors.items()}))


def distances(states: Array, folder: Path) -> Wide:
    """Return the squared Mahalanobis distance over d of states (n, d) from each Gaussian, shape (Gaussians, n)."""
    from safetensors.numpy import load_file
    from scipy.linalg import solve_triangular

    tensors = load_file(folder / "density.safetensors")
    x = (states - tensors["mean"]) / tensors["deviation"]
    found = []
    for number in range(sum(name.startswith("centre.") for name in tensors)):
        offsets = x - tensors[f"centre.{number}"]
        whitened = solve_triangular(tensors[f"factor.{number}"], offsets.T, lower=True)
        found.append((whitened**2).mean(axis=0))
    return np.array(found)
