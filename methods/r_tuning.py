"""R-Tuning (Zhang et al. 2024): the model learns to say whether it is sure, and the confidence is P(sure).

The training set is split by whether the model's own answer is right. Behind each answer stands "Are you sure you
accurately answered the question based on your internal knowledge? I am", and the model learns to go on with "sure"
where the answer was right, with "unsure" where it was not.

Theirs trains the whole model on question, answer and these words, with the reference in the place of the model's
answer. Here an activated adapter learns the last word alone, behind the answer that the model wrote: that is the one
which is asked about later, it stays what it was, and a reference is always right. The two words are compared with each
other in the loss, as they are where the confidence is read. Correctness may be continuous; then `threshold` says what
is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from conrad_bench.methods.base import Judge, Step, respond
from conrad_bench.methods.stating import Trained, distributions, level_plan, stated_after, train_on_levels
from conrad_bench.reading.elicitation import SURE
from conrad_bench.trainers.settings import LevelSettings
from conrad_bench.types import LOGPROBS, TRAINING, Estimate, Example

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class RTuning(Trained, LevelSettings):
    """Cross-entropy to "sure" or "unsure" behind the base model's responses."""

    name: ClassVar[str] = "r_tuning"
    summary: ClassVar[str] = "probability of being sure, taught where the model's own answers were right"
    source: ClassVar[str] = "Zhang et al. 2024 (R-Tuning), section 2.2"
    needs: ClassVar = frozenset({TRAINING, LOGPROBS})

    min_parse_rate: float = Field(0.0, ge=0, le=1)
    """Training stops with an error when, after more, the two words together have a smaller probability than this. They
    are compared with each other, so it may be small."""
    threshold: float = Field(0.5, gt=0, le=1)
    """Correctness from which on a claim counts as right (theirs is right or wrong)."""

    def judges_given(self) -> bool:
        """It asks about the response."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """Training on responses of the base model, and its question behind those to the test examples."""
        return level_plan(self, task, self.chosen(train, task.granularity), test, "supervised steps", wording=SURE)

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
        from conrad_bench.trainers.objectives import told_apart

        examples = self.chosen(train, task.granularity)
        train_on_levels(self, told_apart(self.threshold), self.seed, task, examples, model, judge, out, SURE)

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Return P(sure) / (P(sure) + P(unsure)) under the adapter, behind each claim of the base model's responses."""
        assert artifact is not None
        found = respond(task, examples, model, self.max_tokens)
        at = found.open()
        asked = [
            stated_after(found.prompts[i], found.responses[i], found.claims[i][k], task.granularity, SURE)
            for i, k in at
        ]
        answered = distributions(asked, task.granularity, model.adapted(artifact), SURE)
        shares = {place: p for place, p in zip(at, answered, strict=True) if sum(p) > 0}
        return found.estimates({place: sure / (unsure + sure) for place, (unsure, sure) in shares.items()})
