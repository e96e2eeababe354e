"""Counterfactuals: what becomes of each method's confidences under other pictures (docs/grounding.md).

`counterfactuals` of leaderboard.json has an entry for each method, replacement and reading. With `given`, a claim of
the response to the original pictures is paired with itself. With `anew`, the responses differ, and examples are paired:
by the mean confidence and the mean correctness of their claims. Both sides must have the status `ok`.

- `drop`: mean of the confidence with the original pictures less that with the others
- `rises`: share of pairs whose confidence is higher with the others
- `turned`, `stayed`: how many pairs were right (correctness of at least 0.5) and are wrong, or still right, under the
  other pictures; null where nothing says what is right of these
- `ccg_auc`: AUROC of the drop for those that turned against those that stayed
- `explained`: R^2, the share of the variance of the original confidences that the others explain linearly

Intervals are of the board's own bootstrap: the same units, the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.board.rounding import rounded
from conrad_bench.leaderboards.board.rows import by_seed
from conrad_bench.leaderboards.board.samples import Records, numbered
from conrad_bench.leaderboards.inference.bootstrap import Estimates
from conrad_bench.leaderboards.metrics.base import CORRECTNESS, Correctness, Metric, OfSums, Sample, Statistic
from conrad_bench.leaderboards.metrics.discrimination import AUROC, Pearson
from conrad_bench.records import ANEW, COUNTERFACTUAL, GIVEN, SWAPPED, counterfactual_path, read_records

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.leaderboards.board.context import BoardContext

Key = tuple[str, str, str, str]
"""Task, method, replacement, reading."""

RIGHT = 0.5
"""A claim of at least this correctness is right, where one is to be right or wrong."""
_HIGHER = 1e-9
"""By how much a confidence is higher, at the least."""


class Drop(Correctness):
    """Mean of what a sample has for its correctness, here differences of confidences. In [-1, 1]."""

    range = (-1.0, 1.0)


class Explained(Pearson):
    """Squared Pearson correlation: the R^2 of a straight line. In [0, 1]."""

    range = (0.0, 1.0)

    def statistic(self, sample: Sample) -> Statistic:
        """The square of Pearson's statistic."""
        correlation = super().statistic(sample)
        assert isinstance(correlation, OfSums)
        return OfSums(correlation.terms, lambda sums: correlation.value(sums) ** 2)


_METRICS: dict[str, Metric] = {"drop": Drop(), "rises": CORRECTNESS, "ccg_auc": AUROC(), "explained": Explained()}
"""What each number is of its sample."""


def run_counterfactuals(run: Path, records: Mapping[tuple[str, str], pd.DataFrame]) -> dict[Key, pd.DataFrame]:
    """Return the records under other pictures in a run folder or bundle; nothing where it has none.

    Raises DataError where a file is not what its name says, or its method has no `records` there; StorageError where
    one is damaged.
    """
    found = {}
    for path in sorted((run / COUNTERFACTUAL).glob("*.parquet")):
        frame = read_records(path)
        task, method = str(frame["task"].iloc[0]), str(frame["method"].iloc[0])
        *_, replacement, reading = path.stem.split("@")
        if path != counterfactual_path(run, method, task, replacement, reading) or reading not in (ANEW, GIVEN):
            raise DataError(f"{path} is not named by the records in it ({method}@{task}); move it away")
        if (task, method) not in records:
            raise DataError(f"{path} is about {method} on {task}, which has no records here; move it away")
        found[task, method, replacement, reading] = frame
    return found


def counterfactuals(
    records: Mapping[tuple[str, str], pd.DataFrame], others: Mapping[Key, pd.DataFrame], context: BoardContext
) -> dict[str, list[dict[str, Any]]]:
    """Return what leaderboard.json holds about other pictures; nothing without records of any.

    `records` are those of each (task, method) with the original pictures.
    """
    entries: list[dict[str, Any]] = []
    for task in sorted({task for task, *_ in others}):
        frames = {method: frame for (of, method), frame in sorted(records.items()) if of == task}
        mine = {key[1:]: frame for key, frame in sorted(others.items()) if key[0] == task}
        entries += _of_task(task, frames, mine, context)
    return {"counterfactuals": [rounded(entry) for entry in entries]} if others else {}


