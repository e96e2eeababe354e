"""The per-pair metrics of the radeval package as scorers: "radeval:bleu", "radeval:rouge", "radeval:bertscore", ...

The name behind the colon is a metric as radeval names it, or one of the values that the metric returns for each pair
("radeval:rouge2"). These scores compare words, embeddings or labels; they are no judgement of clinical correctness.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from conrad_bench.errors import ConfigError, MissingExtra
from conrad_bench.registry import unknown
from conrad_bench.tasks.base import Scorer
from conrad_bench.types import Claim, Example, Granularity, Score

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model

PER_PAIR = {
    "bleu": ("bleu", "bleu"),
    "rouge": ("rouge", "rougeL"),
    "rouge1": ("rouge", "rouge1"),
    "rouge2": ("rouge", "rouge2"),
    "rougeL": ("rouge", "rougeL"),
    "bertscore": ("bertscore", "bertscore"),
    "radeval_bertscore": ("radeval_bertscore", "radeval_bertscore"),
    "radgraph": ("radgraph", "radgraph_partial"),
    "radgraph_simple": ("radgraph", "radgraph_simple"),
    "radgraph_partial": ("radgraph", "radgraph_partial"),
    "radgraph_complete": ("radgraph", "radgraph_complete"),
    "radgraph_radcliq": ("radgraph_radcliq", "radgraph_radcliq"),
    "ratescore": ("ratescore", "ratescore"),
    "srrbert": ("srrbert", "srrbert_weighted_f1"),
    "temporal": ("temporal", "temporal_f1"),
    "f1chexbert_sample_acc_5": ("f1chexbert", "f1chexbert_sample_acc_5"),
    "f1chexbert_sample_acc_all": ("f1chexbert", "f1chexbert_sample_acc_all"),
    "f1radbert_ct_sample_acc": ("f1radbert_ct", "f1radbert_ct_sample_acc"),
}
"""Scores of one pair in [0, 1], higher is better: radeval's metric, and the name of its value for each pair."""

REFUSED = {
    "f1chexbert": "is an F1 over a whole corpus; for single pairs there is radeval:f1chexbert_sample_acc_5",
    "f1radbert_ct": "is an F1 over a whole corpus; for single pairs there is radeval:f1radbert_ct_sample_acc",
    "radcliq": "is an error score: lower is better, and it is not in [0, 1]",
    "green": "would run the judge unbatched and uncached; use the scorer green",
    "mammo_green": "sends the reports to a service and keeps no answers",
    "crimson": "would run the judge unbatched and uncached; use the scorer crimson",
    "radfact_ct": "sends the reports to a service and keeps no answers; for chest X-rays there is the scorer radfact",
}
"""Metrics of radeval that are no scorers, and why."""


class RadEval(Scorer):
    """A per-pair metric of radeval. `variant` returns the scorer of one metric; without a metric it cannot judge."""

    name: ClassVar[str] = "radeval"
    summary: ClassVar[str] = "a metric of the radeval package, as radeval:METRIC (radeval:bleu, radeval:rouge, ...)"
    source: ClassVar[str] = "RadEval (package radeval)"
    label: ClassVar[str] = "radeval"
    metric: ClassVar[str | None] = None
    """Key of `PER_PAIR`."""

    @classmethod
    def variant(cls, metric: str) -> type[RadEval]:
        """Return the scorer named "radeval:<metric>". Raises ConfigError for a metric that is none of single pairs."""
        return _variant(metric)

    def check(self, examples: Sequence[Example]) -> None:
        """Raise ConfigError without a metric, MissingExtra without radeval."""
        if self.metric is None:
            raise ConfigError(f"scorer 'radeval' needs a metric: radeval:METRIC with one of {', '.join(PER_PAIR)}")
        if importlib.util.find_spec("radeval") is None:
            raise _missing(self.name)

    def score(
        self, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Model | None = None
    ) -> list[Score]:
        """Return the metric of each pair, as it is for that pair alone; of an empty claim 0.

        A value beyond [0, 1] is cut to it: BERTScore is rescaled, so that a pair can be worse than unrelated texts.
        """
        self.check([example for example, _ in pairs])
        scores = [Score(None, "the reference is empty") if not e.reference.strip() else Score(0.0) for e, _ in pairs]
        asked = [i for i, (e, claim) in enumerate(pairs) if e.reference.strip() and claim.text.strip()]
        if not asked:
            return scores
        metric, key = PER_PAIR[str(self.metric)]
        with warnings.catch_warnings():  # radeval switches all warnings off
            try:
                values = _evaluator(metric)(
                    refs=[pairs[i][0].reference for i in asked], hyps=[pairs[i][1].text for i in asked]
                )[key]
            except ImportError as error:
                raise _missing(self.name) from error
        for i, value in zip(asked, values, strict=True):
            known = value is not None and math.isfinite(value)
            scores[i] = Score(min(1.0, max(0.0, float(value)))) if known else Score(None, f"{key} is undefined")
        return scores


@cache
def _variant(metric: str) -> type[RadEval]:
    if metric in REFUSED:
        raise ConfigError(f"scorer 'radeval:{metric}': {metric} {REFUSED[metric]}")
    if metric not in PER_PAIR:
        raise ConfigError(unknown("radeval metric", metric, list(PER_PAIR)))
    chosen = metric

    class Variant(RadEval):
        name: ClassVar[str] = f"radeval:{chosen}"
        summary: ClassVar[str] = f"{PER_PAIR[chosen][1]} of the radeval package"
        label: ClassVar[str] = PER_PAIR[chosen][1]
        metric: ClassVar[str | None] = chosen

    return Variant


@cache
def _evaluator(metric: str) -> Any:
    """Return radeval's evaluator of one metric, with its models loaded."""
    return importlib.import_module("radeval").RadEval(metrics=[metric], per_sample=True, show_progress=False)


def _missing(name: str) -> MissingExtra:
    return MissingExtra(f'scorer {name!r} needs radeval and what it depends on: pip install "conrad-bench[green]"')
