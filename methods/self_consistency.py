"""Self-consistency: how far sampled responses agree with the greedy one, in two ways.

    agreement   ours, after the idea of Wang et al. 2023: the mean over n samples s_j of a(s_0, s_j), how correct the
                greedy claim s_0 would be if the sample were the reference. Not symmetric; for sentences, too.
    degree      Lin et al. 2023, section 4.2: the degree of the response in the graph whose nodes are the m = n + 1
                responses and whose edges weigh w(i, j) = (a(s_i, s_j) + a(s_j, s_i)) / 2, with w(i, i) = 1:

                    C_Deg(s_0) = D_00 / m = (1 + sum over j of w(0, j)) / (n + 1)

Lin et al. rate one of the samples; here the greedy response, which the other methods rate too, is a node beside them.
Their similarities are Jaccard's, and two by a language-inference model; those two are left out, and the task's scorer
and ROUGE-L are here in their place. Of their three confidences this is the degree; the eccentricity is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from conrad_bench.methods.base import Judge, Method, Responses, Step, respond, responding, sampling_again
from conrad_bench.reading.claims import report_claim
from conrad_bench.reading.sentences import sentence_spans
from conrad_bench.types import SAMPLING, Estimate, Example, Granularity, Response, Sampling

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


Similarity = Literal["scorer", "rouge_l", "jaccard", "exact"]


class SelfConsistency(Method):
    """The similarity of each claim of the greedy response to n sampled responses."""

    name: ClassVar[str] = "self_consistency"
    summary: ClassVar[str] = "agreement of sampled responses with the greedy one (ours), or its degree among them"
    source: ClassVar[str] = (
        "ours, after Wang et al. 2023; estimator=degree: Lin et al. 2023 (Generating with Confidence), section 4.2, "
        "which ConRad, section 3 (Self-Consistency) cites"
    )
    needs: ClassVar = frozenset({SAMPLING})

    n: int = Field(5, ge=1, le=1000)
    """Number of sampled responses (ours; the paper gives none)."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of the sampled responses; the response that is judged is greedy."""
    estimator: Literal["agreement", "degree"] = "agreement"
    """agreement: the mean similarity to the samples (ours). degree: C_Deg of Lin et al. 2023, for whole responses."""
    similarity: Similarity = "scorer"
    """The task's own scorer with a sampled response in the place of the reference, ROUGE-L, the shared words among all
    words, or equal answers. The degree asks the scorer both ways round, twice as often."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    def problem(self, granularity: Granularity) -> str | None:
        """Two reports are hardly ever equal, so `exact` is for answers; a sentence is no node among reports."""
        if self.similarity == "exact" and granularity != "answer":
            return "similarity=exact compares short answers; use scorer, rouge_l or jaccard"
        if self.estimator == "degree" and granularity == "sentence":
            return "estimator=degree compares whole responses with each other; use estimator=agreement for sentences"
        return None

    def judges_given(self) -> bool:
        """It compares the response with samples about the images."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One greedy and n sampled responses for each test example."""
        greedy = responding(task, test, self.max_tokens)
        return [greedy, sampling_again(greedy, self.n, self._sampling())]

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
        similar: dict[tuple[int, int], list[float]] = {}
        for (i, k, _), value in zip(compared, self._similarities(found, compared, judge), strict=True):
            if value is not None:
                similar.setdefault((i, k), []).append(value)
        combined = degree if self.estimator == "degree" else agreement
        return found.estimates({place: combined(values) for place, values in similar.items()})

    def _similarities(
        self, found: Responses, compared: Sequence[tuple[int, int, Response]], judge: Judge
    ) -> list[float | None]:
        if self.similarity == "scorer":
            examples = [replace(found.examples[i], reference=sample.text) for i, _, sample in compared]
            claims = [found.claims[i][k] for i, k, _ in compared]
            there = [score.value for (score,) in judge(examples, [[claim] for claim in claims])]
            if self.estimator == "agreement":
                return there
            examples = [replace(e, reference=claim.text) for e, claim in zip(examples, claims, strict=True)]
            back = judge(examples, [[report_claim(sample, None)] for _, _, sample in compared])
            return [
                None if a is None or b.value is None else (a + b.value) / 2 for a, (b,) in zip(there, back, strict=True)
            ]
        alike = ALIKE[self.similarity]
        return [
            max(alike(found.claims[i][k].text, text) for text in self._parts(found, i, sample))
            for i, k, sample in compared
        ]

    def _parts(self, found: Responses, i: int, sample: Response) -> list[str]:
        """Return what a claim is compared with: the whole sample, or each of its sentences for a sentence."""
        if len(found.claims[i]) == 1:
            return [sample.text]
        return [sample.text[slice(*span)] for span in sentence_spans(sample.text)] or [sample.text]


def agreement(similarities: Sequence[float]) -> float:
    """Return the mean of a claim's similarities to the samples, at least one, in [0, 1]."""
    return sum(similarities) / len(similarities)


def degree(similarities: Sequence[float]) -> float:
    """Return C_Deg of a response from its symmetric similarities to the n other ones, in [1 / (n + 1), 1].

    Lin et al. 2023, section 4.2: its degree, in which its similarity to itself (1) counts, over the n + 1 responses.
    """
    return (1 + sum(similarities)) / (1 + len(similarities))


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


@lru_cache(maxsize=2**10)  # each text is compared with many
def _different_words(text: str) -> frozenset[str]:
    return frozenset(words(text))


def jaccard(a: str, b: str) -> float:
    """Return the number of words in both texts over that of words in either, in [0, 1] (Lin et al. 2023, section 4.1).

    0 where neither has a word.
    """
    first, second = _different_words(a), _different_words(b)
    return len(first & second) / max(1, len(first | second))


def rouge_l(a: str, b: str) -> float:
    """Return ROUGE-L: the F1 of the longest common subsequence of words, in [0, 1] (Lin 2004, section 3.1)."""
    first, second = words(a), words(b)
    row = [0] * (len(second) + 1)
    for word in first:
        previous = 0
        for j, other in enumerate(second):
            previous, row[j + 1] = row[j + 1], previous + 1 if word == other else max(row[j], row[j + 1])
    return 2 * row[-1] / (len(first) + len(second)) if first and second else 0.0


def same_words(a: str, b: str) -> float:
    """Return 1 where two texts are the same words in the same order, else 0."""
    return float(words(a) == words(b))


ALIKE: dict[str, Callable[[str, str], float]] = {"exact": same_words, "jaccard": jaccard, "rouge_l": rouge_l}
"""The similarities of two texts that need no scorer; each is the same both ways."""
