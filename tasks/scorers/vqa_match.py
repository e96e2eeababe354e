"""vqa_match: whether an answer to a question is the reference answer.

Texts are compared as in the VQA literature (Antol et al. 2015, evaluation code: capitals, punctuation, articles, number
words), with a decimal point kept and comparison signs kept, and up to the form of an answer (`scorers.answers`). Closed
questions count 1 or 0, where the answer chooses. Open ones count 1 for the same answer, or their token F1 (Rajpurkar et
al. 2016), or what a judge model says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from conrad_bench.errors import DataError
from conrad_bench.reading.thoughts import spoken
from conrad_bench.tasks.base import Scorer
from conrad_bench.tasks.layouts.vqa import ALTERNATIVES
from conrad_bench.tasks.scorers.answers import (
    bare_answer,
    closed_value,
    plain_polarity,
    polarity,
    same_answer,
    token_f1,
    tokens,
)
from conrad_bench.types import Claim, Example, Granularity, Message, Prompt, Sampling, Score

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model

LONGEST = 30
"""Half of the references must have at most so many tokens: longer ones are reports, not answers."""

_JUDGE_SAMPLING = Sampling(max_tokens=16)


def judge_question(question: str, reference: str, proposed: str) -> str:
    """Return what the judge is asked about an open answer; `reference` may hold alternatives (wording ours)."""
    correct = " or ".join(reference.split(ALTERNATIVES))
    return (
        f"Question about a medical image: {question}\nCorrect answer: {correct}\nProposed answer: {proposed}\n"
        "Does the proposed answer mean the same as the correct answer? Answer yes or no."
    )


class VqaMatch(Scorer):
    """Whether an answer is the reference answer, or one of the alternatives that the reference lists with "#"."""

    name: ClassVar[str] = "vqa_match"
    summary: ClassVar[str] = "answers to closed questions exactly, to open ones exactly, by token F1 or by a judge"
    source: ClassVar[str] = "Antol et al. 2015 (VQA), normalisation; Rajpurkar et al. 2016 (SQuAD), token F1"
    label: ClassVar[str] = "VQA match"

    open: Literal["exact", "f1", "judge"] = "exact"
    """How answers to open questions are judged: the same normalised text (0 or 1), token F1 (in [0, 1]), or a model
    asked whether the two mean the same (0 or 1)."""
    judge_model: str | None = None
    """Local folder or hub id of the model that judges, for open=judge."""

    @model_validator(mode="after")
    def _judge_is_named(self) -> VqaMatch:
        if (self.open == "judge") != (self.judge_model is not None):
            raise ValueError("open=judge and judge_model=MODEL go together: set both or neither")
        return self

    def judge(self) -> tuple[str, dict[str, Any]] | None:
        """Return the engine of the judge, where open answers are judged by a model."""
        return None if self.judge_model is None else ("transformers", {"model": self.judge_model})

    def check(self, examples: Sequence[Example]) -> None:
        """Refuse reports: none would ever match."""
        lengths = sorted(len(tokens(example.reference)) for example in examples)
        if lengths and lengths[len(lengths) // 2] > LONGEST:
            raise DataError(
                "scorer 'vqa_match' judges short answers, and these references are whole reports; choose another "
                "scorer with -o TASK.scorer=NAME (conrad-bench list scorers)"
            )

    def score(
        self, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Model | None = None
    ) -> list[Score]:
        """Return 1 or 0 (or the token F1) for each answer, Score(None) with the reason for a choice of none or several.

        An example is closed where its attribute answer_type says so or its reference is yes or no. The judge is asked
        about open answers that are not the reference already; a verdict that is neither yes nor no is Score(None).
        """
        scores = [self._score(example, claim.text) for example, claim in pairs]
        if self.open != "judge":
            return scores
        if model is None:
            raise TypeError("scorer 'vqa_match' with open=judge needs its judge model")
        asked = [
            index
            for index, (example, claim) in enumerate(pairs)
            if not (scores[index].value or _is_closed(example)) and claim.text.strip()
        ]
        prompts = [
            Prompt((Message("user", judge_question(example.context, example.reference, claim.text)),))
            for example, claim in (pairs[index] for index in asked)
        ]
        for index, reply in zip(asked, model.generate(prompts, _JUDGE_SAMPLING), strict=True):
            said = polarity(spoken(reply.text))
            known = Score(float(said == "yes"))
            scores[index] = known if said in ("yes", "no") else Score(None, "the judge said neither yes nor no")
        return scores

    def _score(self, example: Example, answer: str) -> Score:
        """Return the best score over the reference's alternatives."""
        return _judged(answer, example.reference, example.context, _is_closed(example), self.open == "f1")


@lru_cache(maxsize=2**16)  # methods that sample compare the same answers, each method anew
def _judged(answer: str, reference: str, question: str, closed: bool, f1: bool) -> Score:
    """Return the best score of an answer over the alternatives of `reference`."""
    references = reference.split(ALTERNATIVES)
    answer = bare_answer(answer, question)
    if closed:
        values = [closed_value(answer, each, question) for each in references]
        known = [value for value in values if not isinstance(value, str)]
        return Score(max(known)) if known else Score(None, str(values[0]))
    if f1:
        return Score(max(token_f1(answer, each) for each in references))
    return Score(float(any(same_answer(answer, each) for each in references)))


def _is_closed(example: Example) -> bool:
    marked = example.attributes.get("answer_type")
    return marked == "closed" or plain_polarity(example.reference) is not None
