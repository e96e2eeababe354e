"""What a leaderboard says about its run beside the records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from conrad_bench.leaderboards.inference.bootstrap import MOST_REPLICATES, IntervalKind
from conrad_bench.leaderboards.metrics.base import Metric
from conrad_bench.leaderboards.metrics.catalogue import BUILT_IN
from conrad_bench.types import Granularity

CONTEXT_FORMAT = 1
"""Format of context.json: what a leaderboard says beside the records, known before the first method has run."""

BASELINE = "verbalized"
"""The method that the others are compared with where nothing else is said, and where a task has it."""


class BoardContext(BaseModel):
    """What a leaderboard says about its run beside the records."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    data: str
    """The data set's name, or "phantom (synthetic)"."""
    phantom: bool
    scorers: dict[str, tuple[str, str]]
    """For each task: the scorer's name and its column label."""
    quality: dict[str, tuple[str, str]] = {}
    """For each task with a scorer of whole responses: that scorer's name and its column label."""
    fitted_by: dict[str, tuple[str, str]] = {}
    """For each task whose methods learned, or compared samples, by another scorer: that scorer's name and label."""
    granularities: dict[str, Granularity] = {}
    """For each task: what its claims are; "report" where it says nothing."""
    methods: dict[str, str]
    """One line about each method, which says in what a variant differs from its method."""
    variants: dict[str, str] = {}
    """In what variants of tasks and scorers differ from those that they are variants of."""
    version: str
    commit: str
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    replicates: int = Field(10_000, ge=1, le=MOST_REPLICATES)
    unit: Literal["cluster", "claim"] = "cluster"
    """What the bootstrap resamples. "claim" is the interval over items of the ConRad paper's tables."""
    interval: IntervalKind = "percentile"
    """Kind of the bootstrap intervals; with "bca", metrics that are no smooth functions of means keep "percentile"."""
    metrics: tuple[Metric, ...] = BUILT_IN
    """The metrics, in the order of the tables' columns."""
    seeds: dict[str, tuple[str, int]] = {}
    """For records of a method that was run with several training seeds: the name of their row, and the seed."""
    random: list[str] = []
    """The methods that learn or sample; of one with a single seed, boards say that this chance is not included."""
    models: dict[str, tuple[str, str]] = {}
    """On a board of several models, for each of its tasks: the task and the model that it stands for."""
    left_out: dict[str, dict[str, int]] = {}
    """For each task: how many items of the data are no examples, by reason."""
    notes: list[str] = []
    """What else a reader must know about the model, such as that it was sent no pictures."""
    baseline: str = BASELINE
    """The method that the others are compared with, where a task has it."""
    runs: list[dict[str, Any]] = []
    """The runs that a merged leaderboard was made of, as `schema.RunInfo`; empty for the leaderboard of one run."""
    caveats: list[str] = []
    """Why these runs do not belong on one leaderboard, where they were merged all the same."""


def context_file(context: BoardContext, fingerprints: Mapping[str, str]) -> str:
    """Return the text of context.json."""
    described = context.model_dump(mode="json", exclude={"metrics"})
    described["metrics"] = [
        {"name": metric.name, "options": metric.model_dump(mode="json")} for metric in context.metrics
    ]
    content = {"format": CONTEXT_FORMAT, "context": described, "fingerprints": fingerprints}
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
