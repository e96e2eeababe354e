"""`conrad-bench score`: a finished run judged anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conrad_bench.cli import common


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    scorer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|TASK=NAME", help="Scorer of all tasks, or of one. Repeatable."),
    ] = None,
    judges: common.Judges = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the new run. Default: RUN-NAME, beside it.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B", help="Metrics of the board. Default: all of this version's.")
    ] = None,
    option: common.Options = None,
    plugin: common.Plugins = None,
    keep_stale: Annotated[
        bool, typer.Option("--keep-stale", help="Use fits that other data, options, code or weights made.")
    ] = False,
) -> None:
    """Judge a finished run by another scorer, or several, from its stored answers and fits; the run stays as it is."""
    from conrad_bench.config import parse_options
    from conrad_bench.errors import ConfigError
    from conrad_bench.leaderboards.pages.console import table_for_console
    from conrad_bench.progress import Reporter
    from conrad_bench.registry import Registry
    from conrad_bench.rescoring import score as judge_anew
    from conrad_bench.variants import JUDGES

    scorers = [*(scorer or []), *([f"{JUDGES}:{judges}"] if judges is not None else [])]
    if not scorers:
        raise ConfigError("name the scorer: --scorer NAME, or several: --judges A,B")
    board, folder = judge_anew(
        run,
        scorers,
        parse_options(option or []),
        Registry(plugin or []),
        Reporter(),
        out,
        metrics.split(",") if metrics else None,
        keep_stale,
    )
    common.show(table_for_console(board))
    common.tell(f"leaderboard: {folder / 'leaderboard.html'}")
