"""my_plugin: how many words a claim shares with its reference.

Replace `_score` by a judgement of your own: a number in [0, 1], or None with a reason where it cannot judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import conrad_bench as cb


@cb.register_scorer
class MyPlugin(cb.Scorer):
    """F1 of the two sets of words: a toy, which knows nothing of negation."""

    name = "my_plugin"
    summary = "F1 of the words of claim and reference"
    label = "my_plugin"  # the column's title
    source = ""  # the paper, section or equation

    smallest: int = 1
    """Words that a reference must have to judge by."""

    def score(
        self, pairs: Sequence[tuple[cb.Example, cb.Claim]], granularity: str, model: cb.Model | None = None
    ) -> list[cb.Score]:
        """Return one score for each claim, in their order."""
        return [self._score(claim.text, example.reference) for example, claim in pairs]

    def _score(self, text: str, reference: str) -> cb.Score:
        said, true = (set(re.findall(r"\w+", each.lower())) for each in (text, reference))
        if len(true) < max(1, self.smallest):
            return cb.Score(None, "the reference holds too few words")
        return cb.Score(2 * len(said & true) / (len(said) + len(true)))
