"""`conrad-bench evaluate`: the leaderboard of predictions that another program made."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated, Literal

import typer

from conrad_bench.cli.common import Options, Plugins, show, tell


def evaluate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="csv, tsv, jsonl or parquet.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the leaderboard; without it the table is shown only.")
    ] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OURS=YOURS", help="A column of yours that is one of ours: confidence=score."),
    ] = None,
    wide: Annotated[
        str | None, typer.Option(metavar="COLUMN,COLUMN", help="Columns that hold one method's confidences each.")
    ] = None,
    scale: Annotated[int, typer.Option(metavar="1|10|100", help="What the confidences are out of.")] = 1,
    baseline: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Method that the others are compared with.")
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of subgroups, such as view or sex.")] = None,
    model: Annotated[str, typer.Option(help="The model's name, for the title.")] = "an unnamed model",
    data: Annotated[str, typer.Option(help="The data set's name, for the title.")] = "unnamed data",
    replicates: Annotated[int, typer.Option(min=1, help="Bootstrap replicates.")] = 2_000,
    scorer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Judge the columns response and reference by this scorer first.")
    ] = None,
    granularity: Annotated[
        Literal["report", "sentence", "answer"] | None, typer.Option(help="What a row is, for the scorer.")
    ] = None,
    option: Options = None,
    plugin: Plugins = None,
) -> None:
    """Compute the leaderboard of your own predictions: no model, no run.

    Columns: confidence and correctness in [0, 1] (or response and reference, with --scorer); as far as they are
    there method, task, example, cluster (or patient), claim, status, seed, judge:NAME (scores of several judges);
    any other is one of subgroups.
    """
    if scorer is None:
        gc.disable()  # a tenth of the time goes into looking for cycles, of which imports and tables make none
    from conrad_bench.leaderboards import functions
    from conrad_bench.leaderboards.pages.console import table_for_console
    from conrad_bench.leaderboards.predictions.board import check_folder
    from conrad_bench.leaderboards.predictions.columns import names_of
    from conrad_bench.leaderboards.predictions.files import read_predictions

    if out is not None:
        check_folder(out)
    frame = read_predictions(files, names_of(mapped or []))
    if scorer is not None:
        from conrad_bench.config import parse_options
        from conrad_bench.progress import Reporter
        from conrad_bench.registry import Registry
        from conrad_bench.scoring import with_correctness

        registry, settings = Registry(plugin or []), parse_options(option or [])
        frame = with_correctness(frame, scorer, settings, registry, Reporter(), out, granularity)
    board = functions.evaluate(
        frame,
        wide=wide.split(",") if wide is not None else (),
        scale=scale,
        baseline=baseline,
        by=by,
        model=model,
        data=data,
        replicates=replicates,
    )
    show(table_for_console(board.content))
    if out is not None:
        board.write(out)
        tell(f"leaderboard: {out / 'leaderboard.html'}")
