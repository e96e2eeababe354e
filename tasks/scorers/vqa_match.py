"""vqa_match: whether an answer to a question is the reference answer.

Texts are compared as in the VQA literature (Antol et al. 2015, evaluation code: capitals, punctuation, articles, number
words), with a decimal point kept and comparison signs kept. Closed questions count 1 or 0. Open ones count 1 for the
same normalised text, or their token F1 (Rajpurkar et al. 2016), or what a judge model says.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from conrad_bench.errors import DataError
from conrad_bench.tasks.base import Scorer
from conrad_bench.tasks.layouts.vqa import ALTERNATIVES
from conrad_bench.types import Claim, Example, Granularity, Message, Prompt, Sampling, Score

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}
# A word may hold decimal points; a Chinese character is a token of its own; signs that change a measure's meaning stay.
_TOKEN = re.compile(r"[<>%]|[\u3400-\u9fff]|(?:(?![\u3400-\u9fff])[^\W_])+(?:(?<=\d)\.\d[^\W_]*)*")
_CLAUSE = re.compile(r"[,;:!?\n。、]|\.(?!\d)")
# As tokens: the Chinese words of SLAKE, one character a token.
_YES = {"yes", "是", "是 的", "有", "存 在", "包 含", "包 括", "可 以"}
_NO = {"no", "不", "不 是", "否", "没 有", "无", "不 存 在", "不 包 含", "不 包 括", "不 可 以"}

LONGEST = 30
"""Half of the references must have at most so many tokens: longer ones are reports, not answers."""

_JUDGE_SAMPLING = Sampling(max_tokens=16)


def tokens(text: str) -> list[str]:
    """Return the normalised tokens of an answer: lower case, no articles or punctuation, number words as digits.

    Articles that are all there is are kept ("A" may be the name of an option).
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", re.sub("['’]", "", text))
    found = [_NUMBERS.get(token, token) for token in _TOKEN.findall(text)]
    return [token for token in found if token not in _ARTICLES] or found


def token_f1(candidate: str, reference: str) -> float:
    """Return the F1 score in [0, 1] of the tokens that two answers share, counted with multiplicity.

    Two answers without any token are equal (1); one of them without, nothing is shared (0).
    """
    ours, theirs = Counter(tokens(candidate)), Counter(tokens(reference))
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def polarity(answer: str) -> Literal["yes", "no"] | None:
    """Return what an answer to a yes/no question says: by its first word, or (Chinese) its first clause.

    "Yes, there is" says yes; "yes or no" and "yes/no" say nothing.
    """
    plain = _plain_polarity(answer)
    if plain is not None:
        return plain
    found = tokens(answer)
    head = found[0] if found and found[0] in ("yes", "no") else " ".join(tokens(_first_clause(answer)))
    if head not in _YES | _NO:
        return None
    said: Literal["yes", "no"] = "yes" if head in _YES else "no"
    if found[0] == head and len(found) > 1 and found[1] in {"or", "yes", "no"} - {said}:
        return None
    return said


def _first_clause(answer: str) -> str:
    """Return what stands before the first comma or full stop that has a word before it."""
    clauses = _CLAUSE.split(unicodedata.normalize("NFKC", answer))
    return next((clause for clause in clauses if tokens(clause)), "")


def closed_match(candidate: str, reference: str) -> bool:
    """Return whether an answer to a closed question chooses the reference.

    Where the reference says yes or no, the answer must say the same; otherwise the answer, or its first clause, must be
    the reference ("Left, the right side is clear").
    """
    wanted = _plain_polarity(reference)
    if wanted is not None:
        return polarity(candidate) == wanted
    option = tokens(reference)
    return tokens(candidate) == option or (bool(option) and tokens(_first_clause(candidate)) == option)


def _plain_polarity(answer: str) -> Literal["yes", "no"] | None:
    """Return what an answer says that is nothing but a yes or a no."""
    word = " ".join(tokens(answer))
    return "yes" if word in _YES else "no" if word in _NO else None


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
        """Return 1 or 0 (or the token F1) for each answer.

        An example is closed where its attribute answer_type says so or its reference is yes or no. The judge is asked
        about open answers that are not the reference already; a verdict that is neither yes nor no is Score(None).
        """
        scores = [Score(self._value(example, claim.text)) for example, claim in pairs]
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
            said = polarity(reply.text)
            known = Score(float(said == "yes"))
            scores[index] = known if said else Score(None, "the judge said neither yes nor no")
        return scores

    def _value(self, example: Example, answer: str) -> float:
        """Return the largest value over the reference's alternatives."""
        references = example.reference.split(ALTERNATIVES)
        if _is_closed(example):
            return float(any(closed_match(answer, reference) for reference in references))
        if self.open == "f1":
            return max(token_f1(answer, reference) for reference in references)
        return float(any(tokens(answer) == tokens(reference) for reference in references))


def _is_closed(example: Example) -> bool:
    marked = example.attributes.get("answer_type")
    return marked == "closed" or _plain_polarity(example.reference) is not None
