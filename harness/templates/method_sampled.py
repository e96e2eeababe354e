"""my_plugin: a claim whose words come back in other samples is trusted more.

The model answers `n` more times at temperature 1. Replace `_agreement` by an idea of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

import conrad_bench as cb
from conrad_bench.methods.base import respond, responding, sampling_again


@cb.register_method
class MyPlugin(cb.Method):
    """The mean share of a claim's words that a sampled response has."""

    name = "my_plugin"
    summary = "share of a claim's words that other samples have"
    source = ""  # the paper, section or equation
    needs: ClassVar[frozenset[str]] = frozenset({cb.SAMPLING})

    n: int = Field(default=5, ge=1)
    """Sampled responses to each prompt."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest response, in tokens."""

    def steps(
        self, task: cb.Task, train: Sequence[cb.Example], validation: Sequence[cb.Example], test: Sequence[cb.Example]
    ) -> list[cb.Step]:
        """One greedy response to each test example, and `n` sampled ones."""
        greedy = responding(task, test, self.max_tokens)
        return [greedy, sampling_again(greedy, self.n, self._sampling())]

    def estimate(
        self,
        task: cb.Task,
        examples: Sequence[cb.Example],
        model: cb.Model,
        judge: cb.Judge,
        artifact: Path | None,
    ) -> list[cb.Estimate]:
        """Respond, sample, and compare."""
        found = respond(task, examples, model, self.max_tokens)
        samples = model.sample(found.prompts, self.n, self._sampling())
        return found.estimates({(i, k): self._agreement(found.claims[i][k], samples[i]) for i, k in found.open()})

    def _sampling(self) -> cb.Sampling:
        return cb.Sampling(temperature=1.0, max_tokens=self.max_tokens, seed=self.seed)

    def _agreement(self, claim: cb.Claim, samples: Sequence[cb.Response]) -> float:
        words = set(claim.text.lower().split())
        if not words:
            return 0.0
        return sum(len(words & set(sample.text.lower().split())) for sample in samples) / (len(words) * len(samples))
