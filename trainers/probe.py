"""The trained probes: small networks that read the expected correctness off hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from conrad_bench.trainers.tracking import Report

Array = NDArray[np.float32]


class LayerAttention(torch.nn.Module):
    """States of several layers, side by side, to their mean under weights: a softmax over state * query + a bias."""

    def __init__(self, layers: int, size: int) -> None:
        super().__init__()
        self.query = torch.nn.Parameter(torch.zeros(size))
        self.bias = torch.nn.Parameter(torch.zeros(layers))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return (n, size) for states (n, layers * size)."""
        each = states.unflatten(-1, (len(self.bias), len(self.query)))
        weights = (each @ self.query / len(self.query) ** 0.5 + self.bias).softmax(dim=-1)
        mixed: torch.Tensor = (weights[..., None] * each).sum(dim=-2)
        return mixed


def build(inputs: int, widths: Sequence[int], layers: int = 1, dropout: float = 0.0) -> Any:
    """Return the network: standardised hidden states, of several layers side by side, to the logit of the expected
    correctness. No widths: a line.
    """
    parts: list[torch.nn.Module] = [LayerAttention(layers, inputs // layers)] if layers > 1 else []
    size = inputs // layers
    for width in widths:
        parts += [torch.nn.Linear(size, width), torch.nn.ReLU(), torch.nn.Dropout(dropout)]
        size = width
    return torch.nn.Sequential(*parts, torch.nn.Linear(size, 1))


def train_probe(
    states: Array,
    correctness: Array,
    validation_states: Array,
    validation_correctness: Array,
    *,
    widths: Sequence[int],
    layers: int = 1,
    dropout: float = 0.1,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    batch_size: int,
    patience: int,
    seed: int,
    advance: Callable[[int], None],
    report: Report,
    out: Path,
) -> list[dict[str, float]]:
    """Train with soft-label cross-entropy, keep the weights of the best validation epoch, write
    `out`/probe.safetensors.

    `states` has the shape (n, layers * hidden size), `correctness` (n,) in [0, 1]. Training stops once the validation
    loss has not improved for `patience` epochs. Returns one line per epoch with both losses.
    """
    from safetensors.torch import save

    from conrad_bench.storage import write_bytes

    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = states.mean(0), states.std(0) + 1e-6
        model = build(states.shape[1], widths, layers, dropout)
        x, y = torch.tensor((states - mean) / deviation), torch.tensor(correctness)
        vx, vy = torch.tensor((validation_states - mean) / deviation), torch.tensor(validation_correctness)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
        loss_of = torch.nn.BCEWithLogitsLoss()
        best, best_state, since, history = float("inf"), model.state_dict(), 0, []
        for epoch in range(epochs):
            model.train()
            total = 0.0
            for rows in torch.randperm(len(x), generator=generator).split(batch_size):
                loss = loss_of(model(x[rows])[:, 0], y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(rows)
            model.eval()
            with torch.no_grad():
                validation = loss_of(model(vx)[:, 0], vy).item()
            values = {"train_loss": total / len(x), "validation_loss": validation}
            report(epoch + 1, values)
            history.append({"epoch": epoch + 1, **values})
            advance(1)
            since += 1
            if validation < best:
                best, since = validation, 0
                best_state = {name: value.clone() for name, value in model.state_dict().items()}
            if since >= patience:
                break
    tensors = {**best_state, "mean": torch.tensor(mean), "deviation": torch.tensor(deviation)}
    write_bytes(out / "probe.safetensors", save(tensors))
    return history


def predict(states: Array, folder: Path) -> Array:
    """Return the probe's confidence in [0, 1] for hidden states of shape (n, hidden size)."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "probe.safetensors")
    mean, deviation = tensors.pop("mean"), tensors.pop("deviation")
    lines = sorted((name for name in tensors if name.endswith(".weight")), key=lambda name: int(name.split(".")[0]))
    layers = len(tensors["0.bias"]) if "0.query" in tensors else 1
    model = build(len(mean), [len(tensors[name]) for name in lines[:-1]], layers)
    model.load_state_dict(tensors)
    model.eval()
    with torch.no_grad():
        confidence: Array = torch.sigmoid(model((torch.tensor(states) - mean) / deviation)[:, 0]).numpy()
    return confidence
