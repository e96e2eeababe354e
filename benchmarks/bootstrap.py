"""Seconds, memory and agreement of the leaderboard's intervals and comparisons, beside scipy around scikit-learn.

    python benchmarks/bootstrap.py [--repeats 3] [--resamples 20] [--scaling] [--figure docs/figures/cost.svg]

Eight methods about 2,347 studies of 289 patients, four with stated confidences (tenths) and four with continuous ones;
10,000 replicates. The peer resamples patients with scipy.stats.bootstrap around scikit-learn's and scipy's functions
for all methods at once, which gives it their differences too; its seconds are extrapolated from `--resamples`.
Seconds are CPU seconds of one process. "All" covers every metric with intervals, null bands, and all 28 paired
differences by every headline metric with permutation tests; "the same" only the metrics that those packages have, with
the tests of the headline metrics among them, which is what the peer is timed for.
`--scaling` times 200 replicates for up to a million claims, and up to 16 methods, and draws the figure.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conrad_bench.leaderboards.board.build import build
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.inference.bootstrap import bootstrap, interval
from conrad_bench.leaderboards.metrics.base import Metric, Sample
from conrad_bench.leaderboards.metrics.catalogue import BUILT_IN

STUDIES, PATIENTS, METHODS, REPLICATES = 2_347, 289, 8, 10_000
TASK = "task"
HEADLINE = ("pearson", "brier", "auroc", "correctness")
Frames = dict[tuple[str, str], pd.DataFrame]
Array = np.ndarray[Any, np.dtype[np.float64]]


def world(n: int, clusters: int, methods: int, binary: bool) -> Frames:
    """Return the records of methods about the same claims, every other one with stated confidences."""
    random = np.random.default_rng(0)
    cluster = np.sort(random.integers(clusters, size=n))
    chance = np.clip(0.6 + 0.15 * random.standard_normal(clusters)[cluster] + 0.15 * random.standard_normal(n), 0, 1)
    # A share of findings that is right, as GREEN's is.
    findings = random.integers(2, 12, n)
    correctness = (random.random(n) < chance).astype(float) if binary else np.rint(findings * chance) / findings
    frames = {}
    for i in range(methods):
        confidence = np.clip(chance + 0.1 + (0.1 + 0.02 * i) * random.standard_normal(n), 0, 1)
        frames[TASK, f"method{i}"] = pd.DataFrame(
            {
                "task": TASK,
                "method": f"method{i}",
                "example": [f"e{k:07}" for k in range(n)],
                "cluster": [f"p{k:06}" for k in cluster],
                "claim": 0,
                "confidence": np.rint(10 * confidence) / 10 if i % 2 else confidence,
                "correctness": correctness,
                "status": "ok",
                "response": "r",
            }
        )
    return frames


def context(replicates: int, metrics: tuple[Metric, ...] = BUILT_IN) -> BoardContext:
    """Return what a board is built with."""
    about = {"model": "m", "data": "d", "phantom": False, "methods": {}, "version": "0", "commit": "0"}
    return BoardContext(scorers={TASK: ("s", "S")}, replicates=replicates, metrics=metrics, **about)


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def ours(frames: Frames, repeats: int, metrics: tuple[Metric, ...] = BUILT_IN) -> float:
    """Return the median CPU seconds of a board with these metrics."""
    board = partial(build, frames, context(REPLICATES, metrics))
    return statistics.median(seconds(board) for _ in range(repeats))


def peer_functions(binary: bool) -> dict[str, Callable[[Array, Array], float]]:
    """Return the functions of confidence and correctness that scikit-learn and scipy have, by our metric's name."""
    from scipy.stats import kendalltau, pearsonr, spearmanr
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    found: dict[str, Callable[[Array, Array], float]] = {
        "pearson": lambda c, y: pearsonr(c, y).statistic,
        "spearman": lambda c, y: spearmanr(c, y).statistic,
        "kendall": lambda c, y: kendalltau(c, y).statistic,
        "correctness": lambda c, y: float(np.mean(y)),
    }
    if binary:
        found |= {
            "auroc": lambda c, y: roc_auc_score(y, c),
            "auprc": lambda c, y: average_precision_score(y, c),
            "brier": lambda c, y: brier_score_loss(y, c),
            "log_score": lambda c, y: log_loss(y, np.clip(c, 0.01, 0.99)),
        }
    else:
        found |= {
            # No somersd: its contingency table would be n by n.
            "brier": lambda c, y: float(np.mean((c - y) ** 2)),
        }
    return found


def peer(frames: Frames, functions: dict[str, Callable[[Array, Array], float]], resamples: int) -> Any:
    """Return scipy's bootstrap over patients of every function of every method."""
    from scipy.stats import bootstrap as scipy_bootstrap

    first = next(iter(frames.values()))
    codes = first["cluster"].astype("category").cat.codes.to_numpy()
    rows = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    correctness = first["correctness"].to_numpy()
    confidences = [frame["confidence"].to_numpy() for frame in frames.values()]

    def statistic(patients: Array) -> Array:
        drawn = np.concatenate([rows[p] for p in patients.astype(int)])
        y = correctness[drawn]
        return np.array([f(c[drawn], y) for c in confidences for f in functions.values()])

    data = (np.arange(len(rows)),)
    return scipy_bootstrap(data, statistic, n_resamples=resamples, method="percentile", vectorized=False, rng=0)


