"""`conrad-bench data`: writes data, and makes images smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from conrad_bench.cli.common import tell
from conrad_bench.errors import ConfigError
from conrad_bench.tasks.phantom import MOST_STUDIES, STUDIES


def phantom(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    layout: Annotated[Literal["mimic", "openi", "vqa_rad"], typer.Option(help="On-disk layout.")] = "mimic",
    studies: Annotated[int, typer.Option(min=1, max=MOST_STUDIES, help="Number of studies.")] = STUDIES,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the phantom data.")] = 0,
    pixels: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Enlarge the images, to 2544x3056 for one.")
    ] = None,
) -> None:
    """Write phantom chest radiographs with reports or questions, in the layout of a real data set."""
    from conrad_bench.plan import phantom_writer
    from conrad_bench.progress import Reporter

    size = _size(pixels)
    with Reporter().stage("writing the phantom data", studies) as advance:
        phantom_writer(layout)(out, studies, seed, progress=advance, size=size)
    tell(f"{studies} phantom studies in the {layout} layout: {out}")


def shrink(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Images that are too large.")],
    pixels: Annotated[int, typer.Option(min=1, help="Make those with more pixels than this smaller.")] = 20_000_000,
) -> None:
    """Make large images smaller in their place; the originals stay beside them as FILE.large."""
    from conrad_bench.engines.opening import shrink

    for file in files:
        size = shrink(str(file), pixels)
        print(f"{file}: " + ("small enough" if size is None else f"now {size[0]} x {size[1]} pixels"))


def _size(pixels: str | None) -> tuple[int, int] | None:
    """Read "WIDTHxHEIGHT", or "N" for a square. Raises ConfigError."""
    if pixels is None:
        return None
    parts = pixels.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and len(part) < 6 and 0 < int(part) <= 10_000 for part in parts):
        raise ConfigError(f"--pixels {pixels}: should be WIDTHxHEIGHT, such as 2544x3056, or one number")
    return int(parts[0]), int(parts[-1])
