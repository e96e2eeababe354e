"""VRO: how far sampled reports depart from the greedy one (Wang et al. 2025, SCUQ-RRG).

    confidence = 1/n sum over the samples s of a(s, s_0)

a(s, s_0) is how correct sample s would be if the greedy report s_0 were the reference: by GREEN, the scorer of real
reports, VRO_GREEN; by another one of `fit_scorer`. `self_consistency` asks the other way round. With
`similarity=rouge_l` it is their lexical similarity (theirs weighs recall a little more than precision, beta 1.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from conrad_bench.methods.base import Judge
from conrad_bench.methods.sampling.base import Drawn, Sampled
from conrad_bench.methods.self_consistency import rouge_l
from conrad_bench.types import Granularity


class VRO(Sampled):
    """The mean correctness of the samples with the greedy report as the reference."""

    name: ClassVar[str] = "vro"
    summary: ClassVar[str] = "how correct sampled reports are with the greedy one as the reference"
    source: ClassVar[str] = "Wang et al. 2025 (SCUQ-RRG), VRO_GREEN and lexical similarity"
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"report"})

    similarity: Literal["scorer", "rouge_l"] = "scorer"
    """The task's scorer (GREEN for real reports), or ROUGE-L."""

    def _confidences(self, drawn: Sequence[Drawn], judge: Judge) -> list[float]:
        if self.similarity == "rouge_l":
            return [float(np.mean([rouge_l(each.greedy.text, c.text) for c in each.claims])) for each in drawn]
        examples = [replace(each.example, reference=each.greedy.text) for each in drawn for _ in each.claims]
        scores = iter(judge(examples, [[claim] for each in drawn for claim in each.claims]))
        found = []
        for each in drawn:
            values = [score.value for (score,) in (next(scores) for _ in each.claims) if score.value is not None]
            found.append(float(np.mean(values)) if values else 0.0)
        return found
