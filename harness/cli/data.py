"""`conrad-bench data`: writes data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from conrad_bench.tasks.phantom import STUDIES


def phantom(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    layout: Annotated[Literal["mimic", "openi", "vqa_rad"], typer.Option(help="On-disk layout.")] = "mimic",
    studies: Annotated[int, typer.Option(min=1, help="Number of studies.")] = STUDIES,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the phantom data.")] = 0,
) -> None:
    """Write phantom chest radiographs with reports or questions, in the layout of a real data set."""
    from conrad_bench.plan import phantom_writer
    from conrad_bench.progress import Reporter

    with Reporter().stage("writing the phantom data", studies) as advance:
        phantom_writer(layout)(out, studies, seed, progress=advance)
    print(f"{studies} phantom studies in the {layout} layout: {out}")
