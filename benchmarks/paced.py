"""An engine that takes a GPU's time and no processor's: what is left of its rate is what everything around it loses.

A plugin file for rollouts.py. It works at up to 128 requests at once; a step of all of them takes as long as was
measured for a 4-billion-parameter model to read its weights once (8 GB in bfloat16 at 600 GB/s, an A40's), and each
response has the length of a real finding: the quantiles below are those of the 3,425 findings of IU-Xray (Open-i) in
the tokens of Gemma 3, the end of the turn included.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import ClassVar

from conrad_bench import Engine, register_engine
from conrad_bench.engines.base import Generation, Job, Take, Ticket
from conrad_bench.engines.calls import Answered, Call

STEP = 0.0133
"""Seconds."""


QUANTILES = (
    2,
    18,
    20,
    22,
    25,
    26,
    27,
    29,
    30,
    31,
    33,
    34,
    34,
    35,
    36,
    38,
    39,
    39,
    40,
    41,
    42,
    43,
    44,
    45,
    46,
    47,
    49,
    50,
    51,
    53,
    55,
    57,
    59,
    62,
    65,
    67,
    71,
    77,
    83,
    94,
    213,
)
"""Lengths at 0, 2.5, 5, ... 100 %."""


def drawn(seed: int) -> int:
    """Return a length, by the seed of a response."""
    place = random.Random(seed).random() * (len(QUANTILES) - 1)
    low, part = int(place), place % 1
    return round(QUANTILES[low] * (1 - part) + QUANTILES[low + 1] * part)


@register_engine
class Paced(Engine):
    """Answers after as many steps as a response has tokens."""

    name = "paced"
    summary = "takes a GPU's time, and no processor's"
    provides: ClassVar[frozenset[str]] = frozenset({"sampling"})

    model: str = "paced"
    concurrency: int = 128

    def identity(self) -> dict[str, str]:
        """There is no model."""
        return {"engine": self.name, "model": self.model}

    def at_once(self, method: str, adapter: Path | None) -> int:
        """As many as under way."""
        return self.concurrency

    def stream(self, take: Take[Ticket]) -> Generator[tuple[Ticket, Answered], None, None]:
        """Answer each call when its steps are done; a step takes all calls under way one token further."""
        under_way: list[tuple[Ticket, int, int]] = []
        step, began = 0, time.perf_counter()
        while True:
            while len(under_way) < self.concurrency and (following := take(not under_way)) is not None:
                ticket, call = following
                under_way.append((ticket, step + self._length(call), self._length(call)))
            if not under_way:
                return
            step, began = step + 1, max(began, time.perf_counter() - STEP) + STEP
            time.sleep(max(0.0, began - time.perf_counter()))
            for ticket, _, length in [each for each in under_way if each[1] <= step]:
                yield ticket, Answered([Generation("a " * length, (1,) * length, (-0.1,) * length, "stop")])
            under_way = [each for each in under_way if each[1] > step]

    def _length(self, call: Call) -> int:
        jobs: Sequence[Job] = call.arguments[0]
        return drawn(jobs[0].seed)

    def close(self) -> None:
        """Nothing is held."""
