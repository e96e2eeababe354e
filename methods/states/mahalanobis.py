"""Mahalanobis distances of hidden states: how unlike the claims that were seen before a claim is.

With d the number of dimensions and MD(h) = (h - mu)^T S^-1 (h - mu),

    mahalanobis            1 / (1 + MD / d): mu and S of the states of all training claims, right or wrong
    relative_mahalanobis   1 / (1 + exp((MD_right - MD_all) / d)): mu and S of MD_right weigh each claim by its
                           correctness, MD_all is the one above

Both maps keep the order. Dividing by d, about what MD is for a state of the same kind, keeps confidences away from 0.
Ren et al. take a large foreign corpus for the second distance and the training data for the first; here all training
claims are the background, and those that were right stand out from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from conrad_bench.errors import TrainingError
from conrad_bench.methods.states.base import At, StateMethod, States

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model


class Mahalanobis(StateMethod):
    """How far a claim's state lies from those of the training claims."""

    name: ClassVar[str] = "mahalanobis"
    summary: ClassVar[str] = "nearness of the claim's hidden state to those of training claims (Mahalanobis distance)"
    source: ClassVar[str] = "Lee et al. 2018; Vazhentsev et al. 2023 (hidden states of generated sequences)"

    layer: int = -1
    """Index into the model's hidden states (0: embeddings, -1: the last)."""
    at: At = "mean"
    """The state of the claim's last token, or the mean over its tokens."""

    def _reads(self) -> tuple[tuple[int, ...], At]:
        return (self.layer,), self.at

    def _learn(self, train: States, validation: States | None, model: Model, out: Path) -> None:
        import numpy as np

        from conrad_bench.trainers.density import fit_gaussians

        states, correctness = train
        fit_gaussians(states, [np.ones_like(correctness)], out)

    def _rate(self, states: Any, artifact: Path) -> Sequence[float]:
        from conrad_bench.trainers.density import distances

        (distance,) = distances(states, artifact)
        return [float(value) for value in 1 / (1 + distance)]


class RelativeMahalanobis(Mahalanobis):
    """How much nearer a claim's state is to those of right training claims than to those of all."""

    name: ClassVar[str] = "relative_mahalanobis"
    summary: ClassVar[str] = "how much nearer the claim's hidden state is to right training claims than to all"
    source: ClassVar[str] = "Ren et al. 2023 (relative Mahalanobis distance); right claims before all are ours"

    def _learn(self, train: States, validation: States | None, model: Model, out: Path) -> None:
        import numpy as np

        from conrad_bench.trainers.density import fit_gaussians

        states, correctness = train
        if not correctness.sum() > 0:
            raise TrainingError(f"method {self.name!r} has no right claim to learn from: all have a correctness of 0")
        fit_gaussians(states, [correctness, np.ones_like(correctness)], out)

    def _rate(self, states: Any, artifact: Path) -> Sequence[float]:
        from scipy.special import expit

        from conrad_bench.trainers.density import distances

        right, everything = distances(states, artifact)
        return [float(value) for value in expit(everything - right)]
