"""What a bundle says of its run, checked: config.yaml, manifest.json, and what the board may say beside its numbers.

A board's model, data, scorers, labels, lines about methods, seeds and settings follow from the configuration and the
manifest, by the same code that a run's do. Of plugins that are not installed nothing can be computed: what is said of
them stands as it is, and a note says so.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conrad_bench.config import RunConfig, differences, load_config
from conrad_bench.errors import DataError, UserError
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.board.counterfactuals import Key
from conrad_bench.leaderboards.bundles.finished import Records, load_manifest
from conrad_bench.leaderboards.bundles.public_texts import (
    LEFT_OUT,
    PublicTexts,
    is_commit,
    is_version,
    manifest_text,
    public_config,
    public_context,
    public_manifest,
)
from conrad_bench.leaderboards.metrics.catalogue import BUILT_IN
from conrad_bench.manifest import context_again
from conrad_bench.plan import PHANTOM_DATA, PHANTOM_MODEL
from conrad_bench.records import ANEW, COUNTERFACTUAL
from conrad_bench.registry import Kind, Registry
from conrad_bench.seeds import row_name
from conrad_bench.variants import judge_names, parts_of, plugin_name

_BY_NAME = ("scorers", "quality", "fitted_by", "granularities", "methods", "variants", "seeds", "left_out")
"""What a context says of each method or task."""


@dataclass(frozen=True)
class About:
    """What was found."""

    context: BoardContext
    """What the board has to say."""
    problems: list[str]
    notes: list[str]
    """What could not be checked."""


def about(folder: Path, said: BoardContext, records: Records, others: Collection[Key] = ()) -> About:
    """Check configuration and manifest of a bundle against each other and its records, `others` under other pictures.

    `said` is what its board says. Raises ConfigError and DataError for files that cannot be read.
    """
    config = load_config(folder / "config.yaml")
    manifest = load_manifest(folder / "manifest.json")
    texts = PublicTexts(said)
    problems = [
        *_form(folder, config, manifest, texts),
        *_parts(config, records),
        *_other_pictures(config, others),
        *_manifest(config, manifest, records),
    ]
    if not (is_version(said.version) and (said.commit == "" or is_commit(said.commit))):
        problems.append("leaderboard.json: version or commit is none")
    context, notes = what_to_say(folder, said)
    if manifest.get("fitted_by", {}) != {task: scorer for task, (scorer, _) in context.fitted_by.items()}:
        problems.append("manifest.json, fitted_by: not the scorers by which methods learned, as config.yaml has them")
    return About(context, problems, notes)


def _form(folder: Path, config: RunConfig, manifest: Mapping[str, Any], texts: PublicTexts) -> Iterator[str]:
    """Yield what `publish` would have written in another way."""
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    if text != yaml.safe_dump(yaml.safe_load(text), sort_keys=False, width=120):
        yield "config.yaml: is not written as `publish` does (a comment, another order or spacing)"
    for line in differences(public_config(config, manifest, texts), config):
        yield f"config.yaml: {line.partition(':')[0]}: holds what no bundle says"
    for name in ("manifest.json", "bundle.json"):
        text = (folder / name).read_text(encoding="utf-8")
        if text != manifest_text(json.loads(text)):
            yield f"{name}: is not written as `publish` does (other spacing, or a key twice)"
    public = public_manifest(manifest, texts)
    for key in sorted(manifest.keys() | public.keys()):
        if manifest.get(key) != public.get(key):
            yield f"manifest.json: {key[:40]}: holds what no bundle says"


def _parts(config: RunConfig, records: Records) -> Iterator[str]:
    """Yield which records lack, and which are of nothing in the configuration."""
    wanted = {(task, method) for task in config.tasks for method in config.methods}
    for task, method in sorted(wanted - records.keys()):
        yield f"records/{method}@{task}.parquet: missing; config.yaml names this method and task"
    for task, method in sorted(records.keys() - wanted):
        yield f"records/{method}@{task}.parquet: config.yaml names no such method and task"


def _other_pictures(config: RunConfig, others: Collection[Key]) -> Iterator[str]:
    """Yield which records under other pictures lack, and which are of none in the configuration."""
    wanted = {(t, m, how) for t in config.tasks for m in config.methods for how in config.replacements}
    anew = {key[:3] for key in others if key[3] == ANEW}
    for task, method, how in sorted(wanted - anew):
        yield f"{COUNTERFACTUAL}: no records of {method} on {task} under {how} pictures; config.yaml names these"
    for task, method, how in sorted({key[:3] for key in others} - wanted):
        yield f"{COUNTERFACTUAL}: {method} on {task} under {how} pictures: config.yaml names none such"


def _manifest(config: RunConfig, manifest: Mapping[str, Any], records: Records) -> Iterator[str]:
    """Yield where the manifest is about another run than configuration and records."""
    seeds = [run.get("seed") for run in manifest.get("runs", [])]
    if manifest.get("seed") != config.seed or (seeds and config.seeds and seeds != config.seeds):
        yield "manifest.json: another seed than config.yaml has"
    methods, data = manifest.get("methods", {}), manifest.get("data", {})
    for name in sorted({*methods} ^ {*config.methods}):
        yield f"manifest.json, methods: {name[:40]} is in one of manifest.json and config.yaml alone"
    for name in sorted({*methods} & {*config.methods}):
        for part, of in _options_of(name, methods[name]):
            for option, value in sorted(config.section(part).items()):
                if option in of and of[option] != value:
                    yield f"manifest.json, methods.{name}.{option}: {of[option]!r}, config.yaml has {value!r}"
    model = str(manifest.get("model", {}).get("model"))
    if config.model not in (LEFT_OUT, model) and not model.startswith("sha256:"):
        yield "manifest.json, model: another model than config.yaml has"
    for task in config.tasks:
        examples = {name for (of, _), frame in records.items() if of == task for name in frame["example"]}
        entry = data.get(task)
        if entry is None:
            yield f"manifest.json, data: {task} is missing"
        elif entry.get("examples", {}).get("test") != len(examples):
            tested = entry.get("examples", {}).get("test")
            yield f"manifest.json, data.{task}.examples.test: {tested}, there are records of {len(examples):,}"


def _options_of(name: str, method: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and options of the methods that a method is made of, or its own."""
    inner = dict(method.get("methods", {}))
    inner |= {str(method[f"{key}_name"]): method[key] for key in ("method", "second") if key in method}
    if not inner:
        yield name, method
    for part, each in inner.items():
        yield from _options_of(part, each)


