"""What the commands share: the options that describe a run, and how results and errors are said."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conrad_bench import text
from conrad_bench.errors import StorageError

if TYPE_CHECKING:
    from conrad_bench.cluster.cluster import Cluster
    from conrad_bench.config import RunConfig
    from conrad_bench.progress import Reporter
    from conrad_bench.registry import Registry

Methods = Annotated[str | None, typer.Option("--methods", metavar="A,B", help="Confidence methods, or `all`.")]
Tasks = Annotated[str | None, typer.Option("--tasks", metavar="A,B", help="Tasks.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file with the same keys.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Local folder or hub id of the model.")]
EngineName = Annotated[str | None, typer.Option("--engine", help="Engine that runs the model.")]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", metavar="URL", help="Address of the server, for --engine openai.")
]
DataRoots = Annotated[
    list[str] | None,
    typer.Option("--data-root", metavar="TASK=DIR", help="Folder with a task's data. Repeatable."),
]
Limit = Annotated[int | None, typer.Option("--limit", help="Number of test examples per task.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of samples, fits and the bootstrap.")]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="0,1,2", help="Training seeds: what learns or samples runs once with each."),
]
Counterfactual = Annotated[
    str | None,
    typer.Option(
        "--counterfactual",
        metavar="blank,swapped,noised",
        help="Estimate again with other pictures.",
    ),
]
Judges = Annotated[
    str | None,
    typer.Option("--judges", metavar="A,B", help="Scorers whose mean is the correctness, with their differences."),
]
Options = Annotated[
    list[str] | None, typer.Option("-o", metavar="NAME.OPTION=VALUE", help="Option of a plugin. Repeatable.")
]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Python file that registers plugins. Repeatable.")
]

Ray = Annotated[
    str, typer.Option("--ray", metavar="off|local|ADDRESS", help="Answer with replicas of the model on Ray.")
]
Replicas = Annotated[str, typer.Option("--replicas", metavar="N|auto", help="Replicas on Ray.")]
GpusPerReplica = Annotated[
    float, typer.Option("--gpus-per-replica", metavar="K", help="GPUs of a replica; with vLLM they share the model.")
]


class CrashError(Exception):
    """An unexpected exception, given as the cause, and the run folder that it came from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


class Harmless:
    """A rich renderable whose texts are made harmless for a terminal; its own colours stay."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        for segment in console.render(self._inner, options):
            yield segment if segment.control else segment._replace(text=text.console(segment.text))


def show(renderable: Any) -> None:
    """Print a result to standard output, wide enough for its tables where that is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    with console.capture() as printed:  # printed below: rich ends the program where nobody reads
        console.print(Harmless(renderable), markup=False)
    put(printed.get())


def tell(line: str) -> None:
    """Print a line of the result to standard output."""
    put(text.console(line) + "\n")


def put(content: str) -> None:
    """Print what is harmless as it is to standard output."""
    try:
        print(content, end="", flush=True)
    except OSError as error:
        output_failed(error)


def output_failed(error: OSError) -> None:
    """Go on without standard output. Where its reader has not just gone, raises StorageError."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (what is left to print goes there)
    if not isinstance(error, BrokenPipeError):
        raise StorageError(f"cannot write to standard output: {error.strerror}") from error


def say(line: str) -> None:
    """Print a line to standard error, if anybody can hear it."""
    with suppress(OSError):
        print(text.console(line), file=sys.stderr, flush=True)


def resolve(
    registry: Registry,
    methods: str | None,
    tasks: str | None,
    config: Path | None,
    model: str | None,
    engine: str | None,
    base_url: str | None,
    data_root: list[str] | None,
    limit: int | None,
    seed: int | None,
    seeds: str | None,
    counterfactual: str | None,
    settings: list[str],
) -> RunConfig:
    """Return the configuration that these options describe, above that of the file `config`. Raises ConfigError."""
    from conrad_bench.config import load_config, parse_data_roots, parse_options

    address = [f"openai.base_url={base_url}"] if base_url else []
    given: dict[str, Any] = {
        "methods": _every_method(registry, names_in(tasks)) if methods == "all" else _methods(methods),
        "tasks": names_in(tasks),
        "model": model,
        "engine": engine,
        "limit": limit,
        "seed": seed,
        "seeds": names_in(seeds),
        "counterfactual": names_in(counterfactual),
        "data_roots": parse_data_roots(data_root or []) or None,
        "options": parse_options([*settings, *address]) or None,
    }
    return load_config(config, {key: value for key, value in given.items() if value is not None}, registry)


def _every_method(registry: Registry, tasks: list[str] | None) -> list[str]:
    """Return the methods that judge claims of every task's granularity, and say which do not. Raises ConfigError."""
    from conrad_bench.errors import ConfigError
    from conrad_bench.variants import plugin_name

    if not tasks:
        raise ConfigError("--methods all: name the tasks with --tasks; not every method can judge every kind of claim")
    wanted = {registry.get("tasks", plugin_name(task)).granularity for task in tasks}
    found = {name: registry.get("methods", name).granularities for name in registry.available("methods")}
    if left := [name for name, can in found.items() if not wanted <= can]:
        say(f"left out, since not all of {', '.join(sorted(wanted))} are theirs: {', '.join(left)}")
    return [name for name, can in found.items() if wanted <= can]


def _methods(given: str | None) -> list[str] | None:
    """Split "a,ensemble:b,c" into the names of methods: behind "ensemble:" stand those that it is made of."""
    from conrad_bench.variants import ENSEMBLE

    found: list[str] = []
    for name in names_in(given) or []:
        if found and found[-1].startswith(ENSEMBLE) and not name.startswith(ENSEMBLE):
            found[-1] += f",{name}"
        else:
            found.append(name)
    return None if given is None else found


def names_in(given: str | None) -> list[str] | None:
    """Split "a,b" into names."""
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def cluster(
    address: str, replicas: str, gpus_per_replica: float, plugins: list[Path], train_workers: int, reporter: Reporter
) -> Cluster | None:
    """Return what describes a cluster; None where it is off. Raises ConfigError, or MissingExtra without ray."""
    if address == "off":
        return None
    from conrad_bench.cluster.cluster import Cluster
    from conrad_bench.errors import ConfigError

    if replicas != "auto" and not (replicas.isdecimal() and len(replicas) < 6):
        raise ConfigError(f"--replicas {replicas}: should be a number, or auto")
    number = None if replicas == "auto" else int(replicas)
    return Cluster(address, number, gpus_per_replica, plugins, train_workers, reporter.say)
