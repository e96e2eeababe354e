"""A method without a model of confidence: the longer the response, the lower the confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from conrad_bench import Estimate, Example, Judge, Method

if TYPE_CHECKING:
    from conrad_bench import Model, Task


class Brevity(Method):
    """Confidence h / (h + n) for a response of n tokens: 1 for none, 0.5 for h tokens, towards 0 for many."""

    name = "brevity"
    summary = "a baseline that trusts short responses"

    half: int = Field(default=50, ge=1)
    """Number of tokens h at which the confidence is 0.5."""

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Give every claim of a response the same confidence, by the response's length."""
        responses = model.generate([task.prompt(example) for example in examples])
        estimates = []
        for example, response in zip(examples, responses, strict=True):
            confidence = self.half / (self.half + len(response.token_ids))
            claims = [
                replace(claim, confidence=confidence) if claim.status == "ok" else claim
                for claim in task.claims(response)
            ]
            estimates.append(Estimate(example.id, response, tuple(claims)))
        return estimates
