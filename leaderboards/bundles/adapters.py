"""What methods learned, in a bundle: `adapters/METHOD@TASK/`, for whoever acknowledged the licence of the data by name.

Weights were made of patients' texts and images, and may have kept some of them: who publishes them needs the right to.
Phantom data belong to nobody. `adapters/licences.json` says which licence each task's data have.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from conrad_bench.config import RunConfig
from conrad_bench.errors import ConfigError, DataError, UserError
from conrad_bench.fingerprints import ARTIFACT, artifact_files
from conrad_bench.plan import PHANTOM_DATA
from conrad_bench.registry import Registry
from conrad_bench.storage import load_json, storage_errors
from conrad_bench.variants import learner_name, parts_of

ADAPTERS = "adapters"
LICENCES = f"{ADAPTERS}/licences.json"
FILES = ("adapter_config.json", "adapter_model.safetensors", "probe.safetensors")
"""What of an artifact is published; the maps of recalibrators hold confidences of single claims."""
FREE = "none (phantom data)"
_HUB_ID = re.compile(r"(sha256:)?[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WORD = re.compile(r"[\w.|()^$*+?\\\[\]-]{0,300}")
"""Texts of a configuration: names of layers, and patterns of them."""


def adapter_files(run: Path, manifest: Mapping[str, Any], acknowledged: Collection[str]) -> dict[str, bytes]:
    """Return the weights that a run's methods learned as files of a bundle, by path.

    Raises ConfigError unless `acknowledged` names the licence of each task that they were learned on, DataError where
    nothing was learned or a file is not as this version writes it.
    """
    folders = [path.parent for path in sorted((run / "artifacts").glob(f"*@*/{ARTIFACT}"))]
    weights = {folder: sorted(set(artifact_files(folder)) & set(FILES)) for folder in folders}
    weights = {folder: names for folder, names in weights.items() if names and ".stale-" not in folder.name}
    if not weights:
        raise DataError(f"{run} holds no weights: none of its methods trained an adapter or a probe")
    learned_on = sorted({folder.name.rpartition("@")[2] for folder in weights})
    licences = {task: licence(task, manifest) for task in learned_on}
    for task, name in licences.items():
        if name is None:
            raise ConfigError(f"task {task!r} does not say which licence its data have (`data_licence` of its class)")
        if name != FREE and name not in acknowledged:
            raise ConfigError(
                f"--adapter: weights learned on {task!r} may hold parts of its data. Where their licence allows it to "
                f'you, say so: --acknowledge "{name}"'
            )
    paths = {f"{ADAPTERS}/{folder.name}/{name}": folder / name for folder, names in weights.items() for name in names}
    problems = [f"{path}: {problem}" for path in paths.values() for problem in _content_problems(path)]
    if problems:
        raise DataError("these weights cannot be published:\n" + "\n".join(f"  - {problem}" for problem in problems))
    with storage_errors(run / "artifacts"):
        return {name: path.read_bytes() for name, path in paths.items()} | {LICENCES: _json(licences).encode()}


def licence(task: str, manifest: Mapping[str, Any]) -> str | None:
    """Return the licence of a task's data in a run; None where nothing says it."""
    if manifest.get("data", {}).get(task, {}).get("root") == PHANTOM_DATA:
        return FREE
    try:
        return Registry().get("tasks", task).data_licence
    except UserError:
        return None


def adapter_problems(folder: Path, config: RunConfig, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the adapters of a bundle; none where it has none."""
    there = sorted(path for path in (folder / ADAPTERS).rglob("*") if path.is_file())
    if not there:
        return
    try:
        said = dict(load_json(folder / LICENCES))
    except (OSError, ValueError, TypeError):
        yield f"{LICENCES}: missing or damaged; it names the licence of each task's data"
        said = {}
    if said and (folder / LICENCES).read_text(encoding="utf-8") != _json(said):
        yield f"{LICENCES}: is not written as `publish` does"
    tasks = set()
    for path in there:
        name = path.relative_to(folder).as_posix()
        if name == LICENCES:
            continue
        method, at, task = path.parent.name.rpartition("@")
        tasks.add(task)
        if path.name not in FILES or not at or path.parent.parent != folder / ADAPTERS:
            yield f"{name}: no file of an adapter"
        elif method not in {n for m in config.methods for n in (m, learner_name(m), *parts_of(m))}:
            yield f"{name}: config.yaml names no such method"
        else:
            yield from (f"{name}: {problem}" for problem in _content_problems(path))
    for task in sorted(tasks | said.keys()):
        known = licence(task, manifest)
        if task not in tasks or (known is not None and said.get(task) != known):
            yield f"{LICENCES}: {task}: the licence of its data is {known or 'not known'}"
        elif known is None and not isinstance(said.get(task), str):
            yield f"{LICENCES}: {task}: no licence"


def _content_problems(path: Path) -> Iterator[str]:
    """Yield what a file of weights or settings holds besides."""
    if path.suffix == ".safetensors":
        data = path.read_bytes()
        try:
            (size,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + size])
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, struct.error):
            yield "is no safetensors file"
            return
        if header.get("__metadata__", {"format": "pt"}) != {"format": "pt"} or 8 + size + end != len(data):
            yield "holds more than tensors"
        return
    try:
        content = load_json(path)
    except (OSError, ValueError):
        yield "is no JSON"
        return
    for key, text in _texts(content):
        form = _HUB_ID if key == "base_model_name_or_path" else _WORD
        if not form.fullmatch(text):
            yield f"{key[:40]}: a text that no adapter needs"


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield key, str(name)
            yield from _texts(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
