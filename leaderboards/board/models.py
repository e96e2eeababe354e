"""Boards of several models: each task stands there once a model, and one method of several models is compared.

`context.models` names the task and the model of each section ("mimic_report [large]"). Within a section all is as on
the board of that model alone. `between_models` of leaderboard.json has, for each task, the comparisons of one method
between two models: paired by patient, Holm-adjusted over the methods and pairs of models together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from conrad_bench.leaderboards.board.rows import by_seed
from conrad_bench.leaderboards.board.samples import fitting, numbered, samples_of, shared
from conrad_bench.leaderboards.inference.bootstrap import Estimates
from conrad_bench.leaderboards.inference.comparisons import Runs, Samples, comparisons, of
from conrad_bench.leaderboards.metrics.base import Metric, Sample

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.leaderboards.board.context import BoardContext

_KEYS = ("metric", "n_units", "value", "low", "high", "se", "p", "p_holm")


def section(task: str, model: str) -> str:
    """Return the name that a task of one model has on a board of several."""
    return f"{task} [{model}]"


def between_models(records: Mapping[tuple[str, str], pd.DataFrame], context: BoardContext) -> Iterator[dict[str, Any]]:
    """Yield what is found between the models of each task: `task`, and `pairs` as in a task's comparisons, each with
    its `method`, and with the models as `a` and `b`. Nothing where the runs' data differ.
    """
    tasks: dict[str, dict[str, str]] = {}
    for name, (task, model) in sorted(context.models.items()):
        tasks.setdefault(task, {})[model] = name
    for task, sections in sorted(tasks.items()) if not context.caveats else ():
        if len(sections) > 1:
            yield {"task": task, "pairs": _pairs(sections, records, context)}


def _pairs(
    sections: Mapping[str, str], records: Mapping[tuple[str, str], pd.DataFrame], context: BoardContext
) -> list[dict[str, Any]]:
    """Return the comparisons of each method between the models, `sections` being the task's by model."""
    frames = {(model, name): f for model, at in sections.items() for (task, name), f in records.items() if task == at}
    keys = {f"{number}": key for number, key in enumerate(frames)}
    apart, _ = numbered(next(iter(sections.values())), {key: frames[of] for key, of in keys.items()}, context.unit)
    records_of = {of: apart[key] for key, of in keys.items()}
    quality = all(at in context.quality for at in sections.values())
    runs: dict[tuple[str, str], Runs] = {}
    for model in sections:
        names = by_seed([name for of, name in frames if of == model], context.seeds)
        runs |= {
            (method, model): [samples_of(records_of[model, name], quality) for name in each.values()]
            for method, each in names.items()
        }
    samples = [each for of_method in runs.values() for each in of_method]
    binary = all(bool(np.isin(each["claim"].correctness, (0.0, 1.0)).all()) for each in samples)
    metrics = [
        metric for metric in context.metrics if metric.headline and metric.compared and (binary or not metric.binary)
    ]
    both = [(one, other) for one, other in combinations(runs, 2) if one[0] == other[0]]
    # Pairs by number, since a method has the same name on both sides.
    number = {key: f"{place}" for place, key in enumerate(runs)}
    pairs = {(number[one], number[other]): shared(runs[one], runs[other]) for one, other in both}
    wanted: dict[tuple[Sample, Metric], None] = {}
    for each in (*samples, *(each for sides in pairs.values() for side in sides for each in side)):
        wanted.update(((each[metric.per], metric), None) for metric in fitting(metrics, each))
    estimates = Estimates(wanted, next(iter(apart.values())).units, context.replicates, context.seed, context.interval)
    values = {
        metric.name: {number[key]: value for key, value in _values(runs, metric, estimates) if not np.isnan(value)}
        for metric in metrics
    }
    place = {text: key for key, text in number.items()}
    found = comparisons(pairs, metrics, values, estimates)["pairs"]
    return [
        {"method": place[p["a"]][0], "a": place[p["a"]][1], "b": place[p["b"]][1], **{key: p[key] for key in _KEYS}}
        for p in found
    ]


def _values(
    runs: Mapping[tuple[str, str], Runs], metric: Metric, estimates: Estimates
) -> Iterator[tuple[tuple[str, str], float]]:
    for key, samples in runs.items():
        if all(_fits(metric, each) for each in samples):
            yield key, estimates.of(of(samples, metric), metric)["value"]


def _fits(metric: Metric, samples: Samples) -> bool:
    return bool(fitting([metric], samples))
