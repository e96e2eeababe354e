"""The rows of one task: each method's metrics with intervals, and what its tables and figures are drawn from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.board import flagging, tokens
from conrad_bench.leaderboards.board.flagging import Threshold
from conrad_bench.leaderboards.board.tokens import Tokens
from conrad_bench.leaderboards.inference.bootstrap import Estimates
from conrad_bench.leaderboards.inference.comparisons import Samples, comparisons
from conrad_bench.leaderboards.inference.null_band import null_band
from conrad_bench.leaderboards.metrics.base import (
    CORRECTNESS,
    FloatArray,
    IntArray,
    Metric,
    Sample,
    by_level,
    collapse,
)
from conrad_bench.leaderboards.metrics.selective import risk_coverage
from conrad_bench.records import LEVEL_PROBABILITIES, QUALITY, READING, THOUGHTS
from conrad_bench.variants import unlabelled

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.leaderboards.board.context import BoardContext

WORST_CASE_ABOVE = 0.01
"""Share of unparsed claims above which a row shows its worst case."""
_COVERAGES = 20
"""Points of the risk-coverage curve in a row."""
_COLUMNS = ("status", "confidence", "correctness", *QUALITY, *LEVEL_PROBABILITIES, READING, THOUGHTS)
"""What a row is computed from, beside the ids."""


@dataclass(frozen=True)
class _Records:
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

    @cached_property
    def ok(self) -> NDArray[np.bool_]:
        """Whether a record has the status ok, shape (n,)."""
        return np.asarray(self.frame["status"] == "ok", bool)

    def column(self, name: str) -> FloatArray:
        """Return a column of numbers, shape (n,)."""
        return self.frame[name].to_numpy(np.float64)


@dataclass(frozen=True)
class _Cell:
    """One method on one task, cut into the samples that its row needs."""

    samples: Samples
    """The parsed claims under "claim", the whole responses under "example"."""
    points: dict[int, Sample]
    """The groups of ECE that have claims, by index in rising order."""
    cuts: list[Threshold]
    """The thresholds of flagging; empty where nothing is to be flagged."""
    tokens: Tokens | None

    def means(self) -> Iterator[Sample]:
        """Yield the samples whose mean correctness the row shows beside its metrics."""
        yield from self.points.values()
        for cut in self.cuts:
            yield from (cut.kept, cut.share)
            if cut.quality is not None:
                yield cut.quality
        if self.tokens:
            yield from self.tokens.measures.values()


def task_rows(
    task: str, frames: Mapping[str, pd.DataFrame], context: BoardContext
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row for each method's records, and what is said about the task, unrounded.

    The latter are its `n_clusters`, `missing` and `comparisons`; `board.build` describes all of it.
    All intervals come from one set of bootstrap weights over the task's units (clusters, or claims), those of unparsed
    claims included. Raises DataError where two methods disagree about an example's cluster.
    """
    records, clusters = _numbered(task, frames, context.unit)
    quality, sentences = task in context.quality, context.granularities.get(task) == "sentence"
    cells = {method: _cell(found, quality, sentences) for method, found in records.items()}
    units = next(iter(records.values())).units
    metrics = [metric for metric in context.metrics if not metric.binary or _is_binary(cells)]
    headline = [metric for metric in metrics if metric.headline]
    pairs = {(a, b): _shared(cells[a].samples, cells[b].samples) for a, b in combinations(cells, 2)}
    wanted: dict[tuple[Sample, Metric], None] = {}  # a dictionary, to keep their order and drop what occurs twice
    for cell in cells.values():
        wanted.update(((cell.samples[metric.per], metric), None) for metric in _fitting(metrics, cell.samples))
        wanted.update(((sample, CORRECTNESS), None) for sample in cell.means())
    for samples in (samples for sides in pairs.values() for samples in sides):
        wanted.update(((samples[metric.per], metric), None) for metric in _fitting(headline, samples))
    estimates = Estimates(wanted, units, context.replicates, context.seed, context.interval)
    rows = []
    for method, cell in cells.items():
        ok, of = cell.samples["claim"], records[method]
        unparsed = of.frame["status"][~of.ok].value_counts()
        row: dict[str, Any] = {
            "task": task,
            "method": method,
            "n": len(ok),
            "n_clusters": int(np.count_nonzero(np.bincount(of.cluster[of.ok]))),
            "claims": len(of.ok),
            "unparsed": {str(status): int(n) for status, n in unparsed.items()},
            "unparsed_rate": (len(of.ok) - len(ok)) / len(of.ok),
            "metrics": {m.name: estimates.of(cell.samples[m.per], m) for m in _fitting(metrics, cell.samples)},
        }
        row.update(_written(of))
        if row["unparsed_rate"] > WORST_CASE_ABOVE:
            worst = _worst_case(of, ok)
            fitting = [metric for metric in _fitting(metrics, {"claim": worst}) if metric.worst_case]
            row["worst_case"] = {metric.name: worst.value(metric.statistic(worst)) for metric in fitting}
        if cell.points:
            row.update(
                _confidences(ok, cell.points, estimates), ece_null=null_band(ok, context.replicates, context.seed)
            )
        base = baseline_of(method, context.baseline, cells)
        if base is not None:
            row["difference"] = _difference(pairs, method, base, headline, estimates)
        if cell.cuts:
            row["flagging"] = flagging.entry(cell.cuts, estimates.of, estimates.difference)
        if cell.tokens:
            row["tokens"] = tokens.entry(cell.tokens, estimates.of)
        rows.append(row)
    values = {
        metric.name: {
            row["method"]: row["metrics"][metric.name]["value"]
            for row in rows
            if not np.isnan(row["metrics"].get(metric.name, {}).get("value", np.nan))
        }
        for metric in headline
    }
    return rows, {
        "n_clusters": clusters,
        "missing": _missing(records),
        "comparisons": comparisons(pairs, headline, values, estimates, units, context.replicates, context.seed),
    }


