"""`conrad-bench run`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conrad_bench.cli.common import CrashError, Plugins, show
from conrad_bench.errors import ConfigError, ConradBenchError

if TYPE_CHECKING:
    from conrad_bench.cluster.cluster import Cluster


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
        raise CrashError(folder) from error
    if dry_run:
        from conrad_bench.preview import plan_for_console

        show(plan_for_console(result))
    else:
        from conrad_bench.leaderboards.pages.tables import table_for_console

        show(table_for_console(result))
        print(f"leaderboard: {folder / 'leaderboard.md'}")


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
