"""A scorer of yes-no answers: the first word counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conrad_bench import Claim, Example, Score, Scorer

if TYPE_CHECKING:
    from conrad_bench import Model
    from conrad_bench.types import Granularity


class FirstWord(Scorer):
    """1 where the answer begins with the reference's word, whatever its case and punctuation, else 0."""

    name = "first_word"
    summary = "whether an answer begins with the right word"
    label = "accuracy"

    def score(
        self, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Model | None = None
    ) -> list[Score]:
        """Compare first words; an answer without a word cannot be judged."""
        return [_score(claim.text, example.reference) for example, claim in pairs]


def _score(answer: str, reference: str) -> Score:
    words = answer.split()
    if not words:
        return Score(None, "the answer holds no word")
    return Score(float(words[0].strip(".,;:!").casefold() == reference.strip().casefold()))
