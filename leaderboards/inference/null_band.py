"""The null band of ECE: what a perfectly calibrated method with these confidences and this many claims would score.

ECE is never negative, so a calibrated method does not score 0. Its distribution is drawn by the wild cluster bootstrap
(Cameron, Gelbach & Miller 2008) with the null imposed: a calibrated method's residuals (confidence - correctness) have
mean 0, so those of each unit get a random sign, the same for all of them. This asks for no distribution of correctness:
it may be binary or continuous, and claims of one patient may depend on each other.

A band asks for enough units whose residuals differ. Below that there is none, and a reason.
"""

from __future__ import annotations

import numpy as np

from conrad_bench.leaderboards.inference.bootstrap import FEW_UNITS, LEVEL, block_size
from conrad_bench.leaderboards.metrics.base import FloatArray, Sample

UNITS_OF_A_GROUP = 5
_SPARSE = 0.1
"""Share of claims that may lie in groups of fewer units: they hardly move the ECE."""
_VARYING = 10


def null_band(sample: Sample, replicates: int, seed: int) -> dict[str, float] | str:
    """Return `mean`, `low`, `high` (the middle 95 %) of ECE under calibration, and `p` of the sample's own ECE.

    p = (1 + replicates with an ECE at least as large) / (1 + replicates). Where the units are too few for that, the
    reason in words.
    """
    residual, count = sample.residuals, sample.cells(sample.groups, np.ones(len(sample)))
    reason = _too_few(sample, residual, count)
    if reason:
        return reason
    ece = float(np.abs(residual.sum(axis=0)).sum()) / len(sample)
    generator = np.random.default_rng((seed, 2))
    step = block_size(sample.units)
    drawn = np.concatenate(
        [
            np.abs(_signs(generator, min(step, replicates - start), sample.units) @ residual).sum(axis=1)
            for start in range(0, replicates, step)
        ]
    ) / len(sample)
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    # Sums in another order differ in their last digits.
    reached = int(np.sum(drawn >= ece - 1e-12))
    return {"mean": float(drawn.mean()), "low": float(low), "high": float(high), "p": (1 + reached) / (1 + replicates)}


def _signs(generator: np.random.Generator, replicates: int, units: int) -> FloatArray:
    """Return random signs (replicates, units)."""
    return np.asarray(2 * generator.integers(2, size=(replicates, units), dtype=np.int8) - 1, np.float64)


def _too_few(sample: Sample, residual: FloatArray, count: FloatArray) -> str | None:
    """Return why there is no band, None where there is one.

    `residual` and `count` are the sums of residuals and claims of each unit in each group (units, groups).
    """
    if sample.effective < FEW_UNITS:
        return f"{sample.effective:.1f} effective clusters, fewer than {FEW_UNITS}"
    claims = count.sum(axis=0)
    sparse = claims[np.count_nonzero(count, axis=0) < UNITS_OF_A_GROUP].sum() / len(sample)
    if sparse > _SPARSE:
        return f"{sparse:.0%} of the claims are in groups of fewer than {UNITS_OF_A_GROUP} clusters"
    # Where nearly all answers are right, the few wrong ones carry all that varies: signs of so few say nothing.
    deviation = residual - count * (residual.sum(axis=0) / np.maximum(claims, 1))
    deviation[np.abs(deviation) < 1e-9] = 0.0  # all alike, up to rounding
    squares = (deviation**2).sum(axis=1)
    varying = squares.sum() ** 2 / np.maximum((squares**2).sum(), 1e-300)
    if varying < _VARYING:
        return f"what varies comes from {varying:.1f} effective clusters, fewer than {_VARYING}: too few answers differ"
    return None
