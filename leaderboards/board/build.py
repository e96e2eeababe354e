"""The leaderboard of a run: records in, leaderboard.json, leaderboard.md and figures out.

`leaderboard.json` (format 3) has no times in it and is the same bytes for the same records and context: keys sorted,
numbers rounded to 9 significant digits, null where a number is undefined. Its `rows`, one for each task and method:

- `n`, `n_clusters`: claims with status `ok` and their clusters: what `metrics` are computed on
- `effective_clusters`, `warning`: Kish's effective number of these clusters, and what to bear in mind where it is small
- `claims`, `unparsed`, `unparsed_rate`: all claims; those of another status, counted by status; their share
- `metrics`: {metric: {value, low, high}}, the interval being the 95 % bootstrap, or null where the row has fewer than 8
  effective units, the metric is undefined in more than half of the replicates or the same in all, or has no interval
- `ece_null`: mean, middle 95 % and p value of ECE under calibration, as `inference.null_band` draws it; null where
  too little is known, and then `ece_null_reason` says why
- `readings` (methods whose responses state confidences): how many claims' confidences were written in which way
- `thoughts` (where there were some): number of responses with thoughts, which were set aside
- `cost` (records that have `records.SPENT`): tokens that the model reads and writes for an example if the method runs
  alone, how many `times` those of `base` that is, and the steps of its training
- `judges` (records of several judges): mean correctness by each; correctness is their mean, and intervals and tests
  have the variance between them in them
- `worst_case` (above 1 % unparsed): {metric: value} when every unparsed claim counts as confidence 1 with correctness
  0, or as confidence 0 with correctness 1, whichever is worse (for mean correctness: as 0); no better than the value.
  Correlation has no worst case: adding such a claim need not lower it
- `collapse`: number of distinct confidences, entropy in nats, share of the commonest
- `reliability`, `grouping`: the points of the reliability diagram, by `level` or by `bin`: for each
  group its index, mean confidence, mean correctness with interval, and number of claims
- `risk_coverage`: mean risk (1 - correctness) of the most confident claims, at 20 coverages
- `workload`: the share of the errors that are caught by reading a share of the responses, least confident first, at 20
  shares (`metrics.selective.workload`)
- `difference`: {baseline, n_units, metrics}: this method minus the baseline under the same resampling weights, both
  restricted to the examples in which both have an `ok` claim (for `quality`: a response of known quality)
- `flagging` (tasks whose claims are sentences): precision and quality of what is left above a threshold, as
  `conrad_bench.leaderboards.board.flagging` describes it
- `tokens` (records with the probabilities of the confidence answers): how ordered these are, as
  `conrad_bench.leaderboards.board.tokens` describes it
- `figure`, `before_after`, `token_figure`: paths of the figures in the run folder, each with a .png beside the .svg

Each task has its `comparisons` of all pairs of methods (`inference.comparisons`), and in `missing` the
number of examples that a method lacks and another one has.

The metric `quality` (tasks with a scorer of whole responses) is a mean over examples, each counted once, whatever the
status of its claims; the other metrics are over `ok` claims.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.board.context import BASELINE, BoardContext
from conrad_bench.leaderboards.board.models import between_models
from conrad_bench.leaderboards.board.rounding import rounded
from conrad_bench.leaderboards.board.rows import baseline_of, task_rows
from conrad_bench.leaderboards.metrics.base import Metric
from conrad_bench.leaderboards.metrics.catalogue import BUILT_IN, in_order
from conrad_bench.records import read_records, records_path, training_seed
from conrad_bench.registry import Registry
from conrad_bench.variants import unlabelled

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 3
TRAINED_TO_STATE = ("conrad", "conrad_exact", "sft")
"""Methods whose stated confidences (and those of their variants) are drawn beside the baseline's: what training has
changed (ConRad, Figure 2)."""


def build(records: Mapping[tuple[str, str], pd.DataFrame], context: BoardContext) -> dict[str, Any]:
    """Return the content of leaderboard.json from the records of each (task, method).

    The frames are as `read_records` returns them, of tasks that the context names. Raises DataError where they do not
    belong together.
    """
    _check_seeds(records, context.seeds)
    tasks: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for task in sorted({task for task, _ in records}):
        frames = {method: frame for (of, method), frame in sorted(records.items()) if of == task}
        scorer, label = context.scorers[task]
        quality = context.quality.get(task)
        granularity = context.granularities.get(task, "report")
        tasks[task] = {
            "scorer": scorer,
            "label": label,
            "quality": {"scorer": quality[0], "label": quality[1]} if quality else None,
            "granularity": granularity,
            "left_out": context.left_out.get(task, {}),
        }
        if task in context.fitted_by:
            tasks[task]["fitted_by"] = dict(zip(("scorer", "label"), context.fitted_by[task], strict=True))
        found, about = task_rows(task, frames, context)
        tasks[task] |= about
        rows += found
    for row in rows:
        row.update(_figures(row, rows))
    data = context.data if not context.phantom or "phantom (synthetic)" in context.data else "phantom (synthetic)"
    board = {
        "format": FORMAT,
        "title": f"Confidence of {context.model} on {data}",
        **context.model_dump(exclude={"scorers", "quality", "fitted_by", "granularities", "left_out", "metrics"}),
        "data": data,
        # A list, since its order is that of the tables' columns.
        "metrics": [
            {
                "name": metric.name,
                "label": metric.label,
                "summary": metric.summary,
                "better": metric.better,
                "range": metric.range,
                "source": metric.source,
                "headline": metric.headline,
                "options": metric.model_dump(mode="json"),
            }
            for metric in context.metrics
        ],
        "tasks": tasks,
        "rows": rows,
        "between_models": list(between_models(records, context)),
    }
    return dict(rounded(board))


def run_records(run: Path, tasks: Container[str]) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the records in a run folder by (task, method).

    Raises DataError when there are none, a file is not what its name says or is about none of the `tasks`, StorageError
    when a file is damaged.
    """
    records = {}
    for path in sorted((run / "records").glob("*.parquet")):
        frame = read_records(path)
        task, method = str(frame["task"].iloc[0]), str(frame["method"].iloc[0])
        if path != records_path(run, method, task):
            raise DataError(f"{path} holds the records of {method}@{task}; rename it or move it away")
        if task not in tasks:
            raise DataError(f"{path} holds records of task {task!r}, which is not a task of this run; move it away")
        records[task, method] = frame
    if not records:
        raise DataError(f"{run / 'records'} holds no records; run the methods first")
    return records


