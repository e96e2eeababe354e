"""Confidences from the log-probabilities that came with the greedy response: no model is asked again.

With log p_t that of the claim's token t, and L tokens, the confidences are the published uncertainties under exp(-u):

    msp                     exp(sum over t of log p_t): the maximum sequence probability, u = -log p(y | x)
    perplexity              exp(mean over t of log p_t) = 1 / perplexity (Fomicheva et al. 2020)
    min_token_probability   min over t of p_t (Manakul et al. 2023)

A claim that is a whole response has the end of the turn among its tokens: "yes" is the answer only if nothing follows.
That, and that alone, tells `perplexity` from `sequence_probability` with `average=geometric`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from conrad_bench.errors import EngineError
from conrad_bench.methods.base import Judge, Method, Responses, Step, respond, responding
from conrad_bench.types import LOGPROBS, Estimate, Example

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class TokenMethod(Method):
    """A method that reads the probabilities that a claim's tokens were written with: implement `_confidences`."""

    needs: ClassVar = frozenset({LOGPROBS})

    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    @abstractmethod
    def _confidences(self, task: Task, found: Responses, model: Model) -> Mapping[tuple[int, int], float]:
        """Return a confidence, at least 0, for each (example, claim) that can have one; above 1 it counts as 1."""

    def rates_given(self) -> bool:
        """It reads the probabilities that the tokens were written with."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One response for each test example."""
        return [responding(task, test, self.max_tokens)]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond, and look at each claim's tokens. Raises EngineError where responses have no probabilities."""
        found = respond(task, examples, model, self.max_tokens)
        confidences = self._confidences(task, found, model)
        return found.estimates({place: min(1.0, confidence) for place, confidence in confidences.items()})


class TokenStatistic(TokenMethod):
    """A statistic of the log-probabilities of a claim's tokens: implement `_confidence`, and nothing else."""

    @abstractmethod
    def _confidence(self, logprobs: Sequence[float]) -> float:
        """Return the confidence of a claim from the log-probabilities of its tokens, at least one."""

    def _confidences(self, task: Task, found: Responses, model: Model) -> Mapping[tuple[int, int], float]:
        return {place: self._confidence(values) for place, values in claim_logprobs(task, found, model).items()}


class MaximumSequenceProbability(TokenStatistic):
    """The probability of the claim's words, all of them: long claims have little."""

    name: ClassVar[str] = "msp"
    summary: ClassVar[str] = "probability of the whole claim: the product of its tokens' (maximum sequence probability)"
    source: ClassVar[str] = "Hendrycks & Gimpel 2017; Fadeeva et al. 2023 (LM-Polygraph), maximum sequence probability"

    def _confidence(self, logprobs: Sequence[float]) -> float:
        return math.exp(math.fsum(logprobs))


class Perplexity(TokenStatistic):
    """One over the perplexity of the claim's tokens."""

    name: ClassVar[str] = "perplexity"
    summary: ClassVar[str] = "1 / perplexity: the geometric mean of the claim's token probabilities"
    source: ClassVar[str] = "Fomicheva et al. 2020 (TP); Fadeeva et al. 2023 (LM-Polygraph), perplexity"

    def _confidence(self, logprobs: Sequence[float]) -> float:
        return math.exp(math.fsum(logprobs) / len(logprobs))


class MinimumTokenProbability(TokenStatistic):
    """The least probable token of the claim: a claim is as sure as its least sure word."""

    name: ClassVar[str] = "min_token_probability"
    summary: ClassVar[str] = "probability of the claim's least probable token"
    source: ClassVar[str] = "Manakul et al. 2023 (SelfCheckGPT), Max(-log p)"

    def _confidence(self, logprobs: Sequence[float]) -> float:
        return math.exp(min(logprobs))


def claim_tokens(task: Task, found: Responses, model: Model) -> dict[tuple[int, int], tuple[int, int]]:
    """Return the first and the end index of the tokens of each open claim; claims without tokens are left out.

    The end of the turn belongs to a claim that is a whole response, and behind which there is no other text.
    """
    spans = {}
    for i, k in found.open():
        response, claim = found.responses[i], found.claims[i][k]
        start, end = model.token_spans(response, claim)
        if end > start:
            whole = task.granularity != "sentence" and not response.text[claim.span[1] :].strip()
            spans[i, k] = (start, len(response.token_ids) if whole else end)
    return spans


def claim_logprobs(task: Task, found: Responses, model: Model) -> dict[tuple[int, int], tuple[float, ...]]:
    """Return the log-probabilities of the tokens of each open claim; claims without tokens are left out.

    Raises EngineError where responses have none.
    """
    logprobs = {}
    for (i, k), (start, end) in claim_tokens(task, found, model).items():
        given = found.responses[i].logprobs
        if given is None:
            raise EngineError(f"engine {model.engine.name!r} returned responses without log-probabilities")
        logprobs[i, k] = given[start:end]
    return logprobs
