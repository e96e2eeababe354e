"""What scorers that ask a language model share: who is asked, what needs no asking, and answers that were cut off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, Field

from conrad_bench.errors import PlanError
from conrad_bench.reading.thoughts import spoken
from conrad_bench.tasks.base import Scorer
from conrad_bench.types import Claim, Example, Granularity, Message, Prompt, Sampling, Score

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model


class ModelJudge(Scorer):
    """A scorer that asks a language model one question about each claim. Not a scorer by itself.

    Any other option is one of the judge's engine (quantization, dtype, batch_size, ...), which checks it.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    granularities: ClassVar[frozenset[Granularity]]
    """The claims that the scorer judges."""
    answer_tokens: ClassVar[int] = 2048
    """The longest answer; decoding is greedy."""

    model: str = Field(min_length=1)
    """The judge: folder of a checkpoint, or a hub id."""
    engine: str = "transformers"
    """The engine that runs the judge."""

    def judge(self) -> tuple[str, dict[str, Any]]:
        """Return the judge's engine and its options."""
        return self.engine, {"model": self.model, **(self.model_extra or {})}

    def ask(self, reference: str, candidate: str) -> str:
        """Return the judge's prompt."""
        raise NotImplementedError

    def read(self, answer: str) -> float | str:
        """Return the score that an answer gives, or the reason why it gives none."""
        raise NotImplementedError

    def begin(
        self, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Model | None
    ) -> tuple[list[Score], list[int], Model]:
        """Return the scores of claims that need no asking, the places of the others, and the judge.

        An empty claim is wrong; where the reference is empty nothing can be said. Raises PlanError for claims of
        another granularity, and without a judge.
        """
        if granularity not in self.granularities:
            can = ", ".join(sorted(self.granularities))
            raise PlanError(f"scorer {self.name!r} judges at {can} level, and these claims are at {granularity} level")
        if model is None:
            raise PlanError(f"scorer {self.name!r} asks a judge, and none was given")
        scores = [Score(None, "the reference is empty") if not e.reference.strip() else Score(0.0) for e, _ in pairs]
        return scores, [i for i, (e, claim) in enumerate(pairs) if e.reference.strip() and claim.text.strip()], model

    def score(
        self, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Model | None = None
    ) -> list[Score]:
        """Ask the judge about each claim; an empty claim is wrong without asking.

        An answer that was cut off or cannot be read gives None with the reason. Raises what `begin` raises.
        """
        scores, asked, judge = self.begin(pairs, granularity, model)
        prompts = [Prompt((Message("user", self.ask(pairs[i][0].reference, pairs[i][1].text)),)) for i in asked]
        for i, answer in zip(asked, answers(judge, prompts, self.answer_tokens), strict=True):
            value = answer.reason or self.read(answer.text)
            scores[i] = Score(None, value) if isinstance(value, str) else Score(value)
        return scores


@dataclass(frozen=True, slots=True)
class Answer:
    """What a judge answered, and why that is no answer, if it is none."""

    text: str
    reason: str = ""


def answers(model: Model, prompts: Sequence[Prompt], tokens: int) -> list[Answer]:
    """Return the judge's greedy answers, of at most so many tokens."""
    said = model.generate(prompts, Sampling(max_tokens=tokens))
    cut = f"the judge's answer was cut off after {tokens} tokens"
    return [Answer(each.text, cut if each.finish_reason == "length" else "") for each in said]


def json_object(answer: str) -> dict[str, Any] | str:
    """Return the one JSON object of an answer, or the reason why there is none (a sentence without the answer's text).

    Thoughts, words around the object and a comma behind the last item change nothing. An object that is cut off, or
    has a key twice, is none.
    """
    text = spoken(answer)
    start = text.find("{")
    if start < 0:
        return "the answer is no JSON object"
    try:
        found, end = json.JSONDecoder(object_pairs_hook=_once).raw_decode(_without_last_commas(text[start:]))
    except RecursionError:
        return "the answer is JSON that nests too deep"
    except _TwiceError:
        return "the answer's JSON has a key twice"
    except ValueError:
        return "the answer is no whole JSON object"
    if "{" in _without_last_commas(text[start:])[end:]:
        return "the answer has two JSON objects"
    return dict(found)


class _TwiceError(ValueError):
    """A key that an object has twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _TwiceError
    return dict(pairs)


def _without_last_commas(text: str) -> str:
    """Return JSON without the commas in front of closing brackets, those within strings aside."""
    kept: list[str] = []
    quoted = escaped = False
    comma = -1  # the place of a comma that nothing but blanks has followed
    for character in text:
        if not quoted and character in "]}" and comma >= 0:
            kept[comma] = ""
        if quoted:
            quoted = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            quoted = True
        comma = len(kept) if character == "," and not quoted else comma if character.isspace() else -1
        kept.append(character)
    return "".join(kept)
