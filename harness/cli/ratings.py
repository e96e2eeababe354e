"""`conrad-bench ratings export`, `score` and `agreement`: what raters said of a run's reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conrad_bench.cli.common import Plugins, say, tell
from conrad_bench.registry import register_files

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]
_File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        show_default=False,
        help="Csv with rater, report, sentence, rating (1-5). Default: what `conrad-bench review` kept.",
    ),
]


ratings = typer.Typer(help="What raters said of a run's reports.", no_args_is_help=True, rich_markup_mode=None)


@ratings.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that was reviewed.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", show_default=False, help="Default: RUN/review.csv, or the folder RUN/references."),
    ] = None,
    as_references: Annotated[
        bool, typer.Option("--as-references", help="Write the corrected reports as the references of a csv task.")
    ] = False,
    rater: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="With --as-references: whose corrections, if several."),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Write the ratings of a review as a csv, or its corrected reports as a task."""
    from conrad_bench.errors import ConfigError
    from conrad_bench.progress import Reporter
    from conrad_bench.reviews.exports import write_ratings
    from conrad_bench.serving.references import write_references

    if rater is not None and not as_references:
        raise ConfigError("--rater belongs to --as-references; the csv has the ratings of all")
    register_files(plugin or [])
    if as_references:
        written = write_references(run_folder, out or run_folder / "references", rater, Reporter())
    else:
        written = write_ratings(run_folder, out or run_folder / "review.csv")
    for line in written.left_out:
        say(f"left out: {line}")
    tell(f"{written.what}: {written.path}")


@ratings.command()
def score(run_folder: _Run, file: _File = None) -> None:
    """Compare a run's confidences with clinicians' ratings of its reports (ConRad, Table 4)."""
    from conrad_bench.leaderboards.ratings import markdown, ratings_table

    tell(markdown(ratings_table(run_folder, _ratings(run_folder, file))))


@ratings.command()
def agreement(run_folder: _Run, file: _File = None) -> None:
    """Say how far raters agree: weighted kappa of each two, Krippendorff's alpha of all."""
    from conrad_bench.leaderboards.agreement import agreement_table, markdown

    tell(markdown(agreement_table(run_folder, _ratings(run_folder, file))))


def _ratings(run: Path, file: Path | None) -> Path:
    """Return the file of ratings; those of a review are exported first."""
    from conrad_bench.reviews.exports import write_ratings

    if file is not None:
        return file
    written = write_ratings(run, run / "review.csv")
    for line in written.left_out:
        say(f"left out: {line}")
    return written.path
