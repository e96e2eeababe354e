"""`conrad-bench judges`: judges of reports compared with radiologists' ratings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from conrad_bench.cli.common import Options, Plugins, names_in, tell


def judges(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="csv, tsv, jsonl or parquet; a row is a report.")],
    ratings: Annotated[
        str, typer.Option(metavar="COLUMN,COLUMN", help="Columns with the ratings, one for each radiologist.")
    ],
    columns: Annotated[
        str | None, typer.Option("--judges", metavar="COLUMN,COLUMN", help="Columns with the scores of one judge each.")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Scorers that judge the columns response and reference.")
    ] = None,
    lower: Annotated[
        str | None,
        typer.Option(
            "--lower-is-better",
            metavar="COLUMN,COLUMN",
            help="Columns of ratings or judges that count errors. In all others higher is better.",
        ),
    ] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OURS=YOURS", help="A column of yours that is one of ours: example=study_id."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for judges.md, .json and .csv, and for model's answers.")
    ] = None,
    replicates: Annotated[int, typer.Option(min=1, help="Bootstrap replicates.")] = 2_000,
    granularity: Annotated[
        Literal["report", "sentence", "answer"] | None, typer.Option(help="What a row is, for the scorers.")
    ] = None,
    option: Options = None,
    plugin: Plugins = None,
) -> None:
    """Compare judges of reports with radiologists' ratings: Kendall's tau-b, Spearman's rho, pairwise agreement.

    Columns: those with ratings; those with judges' scores, or response and reference for --scorer; as far as they are
    there example (the study that a report is about) and cluster (or patient).
    """
    from conrad_bench.config import parse_options
    from conrad_bench.errors import ConfigError
    from conrad_bench.leaderboards import judges as comparison
    from conrad_bench.leaderboards.predictions.columns import names_of
    from conrad_bench.leaderboards.predictions.files import read_predictions

    scorers, given = names_in(scorer) or [], names_in(columns) or []
    if not scorers and not given:
        raise ConfigError("name judges: --judges COLUMN for scores that are there, --scorer NAME to compute some")
    if out is not None:
        comparison.check_folder(out)
    frame = read_predictions([file], names_of(mapped or []))
    if taken := [name for name in scorers if name in frame]:
        raise ConfigError(f"--scorer {taken[0]}: the file has a column of that name; rename it, or name it in --judges")
    names, down = names_in(ratings) or [], names_in(lower) or []
    comparison.check_names([*frame.columns, *scorers], names, [*given, *scorers], down)
    for name in scorers:
        from conrad_bench.progress import Reporter
        from conrad_bench.registry import Registry
        from conrad_bench.scoring import text_scores

        registry, settings = Registry(plugin or []), parse_options(option or [])
        scores = text_scores(frame, name, settings, registry, Reporter(), out, granularity)
        frame[name] = [score.value for score in scores]
    table = comparison.judges_table(frame, names, [*given, *scorers], down, replicates)
    tell(comparison.markdown(table))
    if out is not None:
        comparison.write(table, out)
        tell(f"written: {out}")
