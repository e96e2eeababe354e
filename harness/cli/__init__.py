"""The command line: `conrad-bench run`, `list`, `leaderboard`, `publish`, `verify`, `ratings`, `doctor` and `data`.

Exit codes: 0 done, 1 something failed, 2 the request cannot be met as it stands, 130 interrupted.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conrad_bench import __version__
from conrad_bench.errors import ConfigError, ConradBenchError
from conrad_bench.tasks.phantom import STUDIES

if TYPE_CHECKING:
    from conrad_bench.cluster.cluster import Cluster

Kind = Literal["methods", "tasks", "scorers", "engines", "metrics"]

Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Python file that registers plugins. Repeatable.")
]

app = typer.Typer(
    name="conrad-bench",
    help="Compare confidence methods of medical vision-language models, with calibration statistics that hold up.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Write data.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data")


class _CrashError(Exception):
    """An unexpected exception, given as the cause, and the run folder that it came from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except SystemExit as stop:
        if stop.code == 130:
            _say("interrupted; the same command continues where it stopped")
        raise
    except KeyboardInterrupt:
        _say("interrupted; the same command continues where it stopped")
        sys.exit(130)
    except ConradBenchError as error:
        if os.environ.get("CONRAD_BENCH_TRACEBACK") == "1":
            traceback.print_exception(error)
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except Exception as error:
        crash = error.__cause__ if isinstance(error, _CrashError) and error.__cause__ is not None else error
        if os.environ.get("CONRAD_BENCH_TRACEBACK") == "1":
            traceback.print_exception(crash)
        log = _write_log(crash, error.folder if isinstance(error, _CrashError) else None)
        _say(f"error: unexpected {type(crash).__name__}; this is a bug or a broken plugin; traceback: {log}")
        sys.exit(1)


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


@app.command()
def run(
    methods: Annotated[str | None, typer.Option(metavar="A,B", help="Confidence methods.")] = None,
    tasks: Annotated[str | None, typer.Option(metavar="A,B", help="Tasks.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML file with the same keys.")] = None,
    model: Annotated[str | None, typer.Option(help="Local folder or hub id of the model.")] = None,
    engine: Annotated[str | None, typer.Option(help="Engine that runs the model.")] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of the server, for --engine openai.")
    ] = None,
    data_root: Annotated[
        list[str] | None, typer.Option(metavar="TASK=DIR", help="Folder with a task's data. Repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Number of test examples per task.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of samples, fits and the bootstrap.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder. Default: runs/<methods>-<tasks>.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("-o", metavar="NAME.OPTION=VALUE", help="Option of a plugin. Repeatable.")
    ] = None,
    plugin: Plugins = None,
    ray: Annotated[
        str, typer.Option(metavar="off|local|ADDRESS", help="Answer with replicas of the model on Ray.")
    ] = "off",
    replicas: Annotated[str, typer.Option(metavar="N|auto", help="Replicas on Ray.")] = "auto",
    gpus_per_replica: Annotated[
        float, typer.Option(metavar="K", help="GPUs of a replica; with vLLM they share the model.")
    ] = 1,
    train_workers: Annotated[
        int, typer.Option(metavar="N", help="Workers that train an adapter together on Ray, with a GPU each.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; load no model.")] = False,
) -> None:
    """Run methods on tasks and write the leaderboard. The same command again continues."""
    from conrad_bench.config import load_config, parse_data_roots, parse_options
    from conrad_bench.progress import Reporter
    from conrad_bench.registry import Registry

    settings = list(option or [])
    if base_url:
        settings.append(f"openai.base_url={base_url}")
    if ray != "off" and engine == "vllm" and gpus_per_replica > 1:
        settings.insert(0, f"vllm.tensor_parallel_size={gpus_per_replica:g}")
    if ray == "off" and train_workers != 1:
        raise ConfigError(f"--train-workers {train_workers} needs Ray: add --ray local, or a cluster's address")
    given: dict[str, Any] = {
        "methods": _names(methods),
        "tasks": _names(tasks),
        "model": model,
        "engine": engine,
        "limit": limit,
        "seed": seed,
        "data_roots": parse_data_roots(data_root or []) or None,
        "options": parse_options(settings) or None,
    }
    registry = Registry(plugin or [])
    resolved = load_config(config, {key: value for key, value in given.items() if value is not None}, registry)
    folder = out or default_out(resolved.methods, resolved.tasks)

    from conrad_bench import pipeline

    try:
        cluster = None if ray == "off" else _cluster(ray, replicas, gpus_per_replica, plugin or [], train_workers)
        result = pipeline.run(resolved, folder, registry, Reporter(), dry_run, cluster)
    except ConradBenchError:
        raise
    except Exception as error:
        raise _CrashError(folder) from error
    if dry_run:
        from conrad_bench.preview import plan_for_console

        _show(plan_for_console(result))
    else:
        from conrad_bench.leaderboards.pages.tables import table_for_console

        _show(table_for_console(result))
        print(f"leaderboard: {folder / 'leaderboard.md'}")


