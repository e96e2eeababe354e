"""Seconds, memory and agreement of the leaderboard's intervals and comparisons, beside what one would write oneself.

    python benchmarks/bootstrap.py [--repeats 3] [--resamples 20] [--scaling] [--figure docs/figures/cost.svg]

Eight methods about 2,347 studies of 289 patients, four with stated confidences (tenths) and four with continuous ones;
10,000 replicates. Seconds are CPU seconds of one process, medians. Two others compute what ours is timed for, values,
intervals and the standard errors of all 28 paired differences:

- numpy: sums by patient once, one product with all weights, formulas on the sums (`plain`); for AUROC, the claims in
  the order of confidence once, and running sums under each replicate's weights (`plain_auroc`)
- the obvious loop: scipy.stats.bootstrap over patients around scikit-learn's and scipy's functions; its seconds are
  extrapolated from `--resamples`

`--scaling` times 200 replicates for up to a million claims, and up to 16 methods, and draws the figure.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conrad_bench.leaderboards.board.build import build
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.board.samples import numbered, samples_of, shared
from conrad_bench.leaderboards.inference.bootstrap import Estimates
from conrad_bench.leaderboards.inference.comparisons import comparisons
from conrad_bench.leaderboards.metrics.base import Metric
from conrad_bench.leaderboards.metrics.catalogue import BUILT_IN

STUDIES, PATIENTS, METHODS, REPLICATES = 2_347, 289, 8, 10_000
TASK = "task"
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


def inference(frames: Frames, metrics: tuple[Metric, ...]) -> tuple[Array, Array]:
    """Return our values and standard errors of all pairs in these metrics, each (metrics, pairs)."""
    records, _ = numbered(TASK, {method: frame for (_, method), frame in frames.items()}, "cluster")
    samples = {method: samples_of(found, quality=False) for method, found in records.items()}
    pairs = {(a, b): shared([samples[a]], [samples[b]]) for a, b in combinations(samples, 2)}
    wanted = [(each["claim"], metric) for each in samples.values() for metric in metrics]
    estimates = Estimates(wanted, next(iter(records.values())).units, REPLICATES, 0)
    values = {
        metric.name: {method: estimates.of(each["claim"], metric)["value"] for method, each in samples.items()}
        for metric in metrics
    }
    found = comparisons(pairs, metrics, values, estimates)["pairs"]
    by = {(pair["metric"], pair["a"], pair["b"]): pair for pair in found}
    table = np.array([[[by[m.name, *pair][key] for pair in pairs] for m in metrics] for key in ("value", "se")])
    return table[0], table[1]


def drawn_weights(patients: int) -> Array:
    """Return the weights of all replicates (REPLICATES, patients), as numpy draws them."""
    return np.random.default_rng(0).multinomial(patients, np.full(patients, 1 / patients), REPLICATES).astype(float)


def pairwise(values: Array, replicates: Array) -> tuple[Array, Array]:
    """Return the differences of all pairs of methods, and their standard errors; intervals are made and dropped.

    From values (metrics, methods) and replicates (metrics, REPLICATES, methods).
    """
    np.quantile(replicates, (0.025, 0.975), axis=1)
    pairs = list(combinations(range(values.shape[1]), 2))
    errors = [(replicates[:, :, a] - replicates[:, :, b]).std(axis=1, ddof=1) for a, b in pairs]
    return np.stack([values[:, a] - values[:, b] for a, b in pairs], 1), np.stack(errors, 1)


def plain(frames: Frames) -> tuple[Array, Array]:
    """Return the same of Pearson r, Brier and mean correctness, in the fewest lines of numpy."""
    methods = list(frames.values())
    unit = methods[0]["cluster"].astype("category").cat.codes.to_numpy()
    patients = int(unit.max()) + 1
    columns = []
    for frame in methods:
        c, y = frame["confidence"].to_numpy(), frame["correctness"].to_numpy()
        columns += [np.ones(len(c)), c, y, c * c, y * y, c * y, (c - y) ** 2]
    terms = np.stack([np.bincount(unit, column, patients) for column in columns], axis=1)

    def metrics(sums: Array) -> Array:
        n, c, y, cc, yy, cy, squares = np.moveaxis(sums.reshape(len(sums), len(methods), 7), 2, 0)
        r = (cy - c * y / n) / np.sqrt((cc - c * c / n) * (yy - y * y / n))
        return np.stack([r, squares / n, y / n])

    return pairwise(metrics(terms.sum(axis=0)[None])[:, 0], metrics(drawn_weights(patients) @ terms))


def plain_auroc(frames: Frames) -> tuple[Array, Array]:
    """Return the same of AUROC, from running sums in the order of confidence."""
    methods = list(frames.values())
    unit = methods[0]["cluster"].astype("category").cat.codes.to_numpy()
    weights = drawn_weights(int(unit.max()) + 1)
    values, replicates = [], []
    for frame in methods:
        c, y = frame["confidence"].to_numpy(), frame["correctness"].to_numpy()
        order = np.argsort(c)
        of, right = unit[order], y[order]
        starts = np.flatnonzero(np.diff(c[order], prepend=-1.0))

        def auroc(w: Array, of: Any = of, right: Any = right, starts: Any = starts) -> Array:
            each = w[:, of]
            good = np.add.reduceat(each * right, starts, axis=1)
            bad = np.add.reduceat(each * (1 - right), starts, axis=1)
            below = np.cumsum(bad, axis=1) - bad / 2
            return np.asarray((good * below).sum(axis=1) / (good.sum(axis=1) * bad.sum(axis=1)))

        values.append(auroc(np.ones((1, weights.shape[1])))[0])
        replicates.append(np.concatenate([auroc(weights[start : start + 100]) for start in range(0, REPLICATES, 100)]))
    return pairwise(np.array(values)[None], np.stack(replicates, axis=1)[None])


def loop_functions(binary: bool) -> dict[str, Callable[[Array, Array], float]]:
    """Return the functions of confidence and correctness that scikit-learn and scipy have, by our metric's name.

    Kendall's tau is not among them: ours has linearised replicates, other numbers.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    found: dict[str, Callable[[Array, Array], float]] = {
        "pearson": lambda c, y: pearsonr(c, y).statistic,
        "spearman": lambda c, y: spearmanr(c, y).statistic,
        "correctness": lambda c, y: float(np.mean(y)),
    }
    if binary:
        return found | {
            "auroc": lambda c, y: roc_auc_score(y, c),
            "auprc": lambda c, y: average_precision_score(y, c),
            "brier": lambda c, y: brier_score_loss(y, c),
            "log_score": lambda c, y: log_loss(y, np.clip(c, 0.01, 0.99)),
        }
    # No somersd: its contingency table would be n by n.
    return found | {"brier": lambda c, y: float(np.mean((c - y) ** 2))}


