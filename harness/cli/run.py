"""`conrad-bench run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conrad_bench.cli import common
from conrad_bench.errors import ConfigError, ConradBenchError
from conrad_bench.runs import default_out

if TYPE_CHECKING:
    from conrad_bench.cluster.cluster import Cluster
    from conrad_bench.progress import Reporter


def run(
    methods: common.Methods = None,
    tasks: common.Tasks = None,
    config: common.Config = None,
    model: common.ModelName = None,
    engine: common.EngineName = None,
    base_url: common.BaseUrl = None,
    data_root: common.DataRoots = None,
    limit: common.Limit = None,
    seed: common.Seed = None,
    seeds: common.Seeds = None,
    counterfactual: common.Counterfactual = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder. Default: runs/<methods>-<tasks>.")
    ] = None,
    option: common.Options = None,
    plugin: common.Plugins = None,
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
    keep_stale: Annotated[
        bool,
        typer.Option("--keep-stale", help="Use results that other data, options, code or weights made."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at an image that cannot be read; without it, it costs its example.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; load no model.")] = False,
) -> None:
    """Run methods on tasks and write the leaderboard. The same command again continues."""
    from conrad_bench.progress import Reporter
    from conrad_bench.registry import Registry

    settings = list(option or [])
    if ray == "off" and train_workers != 1:
        raise ConfigError(f"--train-workers {train_workers} needs Ray: add --ray local, or a cluster's address")
    registry = Registry(plugin or [])
    given = methods, tasks, config, model, engine, base_url, data_root, limit, seed, seeds, counterfactual
    resolved = common.resolve(registry, *given, settings)
    if ray != "off" and resolved.engine == "vllm" and gpus_per_replica > 1:
        settings.insert(0, f"vllm.tensor_parallel_size={gpus_per_replica:g}")
        resolved = common.resolve(registry, *given, settings)
    folder = out or default_out(resolved.methods, resolved.tasks)

    from conrad_bench import pipeline

    try:
        reporter = Reporter()
        cluster = (
            None if ray == "off" else _cluster(ray, replicas, gpus_per_replica, plugin or [], train_workers, reporter)
        )
        result = pipeline.run(resolved, folder, registry, reporter, dry_run, cluster, keep_stale, strict)
    except ConradBenchError:
        raise
    except Exception as error:
        raise common.CrashError(folder) from error
    if dry_run:
        from conrad_bench.preview import plan_for_console

        common.show(plan_for_console(result))
    else:
        from conrad_bench.leaderboards.pages.console import table_for_console

        common.show(table_for_console(result))
        common.tell(f"leaderboard: {folder / 'leaderboard.md'}")


def _cluster(
    address: str, replicas: str, gpus_per_replica: float, plugins: list[Path], train_workers: int, reporter: Reporter
) -> Cluster:
    """Return the description of a cluster. Raises ConfigError, or MissingExtra without ray."""
    from conrad_bench.cluster.cluster import Cluster

    if replicas != "auto" and not (replicas.isdecimal() and len(replicas) < 6):
        raise ConfigError(f"--replicas {replicas}: should be a number, or auto")
    number = None if replicas == "auto" else int(replicas)
    return Cluster(address, number, gpus_per_replica, plugins, train_workers, reporter.say)