@app.command("list")
def list_plugins(
    kind: Annotated[Kind | None, typer.Argument(help="One kind only.")] = None,
    plugin: Plugins = None,
) -> None:
    """List the plugins, and why some do not work."""
    from rich.console import Console
    from rich.table import Table

    from conrad_bench.registry import KINDS, Registry

    console = Console()
    if not console.is_terminal:
        console.width = 1000  # piped output keeps one line per plugin
    registry = Registry(plugin or [])
    for shown in (kind,) if kind is not None else KINDS:
        table = Table("name", "summary", _NOTES[shown], "from", title=shown, title_justify="left", box=None)
        for name, cls in registry.available(shown).items():
            table.add_row(name, cls.summary, _note(shown, cls), registry.origin(shown, name))
        for column in (table.columns[0], table.columns[3]):
            column.no_wrap, column.overflow = True, "fold"
        with console.capture() as text:
            console.print(table, markup=False, highlight=False)
        print("\n".join(line.rstrip() for line in text.get().splitlines()), end="\n\n")
    for error in registry.failures.values():
        print(f"unusable: {error}")


_NOTES = {
    "methods": "needs",
    "tasks": "claims, scorer",
    "scorers": "column",
    "engines": "provides",
    "metrics": "better, range, source",
}


def _note(kind: Kind, cls: Any) -> str:
    """Say what a plugin needs or provides."""
    if kind == "methods":
        return ", ".join(sorted(cls.needs)) or "-"
    if kind == "tasks":
        scorer = cls.model_fields["scorer"]
        return f"{cls.granularity}, {'-' if scorer.is_required() else scorer.default}"
    if kind == "metrics":
        return f"{cls.better}, [{cls.range[0]:g}, {cls.range[1]:g}], {cls.source}"
    return str(cls.label) if kind == "scorers" else ", ".join(sorted(cls.provides))


@app.command()
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
) -> None:
    """Compute one leaderboard of one or several runs, finished or not."""
    from conrad_bench.leaderboards.bundles import merge
    from conrad_bench.leaderboards.pages.tables import table_for_console

    board, folder = merge.leaderboard(runs, out, baseline, by, mixed)
    _show(table_for_console(board))
    print(f"leaderboard: {folder / 'leaderboard.html'}")


@app.command()
def publish(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the bundle.")],
) -> None:
    """Write a bundle that can be made public: hashed ids, no text, no paths."""
    from conrad_bench.leaderboards.bundles import publish as publishing

    print(f"bundle: {publishing.publish(run_folder, out)}")
    print(f"ids are hashed under {run_folder / 'publish.salt'}: keep that file to yourself")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a bundle or a run.")],
) -> None:
    """Compute every number of a bundle or run again from its records; exit code 1 if any differs."""
    from conrad_bench.leaderboards.bundles import verify as verifying

    found = verifying.verify(folder)
    for note in found.notes:
        print(f"note: {note}")
    for difference in found.differences:
        print(f"differs: {difference}")
    if found.differences:
        _say(f"error: {folder}: {len(found.differences)} difference(s)")
        raise typer.Exit(1)
    hashes = f", {found.hashes} file hashes" if found.hashes else ""
    print(f"{folder}: {found.numbers:,} numbers of {found.rows} rows{hashes}: all agree")


@app.command()
def ratings(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Csv with rater, report, sentence, rating (1-5).")],
) -> None:
    """Compare a run's confidences with clinicians' ratings of its reports (ConRad, Table 4)."""
    from conrad_bench.leaderboards.ratings import markdown, ratings_table

    print(markdown(ratings_table(run_folder, file)))


@app.command()
def doctor(
    model: Annotated[str | None, typer.Option(help="Local folder or hub id whose access is checked, too.")] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of a server that serves the model, for engine openai.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Check this machine: packages, GPUs, data roots, and a tiny generation on every engine."""
    from conrad_bench.doctor import examine
    from conrad_bench.registry import Registry

    problems = 0
    for finding in examine(Registry(plugin or []), model, base_url):
        problems += finding.state == "problem"
        print(f"{finding.state:8}{finding.what}: {finding.found}", flush=True)
        if finding.remedy:
            print(f"{'':8}-> {finding.remedy}", flush=True)
    if problems:
        _say(f"error: {problems} problem(s) found; each is named above with its remedy")
        raise typer.Exit(1)


@data.command()
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


def default_out(methods: list[str], tasks: list[str]) -> Path:
    """Return runs/<methods>-<tasks>, shortened by a hash where the name would be too long for a folder."""
    name = f"{','.join(methods)}-{','.join(tasks)}".replace("/", "_")
    if len(name.encode()) > 120:
        name = f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path("runs") / name


def _cluster(address: str, replicas: str, gpus_per_replica: float, plugins: list[Path], train_workers: int) -> Cluster:
    """Return the description of a cluster. Raises ConfigError, or MissingExtra without ray."""
    from conrad_bench.cluster.cluster import Cluster

    if replicas != "auto" and not replicas.isdecimal():
        raise ConfigError(f"--replicas {replicas}: should be a number, or auto")
    number = None if replicas == "auto" else int(replicas)
    return Cluster(address, number, gpus_per_replica, plugins, train_workers)


def _names(text: str | None) -> list[str] | None:
    """Split "a,b" into names."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _show(renderable: Any) -> None:
    """Print a result to standard output, wide enough for its tables where that is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(renderable, markup=False)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


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
