"""The reports that raters are shown: every response of a run once, in sentences, in an order of its rater's own."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from conrad_bench.errors import ConfigError
from conrad_bench.reading.sentences import sentence_spans
from conrad_bench.registry import unknown

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.serving.index import Answer, Index
    from conrad_bench.serving.sources import Source
    from conrad_bench.serving.viewer import Viewer

Order = Literal["uncertain", "random", "stratified"]
STRATA = 5
"""Parts of equal size, from the least to the most confident, of which a stratified order takes one report in turn."""


@dataclass(frozen=True, slots=True)
class Report:
    """A response to be reviewed."""

    item: int
    """Example of a task, by its number in the index."""
    method: str
    """Whose claims are shown: one of those that share the response."""
    response: str
    confidence: float
    """Mean over its claims; NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A part of a report that is rated."""

    number: int
    """Index among the response's claims, or in the report where this is one claim."""
    text: str
    confidence: float | None
    """Its own; None where it has none, or where the report has one alone."""


class Reports:
    """The reports of a run, of all methods and tasks or of those named."""

    def __init__(
        self, viewer: Viewer, index: Index, sources: Mapping[str, Source], method: str | None, task: str | None
    ) -> None:
        """Raises ConfigError where there is no such method or task, or no report."""
        self._viewer, self._index = viewer, index
        self._level = {name: source.granularity for name, source in sources.items()}
        for what, name in (("method", method), ("task", task)):
            if name is not None and name not in index.choices[what]:
                raise ConfigError(unknown(what, name, index.choices[what]))
        self.frame = self._chosen(method, task)
        """A row a claim of those that are shown."""
        means = self.frame.groupby("response", sort=False).agg(
            {"item": "first", "method": "first", "confidence": "mean"}
        )
        means = means.sort_values(["item", "method"], kind="stable")
        columns = (means.index.astype(str), *(means[name].tolist() for name in ("item", "method", "confidence")))
        self.all = [
            Report(item, str(method), response, confidence)
            for response, item, method, confidence in zip(*columns, strict=True)
            if index.texts.get(response, "").strip()
        ]
        if not self.all:
            raise ConfigError("there are no texts to be reviewed")
        self.of_response = {report.response: number for number, report in enumerate(self.all)}
        self.sentences = lru_cache(512)(self._sentences)
        """Return the sentences of a report by its number, in order; none where the task reads no claims from it."""

    def in_order(self, order: Order, rater: str) -> list[int]:
        """Return the numbers of all reports in a rater's order: the same each time, and random ones by rater."""
        chance = random.Random(f"{rater}\n{self.all[0].response}")
        numbers = list(range(len(self.all)))
        if order == "random":
            chance.shuffle(numbers)
            return numbers
        doubtful = sorted(numbers, key=self._doubt)
        if order == "uncertain":
            return doubtful
        size = -(-len(doubtful) // STRATA)
        strata = [doubtful[start : start + size] for start in range(0, len(doubtful), size)]
        for stratum in strata:
            chance.shuffle(stratum)
        found: list[int] = []
        for turn in range(size):
            one_of_each = [stratum[turn] for stratum in strata if turn < len(stratum)]
            chance.shuffle(one_of_each)  # else the place would tell the stratum
            found += one_of_each
        return found

    def of_report(self, number: int) -> bool:
        """Tell whether a report has one confidence as a whole, and its sentences none."""
        return self._level.get(self.study(number)[0]) != "sentence"

    def study(self, number: int) -> tuple[str, str]:
        """Return task and id of the example."""
        return self._index.items[self.all[number].item]

    def _chosen(self, method: str | None, task: str | None) -> pd.DataFrame:
        """Return each response's claims of one method: of sentences before reports, with confidences before none."""
        frame = self._index.frame
        for column, name in (("method", method), ("task", task)):
            if name is not None:
                frame = frame[frame[column] == name]
        frame = frame[frame["response"].notna() & (frame["response"] != "")]
        keys = ["response", "task", "method"]
        sets = frame.groupby(keys)["confidence"].count().reset_index()
        sentence = sets["task"].map(lambda name: self._level.get(name) == "sentence")
        sets = sets.assign(rank=2 * (~sentence).astype(int) + (sets["confidence"] == 0).astype(int))
        best = sets.sort_values("rank", kind="stable").drop_duplicates("response")
        return frame.merge(best[keys], on=keys, how="inner")

    def _doubt(self, number: int) -> tuple[float, int]:
        confidence = self.all[number].confidence
        return (confidence if confidence == confidence else 2.0, number)

    def _answer(self, number: int) -> Answer:
        report = self.all[number]
        return next(each for each in self._index.answers(report.item) if each.method == report.method)

    def _sentences(self, number: int) -> tuple[Sentence, ...]:
        answer = self._answer(number)
        shown = self._viewer.shown(self.all[number].item, answer)
        if self.of_report(number):
            text = shown.text(0)
            return tuple(Sentence(n, text[a:b], None) for n, (a, b) in enumerate(sentence_spans(text)))
        texts = {piece.claim: piece.text.strip() for piece in shown.pieces if piece.claim is not None}
        return tuple(
            Sentence(judged.claim, texts[place], judged.confidence)
            for place, judged in enumerate(answer.claims)
            if texts.get(place)
        )
