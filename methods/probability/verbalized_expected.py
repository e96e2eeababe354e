"""Expected verbalized confidence: the mean of the eleven confidences under the model's own probabilities of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from conrad_bench.methods.base import Judge, Method, Step, respond
from conrad_bench.methods.stating import distributions, places, stated_after
from conrad_bench.reading.elicitation import LEVELS, elicit_at
from conrad_bench.types import LOGPROBS, Estimate, Example, Sampling

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class VerbalizedExpected(Method):
    """The responses of `verbalized`, each claim's confidence the expectation over all eleven in the stated one's place.

    With p(k) the probability of the answer k behind the claim and the confidence marker,

        confidence = sum over k of (k / 10) p(k) / sum over k of p(k)

    What the model gives to malformed answers counts for none. A claim whose stated confidence could not be read has
    one, too.
    """

    name: ClassVar[str] = "verbalized_expected"
    summary: ClassVar[str] = "expectation over the eleven confidences that the model might state, zero-shot"
    source: ClassVar[str] = (
        "Liu et al. 2023 (G-Eval), equation 1 (expectation over scores); ConRad, section 3 (the question and the scale)"
    )
    needs: ClassVar = frozenset({LOGPROBS})

    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    def judges_given(self) -> bool:
        """It reads the eleven confidences behind the response."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """The responses of `verbalized`, and the eleven confidences behind each claim."""
        prompts = tuple(task.prompt(example, elicit_at(task.granularity)) for example in test)
        sampling = Sampling(max_tokens=self.max_tokens)
        return [
            Step("generate", len(prompts), "test responses with a stated confidence", prompts, sampling),
            Step("score", len(prompts), "responses: the eleven confidences behind each of their claims"),
        ]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond with a confidence, and read the probabilities of all eleven where it stands."""
        found = respond(task, examples, model, self.max_tokens, elicit_at(task.granularity))
        at = places(found)
        asked = [
            stated_after(found.prompts[i], found.responses[i], found.claims[i][k], task.granularity) for i, k in at
        ]
        claims = [list(row) for row in found.claims]
        for (i, k), p in zip(at, distributions(asked, task.granularity, model), strict=True):
            total = math.fsum(p)
            if total > 0:
                mean = math.fsum(level * share for level, share in enumerate(p)) / total / (LEVELS - 1)
                claims[i][k] = replace(claims[i][k], confidence=min(1.0, mean), status="ok", distribution=p)
        return found.with_claims(claims)
