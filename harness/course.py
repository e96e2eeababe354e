"""How far a whole run is, and how long it will still take: from its rehearsal, or from what has run so far."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from conrad_bench.progress import duration
from conrad_bench.storage import read_json

Part = tuple[str, str]
"""A method and a task."""


def rehearsed(folder: Path) -> dict[Part, float]:
    """Return the seconds that a rehearsal expects of each part, where `folder` holds its result; else nothing."""
    found: dict[Part, float] = {}
    content = read_json(folder / "rehearsal.json") or {}
    for stage in content.get("stages", []):
        match stage:
            case {"method": str(method), "task": str(task), "hours": int(hours) | float(hours)} if method and task:
                found[method, task] = found.get((method, task), 0.0) + 3600 * hours
    return found


class Course:
    """The parts of a run in their order. As text: "part 3 of 12, about 2 h 10 min left for all"."""

    def __init__(self, parts: Sequence[Part], expected: dict[Part, float]) -> None:
        """Take the parts that are to be done, and the seconds that some of them are expected to take."""
        self._parts = list(parts)
        self._expected = expected
        self._taken: dict[Part, float] = {}
        self._began: tuple[Part, float] | None = None

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """Be at one of the parts."""
        self._began = part, time.monotonic()
        try:
            yield
        finally:
            self._taken[part] = time.monotonic() - self._began[1]
            self._began = None

    def left(self) -> float | None:
        """Return the seconds that are left for all parts, as it seems; None where nothing tells.

        A part takes what the rehearsal expects, by the measure of the parts that are done; without a rehearsal, what
        the same method's other parts took on the average, or else all parts.
        """
        total = 0.0
        for part in self._parts:
            if part in self._taken:
                continue
            whole = self._seconds(part)
            if whole is None:
                return None
            running = time.monotonic() - self._began[1] if self._began and self._began[0] == part else 0.0
            total += max(whole - running, 0.0)
        return total

    def _seconds(self, part: Part) -> float | None:
        known = [done for done in self._taken if done in self._expected]
        hoped = sum(self._expected[done] for done in known)
        pace = sum(self._taken[done] for done in known) / hoped if hoped else 1.0
        if part in self._expected:
            return pace * self._expected[part]
        of_method = [seconds for (method, _), seconds in self._taken.items() if method == part[0]]
        seen = of_method or list(self._taken.values())
        return statistics.fmean(seen) if seen else None

    def __str__(self) -> str:
        number = min(len(self._taken) + 1, len(self._parts))
        left = self.left()
        return f"part {number} of {len(self._parts)}" + (f", about {duration(left)} left for all" if left else "")
