"""What the commands share: the option --plugin, and how results and errors are said."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Python file that registers plugins. Repeatable.")
]


class CrashError(Exception):
    """An unexpected exception, given as the cause, and the run folder that it came from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


def show(renderable: Any) -> None:
    """Print a result to standard output, wide enough for its tables where that is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(renderable, markup=False)


def say(text: str) -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr)
