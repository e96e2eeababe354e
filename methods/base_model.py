"""The base model alone: responses without a confidence ("MedGemma Base" in ConRad, tables 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from conrad_bench.methods.base import Judge, Method, Step, respond, responding
from conrad_bench.types import Estimate, Example

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class Base(Method):
    """Report-only prompting: the row that shows what asking for a confidence does to the responses."""

    name: ClassVar[str] = "base"
    summary: ClassVar[str] = "responses without any confidence: their quality alone"
    source: ClassVar[str] = "ConRad, Table 1 (MedGemma Base)"
    confident: ClassVar[bool] = False

    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One response for each test example."""
        return [responding(task, test, self.max_tokens)]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond greedily; no claim has a confidence."""
        found = respond(task, examples, model, self.max_tokens)
        return found.with_claims(found.claims)