def what_to_say(folder: Path, said: BoardContext) -> tuple[BoardContext, list[str]]:
    """Return what the board of a bundle has to say, and notes on what could not be computed.

    It follows from config.yaml and manifest.json in the folder; of what is not installed stands what is `said`. Raises
    ConfigError and DataError.
    """
    config = load_config(folder / "config.yaml")
    manifest = load_manifest(folder / "manifest.json")
    registry = Registry()
    methods = [name for name in config.methods if all(_installed(registry, "methods", part) for part in parts_of(name))]
    tasks = [name for name in config.tasks if _installed(registry, "tasks", name)]
    unknown = {*config.methods, *config.tasks} - {*methods, *tasks}
    notes = []
    if unknown:
        notes.append(f"not installed, so that what is said of it stands as it is: {', '.join(sorted(unknown))}")
    unknown |= {row_name(name, config) for name in unknown}
    unknown |= {of[name][0] for of in (said.scorers, said.quality) for name in unknown & {*of}}
    if not methods or not tasks:
        return said, notes
    options = {name: _shown(section) for name, section in config.options.items()}
    unknown |= {name for name, section in options.items() if section != config.options[name]}
    shown = config.model_copy(update={"methods": methods, "tasks": tasks, "options": options})
    data = manifest.get("data", {})
    # Any folder that holds no phantom data will do for a root that is not here. Phantom data may be in one, too.
    phantom = said.phantom or any(
        plugin_name(name) == "phantom_green" for scorer, _ in said.scorers.values() for name in judge_names(scorer)
    )
    roots = {name: None if phantom or of.get("root") == PHANTOM_DATA else folder for name, of in data.items()}
    left_out = {name: entry.get("left_out", {}) for name, entry in data.items()}
    try:
        again = context_again(shown, registry, roots, left_out)
    except UserError as error:
        raise DataError(f"config.yaml: {error}") from error
    found = public_context(again.context, manifest, PublicTexts(said))
    update: dict[str, Any] = {
        name: {**getattr(found, name), **{k: v for k, v in getattr(said, name).items() if k in unknown}}
        for name in _BY_NAME
    }
    update["random"] = sorted({*found.random, *(name for name in said.random if name in unknown)})
    if config.model == PHANTOM_MODEL and again.model != manifest.get("model", {}).get("model"):
        notes.append("manifest.json, model: not the embedded model of this version")
    announced = {metric.name for metric in (*BUILT_IN, *said.metrics)}
    update["metrics"] = tuple(metric for metric in found.metrics if metric.name in announced)
    if len(tasks) < len(config.tasks):
        update |= {"data": said.data, "phantom": said.phantom}
    if again.asks:
        update["notes"] = said.notes
        notes += [f"what engine {config.engine} had to say cannot be asked again: {note}" for note in said.notes]
    runs = [
        {
            "name": f"seed {run.get('seed')}",
            "model": found.model,
            **{key: run.get(key, "") for key in ("version", "commit")},
            "finished": True,
        }
        for run in manifest.get("runs", [])
    ]
    return found.model_copy(update={**update, "runs": runs, "version": said.version, "commit": said.commit}), notes


def _shown(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a bundle shows in full."""
    return {option: value for option, value in section.items() if LEFT_OUT not in json.dumps(value, default=str)}


def _installed(registry: Registry, kind: Kind, name: str) -> bool:
    try:
        registry.get(kind, name)
    except UserError:
        return False
    return True
