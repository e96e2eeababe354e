"""`conrad-bench rehearse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conrad_bench.cli import common
from conrad_bench.errors import ConfigError
from conrad_bench.runs import default_out


def rehearse(
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
    option: common.Options = None,
    plugin: common.Plugins = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for rehearsal.json. Default: nothing is kept.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the result to this file.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Examples of each stage. Default: one batch of the engine.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each training, at the least.")] = 3,
) -> None:
    """Play each stage of a planned run on a few examples at full size: does it fit, and what will it take?"""
    from conrad_bench import rehearsal
    from conrad_bench.config import dump_config
    from conrad_bench.registry import Registry
    from conrad_bench.rehearsal_report import as_json, for_console
    from conrad_bench.storage import storage_errors, write_text

    registry = Registry(plugin or [])
    given = methods, tasks, config, model, engine, base_url, data_root, limit, seed, seeds, counterfactual
    resolved = common.resolve(registry, *given, list(option or []))
    if out is not None and (out / "config.yaml").exists():
        raise ConfigError(f"{out} holds a run; a rehearsal keeps out of it: choose another folder with --out")
    # Patients' text and checkpoints lie where the run's will lie, not on a small /tmp, and are removed at the end.
    beside = out or default_out(resolved.methods, resolved.tasks).parent
    with storage_errors(beside):
        beside.mkdir(parents=True, exist_ok=True)
    result = rehearsal.rehearse(resolved, registry, beside, examples, steps)
    result["config"] = dump_config(resolved)
    for path in (out and out / "rehearsal.json", json_file):
        if path is not None:
            write_text(path, as_json(result))
    common.show(for_console(result))
    if result["failed"]:
        common.say(f"error: {result['failed']} stage(s) of the rehearsal failed; each is named above with its remedy")
        raise typer.Exit(1)