def peer_swaps(frames: Frames, functions: dict[str, Callable[[Array, Array], float]], resamples: int) -> None:
    """Evaluate the functions for one side of one pair's permutation test of `resamples` swaps."""
    frame = next(iter(frames.values()))
    confidence, correctness = frame["confidence"].to_numpy(), frame["correctness"].to_numpy()
    for _ in range(resamples):
        for f in functions.values():
            f(confidence, correctness)


def agreement(frames: Frames, binary: bool) -> str:
    """Compare the intervals of cheap and exact metrics at 4,000 resamples, in Monte-Carlo standard errors."""
    some = {name: f for name, f in peer_functions(binary).items() if name in ("pearson", "brier", "correctness")}
    few = dict(list(frames.items())[:2])
    theirs = peer(few, some, 4_000)
    low, high = theirs.confidence_interval
    first = next(iter(frames.values()))
    unit = first["cluster"].astype("category").cat.codes.to_numpy(np.int64)
    metrics = {metric.name: metric for metric in BUILT_IN}
    worst, k = 0.0, 0
    for frame in few.values():
        sample = Sample(frame["confidence"].to_numpy(), frame["correctness"].to_numpy(), unit, int(unit.max()) + 1)
        for name in some:
            drawn = bootstrap([metrics[name].statistic(sample)], sample.units, 4_000, 1)[0]
            # An end is a quantile of 4,000 draws: its standard error is about 2.7 of theirs over sqrt(4,000).
            error = 2.7 * np.std(drawn) / np.sqrt(4_000) * np.sqrt(2)
            for mine, other in zip(interval(drawn), (low[k], high[k]), strict=True):
                worst = max(worst, abs(mine - other) / error)
            k += 1
    return f"largest difference of an interval's end: {worst:.1f} Monte-Carlo standard errors"


def scaling(figure: Path | None) -> None:
    """Print, and draw, the seconds of 200 replicates against claims and against methods."""
    by_claims, by_methods = [], []
    for n in (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000):
        frames = world(n, max(n // 8, 2), 2, False)
        held = sum(frame.memory_usage(deep=True).sum() for frame in frames.values()) / 2**30
        before = peak()
        by_claims.append((n, seconds(partial(build, frames, context(200)))))
        print(f"{n:>9,} claims, 2 methods, 200 replicates: {by_claims[-1][1]:8.2f} s, {peak():.2f} GiB", end="")
        print(f" (the records {held:.2f}, at most {before:.2f} before)", flush=True)
    for methods in (1, 2, 4, 8, 16):
        frames = world(10_000, 1_250, methods, False)
        by_methods.append((methods, seconds(partial(build, frames, context(200)))))
        print(f"{methods:>9} methods, 10,000 claims, 200 replicates: {by_methods[-1][1]:8.2f} s", flush=True)
    if figure is not None:
        draw(by_claims, by_methods, figure)


def draw(by_claims: list[tuple[int, float]], by_methods: list[tuple[int, float]], path: Path) -> None:
    """Write the figure of cost against claims and methods, with a line of slope 1."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "conrad-bench"
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, points, label in zip(drawn.subplots(1, 2), (by_claims, by_methods), ("claims", "methods"), strict=True):
        x, y = zip(*points, strict=True)
        axes.loglog(x, y, "o-", color="#0072B2", label="measured")
        axes.loglog(x, [y[-1] * each / x[-1] for each in x], "--", color="#595959", label="proportional")
        axes.set(xlabel=label, ylabel="CPU seconds, 200 replicates")
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    drawn.savefig(path, metadata={"Date": None, "Creator": None})


def peak() -> float:
    """Return the most memory that this process had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Time both, compare them, and print medians and ratios."""
    parser = argparse.ArgumentParser(description="Cost of the leaderboard's intervals, beside scipy and scikit-learn.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--resamples", type=int, default=20)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    for binary in (False, True):
        frames = world(STUDIES, PATIENTS, METHODS, binary)
        own = ours(frames, arguments.repeats)
        functions = peer_functions(binary)
        memory = peak()
        peer(frames, functions, 2)  # imports, and first calls
        each = seconds(partial(peer, frames, functions, arguments.resamples)) / arguments.resamples
        swapped = {name: f for name, f in functions.items() if name in HEADLINE}
        swap = 2 * seconds(partial(peer_swaps, frames, swapped, arguments.resamples)) / arguments.resamples
        pairs = METHODS * (METHODS - 1) // 2
        theirs = (each + pairs * swap) * REPLICATES
        print(f"{'binary' if binary else 'continuous'} correctness, {METHODS} methods, {STUDIES} claims, ", end="")
        print(f"{REPLICATES} replicates and swaps")
        same = ours(frames, arguments.repeats, tuple(metric for metric in BUILT_IN if metric.name in functions))
        print(f"  ours, all: {own:.1f} s, {memory:.2f} GiB; the same: {same:.1f} s (medians of {arguments.repeats})")
        print(f"  peer, {', '.join(functions)}: {each * REPLICATES:.0f} s; ", end="")
        print(
            f"and swaps of {', '.join(swapped)}: {pairs * swap * REPLICATES:.0f} s; {theirs / same:.0f} times the same"
        )
        print(f"  {agreement(frames, binary)}", flush=True)
    if arguments.scaling:
        scaling(arguments.figure)


if __name__ == "__main__":
    main()
