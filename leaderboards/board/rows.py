"""The rows of one task: each method's metrics with intervals, and what its tables and figures are drawn from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from conrad_bench.errors import PluginError
from conrad_bench.leaderboards.board import flagging, tokens
from conrad_bench.leaderboards.board.flagging import Threshold
from conrad_bench.leaderboards.board.samples import Records, fitting, joined, numbered, qualities, samples_of, shared
from conrad_bench.leaderboards.board.tokens import Tokens
from conrad_bench.leaderboards.inference.bootstrap import FEW_UNITS, LEAST_UNITS, Estimate, Estimates
from conrad_bench.leaderboards.inference.comparisons import Pair, Runs, Samples, comparisons, of
from conrad_bench.leaderboards.inference.null_band import null_band
from conrad_bench.leaderboards.metrics.base import (
    CORRECTNESS,
    Metric,
    Sample,
    by_level,
    collapse,
    effective_number,
)
from conrad_bench.leaderboards.metrics.selective import risk_coverage, workload
from conrad_bench.records import JUDGE, READING, SPENT, THOUGHTS, judge_columns
from conrad_bench.variants import unlabelled

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.leaderboards.board.context import BoardContext

PLAIN = "base"
"""The method whose tokens the others' are compared with: the model's answers alone."""
WORST_CASE_ABOVE = 0.01
"""Share of unparsed claims above which a row shows its worst case."""
_ROUNDING = 1e-6
"""How far a value may lie outside its metric's range."""
_COVERAGES = 20
"""Points of the risk-coverage curve in a row."""


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
    task: str, frames: Mapping[str, pd.DataFrame], context: BoardContext, compared: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row for each method's records, and what is said about the task, unrounded.

    The latter are its `n_clusters`, `missing` and `comparisons`; `board.build` describes all of it. Unless the methods
    are to be `compared`, each has its difference to the baseline alone, and comparisons are empty.
    All intervals come from one set of bootstrap weights over the task's units (clusters, or claims), those of unparsed
    claims included. Raises DataError where two methods disagree about an example's cluster.
    """
    apart, clusters = numbered(task, frames, context.unit)
    quality, sentences = task in context.quality, context.granularities.get(task) == "sentence"
    seeds = by_seed(frames, context.seeds)
    records = {method: joined([apart[name] for name in names.values()]) for method, names in seeds.items()}
    cells = {method: _cell(found, quality, sentences) for method, found in records.items()}
    runs: dict[str, Runs] = {
        method: [samples_of(apart[name], quality) for name in names.values()]
        if len(names) > 1
        else [cells[method].samples]
        for method, names in seeds.items()
    }
    units = next(iter(records.values())).units
    metrics = [metric for metric in context.metrics if not metric.binary or _is_binary(cells)]
    headline = [metric for metric in metrics if metric.headline]
    tested = [metric for metric in headline if metric.compared]
    bases = {method: baseline_of(method, context.baseline, cells) for method in cells}
    pairs = {
        (a, b): shared(runs[a], runs[b])
        for a, b in combinations(cells, 2)
        if compared or bases[a] == b or bases[b] == a
    }
    wanted: dict[tuple[Sample, Metric], None] = {}  # a dictionary, to keep their order and drop what occurs twice
    for samples in (samples for each in runs.values() for samples in each):
        wanted.update(((samples[metric.per], metric), None) for metric in fitting(metrics, samples))
    for cell in cells.values():
        wanted.update(((sample, CORRECTNESS), None) for sample in cell.means())
    for samples in (samples for sides in pairs.values() for side in sides for samples in side):
        wanted.update(((samples[metric.per], metric), None) for metric in fitting(tested, samples))
    estimates = Estimates(wanted, units, context.replicates, context.seed, context.interval)
    rows = []
    for method, cell in cells.items():
        ok, about = cell.samples["claim"], records[method]
        sizes = np.bincount(about.cluster[about.ok]).astype(np.float64)
        unparsed = about.frame["status"][~about.ok].value_counts()
        row: dict[str, Any] = {
            "task": task,
            "method": method,
            "n": len(ok),
            "n_clusters": int(np.count_nonzero(sizes)),
            "effective_clusters": effective_number(sizes),
            "warning": few_units(effective_number(sizes), context.unit),
            "claims": len(about.ok),
            "unparsed": {str(status): int(n) for status, n in unparsed.items()},
            "unparsed_rate": (len(about.ok) - len(ok)) / len(about.ok),
            "metrics": {
                m.name: _in_range(m, estimates.of(of(runs[method], m), m), f"{method} on {task}")
                for m in _fitting_all(metrics, runs[method])
            },
        }
        if judges := judge_columns(about.frame):
            scored = about.frame[about.ok]
            row["judges"] = {name.removeprefix(JUDGE): float(scored[name].mean()) for name in judges}
        if len(seeds[method]) > 1:
            row["seeds"] = {
                "seeds": list(seeds[method]),
                "metrics": {
                    m.name: [estimates.of(each, m)["value"] for each in of(runs[method], m)]
                    for m in _fitting_all(headline, runs[method])
                },
            }
        row.update(_written(about))
        if set(SPENT) <= set(about.frame):
            row["cost"] = {name: float(about.column(name).mean()) for name in SPENT}
        if row["unparsed_rate"] > WORST_CASE_ABOVE:
            wanted_worst = [metric for metric in fitting(metrics, {"claim": ok}) if metric.worst_case]
            row["worst_case"] = _worst_case(about, ok, wanted_worst)
        if cell.points:
            row.update(_confidences(ok, cell.points, estimates))
            band = null_band(ok, context.replicates, context.seed)
            row.update({"ece_null": None, "ece_null_reason": band} if isinstance(band, str) else {"ece_null": band})
        base = bases[method]
        if base is not None:
            row["difference"] = _difference(pairs, method, base, tested, estimates)
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
        for metric in tested
    }
    _compare_costs(rows)
    return rows, {
        "n_clusters": clusters,
        "missing": _missing({method: apart[next(iter(names.values()))] for method, names in seeds.items()}),
        "comparisons": comparisons(pairs if compared else {}, tested, values, estimates),
    }


def _compare_costs(rows: Sequence[dict[str, Any]]) -> None:
    """Say how many times the tokens of `base` each method takes, where its row and theirs know them."""
    known = [row for row in rows if "cost" in row]
    tokens = {row["method"]: row["cost"]["tokens_read"] + row["cost"]["tokens_written"] for row in known}
    for row in known:
        name = row["method"]
        base = name if name.partition(" [")[0] == PLAIN else baseline_of(name, PLAIN, tokens)
        row["cost"]["times"] = tokens[name] / tokens[base] if base and tokens[base] else None


def _in_range(metric: Metric, estimate: Estimate, of: str) -> Estimate:
    """Return a metric's estimate. Raises PluginError where it is outside the range that the metric names."""
    value, (low, high) = estimate["value"], metric.range
    if value < low - _ROUNDING or value > high + _ROUNDING:
        raise PluginError(
            f"metric {metric.name!r} is {value:g} for {of}, outside its range [{low:g}, {high:g}]; mend its "
            f"statistic or its range (`conrad-bench check {metric.name}`)"
        )
    return estimate


