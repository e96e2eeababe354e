"""The referee of rewards: which confidence earns most where the probability of being right is known.

A reward R(c, r) is proper if stating the true probability earns at least as much as anything else in expectation, and
strictly proper if everything else earns less (Gneiting & Raftery 2007). Here that is looked at: for each probability p
on a grid, R's expectation is computed for every confidence, and where it is largest.

Correctness may be continuous. Then an expectation depends on more than the mean, and a reward that is proper for right
or wrong need not ask for the mean: so each mean is tried with a skewed correctness, too, of which two thirds lie below
it and one third twice as far above it. Its median is the lower value.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from conrad_bench.errors import ConfigError, PluginError
from conrad_bench.reading.elicitation import LEVELS
from conrad_bench.trainers.rewards import REWARDS, Reward

Array = NDArray[np.float64]
Verdict = Literal["strictly proper", "proper", "improper"]

STATED: Array = np.arange(LEVELS) / (LEVELS - 1)
"""The eleven confidences."""
FINE: Array = np.arange(501) / 500
"""Confidences that stand for any in [0, 1]."""
PROBABILITIES: Array = np.arange(101) / 100
_TIE = 1e-10
"""Expected rewards that differ by less than this share of the reward's range are equal."""


@dataclass(frozen=True)
class Best:
    """Which of some confidences earn most, by the mean correctness."""

    confidences: Array
    """(m,)"""
    earns_most: NDArray[np.bool_]
    """Shape (101, m)."""

    def at(self, p: float) -> Array:
        """Return the confidences that earn most at a mean correctness, a multiple of 0.01."""
        found: Array = self.confidences[self.earns_most[round(p * 100)]]
        return found

    def asks_for(self, wanted: Callable[[float], float], at: Array) -> tuple[bool, Array]:
        """Return whether `wanted(p)` is among the best at each p of `at`, and where it is alone."""
        best = [self.at(p) for p in at]
        there = all(np.isclose(found, wanted(p)).any() for found, p in zip(best, at, strict=True))
        alone = [len(found) == 1 and bool(np.isclose(found[0], wanted(p))) for found, p in zip(best, at, strict=True)]
        return there, at[np.array(alone)]


@dataclass(frozen=True)
class Ruling:
    """What a reward teaches."""

    name: str
    levels: Best
    """Of the eleven confidences, where a claim is right or wrong."""
    fine: Best
    """Of all confidences in [0, 1]."""
    skewed_levels: Best
    """Of the eleven confidences, where correctness is continuous and skewed."""
    skewed_fine: Best

    @property
    def verdict(self) -> Verdict:
        """Whether the true probability is the best of the eleven confidences, wherever it is one of them."""
        there, alone = self.levels.asks_for(_same, STATED)
        return "improper" if not there else "strictly proper" if len(alone) == LEVELS else "proper"

    def sentences(self) -> list[str]:
        """Return the verdict in words."""
        return [_on_levels(self), _on_any(self.fine), _of_continuous(self)]


def judge(name: str, reward: Reward) -> Ruling:
    """Return what a reward teaches. Raises PluginError where it fails, or returns no number."""
    fine = [_table(reward, FINE, r) for r in (0.0, 1.0)]
    wrong, right = (values[:, None] for values in fine)
    p = PROBABILITIES
    expected = _times(1 - p, wrong) + _times(p, right)
    down = np.minimum(p, (1 - p) / 2)
    lower = [_table(reward, FINE, low) for low in p - down]
    upper = [_table(reward, FINE, high) for high in np.minimum(1.0, p + 2 * down)]
    skewed = (2 * np.stack(lower, axis=1) + np.stack(upper, axis=1)) / 3
    stated = np.searchsorted(FINE, STATED - 1e-9)
    return Ruling(
        name,
        _best(STATED, expected[stated]),
        _best(FINE, expected),
        _best(STATED, skewed[stated]),
        _best(FINE, skewed),
    )


def median_of_skewed(p: float) -> float:
    """Return the median of the skewed correctness of a mean p: the lower value, which two thirds have."""
    return p - min(p, (1 - p) / 2)


