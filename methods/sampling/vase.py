"""VASE: semantic entropy in which counts what the picture says (Liao et al. 2025; HEDGE, Gautam et al. 2025).

n responses are sampled to the pictures and n to distorted ones, each to a distortion of its own. All of them and the
greedy response are cut into semantic sets together. With p and q the probabilities of the sets (as in semantic entropy)
among the samples to the pictures and to the distorted ones,

    confidence = exp(-H), H the entropy of softmax(p + alpha (p - q))

What is answered to a distorted picture, too, counts less. Published defaults: n = 10, alpha = 1, temperature 1; their
top-p of 0.9 is left out, and the task's scorer stands in the place of their entailment model unless `entailment` names
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from conrad_bench.engines.distorting import distorted
from conrad_bench.errors import ConfigError, ImageError
from conrad_bench.methods.base import Judge, Step, respond
from conrad_bench.methods.sampling.base import Array, Drawn, similarities
from conrad_bench.methods.sampling.semantic_sets import SemanticEntropy, sets, shares
from conrad_bench.types import Estimate, Example, Prompt, Response

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class VASE(SemanticEntropy):
    """The entropy of meanings, those amplified that the picture makes more probable."""

    name: ClassVar[str] = "vase"
    summary: ClassVar[str] = "exp(-entropy) of meanings, weighed against those of responses to distorted pictures"
    source: ClassVar[str] = "Liao et al. 2025 (VASE), defaults of their code; HEDGE (Gautam et al. 2025)"

    alpha: float = Field(1.0, ge=0)
    """How much the difference between pictures and distorted pictures counts (the paper's 1)."""
    distortions: int = Field(10, ge=1, le=1000)
    """Distorted pictures of each picture; the n samples are shared out among them (the paper's: one each). Fewer take
    less time and disk."""

    @model_validator(mode="after")
    def _samples_can_be_shared(self) -> Self:
        if self.n % self.distortions:
            raise ValueError(f"n={self.n} samples cannot be shared out among {self.distortions} distorted pictures")
        return self

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One greedy and n sampled responses, and n to distorted pictures."""
        what = f"{self.n} sampled responses each, to distorted pictures"
        return [*super().steps(task, train, validation, test), Step("generate", self.n * len(test), what)]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond greedily and n times at random, with and without distortions, and rate the greedy response."""
        found = respond(task, examples, model, self.max_tokens)
        clear = model.sample(found.prompts, self.n, self._sampling())
        hazy = self._hazy(found.prompts, model)
        drawn, numbers = {}, []
        for i, k in found.open():
            seen, unseen = self._whole(task, clear[i]), self._whole(task, hazy[i])
            if len(seen) > 1 and len(unseen) > 1:
                both, greedy = [*seen, *unseen], found.claims[i][k]
                drawn[i, k] = self._drawn(task, examples[i], greedy, [r for r, _ in both], [c for _, c in both])
                numbers.append(len(seen))
        together = [replace(each, claims=[each.greedy, *each.claims]) for each in drawn.values()]
        matrices = similarities(together, self.similarity, judge, self.entailment)
        confidences = [
            self._amplified(each, sets(matrix, [claim.text for claim in all_of.claims], self.threshold), number)
            for each, all_of, matrix, number in zip(drawn.values(), together, matrices, numbers, strict=True)
        ]
        return found.estimates(dict(zip(drawn, confidences, strict=True)))

    def _amplified(self, drawn: Drawn, of: Sequence[int], number: int) -> float:
        """Return the confidence; `of` are the sets of the greedy response and of the samples behind it, of which the
        first `number` saw the pictures as they are.
        """
        mean = np.array([np.mean(logprobs) for logprobs in drawn.logprobs()])
        most = max(of) + 1
        p = shares(of[1 : 1 + number], _weights(mean[:number]), most)
        q = shares(of[1 + number :], _weights(mean[number:]), most)
        return vase(p, q, self.alpha)

    def _hazy(self, prompts: Sequence[Prompt], model: Model) -> list[list[Response]]:
        """Return n responses to distorted pictures for each prompt."""
        made: dict[tuple[str, int], str] = {}
        paths = dict.fromkeys(path for prompt in prompts for path in prompt.images)
        if paths and model.pictures is None:
            raise ConfigError("vase writes distorted pictures and was given no folder for them; set Model.pictures")
        with model.reporter.stage("distorting pictures", len(paths)) as advance:
            for path in paths:
                for number in range(self.distortions):
                    try:
                        made[path, number] = str(distorted(path, number, self.seed, Path(str(model.pictures))))
                    except ImageError:
                        made[path, number] = path  # the prompt with the picture itself says what is wrong with it
                advance(1)
        asked = [
            replace(prompt, images=tuple(made[path, number] for path in prompt.images))
            for prompt in prompts
            for number in range(self.distortions)
        ]
        rows = iter(model.sample(asked, self.n // self.distortions, self._sampling()))
        return [[response for _ in range(self.distortions) for response in next(rows)] for _ in prompts]


def _weights(mean: Array) -> Array:
    return np.asarray(np.exp(mean - mean.max()))


def vase(p: Array, q: Array, alpha: float) -> float:
    """Return exp(-H) in (0, 1], H the entropy of softmax(p + alpha (p - q)), from shares of the same sets (m,)."""
    from scipy.special import log_softmax

    logs = log_softmax(p + alpha * (p - q))
    return min(1.0, float(np.exp((np.exp(logs) * logs).sum())))
