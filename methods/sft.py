"""SFT: the model is taught to append the correctness of its response (ConRad's "Verbalize Supervised")."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from conrad_bench.methods.base import Judge, Method, Step, drawn
from conrad_bench.methods.stating import level_plan, state, train_on_levels
from conrad_bench.trainers.settings import LevelSettings, tracker_problem
from conrad_bench.types import LOGPROBS, TRAINING, Estimate, Example, Granularity

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class SFT(Method, LevelSettings):
    """Cross-entropy to the level nearest to the correctness, behind responses that the base model wrote.

    Sentences are right or wrong, so there it learns 0 and 10 alone, as the paper says of it.
    """

    name: ClassVar[str] = "sft"
    summary: ClassVar[str] = "stated confidence, supervised with the correctness score"
    source: ClassVar[str] = "ConRad, section 3 (Verbalize Supervised)"
    needs: ClassVar = frozenset({TRAINING})

    distribution: bool = False
    """Also read the probabilities of all eleven confidences (needs log-probabilities)."""

    def requirements(self) -> frozenset[str]:
        """Reading all eleven confidences needs log-probabilities."""
        return self.needs | {LOGPROBS} if self.distribution else self.needs

    def problem(self, granularity: Granularity) -> str | None:
        """A tracker whose package is not installed."""
        return tracker_problem(self.report_to)

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """Training and stating a confidence, both behind responses of the base model."""
        return level_plan(self, task, self._chosen(train, task.granularity), test, "supervised steps")

    def _chosen(self, examples: Sequence[Example], granularity: Granularity) -> list[Example]:
        return drawn(examples, self.sentence_samples if granularity == "sentence" else self.samples, self.seed)

    def fit(
        self,
        task: Task,
        train: Sequence[Example],
        validation: Sequence[Example],
        model: Model,
        judge: Judge,
        out: Path,
    ) -> None:
        """Train the adapter."""
        from conrad_bench.trainers.objectives import supervised

        examples = self._chosen(train, task.granularity)
        train_on_levels(self, supervised, self.seed, task, examples, model, judge, out)

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Let the adapter state its confidence behind the base model's responses."""
        assert artifact is not None
        return state(task, examples, model, artifact, self.max_tokens, self.distribution)
