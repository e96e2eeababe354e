"""Lexical similarity: how much the words of sampled responses are alike (Fomicheva et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from conrad_bench.methods.base import Judge
from conrad_bench.methods.sampling.base import Drawn, Sampled, similarities


class LexicalSimilarity(Sampled):
    """The mean of ROUGE-L over all pairs of samples (D-Lex-Sim; theirs by Meteor, later work's by ROUGE-L)."""

    name: ClassVar[str] = "lexical_similarity"
    summary: ClassVar[str] = "mean ROUGE-L of sampled responses with each other"
    source: ClassVar[str] = "Fomicheva et al. 2020 (D-Lex-Sim), by ROUGE-L as in Kuhn et al. 2023"

    def _confidences(self, drawn: Sequence[Drawn], judge: Judge) -> list[float]:
        return [
            min(1.0, float(matrix[np.triu_indices(len(matrix), 1)].mean()))
            for matrix in similarities(drawn, "rouge_l", judge)
        ]
