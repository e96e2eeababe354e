"""Checks for authors of plugins: what the pipeline relies on, tried with toys before a run is.

    from conrad_bench.testing import parametrize_with_checks

    @parametrize_with_checks([MyMethod(), MyScorer()])
    def test_my_plugins(check):
        check()

`conrad-bench check NAME|FILE` does the same from the command line. Methods are checked with `ToyEngine`, which has no
model; those that train the model with the embedded one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.engines.base import Engine
from conrad_bench.errors import PluginError
from conrad_bench.leaderboards.metrics.base import Metric
from conrad_bench.methods.base import Method
from conrad_bench.tasks.base import Scorer, Task
from conrad_bench.testing.methods import MethodChecks
from conrad_bench.testing.others import EngineChecks, MetricChecks, ScorerChecks, TaskChecks
from conrad_bench.testing.settings import Setting, setting_for
from conrad_bench.testing.toys import ToyEngine as ToyEngine
from conrad_bench.testing.toys import ToyScorer as ToyScorer
from conrad_bench.testing.toys import ToyTask as ToyTask

if TYPE_CHECKING:
    import pytest

Plugin = Method | Task | Scorer | Metric | Engine


@dataclass(frozen=True)
class Check:
    """One check of one plugin; called, it raises what is wrong."""

    plugin: str
    name: str
    """What is checked, and at which granularity: "order (report)"."""
    says: str
    """What must hold."""
    run: Callable[[], None]

    def __call__(self) -> None:
        """Raise PluginError, or what the plugin raised, where the promise is not kept."""
        self.run()


def checks(plugin: Plugin, root: Path | None = None) -> Iterator[Check]:
    """Yield the checks of a plugin. A task is checked on the data in `root`.

    Raises PluginError for what is no plugin, and for a task without a root.
    """
    parts: dict[str, Any] = {}
    if isinstance(plugin, Method):
        for granularity in sorted(plugin.granularities):
            if plugin.problem(granularity) is None:
                parts[granularity] = lambda g=granularity: MethodChecks(plugin, setting_for(plugin, g))
        kind: type = MethodChecks
    elif isinstance(plugin, Scorer):
        if plugin.judge() is not None:
            raise PluginError(f"scorer {plugin.name!r} asks a model; check it in a run on a few examples")
        for granularity in sorted(plugin.granularities):
            parts[granularity] = lambda g=granularity: ScorerChecks(plugin, g)
        kind = ScorerChecks
    elif isinstance(plugin, Task):
        root = root or getattr(plugin, "default_root", None)
        if root is None:
            raise PluginError(f"task {plugin.name!r} is checked on data: name the folder (--data-root DIR)")
        parts[""], kind = lambda: TaskChecks(plugin, root), TaskChecks
    elif isinstance(plugin, Metric):
        parts[""], kind = lambda: MetricChecks(plugin), MetricChecks
    elif isinstance(plugin, Engine):
        parts[""], kind = lambda: EngineChecks(plugin), EngineChecks
    else:
        raise PluginError(f"{type(plugin).__name__} is no method, task, scorer, metric or engine")
    for part, make in parts.items():
        made: list[Any] = []
        for name in (name for name in dir(kind) if name.startswith("check_")):

            def run(name: str = name, make: Callable[[], Any] = make, made: list[Any] = made) -> None:
                if not made:
                    made.append(make())
                getattr(made[0], name)()

            label = name.removeprefix("check_").replace("_", " ") + (f" ({part})" if part else "")
            yield Check(plugin.name, label, str(getattr(kind, name).__doc__).partition("\n")[0], run)


def check_method(method: Method) -> None:
    """Raise what is wrong with a method; see `checks`."""
    _all(method)


def check_task(task: Task, root: Path) -> None:
    """Raise what is wrong with a task on the data in a folder."""
    _all(task, root)


def check_scorer(scorer: Scorer) -> None:
    """Raise what is wrong with a scorer that asks no model."""
    _all(scorer)


def check_metric(metric: Metric) -> None:
    """Raise what is wrong with a metric."""
    _all(metric)


def check_engine(engine: Engine) -> None:
    """Raise what is wrong with an engine; loads its model."""
    _all(engine)


def parametrize_with_checks(plugins: Sequence[Plugin], root: Path | None = None) -> pytest.MarkDecorator:
    """Return a decorator of a pytest function with an argument `check`: one test for each check of each plugin."""
    import pytest

    found = [check for plugin in plugins for check in checks(plugin, root)]
    return pytest.mark.parametrize("check", found, ids=[f"{check.plugin}: {check.name}" for check in found])


def _all(plugin: Plugin, root: Path | None = None) -> None:
    for check in checks(plugin, root):
        check()


__all__ = [
    "Check",
    "Setting",
    "ToyEngine",
    "ToyScorer",
    "ToyTask",
    "check_engine",
    "check_method",
    "check_metric",
    "check_scorer",
    "check_task",
    "checks",
    "parametrize_with_checks",
]