def _of_task(
    task: str,
    frames: Mapping[str, pd.DataFrame],
    others: Mapping[tuple[str, str, str], pd.DataFrame],
    context: BoardContext,
) -> Iterator[dict[str, Any]]:
    """Yield a task's entries; `others` are by method, replacement and reading."""
    import pandas as pd

    names = {key: f"{place} {' '.join(key)}" for place, key in enumerate(others)}  # no method's name has a blank
    apart, _ = numbered(task, {**frames, **{names[key]: frame for key, frame in others.items()}}, context.unit)
    units = next(iter(apart.values())).units
    pairs: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    for method, seeds in by_seed(frames, context.seeds).items():
        for replacement, reading in sorted({key[1:] for key in others}):
            keys = [(name, replacement, reading) for name in seeds.values()]
            if all(key in others for key in keys):
                pairs[method, replacement, reading] = [
                    _paired(apart[key[0]], frames[key[0]], apart[names[key]], others[key], reading) for key in keys
                ]
    pairs = {key: runs for key, runs in pairs.items() if all(map(len, runs))}
    samples = {
        key: [_samples(run, units, _is_judged(task, key, context)) for run in runs] for key, runs in pairs.items()
    }
    wanted = [(sample, _METRICS[name]) for runs in samples.values() for run in runs for name, sample in run.items()]
    estimates = Estimates(dict.fromkeys(wanted), units, context.replicates, context.seed, context.interval)
    for key, runs in samples.items():
        together = pd.concat(pairs[key])
        there = {name: metric for name, metric in _METRICS.items() if all(name in run for run in runs)}
        right = together[together["correctness"] >= RIGHT]
        turned = int((right["correctness_after"] < RIGHT).sum()) if "ccg_auc" in there else None
        yield {
            "task": task,
            **dict(zip(("method", "replacement", "reading"), key, strict=True)),
            "n": len(together),
            "n_clusters": together["cluster"].nunique(),
            "turned": turned,
            "stayed": None if turned is None else len(right) - turned,
            **{
                name: estimates.of(tuple(run[name] for run in runs), metric) if name in there else None
                for name, metric in _METRICS.items()
            },
        }


def _is_judged(task: str, key: tuple[str, str, str], context: BoardContext) -> bool:
    """Tell whether records say what is right under the other pictures.

    Of the response to the original ones only another study's report does; its answer is one to another question.
    """
    _, replacement, reading = key
    return reading == ANEW or (replacement == SWAPPED and context.granularities.get(task) != "answer")


def _paired(before: Records, frame: pd.DataFrame, after: Records, other: pd.DataFrame, reading: str) -> pd.DataFrame:
    """Return a row for each pair: unit, and confidence and correctness on both sides."""
    sides = [_side(before, frame, reading), _side(after, other, reading)]
    return sides[0].merge(sides[1].drop(columns=["unit", "cluster"]), on=["example", "claim"], suffixes=("", "_after"))


def _side(records: Records, frame: pd.DataFrame, reading: str) -> pd.DataFrame:
    """Return the claims with the status ok and a confidence; under `ANEW` the means over those of each example."""
    import pandas as pd

    claim = frame["claim"].to_numpy(np.int64)[records.order]
    numbers = records.frame[["confidence", "correctness"]].reset_index(drop=True)
    ids = {"example": records.example, "claim": claim, "unit": records.unit, "cluster": records.cluster}
    table = pd.DataFrame(ids).join(numbers)
    table = table[records.ok & table["confidence"].notna().to_numpy()]
    if reading == GIVEN:
        return table
    means = {"unit": "first", "cluster": "first", "confidence": "mean", "correctness": "mean"}
    return table.groupby("example", as_index=False).agg(means).assign(claim=0)


def _samples(pairs: pd.DataFrame, units: int, judged: bool) -> dict[str, Sample]:
    """Return the sample of each number about pairs."""
    names = ("confidence", "confidence_after", "correctness", "correctness_after")
    confidence, other, correctness, under = (pairs[name].to_numpy(np.float64) for name in names)
    unit, drop = pairs["unit"].to_numpy(np.int64), confidence - other
    samples = {
        "drop": Sample(None, drop, unit, units),
        "rises": Sample(None, (drop < -_HIGHER).astype(np.float64), unit, units),
        "explained": Sample(other, confidence, unit, units),
    }
    right = correctness >= RIGHT
    if judged and right.any():
        turned = (under[right] < RIGHT).astype(np.float64)
        samples["ccg_auc"] = Sample((drop[right] + 1) / 2, turned, unit[right], units)
    return samples
