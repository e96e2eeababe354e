"""my_plugin: learns from training responses how correctness falls with the number of a claim's words.

`fit` runs once, before anything is estimated, and leaves what it learned in the folder `out`. Replace `_features`, and
the line that is fitted to them, by an idea of your own. A method that trains the model itself has `cb.TRAINING` in the
place of `cb.FITTING`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

import conrad_bench as cb
from conrad_bench.errors import TrainingError
from conrad_bench.methods.base import drawn, respond, responding


@cb.register_method
class MyPlugin(cb.Method):
    """A line fitted to (words of a claim, its correctness), cut to [0, 1]."""

    name = "my_plugin"
    summary = "correctness as a line in the number of words, learned from training responses"
    source = ""  # the paper, section or equation
    needs: ClassVar[frozenset[str]] = frozenset({cb.FITTING})

    samples: int = Field(default=500, ge=1)
    """Training examples."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest response, in tokens."""

    def steps(
        self, task: cb.Task, train: Sequence[cb.Example], validation: Sequence[cb.Example], test: Sequence[cb.Example]
    ) -> list[cb.Step]:
        """One response to each training and each test example."""
        learned = responding(task, drawn(train, self.samples, self.seed), self.max_tokens)
        return [learned, responding(task, test, self.max_tokens)]

    def fit(
        self,
        task: cb.Task,
        train: Sequence[cb.Example],
        validation: Sequence[cb.Example],
        model: cb.Model,
        judge: cb.Judge,
        out: Path,
    ) -> None:
        """Fit the line. Raises TrainingError where no response could be judged."""
        found = respond(task, drawn(train, self.samples, self.seed), model, self.max_tokens)
        scores = judge(found.examples, found.claims)
        rows = [
            (self._features(found.claims[i][k]), value)
            for i, k in found.open()
            if (value := scores[i][k].value) is not None
        ]
        if not rows:
            raise TrainingError("my_plugin has nothing to learn from: no training response could be judged")
        features, values = zip(*rows, strict=True)
        weights = np.linalg.lstsq(np.array(features), np.array(values), rcond=None)[0]
        (out / "line.json").write_text(json.dumps(weights.tolist()), encoding="utf-8")

    def estimate(
        self,
        task: cb.Task,
        examples: Sequence[cb.Example],
        model: cb.Model,
        judge: cb.Judge,
        artifact: Path | None,
    ) -> list[cb.Estimate]:
        """Respond, and read each claim's confidence off the line."""
        assert artifact is not None
        weights = json.loads((artifact / "line.json").read_text(encoding="utf-8"))
        found = respond(task, examples, model, self.max_tokens)
        return found.estimates(
            {(i, k): float(np.clip(np.dot(weights, self._features(found.claims[i][k])), 0, 1)) for i, k in found.open()}
        )

    def _features(self, claim: cb.Claim) -> tuple[float, ...]:
        return 1.0, float(len(claim.text.split()))
