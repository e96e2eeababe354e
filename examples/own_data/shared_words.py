"""A scorer of one's own: the share of a claim's words that the reference has."""

from __future__ import annotations

import re
from collections.abc import Sequence

import conrad_bench as cb


@cb.register_scorer
class SharedWords(cb.Scorer):
    """Precision of words: a toy, which knows nothing of negation."""

    name = "shared_words"
    summary = "share of a claim's words that the reference has"
    label = "shared words"

    def score(
        self, pairs: Sequence[tuple[cb.Example, cb.Claim]], granularity: str, model: cb.Model | None = None
    ) -> list[cb.Score]:
        """Return one score for each claim, in their order."""
        return [self._score(claim.text, example.reference) for example, claim in pairs]

    def _score(self, text: str, reference: str) -> cb.Score:
        said, true = (set(re.findall(r"\w+", each.lower())) for each in (text, reference))
        return cb.Score(len(said & true) / len(said) if said else 0.0)
