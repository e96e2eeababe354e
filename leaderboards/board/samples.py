"""The records of one task as samples: names as numbers, one order, the units that are resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.inference.comparisons import Runs, Samples
from conrad_bench.leaderboards.metrics.base import FloatArray, IntArray, Metric, Sample
from conrad_bench.records import LEVEL_PROBABILITIES, QUALITY, READING, SPENT, THOUGHTS, judge_columns

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("status", "confidence", "correctness", *QUALITY, *LEVEL_PROBABILITIES, *SPENT, READING, THOUGHTS)
"""What a row is computed from, beside the ids."""


@dataclass(frozen=True)
class Records:
    """The records of one method on one task in the order of (example, claim), with names as numbers."""

    frame: pd.DataFrame
    """The columns of `_COLUMNS` that there are."""
    example: IntArray
    """The number of each record's example among those of the task, in the order of their names, shape (n,)."""
    cluster: IntArray
    unit: IntArray
    """The resampling unit: the cluster, or the claim."""
    units: int
    """Number of the task's resampling units."""
    order: IntArray
    """The row of each record in the frame that was given."""

    def where(self, rows: NDArray[np.bool_]) -> Records:
        """Return the chosen records, over the same units."""
        return Records(
            self.frame[rows], self.example[rows], self.cluster[rows], self.unit[rows], self.units, self.order[rows]
        )

    @cached_property
    def ok(self) -> NDArray[np.bool_]:
        """Whether a record has the status ok, shape (n,)."""
        return np.asarray(self.frame["status"] == "ok", bool)

    def column(self, name: str) -> FloatArray:
        """Return a column of numbers, shape (n,)."""
        return self.frame[name].to_numpy(np.float64)


def numbered(
    task: str, frames: Mapping[str, pd.DataFrame], unit: Literal["cluster", "claim"]
) -> tuple[dict[str, Records], int]:
    """Return each method's records, and the number of the task's clusters."""
    examples, clusters = _numbers(frames, "example"), _numbers(frames, "cluster")
    _check_clusters(task, examples, clusters)
    claims = {method: frame["claim"].to_numpy(np.int64) for method, frame in frames.items()}
    n_clusters = 1 + max(int(cluster.max()) for cluster in clusters.values())
    units, n_units = clusters, n_clusters
    if unit == "claim":
        claim = np.unique(np.concatenate(list(claims.values())), return_inverse=True)[1]
        example = np.concatenate(list(examples.values()))
        names, number = np.unique(example * (1 + claim.max()) + claim, return_inverse=True)
        units, n_units = _parted(number, frames), len(names)
    records = {}
    for method, frame in frames.items():
        # In one order, so that sums have the same digits whatever the order in a file.
        order = np.lexsort((claims[method], examples[method]))
        example, cluster = examples[method][order], clusters[method][order]
        own = cluster if unit == "cluster" else units[method][order]
        columns = [*(column for column in _COLUMNS if column in frame), *judge_columns(frame)]
        records[method] = Records(frame[columns].iloc[order], example, cluster, own, n_units, order)
    return records, n_clusters


def _numbers(frames: Mapping[str, pd.DataFrame], column: str) -> dict[str, IntArray]:
    """Return each name's number among all frames' in a column, in the order of names, by frame.

    So the weights of a unit depend neither on the order of rows nor on that of methods.
    """
    import pandas as pd

    together = pd.concat([frame[column] for frame in frames.values()], ignore_index=True)
    return _parted(pd.factorize(together, sort=True)[0].astype(np.int64), frames)


def _parted(numbers: IntArray, frames: Mapping[str, pd.DataFrame]) -> dict[str, IntArray]:
    """Return the part of each frame in an array for all their rows, one frame behind the other."""
    ends = np.cumsum([len(frame) for frame in frames.values()])
    return dict(zip(frames, np.split(numbers, ends[:-1]), strict=True))


