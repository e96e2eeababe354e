"""`conrad-bench run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conrad_bench.cli import common
from conrad_bench.errors import ConfigError, ConradBenchError
from conrad_bench.runs import default_out
from conrad_bench.variants import JUDGES


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
    judges: common.Judges = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder. Default: runs/<methods>-<tasks>.")
    ] = None,
    option: common.Options = None,
    plugin: common.Plugins = None,
    ray: common.Ray = "off",
    replicas: common.Replicas = "auto",
    gpus_per_replica: common.GpusPerReplica = 1,
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
    if judges is not None:
        settings = [*(f"{task}.scorer={JUDGES}:{judges}" for task in resolved.tasks), *settings]
        resolved = common.resolve(registry, *given, settings)
    if ray != "off" and resolved.engine == "vllm" and gpus_per_replica > 1:
        settings.insert(0, f"vllm.tensor_parallel_size={gpus_per_replica:g}")
        resolved = common.resolve(registry, *given, settings)
    folder = out or default_out(resolved.methods, resolved.tasks)

    from conrad_bench import pipeline

    try:
        reporter = Reporter()
        cluster = common.cluster(ray, replicas, gpus_per_replica, plugin or [], train_workers, reporter)
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
