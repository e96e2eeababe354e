"""CoCoA: consistency times probability (Vashurin et al. 2025).

With u the improbability of the greedy claim and s_j its similarity to each of the n samples,

    confidence = exp(-u * 1/n sum over j of (1 - s_j))

u is the negative log-probability of the claim (`information=msp`), or that by token (`perplexity`, their CoCoA_PPL).
The similarity is `self_consistency`'s agreement, sentences included; theirs is that of a cross-encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from conrad_bench.methods.base import Judge, Method, Step, respond
from conrad_bench.methods.probability.tokens import claim_logprobs
from conrad_bench.methods.self_consistency import SelfConsistency, Similarity
from conrad_bench.types import LOGPROBS, SAMPLING, Estimate, Example, Granularity

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


Information = Literal["perplexity", "msp"]


class CoCoA(Method):
    """How improbable the claim is, as far as the samples disagree with it."""

    name: ClassVar[str] = "cocoa"
    summary: ClassVar[str] = "consistency of sampled responses with the greedy one, times the greedy one's probability"
    source: ClassVar[str] = "Vashurin et al. 2025 (CoCoA), CoCoA_MSP and CoCoA_PPL"
    needs: ClassVar = frozenset({LOGPROBS, SAMPLING})

    n: int = Field(10, ge=1, le=1000)
    """Number of sampled responses (the paper's 10)."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of the sampled responses; the response that is judged is greedy."""
    information: Information = "perplexity"
    """How improbable the claim is: by token, or as a whole."""
    similarity: Similarity = "scorer"
    """The task's own scorer with a sampled response in the place of the reference, ROUGE-L, the shared words among all
    words, or equal answers."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    def _consistency(self) -> SelfConsistency:
        shared = ("seed", "n", "temperature", "similarity", "max_tokens")
        return SelfConsistency(**{name: getattr(self, name) for name in shared})

    def problem(self, granularity: Granularity) -> str | None:
        """Two reports are hardly ever equal, so `exact` is for answers."""
        return self._consistency().problem(granularity)

    def rates_given(self) -> bool:
        """It reads the probability of the response, and compares it with samples."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One greedy and n sampled responses for each test example."""
        return self._consistency().steps(task, train, validation, test)

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Estimate the consistency of each claim, and let it weigh the claim's improbability."""
        consistent = self._consistency().estimate(task, examples, model, judge, None)
        found = respond(task, examples, model, self.max_tokens)
        confidences = {}
        for (i, k), logprobs in claim_logprobs(task, found, model).items():
            agreement = consistent[i].claims[k].confidence
            if agreement is not None:
                confidences[i, k] = weighed(logprobs, agreement, self.information)
        return found.estimates(confidences)


def weighed(logprobs: Sequence[float], agreement: float, information: Information) -> float:
    """Return the confidence in [0, 1] from a claim's log-probabilities and its mean similarity to the samples."""
    improbable = -math.fsum(logprobs) / (len(logprobs) if information == "perplexity" else 1)
    return min(1.0, math.exp(-improbable * (1 - agreement)))