def _check_clusters(task: str, examples: Mapping[str, IntArray], clusters: Mapping[str, IntArray]) -> None:
    """Raise DataError unless all methods give an example the same cluster: else nothing of them is paired."""
    known = np.full(1 + max(int(example.max()) for example in examples.values()), -1)
    said_by = known.copy()
    for place, (method, example) in enumerate(examples.items()):
        new = example[known[example] < 0]
        known[example] = np.where(known[example] < 0, clusters[method], known[example])
        said_by[new] = place
        wrong = np.flatnonzero(known[example] != clusters[method])
        if len(wrong):
            other = list(examples)[said_by[example[wrong[0]]]]
            raise DataError(
                f"records of {task}: {other} and {method} put the same example into two clusters; they come from "
                "different data, so delete the older records and run their method again"
            )


def samples_of(records: Records, quality: bool) -> Samples:
    """Return the parsed claims, and (where the task has a scorer for it) the whole responses of known quality."""
    samples = {"claim": _parsed(records)}
    whole = qualities(records).get("quality") if quality else None
    return samples if whole is None else {**samples, "example": whole}


def shared(mine: Runs, other: Runs) -> tuple[Runs, Runs]:
    """Return both methods' samples, of each training seed, on the examples that all of them have."""
    everything = [*mine, *other]
    found: list[Samples] = [{} for _ in everything]
    for per in (per for per in mine[0] if all(per in samples for samples in everything)):
        examples = [np.asarray(samples[per].example) for samples in everything]
        both = np.ones(1 + max(int(example.max(initial=0)) for example in examples), bool)
        for example in examples:
            known = np.zeros(len(both), bool)
            known[example] = True
            both &= known
        for into, samples, example in zip(found, everything, examples, strict=True):
            into[per] = samples[per].take(both[example])
    return found[: len(mine)], found[len(mine) :]


def joined(runs: Sequence[Records]) -> Records:
    """Return the records of a method's training seeds as if each had its own examples; of one seed, its records."""
    if len(runs) == 1:
        return runs[0]
    import pandas as pd

    example = np.concatenate([len(runs) * of.example + seed for seed, of in enumerate(runs)])
    order = np.argsort(example, kind="stable")
    cluster, unit, place = (
        np.concatenate([getattr(of, name) for of in runs])[order] for name in ("cluster", "unit", "order")
    )
    frame = pd.concat([of.frame for of in runs], ignore_index=True).iloc[order]
    return Records(frame, example[order], cluster, unit, runs[0].units, place)


def qualities(records: Records) -> dict[str, Sample]:
    """Return each quality column as a sample with one row for each example, those of unknown quality left out.

    The unit of an example is that of its first claim, parsed or not: where single claims are resampled, whole responses
    are thereby drawn independently of each other too.
    """
    first = np.diff(records.example, prepend=-1) > 0
    samples = {}
    for column in QUALITY:
        if column in records.frame:
            values = records.column(column)
            rows = first & ~np.isnan(values)
            samples[column] = Sample(None, values[rows], records.unit[rows], records.units, records.example[rows])
    return samples


def _parsed(records: Records) -> Sample:
    """Return the claims with status ok."""
    confidence, correctness = (records.column(name)[records.ok] for name in ("confidence", "correctness"))
    # A method that states no confidence at all has ok records with correctness alone.
    states_none = len(confidence) > 0 and bool(np.isnan(confidence).all())
    unit, example = records.unit[records.ok], records.example[records.ok]
    judges = judge_columns(records.frame)
    judged = records.frame.loc[records.ok, judges].to_numpy(np.float64) if judges else None
    return Sample(None if states_none else confidence, correctness, unit, records.units, example, judged)


def fitting(metrics: Sequence[Metric], samples: Samples) -> list[Metric]:
    """Return the metrics that have a sample, and the confidences they need."""
    found = [metric for metric in metrics if metric.per in samples]
    return [metric for metric in found if not metric.confidence or samples[metric.per].confidence is not None]
