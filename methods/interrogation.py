"""Interrogation: the model is asked about its own answer in several ways, and the answers become one confidence.

Our reading of multi-strategy fusion-based interrogation with an auxiliary expert (Du et al. 2025, MICCAI paper 1840):
what is public of it names several strategies of asking and an expert model's assessment, not the wordings and not how
they are fused. Here each strategy is a question about the finished response, read off the probabilities of the possible
answers, so that nothing more is generated:

    true      is the proposed answer True or False?                          P(True)
    choices   the same in Kadavath et al.'s words, (A) or (B)                P((A))
    levels    how confident are you, from 0 to 10?                           expectation / 10
    punish    the same, with the warning that a confident mistake costs most expectation / 10
    doubt     a colleague thinks that it is wrong: is the colleague right?   P(No)

    confidence = logistic of the mean log-odds of the strategies

With an `assessor`, another model is asked the same about the response: its mean log-odds count `share` (a half), the
model's own the rest. Log-odds of less than 0.5 % and more than 99.5 % count as these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from conrad_bench.methods.base import Judge, Method, Step, respond, responding
from conrad_bench.reading.elicitation import (
    LEVELS,
    MARKER,
    doubt_question,
    p_true_choices,
    p_true_question,
    two_stage_question,
)
from conrad_bench.types import END, LOGPROBS, Estimate, Example, Message, Prompt

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task

Array = NDArray[np.float64]
Strategy = Literal["true", "choices", "levels", "punish", "doubt"]

_STATED = tuple(f"{MARKER} {level}{END}" for level in range(LEVELS))
_LEAST = 0.005

ASKED: dict[Strategy, tuple[Callable[[str, str], str], tuple[str, ...], tuple[float, ...]]] = {
    "true": (p_true_question, ("True", "False"), (1.0, 0.0)),
    "choices": (p_true_choices, ("(A)", "(B)"), (1.0, 0.0)),
    "levels": (two_stage_question, _STATED, tuple(level / (LEVELS - 1) for level in range(LEVELS))),
    "punish": (
        lambda asked, proposed: (
            f"{two_stage_question(asked, proposed)} A high confidence in a wrong answer will be punished."
        ),
        _STATED,
        tuple(level / (LEVELS - 1) for level in range(LEVELS)),
    ),
    "doubt": (doubt_question, ("No", "Yes"), (1.0, 0.0)),
}
"""Question (asked, proposed), possible answers, and the confidence that each of them stands for."""


class Interrogation(Method):
    """Several questions about the finished response, to the model itself and to an expert, as one confidence."""

    name: ClassVar[str] = "interrogation"
    summary: ClassVar[str] = "several questions to the model about its own response, fused into one confidence"
    source: ClassVar[str] = "our reading of Du et al. 2025 (MICCAI 1840), whose wordings and fusion are not public"
    needs: ClassVar = frozenset({LOGPROBS})

    strategies: tuple[Strategy, ...] = Field(("true", "choices", "levels", "punish", "doubt"), min_length=1)
    """The ways of asking; each is a scoring of given answers for each claim."""
    assessor: str | None = None
    """Folder or hub id of an expert model that is asked the same; `phantom` is the embedded one. None: nobody else."""
    share: float = Field(0.5, gt=0, le=1)
    """How much the assessor's log-odds count beside the model's own (ours)."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    def expert(self) -> tuple[str, dict[str, Any]] | None:
        """Return the assessor's engine."""
        return None if self.assessor is None else ("transformers", {"model": self.assessor})

    def judges_given(self) -> bool:
        """It asks about the response."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One response for each test example, and the questions about it."""
        number, what = len(self.strategies) * len(test), f"{len(self.strategies)} questions about each claim"
        expert = [Step("score", number, f"{what}, by the assessor")] if self.assessor else []
        return [responding(task, test, self.max_tokens), Step("score", number, what), *expert]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond greedily, ask all questions about each claim, and fuse what is answered."""
        found = respond(task, examples, model, self.max_tokens)
        places = found.open()
        proposed = [(found.prompts[i], found.claims[i][k].text) for i, k in places]
        odds = self._asked(proposed, model)
        if self.assessor is not None:
            odds = (1 - self.share) * odds + self.share * self._asked(proposed, model.expert(self.name))
        return found.estimates(dict(zip(places, (float(value) for value in 1 / (1 + np.exp(-odds))), strict=True)))

    def _asked(self, proposed: Sequence[tuple[Prompt, str]], model: Model) -> Array:
        """Return the mean log-odds over the strategies of each response, shape (claims,)."""
        rows = []
        for strategy in self.strategies:
            question, answers, worth = ASKED[strategy]
            prompts = [_about(prompt, question(prompt.messages[-1].text, text)) for prompt, text in proposed]
            logs = np.array(model.score(prompts, answers)).reshape(len(prompts), len(answers))
            shares = np.exp(logs - logs.max(axis=1, keepdims=True))
            stated = np.clip(shares @ np.array(worth) / shares.sum(axis=1), _LEAST, 1 - _LEAST)
            rows.append(np.log(stated / (1 - stated)))
        return np.asarray(np.mean(rows, axis=0))


def _about(prompt: Prompt, question: str) -> Prompt:
    """Return a question in the place of a prompt's last, beside the same images."""
    return replace(prompt, messages=(*prompt.messages[:-1], Message("user", question)), elicit=None)
