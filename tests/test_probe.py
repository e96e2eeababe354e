"""The trained probe learns what can be learned, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conrad_bench.trainers.probe import predict, train_probe

SETTINGS = {
    "widths": (32,),
    "epochs": 10,
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "batch_size": 32,
    "patience": 3,
    "seed": 0,
    "advance": lambda steps: None,
    "report": lambda step, values: None,
}


def world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, 16)).astype(np.float32)
    return states, (1 / (1 + np.exp(-2 * states[:, 0]))).astype(np.float32)


def test_probe_recovers_a_signal_and_is_reproducible(tmp_path: Path) -> None:
    x, y = world(2000, 1)
    vx, vy = world(300, 2)
    tx, ty = world(300, 3)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train_probe(x, y, vx, vy, out=tmp_path / name, **SETTINGS)  # type: ignore[arg-type]
    confidence = predict(tx, tmp_path / "a")
    assert np.corrcoef(confidence, ty)[0, 1] > 0.95
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    assert (tmp_path / "a" / "probe.safetensors").read_bytes() == (tmp_path / "b" / "probe.safetensors").read_bytes()


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    """On pure noise the validation loss soon rises; the weights kept are those of the best epoch."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 16)).astype(np.float32), rng.uniform(size=200).astype(np.float32)
    vx, vy = rng.normal(size=(200, 16)).astype(np.float32), rng.uniform(size=200).astype(np.float32)
    settings = {**SETTINGS, "epochs": 200, "learning_rate": 1e-2}
    history = train_probe(x, y, vx, vy, out=tmp_path, **settings)  # type: ignore[arg-type]
    losses = [line["validation_loss"] for line in history]
    assert len(history) == losses.index(min(losses)) + 1 + 3
    p = predict(vx, tmp_path)
    kept = -np.mean(vy * np.log(p) + (1 - vy) * np.log(1 - p))
    assert kept == pytest.approx(min(losses), rel=1e-3)