def _confidences(ok: Sample, points: Mapping[int, Sample], estimates: Estimates) -> dict[str, Any]:
    """Return the entries of a row that describe its confidences."""
    coverage, risk = risk_coverage(ok)
    kept, read = _spread(len(coverage)), workload(ok)
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
        "workload": [
            dict(zip(("read", "caught", "perfect"), (float(each[k]) for each in read), strict=True))
            for k in _spread(len(read[0]))
        ],
    }


def _spread(number: int) -> NDArray[np.int64]:
    """Return the places of `_COVERAGES` points of a curve, evenly spaced, the last among them."""
    return np.unique(np.ceil(np.arange(1, _COVERAGES + 1) / _COVERAGES * number).astype(int)) - 1


def _difference(
    pairs: Mapping[Pair, tuple[Runs, Runs]],
    method: str,
    baseline: str,
    metrics: Sequence[Metric],
    estimates: Estimates,
) -> dict[str, Any]:
    """Return a method's difference to the baseline, on what they share."""
    mine, base = pairs[method, baseline] if (method, baseline) in pairs else pairs[baseline, method][::-1]
    return {
        "baseline": baseline,
        "n_units": int(np.count_nonzero(mine[0]["claim"].counts)),
        "metrics": {
            metric.name: estimates.difference(of(mine, metric), of(base, metric), metric)
            for metric in _fitting_all(metrics, [*mine, *base])
        },
    }


