"""Stages that are measured: wall time of each step, peak memory of this process and of its GPUs."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from conrad_bench.progress import Reporter

GIB = 2**30


@dataclass
class Peak:
    """Peak memory in bytes."""

    host: int = 0
    """Resident memory of this process."""
    allocated: int | None = None
    """What torch's tensors take on the fullest GPU; None where this process uses none."""
    reserved: int | None = None
    """What torch holds of the fullest GPU for them: what has to fit."""
    misses: int = 0
    """How often the GPU's memory was too small, whether or not the engine went on with smaller batches."""

    def widen(self, other: Peak) -> None:
        """Take in what was measured later."""
        self.host = max(self.host, other.host)
        self.misses += other.misses
        if other.allocated is not None and other.reserved is not None:
            self.allocated = max(self.allocated or 0, other.allocated)
            self.reserved = max(self.reserved or 0, other.reserved)


@dataclass
class Measured:
    """One stage: what it did, how long it took, what memory it needed."""

    name: str
    seconds: float = 0.0
    marks: list[tuple[int, float]] = field(default_factory=list)
    """(steps done, seconds since the mark before) of each time that the stage counted some."""
    peak: Peak = field(default_factory=Peak)
    within: list[Measured] = field(default_factory=list)
    error: Exception | None = None
    """What ended it, if nothing within it did."""

    @property
    def items(self) -> int:
        """Number of steps done."""
        return sum(items for items, _ in self.marks)

    @property
    def own_seconds(self) -> float:
        """Seconds without those of the stages within."""
        return self.seconds - sum(stage.seconds for stage in self.within)

    def seconds_each(self) -> float | None:
        """Return the seconds of one step, None where none was counted.

        The first batch (or training step) finds caches cold and kernels unbuilt: where others follow, it does not
        count, and of those the median does. Answers that come one by one from many requests under way count together:
        the time between two says nothing.
        """
        if self.name in ("generate", "score") and len(self.marks) > 1 and all(items == 1 for items, _ in self.marks):
            return sum(seconds for _, seconds in self.marks) / self.items
        each = [seconds / items for items, seconds in self.marks if items]
        return statistics.median(each[1:] or each) if each else None


class MeasuringReporter(Reporter):
    """A reporter that keeps what each stage took, stages within stages included."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self._running: list[Measured] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Report and measure a stage; see `Reporter.stage`."""
        with self.measure(name) as measured, super().stage(name, total) as advance:
            last = time.perf_counter()

            def counted(steps: int) -> None:
                nonlocal last
                now = time.perf_counter()
                if steps:
                    measured.marks.append((steps, now - last))
                last = now
                advance(steps)

            yield counted

    @contextmanager
    def measure(self, name: str) -> Iterator[Measured]:
        """Measure a stage that reports nothing."""
        measured = Measured(name)
        self._take_peaks()
        if self._running:
            self._running[-1].within.append(measured)
        self._running.append(measured)
        start = time.perf_counter()
        try:
            yield measured
        except Exception as error:
            if not _holds(measured, error):
                measured.error = error
            raise
        finally:
            measured.seconds = time.perf_counter() - start
            self._take_peaks()
            self._running.pop()

    def _take_peaks(self) -> None:
        """Give every running stage the peaks since the last call, and begin anew."""
        peak = take_peak()
        for measured in self._running:
            measured.peak.widen(peak)


def _holds(measured: Measured, error: Exception) -> bool:
    """Tell whether an error was noted within a stage already, itself or as the cause of another one."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        links.append(link)
        link = link.__cause__
    noted = [stage.error for stage in measured.within if stage.error is not None]
    return any(e is link for e in noted for link in links) or any(_holds(stage, error) for stage in measured.within)


def take_peak() -> Peak:
    """Return the peaks since the last call."""
    peak = Peak(_host_peak())
    torch = sys.modules.get("torch")  # where nobody has imported it, nobody uses a GPU
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        peak.allocated = max(torch.cuda.max_memory_allocated(device) for device in devices)
        peak.reserved = max(torch.cuda.max_memory_reserved(device) for device in devices)
        for device in devices:
            peak.misses += torch.cuda.memory_stats(device).get("num_ooms", 0)
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.memory.reset_accumulated_memory_stats(device)
    return peak


def _host_peak() -> int:
    """Return the peak of this process's resident memory since the last call; elsewhere than on Linux since its start.

    Writing 5 to clear_refs makes the kernel forget the peak (man 5 proc).
    """
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        lines = status.read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        forget.write_text("5")
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak
