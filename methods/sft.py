"""SFT: the model is taught to append the correctness of its response (ConRad's "Verbalize Supervised").

The paper has it as "SFT on explicit GREEN scores appended to the report text" (section 3). GREEN "scores a generated
report against the reference report", so the report is one that the model wrote: the reference's own score would be 1
always. It does not say whether the report's tokens are in the loss as well; in `mode=joint` they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from conrad_bench.errors import TrainingError
from conrad_bench.methods.base import Judge, Step, respond
from conrad_bench.methods.stating import Stating, level_plan, state, state_jointly, train_on_levels
from conrad_bench.reading.elicitation import LEVELS, MARKER, elicit_at, separator
from conrad_bench.trainers.settings import LevelSettings
from conrad_bench.types import TRAINING, Claim, Estimate, Example, Granularity, Score

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task
    from conrad_bench.trainers.joint_sft import Target


class SFT(Stating, LevelSettings):
    """Cross-entropy to the level nearest to the correctness of responses that the base model wrote.

    Sentences are right or wrong, so there it learns 0 and 10 alone, as the paper says of it.
    """

    name: ClassVar[str] = "sft"
    summary: ClassVar[str] = "stated confidence, supervised with the correctness score"
    source: ClassVar[str] = "ConRad, section 3 (Verbalize Supervised)"
    needs: ClassVar = frozenset({TRAINING})

    mode: Literal["conditional", "joint"] = "conditional"
    """conditional: the base writes the report, an activated LoRA states the confidence. joint: one LoRA does both, and
    learns the text of its report with the score appended, as in the paper."""

    @model_validator(mode="after")
    def _options_need_their_mode(self) -> SFT:
        if self.sentence_weight == "flat" and self.mode == "joint":
            raise ValueError("mode=joint learns whole reports; set sentence_weight=report or mode=conditional")
        return self

    def judges_given(self) -> bool:
        """In joint mode the response and its confidence are one text."""
        return self.mode == "conditional"

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """Training on responses of the base model, then the test examples: behind its responses, or its own (joint)."""
        chosen = self.chosen(train, task.granularity)
        return level_plan(self, task, chosen, test, f"supervised steps, {self.mode}", self.mode == "joint")

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
        examples = self.chosen(train, task.granularity)
        if self.mode == "joint":
            from conrad_bench.trainers.joint_sft import train_joint_sft

            data = {
                "settings": self,
                "targets": self._targets(task, examples, model, judge),
                "base_model": model.engine.identity()["model"],
                "seed": self.seed,
                "out": out,
            }
            model.train(train_joint_sft, data, {})
            return
        from conrad_bench.trainers.objectives import supervised

        train_on_levels(self, supervised, self.seed, task, examples, model, judge, out)

    def _targets(self, task: Task, examples: Sequence[Example], model: Model, judge: Judge) -> list[Target]:
        """Return the base model's responses with their correctness appended: what is learned in joint mode.

        Raises TrainingError where no response could be judged.
        """
        from conrad_bench.trainers.joint_sft import Target

        found = respond(task, examples, model, self.max_tokens, elicit_at(task.granularity))
        scores = judge(examples, found.claims)
        scored = [appended(task.granularity, *pair) for pair in zip(found.claims, scores, strict=True)]
        targets = [Target(p, text, ended) for p, (text, ended) in zip(found.prompts, scored, strict=True) if text]
        if not targets:
            raise TrainingError("there is nothing to learn from: no response to a training example could be judged")
        return targets

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Read the confidence that the adapter states: behind the base's response, or behind its own (joint)."""
        assert artifact is not None
        stated = state_jointly if self.mode == "joint" else state
        return stated(task, examples, model, artifact, self.max_tokens, self.distribution)


def appended(granularity: Granularity, claims: Sequence[Claim], scores: Sequence[Score]) -> tuple[str, bool]:
    """Return a response with the level nearest to the correctness behind each claim, and whether it is all of it.

    The text ends before the first claim that was cut off or could not be judged: behind such a claim there is no score
    to append, and a report without it would not be the model's.
    """
    lines: list[str] = []
    for claim, score in zip(claims, scores, strict=True):
        if score.value is None or claim.status in ("empty", "truncated"):
            return "\n".join(lines), False
        lines.append(f"{claim.text}{separator(granularity)}{MARKER} {round(score.value * (LEVELS - 1))}")
    return "\n".join(lines), True
