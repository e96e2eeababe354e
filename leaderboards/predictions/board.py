"""The board of predictions that another program made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from conrad_bench.errors import ConfigError
from conrad_bench.leaderboards.board.build import available, build
from conrad_bench.leaderboards.board.context import BASELINE, BoardContext, context_file
from conrad_bench.leaderboards.predictions.columns import Predictions
from conrad_bench.registry import unknown

MADE_ELSEWHERE = "Another program made these predictions; conrad-bench computed the statistics from them, nothing else."
REPLICATES = 2_000
"""Bootstrap replicates unless told otherwise: enough for a look at once; a run has 10,000."""
UNCLUSTERED = (
    "No column said which patient an example is of: examples count as independent of each other. Where they are not, "
    "the intervals are too short and the p values too small."
)


def context_for(
    predictions: Predictions,
    model: str = "an unnamed model",
    data: str = "unnamed data",
    baseline: str | None = None,
    replicates: int = REPLICATES,
) -> BoardContext:
    """Return what the board of predictions says beside them. Raises ConfigError for a baseline that no row has."""
    from conrad_bench.provenance import git_commit
    from conrad_bench.version import __version__

    tasks = sorted({task for task, _ in predictions.records})
    methods = sorted({predictions.seeds.get(method, (method, 0))[0] for _, method in predictions.records})
    if baseline is not None and baseline not in methods:
        raise ConfigError(f"--baseline: {unknown('method', baseline, methods)}")
    several = {name for name, _ in predictions.seeds.values()}
    return BoardContext(
        model=model,
        data=data,
        phantom=False,
        scorers=dict.fromkeys(tasks, ("given", "Mean correctness")),
        granularities={task: "sentence" if task in predictions.several else "answer" for task in tasks},
        methods=dict.fromkeys(methods, "as given"),
        version=__version__,
        commit=git_commit(),
        seed=0,
        replicates=replicates,
        seeds=predictions.seeds,
        random=sorted(several),
        notes=[MADE_ELSEWHERE, *([] if predictions.clustered else [UNCLUSTERED])],
        baseline=baseline or (BASELINE if BASELINE in methods else methods[0]),
        metrics=available(),
    )


def evaluated(predictions: Predictions, context: BoardContext, by: str | None = None) -> dict[str, Any]:
    """Return the content of leaderboard.json; `by` adds the rows of a column's subgroups.

    Raises DataError for a column that is not there.
    """
    board = build(predictions.records, context)
    if by is not None:
        from conrad_bench.leaderboards.board.subgroups import subgroups

        board |= subgroups(predictions.records, context, by)
    return board


def check_folder(out: Path) -> None:
    """Raise ConfigError where a folder holds anything but an earlier evaluation, which is written anew."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder")
    known = (out / "context.json").is_file() or {each.name for each in out.glob("*")} == {"rollouts"}
    ours = known and not (out / "config.yaml").exists()
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise ConfigError(f"--out {out} is not empty and holds no evaluation; choose another folder")


def write_evaluation(predictions: Predictions, context: BoardContext, board: dict[str, Any], out: Path) -> None:
    """Write a board with its records and context, so that `leaderboard` and `verify` read the folder as a run's.

    Raises ConfigError as `check_folder` does, StorageError when something cannot be written.
    """
    from conrad_bench.leaderboards.pages.outputs import write_files
    from conrad_bench.records import records_path, write_records
    from conrad_bench.storage import make_private, storage_errors, write_text

    check_folder(out)
    with storage_errors(out):
        for old in ("records", "figures"):
            shutil.rmtree(out / old, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
    make_private(out)
    for (task, method), frame in predictions.records.items():
        write_records(records_path(out, method, task), frame)
    write_text(out / "context.json", context_file(context, {}))
    write_files(out, board)
