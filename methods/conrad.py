"""ConRad: a confidence learned by reinforcement with a proper scoring rule, for reports, sentences and answers.

The paper's rule is the logarithmic one; `reward` takes others that were published (trainers/rewards.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from conrad_bench.errors import TrainingError
from conrad_bench.methods.base import Judge, Step
from conrad_bench.methods.stating import Stating, state, state_jointly, train_on_levels
from conrad_bench.reading.elicitation import elicit_at
from conrad_bench.trainers.conrad import train_conrad
from conrad_bench.trainers.rewards import mean_reward, reward_of, violation_reward
from conrad_bench.trainers.settings import GRPOSettings
from conrad_bench.types import (
    SAMPLING,
    TRAINING,
    Claim,
    Estimate,
    Example,
    Response,
    Sampling,
    Score,
)

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class ConRad(Stating, GRPOSettings):
    """GRPO on the confidence tokens; reward lambda (r log c + (1 - r) log(1 - c)), r the claim's correctness."""

    name: ClassVar[str] = "conrad"
    summary: ClassVar[str] = "stated confidence trained by GRPO with the logarithmic scoring rule"
    source: ClassVar[str] = "ConRad, sections 2.3 and 3, equations 2 and 3"
    needs: ClassVar = frozenset({TRAINING, SAMPLING})

    def asks_while_training(self) -> bool:
        """In joint mode each step's reports are judged."""
        return self.mode == "joint"

    def judges_given(self) -> bool:
        """In joint mode the response and its confidence are one text."""
        return self.mode == "conditional"

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """Training on responses of the base model (conditional) or of its own (joint), then the test examples."""
        chosen, elicit = self.chosen(train, task.granularity), elicit_at(task.granularity)
        sampling = Sampling(max_tokens=self.max_tokens)
        each = " for each sentence" if task.granularity == "sentence" and self.mode == "conditional" else ""
        what = f"steps of GRPO{each}, groups of {self.generations}, {self.mode}"
        steps = Step("train", self.steps_for(len(chosen)), what)
        if self.mode == "joint":
            return [steps, Step("generate", len(test), "test responses with the adapter")]
        asked = [tuple(task.prompt(example, elicit) for example in part) for part in (chosen, test)]
        return [
            Step("generate", len(chosen), "training responses of the base model", asked[0], sampling),
            steps,
            Step("generate", len(test), "test responses of the base model", asked[1], sampling),
            Step("state", len(test), "responses: one number for each claim, with the adapter"),
        ]

    def fit(
        self,
        task: Task,
        train: Sequence[Example],
        validation: Sequence[Example],
        model: Model,
        judge: Judge,
        out: Path,
    ) -> None:
        """Train the adapter. Raises TrainingError if the rollouts lose the confidence format."""
        from conrad_bench.trainers.objectives import ranked, sampled

        examples, elicit = self.chosen(train, task.granularity), elicit_at(task.granularity)
        if self.mode == "conditional":
            objective = sampled(
                self.reward_scale, self.reward_eps, self.generations, self.scale_rewards, self.entropy, self.beta,
                self.violation, self.reward,
            )  # fmt: skip
            if self.ranking:
                scale = self.reward_scale if self.scale_rewards == "none" else 1.0
                objective = ranked(objective, self.ranking * scale)
            train_on_levels(self, objective, self.seed, task, examples, model, judge, out, ranking=self.ranking > 0)
            return

        def reward(rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float | None], list[bool]]:
            claims = [task.claims(Response("", text, (), None, "stop"), elicit) for text in texts]
            scores = judge([examples[row] for row in rows], claims)
            return self._rewards([_confidences(c) for c in claims], [_values(s) for s in scores])

        prompts = [task.prompt(example, elicit) for example in examples]
        if not all(readable := model.readable(prompts)):  # the trainer opens them in the midst of a step
            examples = [example for example, ok in zip(examples, readable, strict=True) if ok]
            prompts = [prompt for prompt, ok in zip(prompts, readable, strict=True) if ok]
        if not prompts:
            raise TrainingError("there is nothing to learn from: no image of the training examples can be read")
        data = {
            "settings": self,
            "prompts": prompts,
            "base_model": model.engine.identity()["model"],
            "seed": self.seed,
            "out": out,
        }
        model.train(train_conrad, data, {"reward": reward})

    def _rewards(
        self, confidences: Sequence[Sequence[float | None]], correctness: Sequence[Sequence[float | None]]
    ) -> tuple[list[float | None], list[bool]]:
        """Return the mean reward of each response's claims that were judged, and which responses keep the format.

        One claim without a readable confidence breaks the format, and the response gets the violation's reward. What
        the judge could not judge says nothing of the policy: the mean leaves such claims out, and a response of which
        no claim was judged has no reward (None), so that it counts neither for the group's baseline nor for the update.
        """
        reward = reward_of(self.reward, self.reward_eps)
        worst = violation_reward(reward, self.reward_scale, self.violation)
        rewards: list[float | None] = []
        parsed = []
        for stated, judged in zip(confidences, correctness, strict=True):
            pairs = [(c, r) for c, r in zip(stated, judged, strict=True) if c is not None]
            known = [(c, r) for c, r in pairs if r is not None]
            parsed.append(len(pairs) == len(stated))
            if not parsed[-1]:
                rewards.append(worst)
            elif known:
                c, r = zip(*known, strict=True)
                rewards.append(mean_reward(reward, c, r, self.reward_scale))
            else:
                rewards.append(None)
        return rewards, parsed

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Read the confidence that the adapter states: behind its own response (joint) or behind the base's."""
        assert artifact is not None
        if self.mode == "conditional":
            return state(task, examples, model, artifact, self.max_tokens, self.distribution)
        return state_jointly(task, examples, model, artifact, self.max_tokens, self.distribution)


def _confidences(claims: Sequence[Claim]) -> list[float | None]:
    return [claim.confidence for claim in claims]


def _values(scores: Sequence[Score]) -> list[float | None]:
    return [score.value for score in scores]
