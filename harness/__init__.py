"""conrad-bench: how far can a confidence from a medical vision-language model be trusted?

The names below are the public ones. Statistics: `evaluate`, `compare`, `measure`, `reliability_diagram`,
`risk_coverage`, and a function for every metric (`ece`, `brier`, ...); `Board`, `Interval`, `Comparison`. Runs: `run`,
`rehearse`, `open_run`; `Run`. Rewards for TRL: `trl_reward`. Plugins: base classes, the types that they exchange, what
methods can need, and decorators that register a class from a file given with `--plugin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conrad_bench.version import __version__ as __version__

if TYPE_CHECKING:
    from conrad_bench.engines.base import Engine
    from conrad_bench.leaderboards.functions import (
        Comparison,
        Interval,
        augrc,
        auprc,
        aurc,
        auroc,
        brier,
        brier_dsc,
        brier_mcb,
        compare,
        coverage_at_risk,
        eaurc,
        ece,
        ece_debiased,
        ece_mass,
        evaluate,
        in_the_large,
        kendall,
        log_score,
        mce,
        measure,
        pearson,
        reliability_diagram,
        risk_coverage,
        skill,
        smece,
        somers_d,
        spearman,
    )
    from conrad_bench.leaderboards.metrics.base import Metric, Sample, Statistic
    from conrad_bench.leaderboards.results import Board, Picture
    from conrad_bench.methods.base import Judge, Method, Step
    from conrad_bench.methods.response import ResponseMethod
    from conrad_bench.reading.claims import report_claim
    from conrad_bench.registry import register_engine, register_method, register_metric, register_scorer, register_task
    from conrad_bench.rollouts.model import Model
    from conrad_bench.runs import Run, open_run, rehearse, run
    from conrad_bench.tasks.base import Loaded, Scorer, Task
    from conrad_bench.trainers.rewards import trl_reward
    from conrad_bench.types import (
        DISTRIBUTIONS,
        FITTING,
        HIDDEN_STATES,
        LOGPROBS,
        SAMPLING,
        TOKEN_COLUMNS,
        TRAINING,
        Claim,
        Estimate,
        Example,
        Message,
        Prompt,
        Response,
        Sampling,
        Score,
    )


_HOMES = {
    "conrad_bench.engines.base": ("Engine",),
    "conrad_bench.leaderboards.metrics.base": ("Metric", "Sample", "Statistic"),
    "conrad_bench.leaderboards.functions": (
        "Comparison",
        "Interval",
        "compare",
        "evaluate",
        "measure",
        "reliability_diagram",
        "risk_coverage",
        "ece",
        "ece_debiased",
        "pearson",
        "brier",
        "auroc",
        "skill",
        "smece",
        "ece_mass",
        "mce",
        "in_the_large",
        "log_score",
        "brier_mcb",
        "brier_dsc",
        "spearman",
        "kendall",
        "somers_d",
        "auprc",
        "aurc",
        "eaurc",
        "augrc",
        "coverage_at_risk",
    ),
    "conrad_bench.leaderboards.results": ("Board", "Picture"),
    "conrad_bench.methods.base": ("Judge", "Method", "Step"),
    "conrad_bench.methods.response": ("ResponseMethod",),
    "conrad_bench.rollouts.model": ("Model",),
    "conrad_bench.registry": (
        "register_engine",
        "register_method",
        "register_metric",
        "register_scorer",
        "register_task",
    ),
    "conrad_bench.reading.claims": ("report_claim",),
    "conrad_bench.runs": ("Run", "open_run", "rehearse", "run"),
    "conrad_bench.tasks.base": ("Loaded", "Scorer", "Task"),
    "conrad_bench.trainers.rewards": ("trl_reward",),
    "conrad_bench.types": (
        "DISTRIBUTIONS",
        "FITTING",
        "HIDDEN_STATES",
        "LOGPROBS",
        "SAMPLING",
        "TOKEN_COLUMNS",
        "TRAINING",
        "Claim",
        "Estimate",
        "Example",
        "Message",
        "Prompt",
        "Response",
        "Sampling",
        "Score",
    ),
}

__all__ = [
    "DISTRIBUTIONS",
    "FITTING",
    "HIDDEN_STATES",
    "LOGPROBS",
    "SAMPLING",
    "TOKEN_COLUMNS",
    "TRAINING",
    "Board",
    "Claim",
    "Comparison",
    "Engine",
    "Estimate",
    "Example",
    "Interval",
    "Judge",
    "Loaded",
    "Message",
    "Method",
    "Metric",
    "Model",
    "Picture",
    "Prompt",
    "Response",
    "ResponseMethod",
    "Run",
    "Sample",
    "Sampling",
    "Score",
    "Scorer",
    "Statistic",
    "Step",
    "Task",
    "__version__",
    "augrc",
    "auprc",
    "aurc",
    "auroc",
    "brier",
    "brier_dsc",
    "brier_mcb",
    "compare",
    "coverage_at_risk",
    "eaurc",
    "ece",
    "ece_debiased",
    "ece_mass",
    "evaluate",
    "in_the_large",
    "kendall",
    "log_score",
    "mce",
    "measure",
    "open_run",
    "pearson",
    "register_engine",
    "register_method",
    "register_metric",
    "register_scorer",
    "register_task",
    "rehearse",
    "reliability_diagram",
    "report_claim",
    "risk_coverage",
    "run",
    "skill",
    "smece",
    "somers_d",
    "spearman",
    "trl_reward",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `conrad-bench --help` should not wait for numpy."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
