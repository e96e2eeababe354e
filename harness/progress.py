"""Progress on stderr: bars with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conrad_bench.text import console, one_line

if TYPE_CHECKING:
    from rich.progress import Progress


EVERY = 60.0
"""Seconds between two lines of a stage where no terminal shows bars."""


class Reporter:
    """Says what a run is doing, and measures how long each stage takes.

    A terminal sees one bar per running stage; a log file gets a line a minute and one when the stage ends. A quiet
    reporter writes nothing and still measures. Threads may share it.
    """

    times: dict[str, float]
    """Wall time of each finished stage in seconds, by the stage's name; a stage run twice counts twice."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.times = {}
        self.whole: Callable[[], str] = str
        """Returns, for a person, how far the whole run is; "" where there is none."""
        self._console = Console(stderr=True, quiet=quiet)
        self._bars: Progress | None = None
        self._open = 0  # stages
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Write one line, above the bars if there are any."""
        with suppress(OSError):  # a terminal that was closed, or a log on a full disk, must not end a run
            self._console.print(console(text), markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Report a stage of `total` steps (None: unknown). Yields the function that counts steps done.

        Stages may follow one another, lie within one another, or run side by side.
        """
        done = 0
        start = time.perf_counter()
        ending = threading.Event()
        with self._lock:
            self._open += 1
            if self._bars is None and self._console.is_terminal and not self._console.quiet:
                self._bars = self._new_bars()
                self._bars.start()
            bars = self._bars
        task = bars.add_task(one_line(name), total=total) if bars is not None else None

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            if bars is not None and task is not None:
                bars.advance(task, steps)

        def tell() -> None:
            while not ending.wait(EVERY):
                seconds = time.perf_counter() - start
                left = f", about {duration(seconds * (total - done) / done)} left" if total and done else ""
                whole = f"; {self.whole()}" if self.whole() else ""
                self.say(f"{name}:{_count(done, total)} after {duration(seconds)}{left}{whole}")

        if bars is None and not self._console.quiet:
            # A thread: a stage that takes long may be one that counts nothing for long.
            threading.Thread(target=tell, name=f"progress of {name}", daemon=True).start()
        ended = "stopped after"
        try:
            yield advance
            ended = "in"
        finally:
            ending.set()
            seconds = time.perf_counter() - start
            with self._lock:
                self._open -= 1
                self.times[name] = self.times.get(name, 0.0) + seconds
                if bars is not None and task is not None:
                    bars.remove_task(task)
                    if not self._open:
                        bars.stop()
                        self._bars = None
            self.say(f"{name}:{_count(done, total)} {ended} {duration(seconds)}")

    def _new_bars(self) -> Progress:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            RenderableColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            RenderableColumn(_Whole(self)),
            console=self._console,
        )


@dataclass(frozen=True)
class _Whole:
    """The state of the whole run, as it is when a bar is drawn."""

    reporter: Reporter

    def __rich__(self) -> str:
        return self.reporter.whole()


@dataclass(frozen=True)
class NamedReporter:
    """Reports the stages of one of several things that go on side by side, by its name."""

    reporter: Reporter
    name: str

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Report a stage; see `Reporter.stage`."""
        return self.reporter.stage(f"{self.name}: {name}", total)


def _count(done: int, total: int | None) -> str:
    """Write steps done: " 5/8", " 5" where the total is unknown, "" where nothing counts."""
    return f" {done}/{total}" if total is not None else f" {done}" if done else ""


def duration(seconds: float) -> str:
    """Write a duration for a person: "3.2 s", "12 min 5 s", "2 h 40 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
