"""The command line: `conrad-bench run`, `rehearse`, `list`, `describe`, `new`, `check`, `evaluate`, `score`,
`judges`, `leaderboard`, `publish`, `verify`, `site`, `threshold`, `reward`, `report`, `view`, `review`,
`ratings`, `doctor`, `data`.

Exit codes: 0 done, 1 something failed, 2 the request cannot be met as it stands, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer

from conrad_bench.cli.boards import leaderboard, publish, site, threshold, verify
from conrad_bench.cli.common import CrashError, output_failed, say
from conrad_bench.cli.data import phantom, shrink
from conrad_bench.cli.judges import judges
from conrad_bench.cli.plugins import check, describe, doctor, list_plugins, new
from conrad_bench.cli.predictions import evaluate
from conrad_bench.cli.ratings import ratings
from conrad_bench.cli.rehearse import rehearse
from conrad_bench.cli.report import report
from conrad_bench.cli.review import review
from conrad_bench.cli.reward import reward
from conrad_bench.cli.run import run
from conrad_bench.cli.score import score
from conrad_bench.cli.view import view
from conrad_bench.errors import ConfigError, ConradBenchError
from conrad_bench.version import __version__

app = typer.Typer(
    name="conrad-bench",
    help="Compare confidence methods of medical vision-language models, with calibration statistics that hold up.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(rehearse)
app.command("list")(list_plugins)
app.command()(describe)
app.command()(new)
app.command()(check)
app.command()(evaluate)
app.command()(score)
app.command()(judges)
app.command()(leaderboard)
app.command()(publish)
app.command()(verify)
app.command()(site)
app.command()(threshold)
app.command()(reward)
app.command()(report)
app.command()(view)
app.command()(review)
app.command()(doctor)
app.add_typer(ratings, name="ratings")
data = typer.Typer(help="Write data.", no_args_is_help=True, rich_markup_mode=None)
data.command()(phantom)
data.command()(shrink)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line and exit."""
    _interrupt_on_signals()
    try:
        _check_arguments(sys.argv[1:])
        app()
    except SystemExit as stop:
        if stop.code == 130:
            say("interrupted; the same command continues where it stopped")
        _end_output()
        raise
    except KeyboardInterrupt:
        say("interrupted; the same command continues where it stopped")
        sys.exit(130)
    except ConradBenchError as error:
        if os.environ.get("CONRAD_BENCH_TRACEBACK") == "1":
            say("".join(traceback.format_exception(error)))
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EIO):
            _end_output(error)
        crash = error.__cause__ if isinstance(error, CrashError) and error.__cause__ is not None else error
        if os.environ.get("CONRAD_BENCH_TRACEBACK") == "1":
            say("".join(traceback.format_exception(crash)))
        log = _write_log(crash, error.folder if isinstance(error, CrashError) else None)
        say(f"error: unexpected {type(crash).__name__}; this is a bug or a broken plugin; traceback: {log}")
        sys.exit(1)


def _end_output(error: OSError | None = None) -> None:
    """Write what is left for standard output. Exits with 1 if that cannot be done, or `error` says that it could not.

    A reader that wants no more is none of our business.
    """
    try:
        if error is not None:
            output_failed(error)
        elif sys.stdout is not None:
            sys.stdout.flush()
    except OSError as failed:
        _end_output(failed)
    except ConradBenchError as failed:
        say(f"error: {failed}")
        sys.exit(failed.exit_code)


def _interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does, unless it was told to ignore them (nohup)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _check_arguments(arguments: list[str]) -> None:
    """Refuse arguments with control characters: what they are told wrong with would be quoted with them."""
    for number, argument in enumerate(arguments, start=1):
        if any((character < " " and character not in "\n\t") or "\x7f" <= character < "\xa0" for character in argument):
            raise ConfigError(f"argument {number} holds control characters: {argument}")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"conrad-bench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def _write_log(error: BaseException, folder: Path | None) -> Path:
    """Write where an exception came from, and return the file. It holds no messages: they could quote patient text."""
    parts = ["Exceptions without their messages; CONRAD_BENCH_TRACEBACK=1 shows them on the terminal.\n"]
    link: BaseException | None = error
    while link is not None:
        parts += [*traceback.format_tb(link.__traceback__), f"{type(link).__module__}.{type(link).__qualname__}\n"]
        link = link.__cause__ or link.__context__
    if folder is None or not (folder / "config.yaml").is_file():  # a folder without it must stay empty
        folder = Path(tempfile.gettempdir())
    descriptor, name = tempfile.mkstemp(prefix="conrad-bench-error-", suffix=".log", dir=folder)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.writelines(parts)
    return Path(name)
