"""`conrad-bench view`: pages to browse a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conrad_bench.cli.common import Plugins, put
from conrad_bench.registry import register_files


def view(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, finished or not.")],
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, show_default=False, help="Port. Default: one that is free.")
    ] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open no browser.")] = False,
    plugin: Plugins = None,
) -> None:
    """Browse a run's examples in a browser: pictures, responses, confidences. For this machine alone, until Ctrl-C."""
    from conrad_bench.progress import Reporter
    from conrad_bench.serving.server import view as serve

    register_files(plugin or [])
    # As it is: `tell` would hide the token.
    serve(run_folder, port, not no_browser, Reporter(), lambda address: put(f"{address}\nCtrl-C ends the viewer\n"))