def _check_seeds(records: Mapping[tuple[str, str], pd.DataFrame], seeds: Mapping[str, tuple[str, int]]) -> None:
    """Raise DataError where records say another training seed than what is said of them."""
    for (task, name), frame in records.items():
        said = training_seed(frame)
        if name in seeds and said is not None and said != seeds[name][1]:
            raise DataError(
                f"records of {name}@{task}: their column seed says {said}, and they stand for seed {seeds[name][1]} of "
                f"{seeds[name][0]}; delete them and run the command again"
            )


def context_of(board: Mapping[str, Any]) -> BoardContext:
    """Return the context that the content of a leaderboard.json was built with.

    One of an older format gets the built-in metrics. Raises ConfigError for a metric that is not installed.
    """
    tasks = board["tasks"]
    return BoardContext(
        **{name: board[name] for name in BoardContext.model_fields if name in board and name != "metrics"},
        metrics=installed(board["metrics"]) if board["format"] == FORMAT else BUILT_IN,
        scorers={name: (task["scorer"], task["label"]) for name, task in tasks.items()},
        quality={
            name: (task["quality"]["scorer"], task["quality"]["label"])
            for name, task in tasks.items()
            if task["quality"]
        },
        fitted_by={
            name: (task["fitted_by"]["scorer"], task["fitted_by"]["label"])
            for name, task in tasks.items()
            if task.get("fitted_by")
        },
        granularities={name: task["granularity"] for name, task in tasks.items()},
        left_out={name: task["left_out"] for name, task in tasks.items()},
    )


def installed(metrics: Iterable[Mapping[str, Any]]) -> tuple[Metric, ...]:
    """Return metrics by `name` and `options`. Raises ConfigError for one that is not installed."""
    registry = Registry()
    return tuple(registry.create("metrics", metric["name"], metric["options"]) for metric in metrics)


def available() -> tuple[Metric, ...]:
    """Return the metrics that a new run has: the built-in ones, and those of plugins that are there.

    Raises ConfigError for one whose options must be set.
    """
    registry = Registry()
    return tuple(in_order(registry.create("metrics", name, {}) for name in registry.available("metrics")))


def before_training(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the row whose diagram stands beside that of a trained method, if its task has one."""
    stated = {other["method"]: other for other in rows if other["task"] == row["task"] and "reliability" in other}
    name = baseline_of(row["method"], BASELINE, stated)
    return stated[name] if name is not None else None


def _figures(row: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return the paths of a row's figures in the run folder."""
    cell = f"{row['method']}@{row['task']}".replace("/", "_")  # a model of the hub may stand behind a task
    paths = {}
    if "reliability" in row:
        paths["figure"] = f"figures/reliability_{cell}.svg"
        if unlabelled(row["method"]) in TRAINED_TO_STATE and before_training(row, rows) is not None:
            paths["before_after"] = f"figures/before_after_{cell}.svg"
    if "tokens" in row:
        paths["token_figure"] = f"figures/tokens_{cell}.svg"
    return paths
