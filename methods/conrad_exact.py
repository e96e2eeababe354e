"""Exact ConRad: the expected reward over all eleven confidences, differentiated without sampling any.

ConRad's reward depends on the stated confidence alone once the response is written, and there are eleven of them. So
the expectation that GRPO estimates from a group of rollouts is a sum of eleven terms (trainers/levels.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from conrad_bench.methods.base import Judge, Step
from conrad_bench.methods.stating import Stating, level_plan, state, train_on_levels
from conrad_bench.trainers.rewards import ExactReward
from conrad_bench.trainers.settings import LevelSettings
from conrad_bench.types import TRAINING, Estimate, Example

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class ConRadExact(Stating, LevelSettings):
    """ConRad's objective (equations 2 and 3) by exact differentiation; the base model's responses stay as they are."""

    name: ClassVar[str] = "conrad_exact"
    summary: ClassVar[str] = "stated confidence trained on the exact expected logarithmic score"
    source: ClassVar[str] = "ConRad, section 2.3, equations 2 and 3; the exact form is ours"
    needs: ClassVar = frozenset({TRAINING})

    reward: ExactReward = "log"
    """What a confidence is rewarded with (docs/methods.md). conftuner: brier, over readable answers alone."""
    reward_scale: float = Field(100.0, gt=0)
    """lambda of the reward."""
    reward_eps: float = Field(0.01, gt=0, lt=0.5)
    """Confidences are clipped to [eps, 1 - eps] in the reward `log`."""
    entropy: float = Field(0.0, ge=0)
    """Weight of the policy's entropy, in units of the reward scale: it keeps neighbouring confidences in play."""
    ranking: float = Field(0.0, ge=0)
    """Weight of the clean-corrupted ranking, in units of the reward scale: the confidence is to be higher than beside
    the same pictures under noise."""
    normalise: bool = False
    """Divide each claim's rewards by their deviation under the policy, as GRPO's group scaling does."""

    def judges_given(self) -> bool:
        """The adapter states a confidence behind the response."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """Training and stating a confidence, both behind responses of the base model."""
        return level_plan(self, task, self.chosen(train, task.granularity), test, "steps on the exact expected reward")

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
        from conrad_bench.trainers.objectives import expected_reward, ranked

        objective = expected_reward(self.reward_scale, self.reward_eps, self.entropy, self.normalise, self.reward)
        if self.ranking:
            objective = ranked(objective, self.ranking * (1.0 if self.normalise else self.reward_scale))
        examples = self.chosen(train, task.granularity)
        train_on_levels(self, objective, self.seed, task, examples, model, judge, out, ranking=self.ranking > 0)

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Let the adapter state its confidence behind the base model's responses."""
        assert artifact is not None
        return state(task, examples, model, artifact, self.max_tokens, self.distribution)
