"""Confidences from the whole distribution at each token of the greedy response, which the model reads again.

With H_t the entropy of the distribution that the claim's token t was chosen from, p1_t and p2_t its largest two
probabilities, V the number of words, and means over the claim's tokens (its end included where it is a whole response):

    mean_token_entropy   exp(-mean H_t)                                                  (Fomicheva et al. 2020)
    token_margin         mean of p1_t - p2_t
    self_certainty       c / (1 + c), c = mean of KL(uniform || p_t) = mean of -1/V sum over words of log(V p_t)
                                                                                         (Kang et al. 2025)

and with q_t the token's probability under the same question about a blank picture, grey all over,

    pmi                  1 / (1 + exp(-s)), s = mean of log p_t - log q_t                (after Takayama & Arase 2019)
    conditional_pmi      the same, s = mean of log p_t - [H_t >= tau] lam log q_t        (van der Poel et al. 2022)

c has no upper bound and s any sign, so that exp(-u) is no confidence of theirs; both maps keep the order. Prompts
without a picture have q_t = p_t, and the same `pmi` for every claim: 0.5.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from conrad_bench.methods.base import Judge, Method, Step, respond, responding
from conrad_bench.methods.probability.tokens import claim_tokens
from conrad_bench.types import DISTRIBUTIONS, TOKEN_COLUMNS, Estimate, Example, Prompt

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task

Table = NDArray[np.float64]
LOGPROB, ENTROPY, MARGIN, CERTAINTY = range(len(TOKEN_COLUMNS))


class DistributionMethod(Method):
    """A method that knows the distribution at each of a claim's tokens: implement `_confidence`, and nothing else."""

    needs: ClassVar = frozenset({DISTRIBUTIONS})
    blank: ClassVar[bool] = False
    """Whether the response is read beside a blank picture, too."""

    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    @abstractmethod
    def _confidence(self, tokens: Table, blank: Table) -> float:
        """Return the confidence of a claim from its tokens' statistics (tokens, 4), with `blank` those beside a blank
        picture; where that is not asked for, `tokens` once more.
        """

    def judges_given(self) -> bool:
        """It reads the response again behind the images."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One response for each test example, and one reading of it, or two."""
        read = [Step("read again", len(test), "test responses")]
        if self.blank:
            read.append(Step("read again", len(test), "test responses, beside a blank picture"))
        return [responding(task, test, self.max_tokens), *read]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond, read the responses again, and look at each claim's tokens."""
        found = respond(task, examples, model, self.max_tokens)
        spans = claim_tokens(task, found, model)
        rows = sorted({i for i, _ in spans})
        prompts, responses = [found.prompts[i] for i in rows], [found.responses[i] for i in rows]
        read = dict(zip(rows, model.reread(prompts, responses), strict=True))
        beside = read
        if self.blank:
            beside = dict(zip(rows, model.reread([blanked(prompt) for prompt in prompts], responses), strict=True))
        confidences = {
            (i, k): self._confidence(*(each[i][start:end].astype(float) for each in (read, beside)))
            for (i, k), (start, end) in spans.items()
        }
        return found.estimates({place: min(1.0, max(0.0, value)) for place, value in confidences.items()})


class MeanTokenEntropy(DistributionMethod):
    """How undecided the model was at each token, on the average."""

    name: ClassVar[str] = "mean_token_entropy"
    summary: ClassVar[str] = "exp(-mean entropy) of the distributions that the claim's tokens were chosen from"
    source: ClassVar[str] = "Fomicheva et al. 2020 (Softmax-Ent), over the claim's tokens"

    def _confidence(self, tokens: Table, blank: Table) -> float:
        return float(np.exp(-tokens[:, ENTROPY].mean()))


class TokenMargin(DistributionMethod):
    """How far the likeliest word was ahead of the next one, on the average."""

    name: ClassVar[str] = "token_margin"
    summary: ClassVar[str] = "mean difference of the two largest probabilities at the claim's tokens"
    source: ClassVar[str] = "Scheffer et al. 2001 (margin of a decision), mean over the tokens"

    def _confidence(self, tokens: Table, blank: Table) -> float:
        return float(tokens[:, MARGIN].mean())


class SelfCertainty(DistributionMethod):
    """How far the distributions are from all words being equally probable."""

    name: ClassVar[str] = "self_certainty"
    summary: ClassVar[str] = "mean divergence of the tokens' distributions from the uniform one, c / (1 + c)"
    source: ClassVar[str] = "Kang et al. 2025 (Scalable Best-of-N Selection via Self-Certainty)"

    def _confidence(self, tokens: Table, blank: Table) -> float:
        certainty = max(0.0, float(tokens[:, CERTAINTY].mean()))
        return certainty / (1 + certainty)


class PMI(DistributionMethod):
    """How much likelier the picture makes the claim than a blank one does."""

    name: ClassVar[str] = "pmi"
    summary: ClassVar[str] = "how much likelier the claim is beside its picture than beside a blank one"
    source: ClassVar[str] = "Takayama & Arase 2019 (pointwise mutual information), by token; the blank picture is ours"
    blank: ClassVar[bool] = True

    def _confidence(self, tokens: Table, blank: Table) -> float:
        return logistic(float((tokens[:, LOGPROB] - blank[:, LOGPROB]).mean()))


class ConditionalPMI(DistributionMethod):
    """The same where the model was undecided; elsewhere the claim's probability alone."""

    name: ClassVar[str] = "conditional_pmi"
    summary: ClassVar[str] = "claim's log-probability, less that beside a blank picture where the model was undecided"
    source: ClassVar[str] = "van der Poel et al. 2022 (CPMI), their tau and lambda; the blank picture is ours"
    blank: ClassVar[bool] = True

    tau: float = Field(0.0656, ge=0)
    """Entropy in nats from which on a token counts as undecided (the paper's 0.0656)."""
    lam: float = Field(3.599, ge=0)
    """Weight of the blank picture's log-probability at such tokens (the paper's lambda, 3.599)."""

    def _confidence(self, tokens: Table, blank: Table) -> float:
        undecided = tokens[:, ENTROPY] >= self.tau
        return logistic(float((tokens[:, LOGPROB] - self.lam * undecided * blank[:, LOGPROB]).mean()))


def blanked(prompt: Prompt) -> Prompt:
    """Return the prompt with a blank picture in the place of each of its pictures."""
    path = str(files("conrad_bench.methods.probability") / "blank.png")
    return replace(prompt, images=(path,) * len(prompt.images))


def logistic(x: float) -> float:
    """Return 1 / (1 + exp(-x)), in (0, 1)."""
    from scipy.special import expit

    return float(expit(x))
