"""How far raters agree: Krippendorff's alpha for ordinal ratings, quadratically weighted kappa of pairs of raters."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.inference.bootstrap import bootstrap, interval
from conrad_bench.leaderboards.metrics.base import FloatArray, IntArray, Statistic
from conrad_bench.leaderboards.pages.wording import estimate_text
from conrad_bench.leaderboards.rating_files import SCORES, Frames, rated
from conrad_bench.storage import load_json
from conrad_bench.text import markdown as plain

if TYPE_CHECKING:
    import pandas as pd

Estimate = dict[str, float | None]
"""A value with its interval: `value`, `low`, `high`; None where undefined."""


def alpha(item: IntArray, rating: IntArray, unit: IntArray, units: int) -> Statistic:
    """Krippendorff's alpha for ordinal ratings, as a function of weights of the units.

    item (n,) says which sentence a rating belongs to, rating (n,) is 1 to 5, unit (n,) the resampling unit among
    `units` of them. Sentences with one rating say nothing and are left out; NaN where all ratings are equal.
    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section D.
    """
    cells = np.zeros((units, SCORES, SCORES))
    for one in np.unique(item):
        counts = np.bincount(rating[item == one] - 1, minlength=SCORES)
        if counts.sum() > 1:
            pairs = np.outer(counts, counts) - np.diag(counts)
            cells[unit[item == one][0]] += pairs / (counts.sum() - 1)
    flat = cells.reshape(units, -1)

    def statistic(weights: FloatArray) -> FloatArray:
        coincidences = (weights @ flat).reshape(-1, SCORES, SCORES)
        totals = coincidences.sum(axis=2)
        n = totals.sum(axis=1)
        # The squared number of ratings between two values, half of those at the ends counted.
        below = np.cumsum(totals, axis=1) - totals / 2
        distance = (below[:, :, None] - below[:, None, :]) ** 2
        observed = (coincidences * distance).sum(axis=(1, 2))
        expected = (totals[:, :, None] * totals[:, None, :] * distance).sum(axis=(1, 2))
        ratio = np.divide((n - 1) * observed, expected, out=np.full_like(n, np.nan), where=expected > 0)
        return np.asarray(1 - ratio)

    return statistic


def kappa(first: IntArray, second: IntArray, unit: IntArray, units: int) -> Statistic:
    """Quadratically weighted kappa of two raters, as a function of weights of the units.

    first and second (n,) are their ratings, 1 to 5, of the same n sentences, unit (n,) their resampling units. NaN
    where chance alone would agree as well, as where both always give one and the same rating.
    Source: Cohen 1968, "Weighted kappa".
    """
    cells = np.zeros((units, SCORES, SCORES))
    np.add.at(cells, (unit, first - 1, second - 1), 1)
    flat = cells.reshape(units, -1)
    distance = np.subtract.outer(np.arange(SCORES), np.arange(SCORES)) ** 2

    def statistic(weights: FloatArray) -> FloatArray:
        counts = (weights @ flat).reshape(-1, SCORES, SCORES)
        n = counts.sum(axis=(1, 2))
        expected = (counts.sum(axis=2)[:, :, None] * counts.sum(axis=1)[:, None, :] * distance).sum(axis=(1, 2))
        observed = n * (counts * distance).sum(axis=(1, 2))
        return np.asarray(1 - np.divide(observed, expected, out=np.full_like(n, np.nan), where=expected > 0))

    return statistic


def agreement_table(run: Path, ratings: Path) -> dict[str, Any]:
    """Return how far the raters of a run's reports agree.

    `sentences` counts those that two raters or more have rated, `alpha` is over all of them, `pairs` has for every two
    raters with a sentence in common `raters`, `n`, the share of `equal` ratings, and `kappa`. Intervals: 95 % bootstrap
    over patients (or whatever the run's leaderboard resamples), all under the same weights. Raises what `rated` raises,
    and DataError where there is one rater alone.
    """
    board = read_board(run)
    given, frames, _ = rated(run, ratings)
    unit, units = units_of(given, frames, board["unit"])
    given = given.assign(unit=unit, item=given.groupby(["response", "sentence"]).ngroup())
    names = sorted(given["rater"].unique())
    if len(names) < 2:
        raise DataError(f"{ratings}: there are ratings of one rater alone, who agrees with nobody")
    item, rating = (given[name].to_numpy(np.int64) for name in ("item", "rating"))
    statistics = [alpha(item, rating, unit, units)]
    pairs: list[dict[str, Any]] = []
    for a, b in combinations(names, 2):
        both = given[given["rater"] == a].merge(given[given["rater"] == b], on=["item", "unit"])
        if len(both):
            first, second = (both[name].to_numpy(np.int64) for name in ("rating_x", "rating_y"))
            statistics.append(kappa(first, second, both["unit"].to_numpy(np.int64), units))
            pairs.append({"raters": [a, b], "n": len(both), "equal": float((first == second).mean())})
    drawn = bootstrap(statistics, units, board["replicates"], board["seed"])
    found = [estimate(s, values, units) for s, values in zip(statistics, drawn, strict=True)]
    return {
        **board,
        "raters": names,
        "sentences": int((given["item"].value_counts() > 1).sum()),
        "units": units,
        "alpha": found[0],
        "pairs": [{**pair, "kappa": value} for pair, value in zip(pairs, found[1:], strict=True)],
    }


def markdown(table: dict[str, Any]) -> str:
    """Return the table of `agreement_table` as a Markdown page."""
    import tabulate

    body = [
        [*map(plain, pair["raters"]), pair["n"], f"{pair['equal']:.3f}", estimate_text(pair["kappa"])]
        for pair in table["pairs"]
    ]
    header = ["rater", "rater", "sentences", "equal", "weighted kappa"]
    align = ["left", "left", "right", "right", "right"]
    resampled = "single reports" if table["unit"] == "claim" else "patients"
    return "\n".join(
        [
            f"# Agreement of raters: {plain(table['title'])}",
            "",
            f"Krippendorff's alpha (ordinal): {estimate_text(table['alpha'])}, over {table['sentences']:,} sentences "
            "that two raters or more have rated.",
            "",
            tabulate.tabulate(body, header, "pipe", colalign=align, disable_numparse=True),
            "",
            "- Kappa has quadratic weights; equal is the share of sentences with the same rating.",
            f"- In brackets: 95 % percentile bootstrap, {table['replicates']:,} replicates over {table['units']:,} "
            f"{resampled}, seed {table['seed']}. The raters are these, not a sample of others.",
            "",
        ]
    )


def read_board(run: Path) -> dict[str, Any]:
    """Return what ratings take over from a run's leaderboard. Raises DataError where there is none."""
    path = run / "leaderboard.json"
    try:
        board = load_json(path)
        return {name: board[name] for name in ("title", "model", "phantom", "seed", "replicates", "unit")}
    except FileNotFoundError as error:
        raise DataError(
            f"{run} holds no finished run (no leaderboard.json); finish the run first. Nothing tells what is right in "
            "reports for new pictures"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read; make it anew from the run's records") from error


def units_of(given: pd.DataFrame, frames: Frames, unit: str) -> tuple[IntArray, int]:
    """Return the resampling unit of each rating's response, shape (n,), and how many there are."""
    by = "example" if unit == "claim" else "cluster"
    of = {r: str(u) for frame in frames.values() for r, u in zip(frame["response"], frame[by], strict=True)}
    names = {name: n for n, name in enumerate(sorted({of[response] for response in given["response"]}))}
    return np.array([names[of[response]] for response in given["response"]], np.int64), len(names)


def estimate(statistic: Statistic, replicates: FloatArray, units: int, has_interval: bool = True) -> Estimate:
    """Return a value with its interval; one unit alone says nothing of how units vary."""
    value = float(statistic(np.ones((1, units)))[0])
    none = float("nan"), float("nan")
    low, high = interval(replicates) if has_interval and units > 1 and not np.isnan(value) else none
    return {name: None if np.isnan(x) else x for name, x in (("value", value), ("low", low), ("high", high))}