def reward_named(spec: str) -> tuple[str, Reward]:
    """Return a reward and its name: a built-in one, or a function of two numbers as FILE.py:FUNCTION.

    Raises ConfigError for an unknown name, PluginError for a file that does not import or lacks the function.
    """
    file, colon, function = spec.rpartition(":")
    if colon and file.endswith(".py"):
        return function, _from_file(Path(file), function)
    if spec not in REWARDS:
        raise ConfigError(
            f"there is no reward {spec!r}; rewards are {', '.join(REWARDS)}, and one of your own is FILE.py:FUNCTION"
        )
    return spec, REWARDS[spec]


def _from_file(path: Path, function: str) -> Reward:
    if not path.is_file():
        raise PluginError(f"file {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"conrad_bench_reward_{path.stem}", path)
    assert spec is not None  # its name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their annotations up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PluginError(f"file {path} does not import: {type(error).__name__}: {error}") from error
    found: Any = getattr(module, function, None)
    if not callable(found):
        raise PluginError(f"file {path} has no function {function!r}; it takes a confidence and a correctness")
    return found  # type: ignore[no-any-return]


def _table(reward: Reward, confidences: Array, correctness: float) -> Array:
    """Return the rewards of confidences at one correctness; minus infinity is one, other non-numbers are none."""
    found = []
    for c in confidences.tolist():
        at = f"at confidence {c:g} and correctness {correctness:g}"
        try:
            value = float(reward(c, float(correctness)))
        except Exception as error:
            raise PluginError(
                f"the reward fails {at} with {type(error).__name__}: {error}; it is asked about all of [0, 1], so clip "
                "what it has no value for"
            ) from error
        if math.isnan(value) or value == math.inf:
            raise PluginError(f"the reward is {value} {at}; it must be a number")
        found.append(value)
    return np.array(found)


def _times(weights: Array, values: Array) -> Array:
    """Return weights times values, shape (m, 101), with 0 times minus infinity being 0."""
    weighted: Array = np.where(weights > 0, weights * np.where(np.isfinite(values), values, 0.0), 0.0)
    return np.where((weights > 0) & ~np.isfinite(values), -np.inf, weighted)


def _best(confidences: Array, expected: Array) -> Best:
    """Return where expected rewards (m, 101) are largest."""
    finite = expected[np.isfinite(expected)]
    tie = _TIE * max(float(finite.max() - finite.min()), 1e-300) if finite.size else 0.0
    return Best(confidences, (expected >= expected.max(0) - tie).T)


def _same(p: float) -> float:
    return p


def _on_levels(ruling: Ruling) -> str:
    if ruling.verdict == "strictly proper":
        return "strictly proper on the eleven confidences: each earns most where it is the true probability, and alone"
    if ruling.verdict == "proper":
        return (
            "proper, not strictly, on the eleven confidences: at some probabilities another earns as much as the true"
        )
    alone = ruling.levels.earns_most[ruling.levels.earns_most.sum(1) == 1]
    used = [str(level) for level in np.flatnonzero(alone.any(0)).tolist()]
    if not used:
        return "improper on the eleven confidences"
    only = used[0] if len(used) == 1 else f"{', '.join(used[:-1])} and {used[-1]}"
    return f"improper: of the eleven confidences it teaches {only} only"


def _on_any(best: Best) -> str:
    there, alone = best.asks_for(_same, PROBABILITIES)
    if not there:
        return "improper on all of [0, 1]"
    if len(alone) == len(PROBABILITIES):
        return "strictly proper on all of [0, 1]"
    if not len(alone):
        return "proper on all of [0, 1], nowhere strictly"
    return f"proper on all of [0, 1], strictly from {alone.min():g} to {alone.max():g}"


def _of_continuous(ruling: Ruling) -> str:
    there, alone = ruling.skewed_fine.asks_for(_same, PROBABILITIES)
    if there:
        others = "" if len(alone) else ", but never alone"
        return f"continuous correctness: the optimum is its mean{others}"
    if all(np.abs(ruling.skewed_fine.at(p) - median_of_skewed(p)).max() < 2 / len(FINE) for p in PROBABILITIES):
        return "continuous correctness: the optimum is its median, not its mean"
    return "continuous correctness: the optimum is neither its mean nor its median"
