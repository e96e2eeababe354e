"""`conrad-bench review`: pages to review the reports of a run, or those for new pictures."""

from __future__ import annotations

import getpass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from conrad_bench.cli.common import Plugins, put
from conrad_bench.errors import ConfigError
from conrad_bench.registry import register_files


class Order(StrEnum):
    """Which report comes first."""

    uncertain = "uncertain"
    random = "random"
    stratified = "stratified"


def review(
    run_folder: Annotated[
        Path,
        typer.Argument(metavar="RUN|DIR", help="Folder of a run, finished or not, or one that `report --out` wrote."),
    ],
    raters: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", show_default=False, help="Names of the raters. Default: your own."),
    ] = None,
    blind: Annotated[bool, typer.Option("--blind", help="Send no confidence, method or reference.")] = False,
    order: Annotated[
        Order | None,
        typer.Option(
            show_default=False,
            help="The least confident first; at random, for each rater another way; or in turn from five levels of "
            "confidence. Default: uncertain, with --blind random.",
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            show_default=False,
            help="Mark the threshold that is certified for this mean correctness (`conrad-bench threshold`); not with "
            "--blind.",
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Reports of this method. Default: of all.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Reports of this task. Default: of all.")
    ] = None,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, show_default=False, help="Port. Default: one that is free.")
    ] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open no browser.")] = False,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", show_default=False, help="Serve at this address of the machine, for others too."
        ),
    ] = None,
    i_understand: Annotated[
        bool, typer.Option("--i-understand", help="What --host means: whoever has the address can read the reports.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Certificate of --host, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="The certificate's key, PEM.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Rate and correct reports in a browser, sentence by sentence. For this machine alone, until Ctrl-C."""
    from conrad_bench.progress import Reporter
    from conrad_bench.serving.review import Setting
    from conrad_bench.serving.reviewing import elsewhere
    from conrad_bench.serving.reviewing import review as serve
    from conrad_bench.serving.server import check_installed

    check_installed()
    register_files(plugin or [])
    names = tuple(getpass.getuser().strip() if raters is None else each.strip() for each in (raters or "-").split(","))
    if len(set(names)) < len(names):
        raise ConfigError("--raters names somebody twice")
    chosen = order or (Order.random if blind else Order.uncertain)
    if blind and chosen is Order.uncertain:
        raise ConfigError("--order uncertain tells what --blind hides; take random or stratified")
    setting = Setting(names, chosen.value, blind, target)
    other = elsewhere(host, i_understand, tls_cert, tls_key)
    # As it is: `tell` would hide the token.
    serve(
        run_folder, setting, method, task, port, other, not no_browser, Reporter(),
        lambda address: put(f"{address}\nCtrl-C ends the review\n"),
    )  # fmt: skip