def _confidences(ok: Sample, points: Mapping[int, Sample], estimates: Estimates) -> dict[str, Any]:
    """Return the entries of a row that describe its confidences."""
    coverage, risk = risk_coverage(ok)
    kept = np.unique(np.ceil(np.arange(1, _COVERAGES + 1) / _COVERAGES * len(ok)).astype(int)) - 1
    return {
        "collapse": collapse(ok.stated()),
        "grouping": "level" if by_level(ok.stated()) else "bin",
        "reliability": [
            {
                "group": group,
                "confidence": float(point.stated().mean()),
                "correctness": estimates.of(point),
                "n": len(point),
            }
            for group, point in points.items()
        ],
        "risk_coverage": [{"coverage": float(coverage[k]), "risk": float(risk[k])} for k in kept],
    }


def _difference(
    pairs: Mapping[tuple[str, str], tuple[Samples, Samples]],
    method: str,
    baseline: str,
    metrics: Sequence[Metric],
    estimates: Estimates,
) -> dict[str, Any]:
    """Return a method's difference to the baseline, on what they share."""
    mine, base = pairs[method, baseline] if (method, baseline) in pairs else pairs[baseline, method][::-1]
    return {
        "baseline": baseline,
        "n_units": int(np.count_nonzero(mine["claim"].counts)),
        "metrics": {
            metric.name: estimates.difference(mine[metric.per], base[metric.per], metric)
            for metric in _fitting(_fitting(metrics, mine), base)
        },
    }


def _numbered(
    task: str, frames: Mapping[str, pd.DataFrame], unit: Literal["cluster", "claim"]
) -> tuple[dict[str, _Records], int]:
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
        columns = [column for column in _COLUMNS if column in frame]
        records[method] = _Records(frame[columns].iloc[order], example, cluster, own, n_units)
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


def _missing(records: Mapping[str, _Records]) -> dict[str, int]:
    """Return how many examples each method lacks that another method has, for those that lack any."""
    known = {method: int(np.count_nonzero(np.diff(of.example, prepend=-1))) for method, of in records.items()}
    everything = 1 + max(int(of.example[-1]) for of in records.values())
    return {method: everything - n for method, n in known.items() if n < everything}