def loop(frames: Frames, functions: dict[str, Callable[[Array, Array], float]], resamples: int) -> Any:
    """Resample patients around the functions for all methods at once, which gives their differences too."""
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


def agreement(ours: tuple[Array, Array], theirs: tuple[Array, Array]) -> str:
    """Compare values, and standard errors in terms of what two draws of all replicates differ by."""
    values = float(np.abs(ours[0] - theirs[0]).max())
    spread = np.abs(ours[1] / np.where(theirs[1] > 0, theirs[1], np.nan) - 1) * np.sqrt(REPLICATES)
    return f"values differ by at most {values:.0e}, standard errors by {np.nanmax(spread):.1f} Monte-Carlo errors"


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


def medians(work: Callable[[], object], repeats: int) -> float:
    """Return the median CPU seconds of a call, after one that is not counted."""
    work()
    return statistics.median(seconds(work) for _ in range(repeats))


def main() -> None:
    """Time all, compare them, and print medians."""
    parser = argparse.ArgumentParser(description="Cost of the intervals, beside numpy, scipy and scikit-learn.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--resamples", type=int, default=20)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    named = {metric.name: metric for metric in BUILT_IN}
    for binary in (False, True):
        frames = world(STUDIES, PATIENTS, METHODS, binary)
        print(f"{'binary' if binary else 'continuous'} correctness, {METHODS} methods, {STUDIES} claims")
        board = ours(frames, arguments.repeats)
        print(f"  a board, all metrics: {board:.2f} s, {peak():.2f} GiB")
        linear = tuple(named[name] for name in ("pearson", "brier", "correctness"))
        some = partial(inference, frames, linear)
        others = [("Pearson, Brier, correctness", some, partial(plain, frames))]
        if binary:
            others.append(("AUROC", partial(inference, frames, (named["auroc"],)), partial(plain_auroc, frames)))
        for what, mine, theirs in others:
            print(f"  {what}: ours {medians(mine, arguments.repeats):.3f} s, ", end="")
            print(f"numpy {medians(theirs, arguments.repeats):.3f} s; {agreement(mine(), theirs())}", flush=True)
        functions = loop_functions(binary)
        loop(frames, functions, 2)  # imports, and first calls
        each = seconds(partial(loop, frames, functions, arguments.resamples)) / arguments.resamples
        same = medians(partial(inference, frames, tuple(named[name] for name in functions)), arguments.repeats)
        print(f"  {', '.join(functions)}: ours {same:.2f} s, the obvious loop {each * REPLICATES:.0f} s", flush=True)
    if arguments.scaling:
        scaling(arguments.figure)


if __name__ == "__main__":
    main()
