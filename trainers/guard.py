"""Who watches over a training: the confidence format must not be lost, and there must be something to learn from."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path

from conrad_bench.errors import TrainingError

PATIENCE = 10
"""Number of steps over which the parse rate and the gradient are watched."""


class Guard:
    """Stops a training that goes wrong in silence, and says what it saw.

    Without a readable confidence there is little to learn from, so losing the format is an absorbing state. A model
    that does not have the format yet may learn it: the guard is armed once the rate has been above the limit.
    """

    def __init__(self, least: float, remedy: str) -> None:
        """`least` is the least share of readable confidences, `remedy` says what may help where it is not reached."""
        self.least, self._remedy = least, remedy
        self._rates: deque[float] = deque(maxlen=PATIENCE)
        self._best = 0.0
        self._steps = 0
        self._moved = False

    def step(self, parse_rate: float | None, grad_norm: float) -> None:
        """Take note of a step, before its update. Raises TrainingError if the format is lost, or nothing is learned.

        A training that does not see the policy's own answers has no parse rate.
        """
        self._note(parse_rate, grad_norm)
        if len(self._rates) < PATIENCE:
            return
        if self._best >= self.least > self._mean:
            raise TrainingError(self._word())
        # Later on a gradient of zero is no fault: all answers of a group may agree because the policy has converged.
        if not self._moved and self._steps == PATIENCE:
            raise TrainingError(self._word())

    def end(self) -> None:
        """Raise TrainingError if the whole training, however short, had no gradient or ends without the format."""
        if self._steps and (not self._moved or self._mean < self.least):
            raise TrainingError(self._word())

    def resume(self, log: Path) -> None:
        """Take note of the steps in the training.jsonl of a training that goes on."""
        for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
            values = json.loads(line)
            self._note(values.get("parse_rate"), values["grad_norm"])

    def _note(self, parse_rate: float | None, grad_norm: float) -> None:
        self._steps += 1
        self._rates.append(1.0 if parse_rate is None else parse_rate)
        self._best = max(self._best, self._mean)
        self._moved = self._moved or grad_norm != 0.0

    @property
    def _mean(self) -> float:
        return sum(self._rates) / len(self._rates)

    def _word(self) -> str:
        if self._mean >= self.least:
            return self._idle()
        return self._lost() if self._best >= self.least else self._never()

    def _lost(self) -> str:
        return (
            f"the training lost the confidence format: {self._mean:.0%} of the answers in the last {len(self._rates)} "
            f"steps up to step {self._steps} state a readable confidence, and {self._best:.0%} did before "
            f"(min_parse_rate is {self.least:.0%}); {self._remedy}"
        )

    def _never(self) -> str:
        return (
            f"the training never had the confidence format: at best {self._best:.0%} of the answers state a readable "
            f"confidence, {self._mean:.0%} in the last of {self._steps} steps (min_parse_rate is {self.least:.0%})"
            f"{'' if self._moved else ', and the gradient was exactly zero in all of them'}; {self._remedy}"
        )

    def _idle(self) -> str:
        return (
            f"the training learned nothing: the gradient was exactly zero in each of its first {self._steps} steps. "
            "The adapter never acts, or no two rollouts of any group differ in reward."
        )
