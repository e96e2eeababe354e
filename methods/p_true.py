"""P(True): the model is shown its own answer and asked whether it is true (Kadavath et al. 2022, sections 3.2 and 4).

`wording=plain` is a sentence of ours, answered with True or False; `wording=kadavath` their text, answered with (A) or
(B), and with `show=K` their second form, in which K sampled answers are listed first (five in their example). Left out
of theirs: the solved questions before it (theirs were base models; these follow instructions). A chat turn stands in
the place of their bare text, and the two options' probabilities are normalised, so that what the model gives to other
beginnings of an answer counts against neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from conrad_bench.methods.base import Judge, Method, Step, respond, responding, sampling_again
from conrad_bench.reading.elicitation import p_true_choices, p_true_question
from conrad_bench.types import LOGPROBS, SAMPLING, Estimate, Example, Granularity, Message, Prompt, Sampling

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task

Wording = Literal["plain", "kadavath"]

OPTIONS: dict[Wording, tuple[str, str]] = {"plain": ("True", "False"), "kadavath": ("(A)", "(B)")}
"""What the question offers, the true one first."""


class PTrue(Method):
    """Two stages: the response, then the probability of "True" against "False" for each claim, normalised."""

    name: ClassVar[str] = "p_true"
    summary: ClassVar[str] = "probability that the model gives to its own answer being true"
    source: ClassVar[str] = "Kadavath et al. 2022, sections 3.2 and 4; ConRad, section 3 (P(True))"
    needs: ClassVar = frozenset({LOGPROBS})

    wording: Wording = "plain"
    """The question: a sentence of ours, or the text of Kadavath et al."""
    show: int = Field(0, ge=0, le=1000)
    """Number of sampled responses that are listed before the one in question (wording=kadavath only)."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    @model_validator(mode="after")
    def _show_needs_its_wording(self) -> PTrue:
        if self.show and self.wording != "kadavath":
            raise ValueError("show lists samples in the words of wording=kadavath; set wording=kadavath or show=0")
        return self

    def problem(self, granularity: Granularity) -> str | None:
        """Sampled reports are no other versions of a sentence."""
        if self.show and granularity == "sentence":
            return "show lists whole responses beside the one in question; use show=0 for sentences"
        return None

    def requirements(self) -> frozenset[str]:
        """Listing samples needs them."""
        return self.needs | {SAMPLING} if self.show else self.needs

    def _sampling(self) -> Sampling:
        return Sampling(1.0, max_tokens=self.max_tokens, seed=self.seed)

    def judges_given(self) -> bool:
        """It asks about the response."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One response for each test example, and one question for each claim."""
        greedy = responding(task, test, self.max_tokens)
        return [
            greedy,
            *([sampling_again(greedy, self.show, self._sampling())] if self.show else []),
            Step("score", len(test), "responses: the two options for each of their claims"),
        ]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond greedily, and read P(True) / (P(True) + P(False)) off the model's own logits."""
        found = respond(task, examples, model, self.max_tokens)
        places = found.open()
        samples = model.sample(found.prompts, self.show, self._sampling()) if self.show else [[] for _ in examples]
        ideas = [[sample.text.strip() for sample in row] for row in samples]
        asked = [about(found.prompts[i], found.claims[i][k].text, self.wording, ideas[i]) for i, k in places]
        scores = model.score(asked, OPTIONS[self.wording])
        true = [1 / (1 + math.exp(min(no - yes, 700.0))) for yes, no in scores]
        return found.estimates(dict(zip(places, true, strict=True)))


def about(prompt: Prompt, proposed: str, wording: Wording = "plain", ideas: Sequence[str] = ()) -> Prompt:
    """Return the question whether a proposed answer to a prompt is true, beside the same images.

    `ideas` are other answers, listed before the proposed one in Kadavath et al.'s wording.
    """
    *earlier, last = prompt.messages
    plain = wording == "plain"
    question = p_true_question(last.text, proposed) if plain else p_true_choices(last.text, proposed, ideas)
    return replace(prompt, messages=(*earlier, Message("user", question)), elicit=None)
