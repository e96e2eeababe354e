"""Which methods differ: paired differences, permutation tests, ranks as intervals, letters, and the power of it all.

Two methods are compared on the examples for which both have a usable claim. The test swaps the two methods' claims in
whole clusters at random: where the methods are exchangeable, the difference of a metric is as likely with any swap as
without. p = (1 + swaps with a difference at least as large) / (1 + swaps) (Phipson & Smyth 2010). Holm's step-down
adjusts the p values of one metric for the number of pairs. Ranks and letters follow from the pairs that then differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from conrad_bench.leaderboards.inference.bootstrap import Estimates, block_size
from conrad_bench.leaderboards.metrics.base import FloatArray, Metric, Sample

LEVEL = 0.05
"""Methods differ where their adjusted p is below this."""
POWER = 0.8
_ROUNDING = 1e-12
_MOST_CELLS = 2**21
"""Weights of claims that are in memory at one time, where a metric spreads them over claims (16 MiB)."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

Pair = tuple[str, str]
Samples = dict[str, Sample]
"""The samples of a method, by what a row of them is ("claim" or "example")."""


def comparisons(
    pairs: Mapping[Pair, tuple[Samples, Samples]],
    metrics: Sequence[Metric],
    values: Mapping[str, Mapping[str, float]],
    estimates: Estimates,
    units: int,
    swaps: int,
    seed: int,
) -> dict[str, Any]:
    """Return what leaderboard.json holds under a task's `comparisons`; docs/formats.md has its keys.

    `pairs` has both methods' samples on what they share, and `estimates` the metrics of them; `values` has each
    method's own value by metric, those that are defined alone.
    """
    found: list[dict[str, Any]] = []
    ranks: dict[str, dict[str, list[int]]] = {}
    letters: dict[str, dict[str, str]] = {}
    power: dict[str, Any] = {}
    for metric in metrics:
        sign = 1 if metric.better == "lower" else -1
        known = sorted(values.get(metric.name, {}), key=lambda m: (sign * values[metric.name][m], m))
        sides = {
            pair: (a[metric.per], b[metric.per])
            for pair, (a, b) in pairs.items()
            if set(pair) <= set(known) and metric.per in a and metric.per in b and len(a[metric.per])
        }
        if not sides:
            continue
        chances = permutation_p(list(sides.values()), metric, units, swaps, seed)
        family: list[dict[str, Any]] = [
            {
                "metric": metric.name,
                "a": first,
                "b": second,
                "n_units": int(np.count_nonzero(mine.counts)),
                **estimates.difference(mine, other, metric),
                "p": p,
                "p_holm": adjusted,
            }
            for ((first, second), (mine, other)), p, adjusted in zip(sides.items(), chances, holm(chances), strict=True)
        ]
        found += family
        beats = {
            (pair["a"], pair["b"]) if sign * pair["value"] < 0 else (pair["b"], pair["a"])
            for pair in family
            if pair["p_holm"] < LEVEL
        }
        ranks[metric.name] = rank_intervals(known, beats)
        letters[metric.name] = letter_display(known, beats)
        if metric.name == "ece":
            power = detectable([estimates.differences(mine, other, metric) for mine, other in sides.values()])
    return {"metrics": list(ranks), "pairs": found, "ranks": ranks, "letters": letters, "power": power}


def permutation_p(
    sides: Sequence[tuple[Sample, Sample]], metric: Metric, units: int, swaps: int, seed: int
) -> list[float]:
    """Return the p value of each pair: that a metric differs so much if the two methods' clusters may be swapped.

    All pairs have the same `swaps`. A swap in which the metric is undefined counts as one with a large difference.
    """
    differences = [metric.swapped(a, b) for a, b in sides]
    observed = [float(abs(difference(np.zeros((1, units)))[0])) for difference in differences]
    reached = np.zeros(len(sides), np.int64)
    generator = np.random.default_rng((seed, 1))
    # Most metrics work on units here: blocks are for those, and claims only bound the memory.
    step = max(2, min(block_size(2 * units), _MOST_CELLS // max(len(a) + len(b) for a, b in sides)))
    for start in range(0, swaps, step):
        drawn = generator.integers(2, size=(min(step, swaps - start), units)).astype(np.float64)
        for i, difference in enumerate(differences):
            reached[i] += np.sum(~(np.abs(difference(drawn)) < observed[i] - _ROUNDING))
    return [float(1 + n) / (1 + swaps) for n in reached]


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number by Holm's step-down method (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p)
    largest = 0.0
    for done, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - done) * p[i]))
        adjusted[i] = largest
    return adjusted


def rank_intervals(methods: Sequence[str], beats: set[Pair]) -> dict[str, list[int]]:
    """Return [best, worst] rank of each method: 1 + those that beat it, and their number less those that it beats.

    `beats` has (better, worse) for each pair that differs after adjustment, so that all intervals hold together (Klein,
    Wright & Wieczorek 2020).
    """
    return {
        method: [
            1 + sum((other, method) in beats for other in methods),
            len(methods) - sum((method, other) in beats for other in methods),
        ]
        for method in methods
    }


def letter_display(methods: Sequence[str], beats: set[Pair]) -> dict[str, str]:
    """Return the letters of each method: two methods share one exactly where they cannot be told apart.

    Piepho's insert-and-absorb algorithm (2004); letters go to groups in the order of `methods`, "a" to the best.
    """
    groups = [frozenset(methods)]
    for pair in combinations(methods, 2):
        if pair in beats or pair[::-1] in beats:
            split = [group - {method} for group in groups if set(pair) <= group for method in pair]
            groups = [group for group in groups if not set(pair) <= group]
            for group in split:
                if not any(group <= other for other in groups):
                    groups = [*(other for other in groups if not other < group), group]
    place = {method: i for i, method in enumerate(methods)}
    groups.sort(key=lambda group: sorted(place[method] for method in group))
    return {method: "".join(_letter(i) for i, group in enumerate(groups) if method in group) for method in methods}


def _letter(index: int) -> str:
    """Return a letter; behind "z" it carries a number, as in "a1"."""
    turn, place = divmod(index, len(_LETTERS))
    return _LETTERS[place] + (str(turn) if turn else "")


def detectable(differences: Sequence[FloatArray]) -> dict[str, Any]:
    """Say how large a difference in ECE must be to be found, from each pair's bootstrap replicates of it.

    A difference is found with probability 0.8 by a two-sided test at 0.05 / (number of pairs), Holm's strictest step,
    if it is (z(1 - 0.025 / pairs) + z(0.8)) standard errors. `low`, `difference`, `high`: the smallest, the median and
    the largest over the pairs. Empty where no pair has a standard error.
    """
    from scipy.special import ndtri

    spreads = [float(np.nanstd(each)) for each in differences if not np.isnan(each).all()]
    if not spreads:
        return {}
    factor = float(ndtri(1 - LEVEL / 2 / len(differences)) + ndtri(POWER))
    low, middle, high = (factor * float(np.quantile(spreads, q)) for q in (0, 0.5, 1))
    return {
        "metric": "ece",
        "level": LEVEL,
        "power": POWER,
        "comparisons": len(differences),
        "difference": middle,
        "low": low,
        "high": high,
    }
