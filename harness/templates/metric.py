"""my_plugin: mean excess of confidence over correctness.

Replace `statistic` by a metric of your own. It looks at the claims once and returns a function from weights of the
resampling units (replicates, units) to values (replicates,); `mean_of` makes one from a number for each claim.
"""

from __future__ import annotations

import numpy as np

import conrad_bench as cb
from conrad_bench.leaderboards.metrics.base import mean_of


@cb.register_metric
class MyPlugin(cb.Metric):
    """Mean of max(confidence - correctness - slack, 0). In [0, 1], lower is better."""

    name = "my_plugin"
    summary = "mean excess of confidence over correctness"
    label = "my_plugin"  # the column's title
    better = "lower"
    range = (0.0, 1.0)
    source = "this package"  # the paper, section or equation
    headline = True  # in the main table, and methods are compared by it

    slack: float = 0.0
    """An excess that counts as none."""

    def statistic(self, sample: cb.Sample) -> cb.Statistic:
        """Return a mean over claims."""
        excess = np.asarray(sample.stated() - sample.correctness - self.slack)
        return mean_of(sample, np.maximum(excess, 0.0))
