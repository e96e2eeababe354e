"""The statistics as functions: predictions in, numbers and boards out; no run, no model, no torch.

`evaluate` is the leaderboard of a table of predictions. Every metric of it is a function of its own here: `ece`,
`brier`, `auroc`, ...; each takes confidences and correctness, and returns an `Interval`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.inference.bootstrap import Estimates
from conrad_bench.leaderboards.metrics.base import Metric, Sample
from conrad_bench.leaderboards.metrics.catalogue import BUILT_IN
from conrad_bench.leaderboards.predictions.board import REPLICATES
from conrad_bench.leaderboards.results import Board, Picture
from conrad_bench.registry import unknown

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

_METRICS = {metric.name: metric for metric in BUILT_IN if metric.confidence}


class Interval(NamedTuple):
    """A metric's value with its 95 % interval; `low` and `high` are NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired difference of two methods, the first minus the second; NaN where it cannot be told."""

    metric: str
    value: float
    low: float
    high: float
    p: float
    n_units: int
    """Patients (or examples) that both have."""


def evaluate(
    predictions: pd.DataFrame | str | Path | Sequence[str | Path],
    *,
    names: Mapping[str, str] | None = None,
    wide: Sequence[str] = (),
    scale: int = 1,
    baseline: str | None = None,
    by: str | None = None,
    model: str = "an unnamed model",
    data: str = "unnamed data",
    replicates: int = REPLICATES,
) -> Board:
    """Return the leaderboard of predictions: a table, or files of them, as docs/evaluate.md describes the columns.

    `names` maps our names of columns to yours (`{"confidence": "score"}`), `wide` lists columns that hold one method's
    confidences each, `scale` is what confidences are out of (1, 10, 100), `by` a column of subgroups. Raises DataError,
    naming row and column, for what is no prediction, ConfigError for an option that does not fit.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"confidence": [0.9, 0.2, 0.8, 0.4], "correctness": [1, 0, 1, 0]})
    >>> evaluate(frame, replicates=100).table().loc[("task", "predictions"), "brier"]
    np.float64(0.0625)
    """
    import pandas as pd

    from conrad_bench.leaderboards.predictions import board as boards
    from conrad_bench.leaderboards.predictions.columns import check_scale, long_form, records_of
    from conrad_bench.leaderboards.predictions.files import read_predictions, renamed

    check_scale(scale)
    if isinstance(predictions, pd.DataFrame):
        frame = renamed(predictions, dict(names or {}), "the table")
    else:
        paths = [predictions] if isinstance(predictions, (str, Path)) else list(predictions)
        frame = read_predictions([Path(path) for path in paths], dict(names or {}))
    if wide:
        frame = long_form(frame, list(wide))
    found = records_of(frame, scale)
    context = boards.context_for(found, model, data, baseline, replicates)
    return Board(boards.evaluated(found, context, by), (found, context))


def compare(
    a: pd.DataFrame, b: pd.DataFrame, metric: str = "brier", replicates: int = REPLICATES, scale: int = 1
) -> Comparison:
    """Return how two methods differ by a metric, on the examples that both have a usable claim of.

    Each table has the columns that `evaluate` takes, and `example`, by which they are paired; `scale` is what the
    confidences of both are out of (1, 10, 100). Value, interval and p come from one standard error
    (docs/statistics.md). Raises ConfigError for a metric that methods are not compared by.

    >>> import pandas as pd
    >>> a = pd.DataFrame({"example": range(40), "confidence": [0.9, 0.1] * 20, "correctness": [1, 0] * 20})
    >>> b = a.assign(confidence=[0.8, 0.4] * 20)
    >>> round(compare(a, b).value, 3)
    -0.09
    """
    import pandas as pd

    compared = [each.name for each in BUILT_IN if each.headline and each.compared and each.confidence]
    if metric not in compared:
        raise ConfigError(f"compare: {unknown('metric', metric, compared)}")
    for name, frame in (("a", a), ("b", b)):
        if "example" not in frame:
            raise DataError(f"compare: table {name} has no column 'example', by which the two are paired")
    both = pd.concat([a.assign(method="a"), b.assign(method="b")], ignore_index=True)
    found = evaluate(both, replicates=replicates, scale=scale).comparisons(metric=metric)
    (pair,) = found.to_dict("records")
    numbers = {key: float("nan") if pair[key] is None else float(pair[key]) for key in ("value", "low", "high", "p")}
    return Comparison(metric, **numbers, n_units=int(pair["n_units"]))


