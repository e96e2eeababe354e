"""Semantic entropy and its relatives: sampled responses that mean the same are one set (Kuhn et al. 2023).

Two responses mean the same where each would be correct, by the task's scorer, if the other were the reference: at least
`threshold` both ways, or where a language-inference model that `entailment` names gives entailment that probability
both ways, as in the papers. Sets are made by Kuhn et al.'s algorithm 1: a response joins the first set whose first
member means the same, or begins one. It takes them in the order of their texts, so that the order in which they were
sampled does not matter. With N sets C, n samples s, and p(s) the length-normalised probability exp(mean of the tokens'
log-probabilities):

    semantic_sets               1 / N
    discrete_semantic_entropy   exp(sum over C of q log q), q = |C| / n             (Farquhar et al. 2024)
    semantic_entropy            the same with q = sum over s in C of p(s) / sum over all s of p(s)

1 / N is the least that the other two can be: as if all sets were equally probable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from conrad_bench.methods.base import Judge
from conrad_bench.methods.sampling.base import Array, Compared, Drawn, similarities
from conrad_bench.types import LOGPROBS, SAMPLING


class SemanticSets(Compared):
    """The number of different meanings among the samples."""

    name: ClassVar[str] = "semantic_sets"
    summary: ClassVar[str] = "1 / number of different meanings among sampled responses"
    source: ClassVar[str] = "Lin et al. 2023, section 4.1 (number of semantic sets); Kuhn et al. 2023, algorithm 1"

    threshold: float = Field(0.5, gt=0, le=1)
    """Two responses mean the same if their similarity is at least this, both ways (ours; the papers ask a
    language-inference model)."""

    def _confidences(self, drawn: Sequence[Drawn], judge: Judge) -> list[float]:
        matrices = similarities(drawn, self.similarity, judge, self.entailment)
        return [
            self._of_sets(each, sets(matrix, [claim.text for claim in each.claims], self.threshold))
            for each, matrix in zip(drawn, matrices, strict=True)
        ]

    def _of_sets(self, drawn: Drawn, of: Sequence[int]) -> float:
        """Return the confidence from the number of the set that each sample belongs to."""
        return 1 / len(set(of))


class DiscreteSemanticEntropy(SemanticSets):
    """The entropy of how often each meaning occurs among the samples."""

    name: ClassVar[str] = "discrete_semantic_entropy"
    summary: ClassVar[str] = "exp(-entropy) of how often each meaning occurs among sampled responses"
    source: ClassVar[str] = "Farquhar et al. 2024 (Nature), discrete semantic entropy"

    def _of_sets(self, drawn: Drawn, of: Sequence[int]) -> float:
        return entropy_confidence(of, np.ones(len(of)))


class SemanticEntropy(SemanticSets):
    """The entropy of how probable each meaning is among the samples."""

    name: ClassVar[str] = "semantic_entropy"
    summary: ClassVar[str] = "exp(-entropy) of the probability of each meaning among sampled responses"
    source: ClassVar[str] = "Kuhn et al. 2023; Farquhar et al. 2024 (Nature), semantic entropy (length-normalised)"
    needs: ClassVar = frozenset({LOGPROBS, SAMPLING})

    def _of_sets(self, drawn: Drawn, of: Sequence[int]) -> float:
        mean = np.array([np.mean(logprobs) for logprobs in drawn.logprobs()])
        return entropy_confidence(of, np.exp(mean - mean.max()))


def sets(similar: Array, texts: Sequence[str], threshold: float) -> list[int]:
    """Return the number of the set that each response belongs to, from directed similarities of shape (m, m)."""
    same = np.minimum(similar, similar.T) >= threshold
    of, firsts = [0] * len(texts), list[int]()
    for j in sorted(range(len(texts)), key=lambda j: texts[j]):
        number = next((number for number, first in enumerate(firsts) if same[first, j]), len(firsts))
        if number == len(firsts):
            firsts.append(j)
        of[j] = number
    return of


def shares(of: Sequence[int], weights: Array, number: int = 0) -> Array:
    """Return the share of the weights (m,) that each set has, the sets up to `number` that have none among them."""
    return np.asarray(np.bincount(of, weights, number) / weights.sum())


def entropy_confidence(of: Sequence[int], weights: Array) -> float:
    """Return exp(-H) in [1 / number of sets, 1], H the entropy of the sets' shares of the weights (m,)."""
    share = shares(of, weights)
    share = np.sort(share[share > 0])  # sets of the same sizes have the same sum, to the last digit
    return min(1.0, float(np.exp((share * np.log(share)).sum())))
