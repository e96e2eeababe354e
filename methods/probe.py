"""Trained probe: an MLP reads the expected correctness of each claim off the hidden states of its tokens."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from conrad_bench.methods.states.base import At, TrainedProbe


class Probe(TrainedProbe):
    """As in ConRad, section 3: 3000 samples, 10 epochs, early stopping on validation patients."""

    name: ClassVar[str] = "probe"
    summary: ClassVar[str] = "an MLP on hidden states of the claim's tokens, trained to predict its correctness"
    source: ClassVar[str] = "Azaria & Mitchell 2023; ConRad, section 3 (Trained Probe)"
    dropout: ClassVar[float] = 0.1

    layer: int = -1
    """Index into the model's hidden states (0: embeddings, -1: the last). The paper's "layer 35" is the last of the 35
    hidden states of medgemma-4b-it."""
    at: At = "mean"
    """The state of the claim's last token, or the mean over its tokens."""
    width: int = Field(256, ge=1, le=2**16)
    """Units of the MLP's hidden layer."""

    def _reads(self) -> tuple[tuple[int, ...], At]:
        return (self.layer,), self.at

    def _widths(self) -> tuple[int, ...]:
        return (self.width,)
