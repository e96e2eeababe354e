"""The null band of ECE: what a perfectly calibrated method with these confidences and this many claims would score.

ECE is never negative, so a calibrated method does not score 0. Its distribution is drawn by the wild cluster bootstrap
(Cameron, Gelbach & Miller 2008): in each group of ECE the residuals keep their size and lose their mean, and each
unit's residuals are multiplied by a random sign, the same for all of them. This asks for no distribution of
correctness: it may be binary or continuous, and claims of one patient may depend on each other.
"""

from __future__ import annotations

import numpy as np

from conrad_bench.leaderboards.inference.bootstrap import LEVEL, block_size
from conrad_bench.leaderboards.metrics.base import Sample


def null_band(sample: Sample, replicates: int, seed: int) -> dict[str, float] | None:
    """Return `mean`, `low`, `high` (the middle 95 %) of ECE under calibration, and `p` of the sample's own ECE.

    p = (1 + replicates with an ECE at least as large) / (1 + replicates). None for a sample of fewer than two units.
    """
    if not sample.varies():
        return None
    residual, count = sample.residuals, sample.cells(sample.groups, np.ones(len(sample)))
    claims = np.maximum(count.sum(axis=0), 1)
    ece = float(np.abs(residual.sum(axis=0)).sum()) / len(sample)
    # A unit pulls the mean of its group towards itself: its residual is too small by the root of its share of others.
    share = count / claims
    centred = np.divide(
        residual - count * (residual.sum(axis=0) / claims), np.sqrt(1 - share), out=residual.copy(), where=share < 1
    )
    generator = np.random.default_rng((seed, 2))
    step = block_size(sample.units)
    drawn = np.concatenate(
        [
            np.abs((2.0 * generator.integers(2, size=(min(step, replicates - start), sample.units)) - 1) @ centred)
            for start in range(0, replicates, step)
        ]
    ).sum(axis=1) / len(sample)
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    # Sums in another order differ in their last digits.
    reached = int(np.sum(drawn >= ece - 1e-12))
    return {"mean": float(drawn.mean()), "low": float(low), "high": float(high), "p": (1 + reached) / (1 + replicates)}
