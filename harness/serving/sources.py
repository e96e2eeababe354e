"""The examples that a run was made on, where its data are still there."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from conrad_bench.config import RunConfig, load_config, resolve_data_root
from conrad_bench.contracts import checked_examples
from conrad_bench.errors import ConradBenchError, DataError
from conrad_bench.fingerprints import examples_digest
from conrad_bench.plan import is_phantom, phantom_root
from conrad_bench.records import made_from
from conrad_bench.registry import Registry
from conrad_bench.rollouts.digests import all_known, remembered
from conrad_bench.types import Example, Granularity
from conrad_bench.variants import plugin_name

if TYPE_CHECKING:
    from conrad_bench.progress import Reporter
    from conrad_bench.tasks.base import Loaded, Task


@dataclass(frozen=True)
class Source:
    """What is known of one task of a run beside its records."""

    task: Task | None = None
    """None where the task's plugin is not installed."""
    examples: Mapping[str, Example] = field(default_factory=dict)
    """The run's examples by their id; empty where the data are not here."""
    problem: str = ""
    """Why there are none."""
    compared: bool = True
    """Whether the data are known to be those of the run, to the last picture. Else ids and patients agree."""
    written: Granularity | None = None
    """Of reports for new pictures, which no task was asked about; None in a run."""
    spans: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    """Start and end of each claim in a response's text, by its key, where this is known; else the task reads it."""
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What a reader must know beside an example's confidences, by its id."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """How many of an example's pictures are not here, by its id; all of them where `problem` says why."""

    @property
    def granularity(self) -> Granularity | None:
        """What has a confidence of its own; None where nobody knows."""
        return self.written or (None if self.task is None else self.task.granularity)


def find_sources(folder: Path, clusters: Mapping[str, Mapping[str, str]], reporter: Reporter) -> dict[str, Source]:
    """Return the tasks of a run and their examples; what stands against one is its `problem`, never an error.

    `clusters` are the patients of the examples in the records, by task and the examples' ids.
    """
    read: dict[Hashable, Loaded] = {}
    return {name: _find(folder, name, known, read, reporter) for name, known in clusters.items()}


def _find(
    folder: Path, name: str, clusters: Mapping[str, str], read: dict[Hashable, Loaded], reporter: Reporter
) -> Source:
    """`read` holds what was read for other tasks: data that several share are read once."""
    task = None
    try:
        config = load_config(folder / "config.yaml")
        task = Registry().create("tasks", name, config.section(name))
        root, phantom = _root(task, name, config, reporter)
        key = root, task.data_options()
        if key not in read:
            read[key] = task.load_test(root)
        loaded = checked_examples(task, read[key].examples)
        test = sorted((e for e in loaded if e.split == "test"), key=lambda e: e.id)[: task.limit or config.limit]
        there = {example.id: example for example in test}
        if any(id not in there or there[id].cluster != cluster for id, cluster in clusters.items()):
            raise DataError(f"the data in {root} do not hold the examples of this run")
        same = _same(folder, name, test, phantom)
        if same is False:
            raise DataError(f"the data in {root} have changed since the run")
    except ConradBenchError as error:
        return Source(task, problem=str(error))
    return Source(task, there, compared=same is True)


def _root(task: Task, name: str, config: RunConfig, reporter: Reporter) -> tuple[Path, bool]:
    """Return where a run's data lie, and whether they are phantoms. Raises DataError where they are not there.

    A run that was copied from another machine finds them by the task's environment variable.
    """
    hub = task.hub_id()
    if hub is not None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # what was downloaded once: the viewer asks nobody
        return Path(hub), False
    configured = config.data_roots.get(name, config.data_roots.get(plugin_name(name)))
    if configured is not None:
        there = {key: root for key, root in config.data_roots.items() if Path(root).is_dir()}
        root = resolve_data_root(name, task.root_variable, config.model_copy(update={"data_roots": there}))
        if root is None:
            raise DataError(f"{configured} is no folder here; {task.root_variable} may name another")
        return root, is_phantom(root)
    if task.phantom_layout is None:
        raise DataError("the run does not say where its data lie")
    return phantom_root(task.phantom_layout, config.phantom, reporter), True


def _same(folder: Path, name: str, test: Collection[Example], phantom: bool) -> bool | None:
    """Tell whether examples are those of the run's records; None where that would mean to read every picture."""
    found = (made_from(path) for path in sorted((folder / "records").glob(f"*@{name}.parquet")))
    wanted = next((parts["test examples"] for parts in found if parts and "test examples" in parts), None)
    digests = folder / "digests.json"
    if wanted is None:
        return None
    if all_known(digests, [image for example in test for image in example.images]):
        with remembered(digests):
            return examples_digest(test) == wanted
    return examples_digest(test) == wanted if phantom else None
