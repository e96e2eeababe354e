"""`conrad-bench leaderboard`, `publish`, `verify`, `site` and `threshold`: what is made of records."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from conrad_bench.cli.common import Plugins, say, show, tell
from conrad_bench.errors import ConfigError
from conrad_bench.registry import register_files

_SHOWN = 40
"""So many differences are shown of each folder."""


def leaderboard(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or published bundles.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write. Default for one run: its own folder.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Method that the others are compared with.")
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of subgroups, such as view or sex.")] = None,
    mixed: Annotated[bool, typer.Option("--mixed", help="Allow runs on different data or formats.")] = False,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B", help="Metrics of the board. Default: the runs' and this version's.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Compute one leaderboard of one or several runs, finished or not."""
    from conrad_bench.leaderboards.bundles import merge
    from conrad_bench.leaderboards.pages.console import table_for_console

    register_files(plugin or [])
    board, folder = merge.leaderboard(runs, out, baseline, by, mixed, metrics.split(",") if metrics else None)
    show(table_for_console(board))
    tell(f"leaderboard: {folder / 'leaderboard.html'}")


def publish(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folder of a finished run, or folders that differ in the seed alone."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the bundle.")],
    card: Annotated[
        bool, typer.Option("--card", help="Add a results card: reporting checklists, filled in as far as is known.")
    ] = False,
    eee: Annotated[bool, typer.Option("--eee", help="Add the numbers as a record of Every Eval Ever.")] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Add the adapters and probes that methods trained.")
    ] = False,
    acknowledge: Annotated[
        list[str] | None,
        typer.Option(metavar="LICENCE", help="Licence of the data, by name, that allows to publish them. Repeatable."),
    ] = None,
    model_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What to call a model of a local folder. Default: a local checkpoint."),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Write a bundle that can be made public: hashed ids, no text, no paths."""
    from conrad_bench.leaderboards.bundles import publish as publishing

    register_files(plugin or [])
    if acknowledge and not adapter:
        raise ConfigError("--acknowledge is for --adapter, which publishes what methods learned from the data")
    derived = [name for name, asked in zip(publishing.DERIVED, (card, eee), strict=True) if asked]
    tell(f"bundle: {publishing.publish(runs, out, derived, adapter, acknowledge or (), model_name)}")
    if (runs[0] / "publish.salt").is_file():
        tell(f"ids are hashed under {runs[0] / 'publish.salt'}: keep that file to yourself")


def verify(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of bundles or runs.")],
    render: Annotated[
        bool, typer.Option("--render", help="Write leaderboard, pages and figures of bundles anew from their records.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Compute every number of a bundle or run again from its records; exit code 1 if any differs."""
    from conrad_bench.leaderboards.bundles import verify as verifying

    register_files(plugin or [])
    wrong = False
    for folder in folders:
        found = verifying.render(folder) if render else verifying.verify(folder)
        for difference in found.differences[:_SHOWN]:
            tell(f"differs: {difference}")
        if len(found.differences) > _SHOWN:
            tell(f"and {len(found.differences) - _SHOWN:,} more")
        for note in found.notes:
            tell(f"note: {note}")
        if found.differences:
            say(f"error: {folder}: {len(found.differences)} difference(s)")
            wrong = True
            continue
        hashes = f", {found.hashes} file hashes" if found.hashes else ""
        tell(f"{folder}: {found.numbers:,} numbers of {found.rows} rows{hashes}: all agree")
    tell(f"note: {verifying.UNKNOWN}")
    if wrong:
        raise typer.Exit(1)


def site(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that holds bundles.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the site.")],
    title: Annotated[
        str, typer.Option(help="Title of the front page.")
    ] = "Confidence of medical vision-language models",
    plugin: Plugins = None,
) -> None:
    """Verify the bundles of a folder and write a site: every row, each number two clicks from its records."""
    from conrad_bench.leaderboards.site.write import write_site

    register_files(plugin or [])
    left_out = write_site(folder, out, title, tell)
    tell(f"site: {out / 'index.html'}")
    if left_out:
        say(f"error: left out, since their numbers or files differ: {', '.join(left_out)}; see `conrad-bench verify`")
        raise typer.Exit(1)


def threshold(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or a published bundle.")],
    target: Annotated[float, typer.Option(help="Mean correctness that kept claims must have at least.")],
    confidence: Annotated[float, typer.Option(help="Probability with which that holds.")] = 0.9,
    per: Annotated[Literal["claim", "report"], typer.Option(help="Keep claims, or whole responses.")] = "claim",
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run whose patients certify. Default: half of this run's, the rest check."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the halves.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")
    ] = None,
) -> None:
    """Find the lowest confidence that may be acted on: certified on some patients, checked on others."""
    from conrad_bench.leaderboards.thresholds import as_json, markdown, thresholds
    from conrad_bench.storage import write_text

    found = thresholds(run_folder, target, confidence, per, calibration, seed)
    if json_file is not None:
        write_text(json_file, json.dumps(as_json(found), indent=1) + "\n")
    text = markdown(found, target, confidence, per)
    if sys.stdout.isatty():
        from rich.markdown import Markdown

        show(Markdown(text))
    else:  # a file, or another program
        tell(text)
