"""SAR: log-probabilities weighed by how much each token matters (Duan et al. 2024, Shifting Attention to Relevance).

With R_t = 1 - g(s, s without token t), g a similarity of texts, and R its sum over the tokens of a text s,

    u(s) = sum over t of (-log p_t) R_t / R
    token_sar   exp(-u(s)) of the claim
    sar         the confidence of `sentence_sar` with exp(-u(s)) in the place of each sample's probability p(s)

g is the share of shared words among all words, which weighs alike all words that occur once, or the model that
`entailment` names: theirs is cross-encoder/stsb-roberta-large, which knows which words carry the meaning. Where no
token matters (R = 0), all count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from conrad_bench.methods.base import Judge, Responses
from conrad_bench.methods.probability.tokens import TokenMethod, claim_logprobs, claim_tokens
from conrad_bench.methods.sampling.base import Array, Compared, Drawn, similarities
from conrad_bench.methods.sampling.entailment import entailed, entailment_problem
from conrad_bench.methods.sampling.sequence_entropy import shifted
from conrad_bench.methods.self_consistency import jaccard
from conrad_bench.types import LOGPROBS, SAMPLING, Granularity

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class TokenSAR(TokenMethod):
    """The probability of the claim's tokens, each as far as it matters for what the claim says."""

    name: ClassVar[str] = "token_sar"
    summary: ClassVar[str] = "probability of the claim's tokens, weighed by how much the text changes without each"
    source: ClassVar[str] = "Duan et al. 2024 (Shifting Attention to Relevance), TokenSAR"

    entailment: str | None = None
    """Folder or hub id of a classifier of pairs of texts that compares a text without a token with the whole (the
    paper's: cross-encoder/stsb-roberta-large), once for each token; None: the shared words among all words."""

    def problem(self, granularity: Granularity) -> str | None:
        """A model that is not there, or no classifier."""
        return entailment_problem(self.entailment) if self.entailment else None

    def _confidences(self, task: Task, found: Responses, model: Model) -> Mapping[tuple[int, int], float]:
        """Look at each claim with and without each of its tokens."""
        logprobs = claim_logprobs(task, found, model)
        spans = claim_tokens(task, found, model)
        offsets = model.engine.offsets([response.token_ids for response in found.responses])
        texts = [
            pieces(found.responses[i].text, offsets[i][start : end + 1], found.claims[i][k].span)
            for (i, k), (start, end) in spans.items()
        ]
        return {
            place: float(np.exp(-relevant(np.array(logprobs[place]), weights)))
            for place, weights in zip(spans, relevances(texts, self.entailment), strict=True)
        }


class SAR(Compared):
    """SentSAR of probabilities in which each token counts as far as it matters."""

    name: ClassVar[str] = "sar"
    summary: ClassVar[str] = "entropy of sampled responses by relevant tokens, similar responses raising each other's"
    source: ClassVar[str] = "Duan et al. 2024 (Shifting Attention to Relevance), SAR"
    needs: ClassVar = frozenset({LOGPROBS, SAMPLING})
    with_offsets: ClassVar[bool] = True

    t: float = Field(0.001, gt=0)
    """How little a sample's own probability counts beside those of its like (the paper's 0.001)."""

    def _confidences(self, drawn: Sequence[Drawn], judge: Judge) -> list[float]:
        matrices = similarities(drawn, self.similarity, judge, self.entailment)
        samples = [(r, starts) for each in drawn for r, starts in zip(each.responses, each.offsets, strict=True)]
        texts = [pieces(response.text, starts, (0, len(response.text))) for response, starts in samples]
        weights = iter(relevances(texts, self.entailment))
        rows = [np.array([-relevant(np.array(row), next(weights)) for row in each.logprobs()]) for each in drawn]
        return [shifted(row, (matrix + matrix.T) / 2, self.t) for row, matrix in zip(rows, matrices, strict=True)]


def pieces(text: str, offsets: Sequence[int], span: tuple[int, int]) -> list[str]:
    """Return the part of a text within a span, and behind it the same without each token.

    `offsets` tell where the tokens start in the text, and where the last one ends.
    """
    start, end = span
    cuts = [min(max(at, start), end) for at in offsets]
    return [text[start:end], *(text[start:a] + text[b:end] for a, b in pairwise(cuts))]


def relevances(texts: Sequence[Sequence[str]], model: str | None) -> list[Array]:
    """Return 1 - similarity of the first text of each row with each other one of it, arrays of shape (tokens,)."""
    pairs = [(whole, part) for whole, *parts in texts for part in parts]
    if model is not None:
        known = dict(zip(pairs, entailed(model, pairs), strict=True))
    else:
        known = {pair: jaccard(*pair) for pair in set(pairs)}
    return [np.array([0.0 if part == whole else 1 - known[whole, part] for part in parts]) for whole, *parts in texts]


def relevant(logprobs: Array, relevance: Array) -> float:
    """Return the sum of -log p of the tokens (n,), each weighed by its share of the relevances (n,)."""
    total = relevance.sum()
    share = relevance / total if total > 0 else np.full(len(logprobs), 1 / len(logprobs))
    return float(-(logprobs * share).sum())
