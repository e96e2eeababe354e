"""Verbalized confidence: the model states how sure it is, zero-shot ("Verbalize Base" in ConRad, tables 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from conrad_bench.methods.base import Judge, Method, Step, respond
from conrad_bench.methods.stating import with_distributions
from conrad_bench.reading.claims import read_stated
from conrad_bench.reading.elicitation import LEVELS, MARKER, elicit_at, two_stage_question
from conrad_bench.types import LOGPROBS, Estimate, Example, Granularity, Message, Prompt, Sampling

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class Verbalized(Method):
    """Ask for a confidence behind the response, and take the model at its word."""

    name: ClassVar[str] = "verbalized"
    summary: ClassVar[str] = "the confidence that the model states in words, zero-shot"
    source: ClassVar[str] = "ConRad, section 3 (Verbalize Base); variants: Xiong et al. 2024, Tian et al. 2023"

    variant: Literal["vanilla", "punish", "linguistic", "two_stage", "cot", "top_k"] = "vanilla"
    """How the confidence is asked for; see `reading.elicitation`. two_stage asks about the finished response."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""
    restricted: bool = False
    """Let the model state one of the eleven confidences and nothing else (variant=two_stage only)."""
    distribution: bool = False
    """Also read the probabilities of all eleven confidences (vanilla only; needs log-probabilities)."""

    def problem(self, granularity: Granularity) -> str | None:
        """The variants that reshape the response are for answers; a sentence's confidence has one form."""
        if self.variant in ("cot", "top_k") and granularity != "answer":
            return f"variant={self.variant} is for answers to questions, not for reports or their sentences"
        if self.variant in ("punish", "linguistic") and granularity == "sentence":
            return f"variant={self.variant} asks for one confidence a response; use vanilla or two_stage"
        if self.restricted and self.variant != "two_stage":
            return "restricted=true is for a confidence that is an answer of its own; use variant=two_stage"
        if self.distribution and self.variant != "vanilla":
            return "distribution=true reads integers, so it needs variant=vanilla"
        return None

    def requirements(self) -> frozenset[str]:
        """Reading all eleven confidences needs log-probabilities."""
        return frozenset({LOGPROBS}) if self.distribution else frozenset()

    def judges_given(self) -> bool:
        """It asks about the response where there are two stages."""
        return self.variant == "two_stage"

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One response with a stated confidence for each test example."""
        sampling, elicit = Sampling(max_tokens=self.max_tokens), self._elicit(task.granularity)
        prompts = tuple(task.prompt(example, elicit) for example in test)
        if elicit is None:
            asked = Step("generate", len(prompts), "responses to be asked about, one question for each claim")
            return [Step("generate", len(prompts), "test responses", prompts, sampling), asked]
        return [Step("generate", len(prompts), "test responses with a stated confidence", prompts, sampling)]

    def _elicit(self, granularity: Granularity) -> str | None:
        if self.variant == "two_stage":
            return None
        return elicit_at(granularity) if self.variant == "vanilla" else self.variant

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Generate greedily and read the stated confidence."""
        found = respond(task, examples, model, self.max_tokens, self._elicit(task.granularity))
        if self.variant != "two_stage":
            estimates = found.with_claims(found.claims)
            if self.distribution:
                return with_distributions(found.prompts, estimates, task.granularity, model)
            return estimates
        places = found.open()
        asked = [ask(found.prompts[i], found.claims[i][k].text) for i, k in places]
        claims = [list(row) for row in found.claims]
        only = tuple(f"{MARKER} {level}" for level in range(LEVELS)) if self.restricted else ()
        sampling = Sampling(max_tokens=16, choices=only)
        for (i, k), stated in zip(places, model.generate(asked, sampling), strict=True):
            value = read_stated(stated.text)
            claims[i][k] = replace(
                claims[i][k], confidence=value.confidence, status=value.status, reading=value.reading
            )
        return found.with_claims(claims)


def ask(prompt: Prompt, proposed: str) -> Prompt:
    """Return the question how confident the model is in a proposed answer, beside the same images."""
    *earlier, last = prompt.messages
    return replace(prompt, messages=(*earlier, Message("user", two_stage_question(last.text, proposed))))