def by_seed(frames: Iterable[str], seeds: Mapping[str, tuple[str, int]]) -> dict[str, dict[int, str]]:
    """Return each row's records by training seed, in rising order; a method that was run once has the seed 0 here."""
    rows: dict[str, dict[int, str]] = {}
    for name in frames:
        method, seed = seeds.get(name, (name, 0))
        rows.setdefault(method, {})[seed] = name
    return {method: dict(sorted(names.items())) for method, names in rows.items()}


def _fitting_all(metrics: Sequence[Metric], runs: Runs) -> list[Metric]:
    """Return the metrics that have their samples in all of these."""
    for samples in runs:
        metrics = fitting(metrics, samples)
    return list(metrics)


def _missing(records: Mapping[str, Records]) -> dict[str, int]:
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


def _cell(records: Records, quality: bool, sentences: bool) -> _Cell:
    """Return the samples of a method over the task's units."""
    samples = samples_of(records, quality)
    ok = samples["claim"]
    points: dict[int, Sample] = {}
    cuts: list[Threshold] = []
    if ok.confidence is not None and len(ok):
        points = {int(g): ok.take(ok.groups == g) for g in np.unique(ok.groups)}
        cuts = flagging.thresholds(ok, qualities(records) if quality else {}) if sentences else []
    return _Cell(samples, points, cuts, tokens.tokens(records.frame, records.unit, records.units))


def _written(of: Records) -> dict[str, Any]:
    """Return how often confidences were written in which way, commonest first, and how many responses held thoughts."""
    written: dict[str, Any] = {}
    if READING in of.frame:
        written["readings"] = {str(reading): int(n) for reading, n in of.frame[READING].value_counts().items()}
    if THOUGHTS in of.frame:
        written["thoughts"] = len(set(of.example[of.column(THOUGHTS) == 1].tolist()))
    return written


def few_units(effective: float, unit: Literal["cluster", "claim"]) -> str | None:
    """Return the warning of a row with so many effective clusters, None where they are enough."""
    if effective >= FEW_UNITS:
        return None
    if effective < LEAST_UNITS and unit == "cluster":
        return f"{effective:.1f} effective clusters, fewer than {LEAST_UNITS}: too few for intervals and p values"
    return f"{effective:.1f} effective clusters, fewer than {FEW_UNITS}: intervals and p values are rough"


def _worst_case(records: Records, parsed: Sample, metrics: Sequence[Metric]) -> dict[str, float]:
    """Return each metric's worst case: the unparsed claims all as wrong as can be, on the one side or on the other.

    They count as confidence 1 with correctness 0 or as confidence 0 with correctness 1, whichever is worse. Where
    either would be better than leaving them out (errors of opposite sign cancel in a group of ECE), it is the value.
    """
    samples = [parsed]
    for confidence, correctness in ((1.0, 0.0), (0.0, 1.0)):
        filled = None if parsed.confidence is None else np.where(records.ok, records.column("confidence"), confidence)
        right = np.where(records.ok, records.column("correctness"), correctness)
        samples.append(Sample(filled, right, records.unit, records.units))
    worse = {"lower": lambda value: value, "higher": lambda value: -value, "zero": abs}
    found = {metric: [sample.value(metric.statistic(sample)) for sample in samples] for metric in metrics}
    return {
        metric.name: max((v for v in values if not np.isnan(v)), key=worse[metric.better], default=float("nan"))
        for metric, values in found.items()
    }


def _is_binary(cells: Mapping[str, _Cell]) -> bool:
    """Tell whether every correctness of a task is 0 or 1."""
    return all(bool(np.isin(cell.samples["claim"].correctness, (0.0, 1.0)).all()) for cell in cells.values())