def baseline_of(method: str, baseline: str, methods: Collection[str]) -> str | None:
    """Return which of a task's methods one is compared with; None for the baseline itself, and where there is none.

    "conrad [b]", in a merged leaderboard the conrad of run b, is compared with "verbalized [b]" if that is there. Where
    a method stands as one variant alone, that is the baseline: "verbalized.cot" for "verbalized".
    """
    name, bracket, run = method.partition(" [")
    if name == baseline:
        return None
    for wanted in dict.fromkeys((f"{baseline}{bracket}{run}", baseline)):
        found = [wanted] if wanted in methods else [each for each in methods if unlabelled(each) == wanted]
        if len(found) == 1:
            return found[0] if found[0] != method else None
    return None


def _cell(records: _Records, quality: bool, sentences: bool) -> _Cell:
    """Return the samples of a method over the task's units."""
    qualities, ok = _qualities(records), _parsed(records)
    samples = {"claim": ok}
    if quality and "quality" in qualities:
        samples["example"] = qualities["quality"]
    points: dict[int, Sample] = {}
    cuts: list[Threshold] = []
    if ok.confidence is not None and len(ok):
        points = {int(g): ok.take(ok.groups == g) for g in np.unique(ok.groups)}
        cuts = flagging.thresholds(ok, qualities if quality else {}) if sentences else []
    return _Cell(samples, points, cuts, tokens.tokens(records.frame, records.unit, records.units))


def _shared(mine: Samples, other: Samples) -> tuple[Samples, Samples]:
    """Return both methods' samples, each on the examples that both have in it."""
    pairs = {}
    for per in (per for per in mine if per in other):
        a, b = (np.asarray(side[per].example) for side in (mine, other))
        both = [np.zeros(1 + max(a.max(initial=0), b.max(initial=0)), bool) for _ in range(2)]
        both[0][a] = both[1][b] = True
        shared = both[0] & both[1]
        pairs[per] = mine[per].take(shared[a]), other[per].take(shared[b])
    return {per: pair[0] for per, pair in pairs.items()}, {per: pair[1] for per, pair in pairs.items()}


def _qualities(records: _Records) -> dict[str, Sample]:
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


def _parsed(records: _Records) -> Sample:
    """Return the claims with status ok."""
    confidence, correctness = (records.column(name)[records.ok] for name in ("confidence", "correctness"))
    # A method that states no confidence at all has ok records with correctness alone.
    states_none = len(confidence) > 0 and bool(np.isnan(confidence).all())
    unit, example = records.unit[records.ok], records.example[records.ok]
    return Sample(None if states_none else confidence, correctness, unit, records.units, example)


def _written(of: _Records) -> dict[str, Any]:
    """Return how often confidences were written in which way, commonest first, and how many responses held thoughts."""
    written: dict[str, Any] = {}
    if READING in of.frame:
        written["readings"] = {str(reading): int(n) for reading, n in of.frame[READING].value_counts().items()}
    if THOUGHTS in of.frame:
        written["thoughts"] = len(set(of.example[of.column(THOUGHTS) == 1].tolist()))
    return written


def _worst_case(records: _Records, parsed: Sample) -> Sample:
    """Return all claims, the unparsed ones with confidence 1 and correctness 0."""
    confidence = None if parsed.confidence is None else np.where(records.ok, records.column("confidence"), 1.0)
    correctness = np.where(records.ok, records.column("correctness"), 0.0)
    return Sample(confidence, correctness, records.unit, records.units)


def _is_binary(cells: Mapping[str, _Cell]) -> bool:
    """Tell whether every correctness of a task is 0 or 1."""
    return all(bool(np.isin(cell.samples["claim"].correctness, (0.0, 1.0)).all()) for cell in cells.values())


def _fitting(metrics: Sequence[Metric], samples: Samples) -> list[Metric]:
    """Return the metrics that have a sample, and the confidences they need."""
    found = [metric for metric in metrics if metric.per in samples]
    return [metric for metric in found if not metric.confidence or samples[metric.per].confidence is not None]
