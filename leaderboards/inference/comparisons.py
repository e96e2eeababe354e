"""Which methods differ: paired differences with their tests, ranks as intervals, letters, and the power of it all.

Two methods are compared on the examples for which both have a usable claim. What is tested is the difference that is
shown: its interval and its p value come from one standard error, that of the paired bootstrap (`bootstrap.t_test`).
Holm's step-down adjusts the p values of one metric for the number of pairs. Ranks and letters follow from the pairs
that then differ. A pair without a p value (too few patients, nothing that varies) is not in the family, nor differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from conrad_bench.leaderboards.inference.bootstrap import Difference, Estimates, Seeds
from conrad_bench.leaderboards.metrics.base import Metric, Sample

LEVEL = 0.05
"""Methods differ where their adjusted p is below this."""
POWER = 0.8
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

Pair = tuple[str, str]
Samples = dict[str, Sample]
"""The samples of a method, by what a row of them is ("claim" or "example")."""
Runs = Sequence[Samples]
"""Those of each of its training seeds; of one, for most methods."""


def comparisons(
    pairs: Mapping[Pair, tuple[Runs, Runs]],
    metrics: Sequence[Metric],
    values: Mapping[str, Mapping[str, float]],
    estimates: Estimates,
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
            pair: (of(a, metric), of(b, metric))
            for pair, (a, b) in pairs.items()
            if set(pair) <= set(known) and metric.per in a[0] and metric.per in b[0] and len(a[0][metric.per])
        }
        if not sides:
            continue
        tests = [estimates.test(mine, other, metric) for mine, other in sides.values()]
        family: list[dict[str, Any]] = [
            {
                "metric": metric.name,
                "a": first,
                "b": second,
                "n_units": int(np.count_nonzero(mine[0].counts)),
                "value": test.value,
                "low": test.low,
                "high": test.high,
                "se": test.error,
                "p": test.p,
                "p_holm": adjusted,
            }
            for ((first, second), (mine, _)), test, adjusted in zip(
                sides.items(), tests, holm([test.p for test in tests]), strict=True
            )
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
            power = detectable(tests)
    return {"metrics": list(ranks), "pairs": found, "ranks": ranks, "letters": letters, "power": power}


def of(runs: Runs, metric: Metric) -> Seeds:
    """Return the samples of a metric, one for each training seed."""
    return tuple(samples[metric.per] for samples in runs)


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number by Holm's step-down method (Holm 1979), in the order given.

    One that is NaN is none: it stays so, and is not counted.
    """
    adjusted = [float("nan")] * len(p)
    known = sorted((i for i in range(len(p)) if not math.isnan(p[i])), key=lambda i: p[i])
    largest = 0.0
    for done, i in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - done) * p[i]))
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


def detectable(tests: Sequence[Difference]) -> dict[str, Any]:
    """Say how large a difference in ECE must be to be found, from each pair's test of it.

    A difference is found with probability 0.8 by a two-sided test at 0.05 / (number of pairs), Holm's strictest step,
    if it is (t(1 - 0.025 / pairs) + t(0.8)) standard errors. `low`, `difference`, `high`: the smallest, the median and
    the largest over the pairs. Empty where no pair has a standard error.
    """
    from scipy.special import stdtrit

    known = [test for test in tests if not math.isnan(test.error)]
    if not known:
        return {}
    tail = LEVEL / 2 / len(known)
    sizes = [test.error * float(stdtrit(test.freedom, 1 - tail) + stdtrit(test.freedom, POWER)) for test in known]
    low, middle, high = (float(np.quantile(sizes, q)) for q in (0, 0.5, 1))
    return {
        "metric": "ece",
        "level": LEVEL,
        "power": POWER,
        "comparisons": len(known),
        "difference": middle,
        "low": low,
        "high": high,
    }
