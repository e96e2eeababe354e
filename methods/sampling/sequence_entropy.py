"""Entropies of whole responses from their probabilities: Monte Carlo sequence entropy, and SAR's on sentence level.

With n samples s of L(s) tokens and probabilities p(s) = exp(sum of the tokens' log-probabilities),

    monte_carlo_entropy   exp(-H), H = -1/n sum over s of (log p(s)) / L(s)        (Malinin & Gales 2021, section 3)
    sentence_sar          exp(-(U - U_min)), U = -1/n sum over s of log(p(s) + 1/t sum over s' != s of g(s, s') p(s'))

g is the similarity of two samples, the mean of both directions. U_min = -log(1 + (n - 1) / t) is the least that U can
be (all the same, with probability 1): a constant that brings the confidence to [0, 1]. The weights of SAR's tokens need
a model of sentence similarity and are left out, and with them SAR proper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from conrad_bench.methods.base import Judge
from conrad_bench.methods.sampling.base import Array, Compared, Drawn, Sampled, similarities
from conrad_bench.types import LOGPROBS, SAMPLING


class MonteCarloEntropy(Sampled):
    """The mean log-probability of the samples, by token."""

    name: ClassVar[str] = "monte_carlo_entropy"
    summary: ClassVar[str] = "exp(-entropy) of whole responses, estimated by the samples' own log-probabilities"
    source: ClassVar[str] = "Malinin & Gales 2021; Kuhn et al. 2023 ((length-normalised) predictive entropy)"
    needs: ClassVar = frozenset({LOGPROBS, SAMPLING})

    normalised: bool = True
    """Divide each response's log-probability by its number of tokens. Without it long responses have hardly any
    confidence."""

    def _confidences(self, drawn: Sequence[Drawn], judge: Judge) -> list[float]:
        of = np.mean if self.normalised else np.sum
        return [min(1.0, float(np.exp(np.mean([of(row) for row in each.logprobs()])))) for each in drawn]


class SentenceSAR(Compared):
    """The samples' log-probabilities, each raised by those of the samples that are like it."""

    name: ClassVar[str] = "sentence_sar"
    summary: ClassVar[str] = "entropy of sampled responses in which similar ones raise each other's probability"
    source: ClassVar[str] = "Duan et al. 2024 (Shifting Attention to Relevance), SentSAR"
    needs: ClassVar = frozenset({LOGPROBS, SAMPLING})

    t: float = Field(0.001, gt=0)
    """How little a sample's own probability counts beside those of its like (the paper's 0.001)."""

    def _confidences(self, drawn: Sequence[Drawn], judge: Judge) -> list[float]:
        matrices = similarities(drawn, self.similarity, judge, self.entailment)
        logprobs = [np.array([np.sum(row) for row in each.logprobs()]) for each in drawn]
        return [shifted(row, (matrix + matrix.T) / 2, self.t) for row, matrix in zip(logprobs, matrices, strict=True)]


def shifted(logprobs: Array, weights: Array, t: float) -> float:
    """Return SentSAR's confidence in [0, 1] from log-probabilities (m,) and symmetric similarities (m, m)."""
    from scipy.special import logsumexp

    m = len(logprobs)
    factors = np.where(np.eye(m, dtype=bool), 1.0, weights / t)
    totals = logsumexp(np.broadcast_to(logprobs, (m, m)), b=factors, axis=1)
    return min(1.0, float(np.exp(totals.mean() - np.log1p((m - 1) / t))))
