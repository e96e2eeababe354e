"""Self-consistency: how far sampled responses agree with the greedy one (Wang et al. 2023; Lin et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from conrad_bench.methods.base import Judge, Method, Responses, Step, respond
from conrad_bench.reading.sentences import sentence_spans
from conrad_bench.types import SAMPLING, Claim, Estimate, Example, Granularity, Response, Sampling

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class SelfConsistency(Method):
    """The mean similarity of each claim of the greedy response to n sampled responses."""

    name: ClassVar[str] = "self_consistency"
    summary: ClassVar[str] = "agreement of sampled responses with the greedy one"
    source: ClassVar[str] = "Lin et al. 2023 (Generating with Confidence); ConRad, section 3 (Self-Consistency)"
    needs: ClassVar = frozenset({SAMPLING})

    n: int = Field(5, ge=1)
    """Number of sampled responses (ours; the paper gives none)."""
    temperature: float = Field(1.0, gt=0)
    similarity: Literal["scorer", "rouge_l", "exact"] = "scorer"
    """The task's own scorer with a sampled response in the place of the reference, ROUGE-L, or equal answers."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    def problem(self, granularity: Granularity) -> str | None:
        """Two reports are hardly ever equal, so `exact` is for answers."""
        if self.similarity == "exact" and granularity != "answer":
            return "similarity=exact compares short answers; use scorer or rouge_l"
        return None

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One greedy and n sampled responses for each test example."""
        prompts = tuple(task.prompt(example) for example in test)
        greedy, number = Sampling(max_tokens=self.max_tokens), self.n * len(prompts)
        return [
            Step("generate", len(prompts), "test responses", prompts, greedy),
            Step("generate", number, f"{self.n} sampled responses each", prompts, self._sampling(), self.n),
        ]

    def _sampling(self) -> Sampling:
        return Sampling(self.temperature, max_tokens=self.max_tokens, seed=self.seed)

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond greedily and n times at random, and compare."""
        found = respond(task, examples, model, self.max_tokens)
        samples = model.sample(found.prompts, self.n, self._sampling())
        compared = [
            (i, k, sample)
            for i, k in found.open()
            for sample in samples[i]
            if sample.text.strip() and sample.finish_reason == "stop"
        ]
        agreement: dict[tuple[int, int], list[float]] = {}
        for (i, k, _), value in zip(compared, self._similarities(found, compared, judge), strict=True):
            if value is not None:
                agreement.setdefault((i, k), []).append(value)
        return found.estimates({place: sum(values) / len(values) for place, values in agreement.items()})

    def _similarities(
        self, found: Responses, compared: Sequence[tuple[int, int, Response]], judge: Judge
    ) -> list[float | None]:
        if self.similarity == "scorer":
            examples = [replace(found.examples[i], reference=sample.text) for i, _, sample in compared]
            scores = judge(examples, [[found.claims[i][k]] for i, k, _ in compared])
            return [score.value for (score,) in scores]
        if self.similarity == "exact":
            return [float(words(found.claims[i][k].text) == words(s.text)) for i, k, s in compared]
        return [
            max(rouge_l(found.claims[i][k].text, text) for text in self._parts(found.claims[i][k], found, i, sample))
            for i, k, sample in compared
        ]

    def _parts(self, claim: Claim, found: Responses, i: int, sample: Response) -> list[str]:
        """Return what a claim is compared with: the whole sample, or each of its sentences for a sentence."""
        if len(found.claims[i]) == 1:
            return [sample.text]
        return [sample.text[slice(*span)] for span in sentence_spans(sample.text)] or [sample.text]


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def rouge_l(a: str, b: str) -> float:
    """Return ROUGE-L: the F1 of the longest common subsequence of words, in [0, 1] (Lin 2004, section 3.1)."""
    first, second = words(a), words(b)
    row = [0] * (len(second) + 1)
    for word in first:
        previous = 0
        for j, other in enumerate(second):
            previous, row[j + 1] = row[j + 1], previous + 1 if word == other else max(row[j], row[j + 1])
    return 2 * row[-1] / (len(first) + len(second)) if first and second else 0.0