def reliability_diagram(confidence: ArrayLike, correctness: ArrayLike, cluster: ArrayLike | None = None) -> Picture:
    """Return the reliability diagram: mean correctness by stated confidence, with intervals over clusters."""
    return evaluate(_frame(confidence, correctness, cluster)).reliability_diagram("predictions")


def risk_coverage(confidence: ArrayLike, correctness: ArrayLike) -> pd.DataFrame:
    """Return the mean risk (1 - correctness) of the most confident claims, by their share (`coverage`)."""
    return evaluate(_frame(confidence, correctness, None), replicates=2).risk_coverage("predictions")


def measure(
    metric: Metric,
    confidence: ArrayLike,
    correctness: ArrayLike,
    cluster: ArrayLike | None = None,
    interval: bool = True,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """Return a metric's value and its 95 % bootstrap interval over clusters.

    confidence (n,) and correctness (n,) in [0, 1]; cluster (n,): the patient (or image) of each claim; without it
    claims count as independent. No interval with fewer than 8 effective clusters, nor for metrics that have none
    (`ece`). Raises DataError for numbers outside their range, and for continuous correctness where a metric needs right
    or wrong.
    """
    sample = _sample(confidence, correctness, cluster)
    if metric.binary and not np.isin(sample.correctness, (0.0, 1.0)).all():
        raise DataError(f"{metric.name} is defined for correctness of 0 and 1 only")
    found = Estimates([(sample, metric)], sample.units, replicates if interval else 2, seed).of(sample, metric)
    none = float("nan")
    return Interval(found["value"], found["low"] if interval else none, found["high"] if interval else none)


def _frame(confidence: ArrayLike, correctness: ArrayLike, cluster: ArrayLike | None) -> pd.DataFrame:
    import pandas as pd

    columns = {"confidence": np.asarray(confidence), "correctness": np.asarray(correctness)}
    return pd.DataFrame(columns if cluster is None else {**columns, "cluster": np.asarray(cluster)})


def _sample(confidence: ArrayLike, correctness: ArrayLike, cluster: ArrayLike | None) -> Sample:
    values = {"confidence": np.asarray(confidence, float), "correctness": np.asarray(correctness, float)}
    number = len(np.atleast_1d(values["confidence"]))
    for name, given in values.items():
        if given.shape != (number,) or not number:
            raise DataError(f"{name} has the shape {given.shape}; confidence and correctness need the same (n,)")
        wrong = np.flatnonzero(~((given >= 0) & (given <= 1)))
        if len(wrong):
            raise DataError(f"{name}[{wrong[0]}] is {given[wrong[0]]:g}, which is not in [0, 1]")
    unit = np.arange(number)
    if cluster is not None:
        units = np.asarray(cluster)
        if units.shape != (number,):
            raise DataError(f"cluster has the shape {units.shape}, confidence ({number},)")
        unit = np.unique(units.astype(str), return_inverse=True)[1].astype(np.int64)  # in the order of a board
    return Sample(values["confidence"], values["correctness"], unit, int(unit.max()) + 1)


MetricFunction = Callable[..., Interval]


def _function(metric: Metric) -> MetricFunction:
    def function(
        confidence: ArrayLike,
        correctness: ArrayLike,
        cluster: ArrayLike | None = None,
        interval: bool = True,
        replicates: int = REPLICATES,
        seed: int = 0,
    ) -> Interval:
        return measure(metric, confidence, correctness, cluster, interval, replicates, seed)

    function.__name__ = function.__qualname__ = metric.name
    low, high = metric.range
    function.__doc__ = (
        f"{type(metric).__doc__}\n"
        f"    Range [{low:g}, {high:g}], better: {metric.better}. Source: {metric.source}. Arguments as in `measure`.\n"
    )
    return function


def __getattr__(name: str) -> MetricFunction:
    """Return the function of a metric, by the metric's name."""
    if name not in _METRICS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _FUNCTIONS.setdefault(name, _function(_METRICS[name]))


_FUNCTIONS: dict[str, MetricFunction] = {}

METRIC_NAMES = tuple(_METRICS)
"""The metrics that are functions here."""
