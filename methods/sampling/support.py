"""How many of the sampled responses support what the greedy one says, sentence by sentence.

radflag   of a sentence: the share of the samples that support it (Zhang et al. 2024, RadFlag), by the task's scorer
          in the place of their language model
luq       of a report: the mean over its sentences and the samples of the best match among the sample's sentences
          (Zhang et al. 2024, LUQ), by shared words in the place of a language-inference model, which would also see
          a contradiction
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from conrad_bench.methods.base import Judge
from conrad_bench.methods.sampling.base import Drawn, Sampled
from conrad_bench.methods.self_consistency import jaccard, rouge_l
from conrad_bench.reading.sentences import sentence_spans
from conrad_bench.types import Granularity

if TYPE_CHECKING:
    pass


class RadFlag(Sampled):
    """The share of sampled reports that support a sentence. A scorer that answers 0 or 1 makes it the agreement."""

    name: ClassVar[str] = "radflag"
    summary: ClassVar[str] = "share of sampled reports that support the sentence"
    source: ClassVar[str] = "Zhang et al. 2024 (RadFlag); number of samples and scorer are ours"
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"sentence"})

    threshold: float = Field(0.5, gt=0, le=1)
    """A sample supports a sentence whose correctness is at least this with the sample as the reference."""

    def _confidences(self, drawn: Sequence[Drawn], judge: Judge) -> list[float]:
        examples = [replace(each.example, reference=claim.text) for each in drawn for claim in each.claims]
        scores = iter(judge(examples, [[each.greedy] for each in drawn for _ in each.claims]))
        shares = []
        for each in drawn:
            values = [score.value for (score,) in (next(scores) for _ in each.claims) if score.value is not None]
            shares.append(sum(value >= self.threshold for value in values) / len(values) if values else 0.0)
        return shares


class LUQ(Sampled):
    """How much of a report the sampled reports say, too."""

    name: ClassVar[str] = "luq"
    summary: ClassVar[str] = "how well sampled reports match each sentence of the report, on the average"
    source: ClassVar[str] = "Zhang et al. 2024 (LUQ), the confidence of one response; the matching of words is ours"
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"report"})

    similarity: Literal["rouge_l", "jaccard"] = "rouge_l"
    """How a sentence is matched: by ROUGE-L, or by the shared words among all words."""

    def _confidences(self, drawn: Sequence[Drawn], judge: Judge) -> list[float]:
        alike = rouge_l if self.similarity == "rouge_l" else jaccard
        confidences = []
        for each in drawn:
            said = sentences(each.greedy.text)
            others = [sentences(claim.text) for claim in each.claims]
            matches = [max(alike(one, other) for other in sample) for sample in others for one in said]
            confidences.append(min(1.0, float(np.mean(matches))))
        return confidences


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, or the whole text where it has none."""
    return [text[slice(*span)] for span in sentence_spans(text)] or [text]
