"""What a confidence is worth: how often claims that were given as much were right, in the run that it comes from.

The run's test records tell: fits have seen the training and validation examples, the test ones are what its board is
made of. They hold for patients like the run's own.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from conrad_bench.records import read_records, records_path
from conrad_bench.reporting.schema import Source, Such
from conrad_bench.storage import file_sha256, read_json

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.reporting.making import Making

REPLICATES = 2_000


class Calibrated:
    """The records of the run that fixes how reports are made."""

    def __init__(self, records: pd.DataFrame, source: Source, level: str) -> None:
        """`records` are those of one method on one task whose claims are of `level`, "report" or "sentence"."""
        self.source, self._level = source, level
        known = records[(records["status"] == "ok") & records["confidence"].notna() & records["correctness"].notna()]
        self._confidence, self._correctness = (known[name].to_numpy(float) for name in ("confidence", "correctness"))
        self._patients = known["cluster"].astype(str).to_numpy()
        self._found: dict[int, Such] = {}

    def such(self, confidence: float) -> Such:
        """Return what became of the run's claims with this confidence, to the nearest tenth."""
        level = round(10 * confidence)
        if level not in self._found:
            self._found[level] = self._of(level)
        return self._found[level]

    @cached_property
    def _exact(self) -> bool:
        """Whether all confidences are whole tenths, as they are where they are stated."""
        return bool(np.allclose(10 * self._confidence, np.round(10 * self._confidence), atol=1e-6))

    @cached_property
    def _graded(self) -> bool:
        return not np.isin(self._correctness, (0.0, 1.0)).all()

    def _of(self, level: int) -> Such:
        from conrad_bench.leaderboards.functions import measure
        from conrad_bench.leaderboards.metrics.base import Correctness

        # As `round` does for the claim itself: halves go to the even tenth.
        here = np.round(10 * self._confidence) == level
        claims, patients = int(here.sum()), len(set(self._patients[here]))
        stated = f"given {'' if self._exact else 'about '}{level}/10"
        given = f"{self._level}s {stated}"
        if not claims:
            said = f"No {self._level} of {self.source.data} was {stated}: nothing tells how often such are right."
            return Such(level=level, claims=0, patients=0, correctness=None, low=None, high=None, said=said)
        right = self._correctness[here]
        value, low, high = measure(
            Correctness(), self._confidence[here], right, self._patients[here], replicates=REPLICATES
        )
        # A bootstrap of claims that are all alike has no width, which would claim to know all.
        alike = right.min() == right.max()
        known = bool(np.isfinite(low) and np.isfinite(high)) and not alike
        unknown = f"no interval: {'all alike' if alike else 'too few patients'}"
        of = f"{claims:,} {self._level}{'s' * (claims != 1)} of {self.source.data}"
        if self._graded:
            between = f"{low:.2f}-{high:.2f}" if known else unknown
            said = f"{given.capitalize()} had a mean {self.source.scorer} of {value:.2f} ({between}, {of})."
        else:
            between = f"{100 * low:.0f}-{100 * high:.0f}" if known else unknown
            said = f"Of 100 {given}, about {100 * value:.0f} were right ({between}, {of})."
        return Such(
            level=level,
            claims=claims,
            patients=patients,
            correctness=value,
            low=low if known else None,
            high=high if known else None,
            said=said,
        )


def calibrated(making: Making) -> Calibrated | None:
    """Return what the run's records say of the confidences; None without a run, or where it has no such records."""
    if making.run is None:
        return None
    path = records_path(making.run, making.name, making.task.name)
    if not path.is_file():
        return None
    records = read_records(path)
    if not records["confidence"].notna().any():
        return None
    task, about = making.task, (read_json(making.run / "context.json") or {})["context"]
    data = "the phantom world" if about["phantom"] else task.summary.partition(":")[0]
    source = Source(task=task.name, data=data, scorer=about["scorers"][task.name][1], records=file_sha256(path))
    return Calibrated(records, source, task.granularity)
