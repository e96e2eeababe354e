"""What the methods share that look at several sampled responses to one prompt.

They ask for the very responses of `self_consistency`, so that these are written once for all of them: sample i is the
same for every n above i. Their uncertainty u, on whatever scale, becomes a confidence by exp(-u), which keeps the order
and fits nothing; a count of sets N is exp(-log N) = 1 / N.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from conrad_bench.errors import EngineError
from conrad_bench.methods.base import Judge, Method, Step, respond, responding, sampling_again
from conrad_bench.methods.sampling.entailment import entailed, entailment_problem
from conrad_bench.methods.self_consistency import ALIKE, Similarity
from conrad_bench.reading.claims import report_claim
from conrad_bench.types import SAMPLING, Claim, Estimate, Example, Granularity, Response, Sampling

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was sampled for one example, whole responses alone: neither empty ones nor those that were cut off."""

    example: Example
    greedy: Claim
    """The claim that gets the confidence."""
    responses: list[Response]
    claims: list[Claim]
    """What each response says, without thoughts and wrappers."""
    question: str = ""
    """What short answers are read behind where an entailment model compares them."""
    offsets: list[list[int]] = field(default_factory=list)
    """Where each response's tokens start in its text, and the text's length, for methods `with_offsets`."""

    def logprobs(self) -> list[tuple[float, ...]]:
        """Return the log-probabilities of each response's tokens. Raises EngineError where there are none."""
        found = [response.logprobs for response in self.responses if response.logprobs]
        if len(found) < len(self.responses):
            raise EngineError("the engine returned sampled responses without log-probabilities")
        return found


class Sampled(Method):
    """A method that rates the greedy response by n sampled ones: implement `_confidences`, and nothing else.

    A response of which fewer than two samples can be used has no confidence.
    """

    needs: ClassVar = frozenset({SAMPLING})
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"report", "answer"})
    with_offsets: ClassVar[bool] = False
    """Whether it looks at single tokens of the samples."""

    n: int = Field(10, ge=2, le=1000)
    """Number of sampled responses (Farquhar et al. 2024: 10)."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of the sampled responses (Farquhar et al. 2024: 1); the response that is judged is greedy."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    @abstractmethod
    def _confidences(self, drawn: Sequence[Drawn], judge: Judge) -> list[float]:
        """Return the confidence of each greedy claim, each from two samples or more."""

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One greedy and n sampled responses for each test example."""
        greedy = responding(task, test, self.max_tokens)
        return [greedy, sampling_again(greedy, self.n, self._sampling())]

    def rates_given(self) -> bool:
        """The samples tell of any response to the question."""
        return True

    def _sampling(self) -> Sampling:
        return Sampling(self.temperature, max_tokens=self.max_tokens, seed=self.seed)

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond greedily and n times at random, and rate what the greedy response claims."""
        found = respond(task, examples, model, self.max_tokens)
        sampled = model.sample(found.prompts, self.n, self._sampling())
        kept = [self._whole(task, row) for row in sampled]
        drawn = {
            (i, k): self._drawn(task, examples[i], found.claims[i][k], [r for r, _ in kept[i]], [c for _, c in kept[i]])
            for i, k in found.open()
            if len(kept[i]) > 1
        }
        if self.with_offsets:
            for place, each in drawn.items():
                offsets = model.engine.offsets([response.token_ids for response in each.responses])
                drawn[place] = replace(each, offsets=offsets)
        return found.estimates(dict(zip(drawn, self._confidences(list(drawn.values()), judge), strict=True)))

    def _drawn(
        self, task: Task, example: Example, greedy: Claim, responses: list[Response], claims: list[Claim]
    ) -> Drawn:
        return Drawn(example, greedy, responses, claims, example.context if task.granularity == "answer" else "")

    def _whole(self, task: Task, responses: Sequence[Response]) -> list[tuple[Response, Claim]]:
        """Return the responses that are neither empty nor cut off, and what each claims as a whole."""
        stopped = [response for response in responses if response.finish_reason == "stop"]
        sentence = task.granularity == "sentence"
        said = [(each, report_claim(each, None) if sentence else task.claims(each)[0]) for each in stopped]
        return [(response, claim) for response, claim in said if claim.status == "ok" and claim.text.strip()]


class Compared(Sampled):
    """A method that compares the sampled responses with each other."""

    similarity: Similarity = "scorer"
    """The task's own scorer with one response in the reference's place, ROUGE-L, the shared words among all words, or
    equal answers."""
    entailment: str | None = None
    """Folder or hub id of a language-inference model in the similarity's place (microsoft/deberta-large-mnli, for one):
    the probability that one response entails another; answers stand behind their questions."""

    def problem(self, granularity: Granularity) -> str | None:
        """Two reports are hardly ever equal, so `exact` is for answers; a model must be there."""
        if self.similarity == "exact" and granularity != "answer":
            return "similarity=exact compares short answers; use scorer, rouge_l or jaccard"
        return entailment_problem(self.entailment) if self.entailment else None


def similarities(drawn: Sequence[Drawn], similarity: Similarity, judge: Judge, model: str | None = None) -> list[Array]:
    """Return, for each example of m responses, how similar they are: arrays of shape (m, m) in [0, 1].

    Entry (i, j) by the scorer is how correct response i would be if j were the reference, which need not be that of
    (j, i). A response is like itself: 1. Different texts are compared once, by the scorer both ways; what it cannot
    judge is not alike, 0. With a `model`, entry (i, j) is the probability that response i entails response j.
    """
    texts = [list(dict.fromkeys(claim.text for claim in each.claims)) for each in drawn]
    pairs = [(d, a, b) for d, some in enumerate(texts) for a in some for b in some if a != b]
    if model is None and similarity != "scorer":  # the others are the same both ways
        pairs = [(d, a, b) for d, a, b in pairs if a < b]
    if model is None:
        compared = _compared(drawn, pairs, similarity, judge)
    else:
        asked = [f"{each.question} " if each.question else "" for each in drawn]
        compared = entailed(model, [(asked[d] + a, asked[d] + b) for d, a, b in pairs])
    found = dict(zip(pairs, compared, strict=True))
    values = {(d, b, a): value for (d, a, b), value in found.items()} | found
    return [
        np.array([[1.0 if a.text == b.text else values[d, a.text, b.text] for b in each.claims] for a in each.claims])
        for d, each in enumerate(drawn)
    ]


def _compared(
    drawn: Sequence[Drawn], pairs: Sequence[tuple[int, str, str]], similarity: Similarity, judge: Judge
) -> list[float]:
    if similarity == "scorer":
        examples = [replace(drawn[d].example, reference=b) for d, _, b in pairs]
        scores = judge(examples, [[Claim(a, (0, len(a)))] for _, a, _ in pairs])
        return [0.0 if score.value is None else score.value for (score,) in scores]
    return [ALIKE[similarity](a, b) for _, a, b in pairs]
