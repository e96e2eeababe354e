"""conrad-bench: how far can a confidence from a medical vision-language model be trusted?

The names below are all that a plugin needs: base classes, the types that they exchange, and decorators that register a
class from a file given with `--plugin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conrad_bench.engines.base import Engine
    from conrad_bench.leaderboards.metrics.base import Metric, Sample, Statistic
    from conrad_bench.methods.base import Judge, Method, Step
    from conrad_bench.registry import register_engine, register_method, register_metric, register_scorer, register_task
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Loaded, Scorer, Task
    from conrad_bench.types import Claim, Estimate, Example, Message, Prompt, Response, Sampling, Score

__version__ = "0.1.0"

_HOMES = {
    "conrad_bench.engines.base": ("Engine",),
    "conrad_bench.leaderboards.metrics.base": ("Metric", "Sample", "Statistic"),
    "conrad_bench.methods.base": ("Judge", "Method", "Step"),
    "conrad_bench.rollouts.model": ("Model",),
    "conrad_bench.registry": (
        "register_engine",
        "register_method",
        "register_metric",
        "register_scorer",
        "register_task",
    ),
    "conrad_bench.tasks.base": ("Loaded", "Scorer", "Task"),
    "conrad_bench.types": ("Claim", "Estimate", "Example", "Message", "Prompt", "Response", "Sampling", "Score"),
}

__all__ = [
    "Claim",
    "Engine",
    "Estimate",
    "Example",
    "Judge",
    "Loaded",
    "Message",
    "Method",
    "Metric",
    "Model",
    "Prompt",
    "Response",
    "Sample",
    "Sampling",
    "Score",
    "Scorer",
    "Statistic",
    "Step",
    "Task",
    "__version__",
    "register_engine",
    "register_method",
    "register_metric",
    "register_scorer",
    "register_task",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `conrad-bench --help` should not wait for numpy."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
