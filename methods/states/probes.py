"""Other probes than `probe`: a line, SAPLMA's network, several layers at once, and the place of the confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from conrad_bench.methods.base import Responses
from conrad_bench.methods.states.base import At, Place, TrainedProbe
from conrad_bench.reading.claims import confidence_spans
from conrad_bench.reading.elicitation import elicit_at
from conrad_bench.types import Claim, Granularity

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model


class LinearProbe(TrainedProbe):
    """Logistic regression on the standardised states: what can be read off them without computing further."""

    name: ClassVar[str] = "linear_probe"
    summary: ClassVar[str] = "logistic regression on hidden states of the claim's tokens"
    source: ClassVar[str] = "Alain & Bengio 2017 (linear probes); Orgad et al. 2025 (LLMs Know More Than They Show)"

    layer: int = -1
    """Index into the model's hidden states (0: embeddings, -1: the last)."""
    at: At = "mean"
    """The state of the claim's last token, or the mean over its tokens."""

    def _reads(self) -> tuple[tuple[int, ...], At]:
        return (self.layer,), self.at


class SAPLMA(TrainedProbe):
    """Three hidden layers of 256, 128 and 64 units on the state of the last token, 5 epochs."""

    name: ClassVar[str] = "saplma"
    summary: ClassVar[str] = "a network of three hidden layers on the hidden state of the claim's last token"
    source: ClassVar[str] = "Azaria & Mitchell 2023 (SAPLMA), section 4; early stopping and soft labels are ours"
    widths: ClassVar[tuple[int, ...]] = (256, 128, 64)

    epochs: int = Field(5, ge=1)
    """Passes over the training claims, at the most (the paper's 5)."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of AdamW; 0: Adam, as in the paper."""
    layer: int = -1
    """Index into the model's hidden states (0: embeddings, -1: the last). The paper's best lies between the middle and
    two thirds of a model's layers."""

    def _reads(self) -> tuple[tuple[int, ...], At]:
        return (self.layer,), "last"


class AttentionProbe(TrainedProbe):
    """A learned query weighs the states of several layers, claim by claim; a line reads the correctness off that."""

    name: ClassVar[str] = "attention_probe"
    summary: ClassVar[str] = "attention over the hidden states of several layers, and a line behind it"
    source: ClassVar[str] = "ours, after Peters et al. 2018 (a learned mix of layers) and Tenney et al. 2019"

    layers: tuple[int, ...] = Field((-1, -2, -3, -4), min_length=2, max_length=64)
    """Indices into the model's hidden states (0: embeddings, -1: the last). Each is a pass over all responses."""
    at: At = "mean"
    """The state of the claim's last token, or the mean over its tokens."""

    def _reads(self) -> tuple[tuple[int, ...], At]:
        return self.layers, self.at


class ConfidenceProbe(TrainedProbe):
    """An MLP on the state from which the model would write its confidence: that of the token before the number.

    The responses are those of `verbalized`, with the confidence that the model stated. A claim behind which none stands
    has no such state.
    """

    name: ClassVar[str] = "confidence_probe"
    summary: ClassVar[str] = "an MLP on the hidden state behind which the stated confidence was written"
    source: ClassVar[str] = "ours; the network is that of ConRad, section 3 (Trained Probe)"
    dropout: ClassVar[float] = 0.1

    layer: int = -1
    """Index into the model's hidden states (0: embeddings, -1: the last)."""
    width: int = Field(256, ge=1, le=2**16)
    """Units of the MLP's hidden layer."""

    def _reads(self) -> tuple[tuple[int, ...], At]:
        return (self.layer,), "last"

    def _widths(self) -> tuple[int, ...]:
        return (self.width,)

    def rates_given(self) -> bool:
        """In responses of others there may be no confidence."""
        return False

    def _elicit(self, granularity: Granularity) -> str | None:
        return elicit_at(granularity)

    def _span(self, found: Responses, place: Place, model: Model) -> tuple[int, int]:
        """Return the span of the one token before the number that stands behind a claim; an empty one for none."""
        i, k = place
        response, claims = found.responses[i], found.claims[i]
        start = claims[k].span[1]
        end = claims[k + 1].span[0] if k + 1 < len(claims) else len(response.text)
        number = next((span for span in confidence_spans(response.text) if start <= span[0] < end), None)
        if number is None:
            return (0, 0)
        first, _ = model.token_spans(response, Claim(response.text[slice(*number)], number))
        return (max(0, first - 1), first)
