"""Verbalized confidence: the model states how sure it is, zero-shot ("Verbalize Base" in ConRad, table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from conrad_bench.methods.base import Method, Step
from conrad_bench.types import Estimate, Example

if TYPE_CHECKING:
    from conrad_bench.model import Model
    from conrad_bench.tasks.base import Task


class Verbalized(Method):
    """Ask for an integer from 0 to 10 behind the response, and take it at its word."""

    name: ClassVar[str] = "verbalized"
    summary: ClassVar[str] = "the confidence that the model states in words, zero-shot"
    source: ClassVar[str] = "ConRad, section 3 (Verbalize Base)"
    granularities: ClassVar = frozenset({"report"})

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One response with a stated confidence for each test example."""
        prompts = tuple(task.prompt(example, "confidence") for example in test)
        return [Step("generate", len(prompts), "test responses with a stated confidence", prompts)]

    def estimate(self, task: Task, examples: Sequence[Example], model: Model, artifact: Path | None) -> list[Estimate]:
        """Generate greedily and read the stated confidence."""
        responses = model.generate([task.prompt(example, "confidence") for example in examples])
        return [
            Estimate(example.id, response, tuple(task.claims(response, "confidence")))
            for example, response in zip(examples, responses, strict=True)
        ]
