"""Sequence probability: how probable the model found its own words ("Sequence Probability" in ConRad, table 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from conrad_bench.errors import EngineError
from conrad_bench.methods.base import Judge, Method, Responses, Step, respond, responding
from conrad_bench.types import LOGPROBS, Estimate, Example

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class SequenceProbability(Method):
    """The mean probability of the tokens of a claim, under greedy decoding."""

    name: ClassVar[str] = "sequence_probability"
    summary: ClassVar[str] = "mean probability of the response's tokens"
    source: ClassVar[str] = "Huang et al. 2025 (mean token probability); ConRad, section 3"
    needs: ClassVar = frozenset({LOGPROBS})

    average: Literal["arithmetic", "geometric"] = "arithmetic"
    """Mean of the token probabilities (the paper's), or their geometric mean: the length-normalised likelihood."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    def judges_given(self) -> bool:
        """It reads how probable the response is beside the images."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One response for each test example; the tokens of those that were written about other images are scored."""
        steps = [responding(task, test, self.max_tokens)]
        given = sum(example.answered is not None for example in test)
        return [*steps, *([Step("score", given, "responses: all their tokens")] if given else [])]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Average over the tokens that each claim covers. Raises EngineError where responses have no probabilities."""
        found = respond(task, examples, model, self.max_tokens)
        anew = _read_anew(found, model)
        confidences = {}
        for i, k in found.open():
            response = found.responses[i]
            if response.logprobs is None:
                raise EngineError(f"engine {model.engine.name!r} returned responses without log-probabilities")
            start, end = model.token_spans(response, found.claims[i][k])
            logprobs = anew[i][start:end] if i in anew else response.logprobs[start:end]
            if logprobs:
                confidences[i, k] = self._average(logprobs)
        return found.estimates(confidences)

    def _average(self, logprobs: Sequence[float]) -> float:
        if self.average == "geometric":
            return min(1.0, math.exp(math.fsum(logprobs) / len(logprobs)))
        return min(1.0, math.fsum(map(math.exp, logprobs)) / len(logprobs))


def _read_anew(found: Responses, model: Model) -> dict[int, list[float]]:
    """Return the log-probability of each token of the responses that were written about other images, by place.

    That of a token is the difference of two beginnings of the text, one of which has it; what has no text has 0.
    """
    chosen = {i for i, _ in found.open() if found.examples[i].answered is not None}
    places = [i for i in sorted(chosen) if found.responses[i].token_ids]
    offsets = model.engine.offsets([found.responses[i].token_ids for i in places])
    ends = [sorted({end for end in row if end > 0}) for row in offsets]
    texts = [[found.responses[i].text[:end] for end in row] for i, row in zip(places, ends, strict=True)]
    sums = model.score([found.prompts[i] for i in places], texts)
    anew = {}
    for i, row, known, values in zip(places, offsets, ends, sums, strict=True):
        at = {0: 0.0, **dict(zip(known, values, strict=True))}
        # A beginning may be cut into other tokens than the whole text, and be no more probable for it.
        anew[i] = [min(0.0, at[end] - at[start]) for start, end in pairwise(row)]
    return anew
