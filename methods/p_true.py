"""P(True): the model is shown its own answer and asked whether it is true (Kadavath et al. 2022, section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from conrad_bench.methods.base import Judge, Method, Step, respond
from conrad_bench.reading.elicitation import p_true_question
from conrad_bench.types import LOGPROBS, Estimate, Example, Message, Prompt, Sampling

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task

OPTIONS = ("True", "False")


class PTrue(Method):
    """Two stages: the response, then the probability of "True" against "False" for each claim, normalised."""

    name: ClassVar[str] = "p_true"
    summary: ClassVar[str] = "probability that the model gives to its own answer being true"
    source: ClassVar[str] = "Kadavath et al. 2022, section 4; ConRad, section 3 (P(True))"
    needs: ClassVar = frozenset({LOGPROBS})

    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One response for each test example, and one question for each claim."""
        prompts = tuple(task.prompt(example) for example in test)
        sampling = Sampling(max_tokens=self.max_tokens)
        return [
            Step("generate", len(prompts), "test responses", prompts, sampling),
            Step("score", len(prompts), "responses: the two options for each of their claims"),
        ]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond greedily, and read P(True) / (P(True) + P(False)) off the model's own logits."""
        found = respond(task, examples, model, self.max_tokens)
        places = found.open()
        scores = model.score([about(found.prompts[i], found.claims[i][k].text) for i, k in places], OPTIONS)
        true = [1 / (1 + math.exp(min(no - yes, 700.0))) for yes, no in scores]
        return found.estimates(dict(zip(places, true, strict=True)))


def about(prompt: Prompt, proposed: str) -> Prompt:
    """Return the question whether a proposed answer to a prompt is true, beside the same images."""
    *earlier, last = prompt.messages
    question = p_true_question(last.text, proposed)
    return replace(prompt, messages=(*earlier, Message("user", question)), elicit=None)
