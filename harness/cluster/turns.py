"""Turns: several jobs side by side on the cluster, one at a time in this process.

What jobs share here, the store above all, is used by one of them at a time. A job that hands work to the cluster steps
aside until it is done, and the next one goes on. So jobs begin in their order, and what each asks of the model does not
depend on how long the others take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial


class Turns:
    """Lets jobs take turns. Outside of `run`, and in a thread that is no job's, nothing here does anything."""

    def __init__(self) -> None:
        self._turn = threading.Condition(threading.Lock())
        self._here = threading.local()

    def run(self, jobs: Sequence[Callable[[], object]]) -> list[Exception | None]:
        """Run jobs and return the error that each ended with. Each begins when the one before it first steps aside.

        An interrupted caller does not wait for the others: they end with the process.
        """
        threads = [_Thread(partial(self._work, job)) for job in jobs]
        for thread in threads:
            thread.start()
            thread.stepped_aside.wait()
        for thread in threads:
            thread.join()
        return [thread.error for thread in threads]

    def _work(self, job: Callable[[], object], thread: _Thread) -> None:
        with self._turn:
            self._here.thread = thread
            try:
                job()
            finally:
                self._turn.notify_all()

    def taken(self) -> bool:
        """Return whether it is the turn of a job in this thread."""
        return getattr(self._here, "thread", None) is not None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let other jobs work while the cluster works for this one."""
        if not self.taken():
            yield
            return
        thread: _Thread = self._here.thread
        self._here.thread = None
        thread.stepped_aside.set()
        self._turn.notify_all()
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()
            self._here.thread = thread

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Return once `ready()` is true; other jobs work meanwhile. It is asked again whenever one has had its turn."""
        self._turn.wait_for(ready)


class _Thread(threading.Thread):
    """A thread that keeps the error which it ended with."""

    def __init__(self, work: Callable[[_Thread], None]) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self.stepped_aside = threading.Event()
        self._work = work

    def run(self) -> None:
        try:
            self._work(self)
        except Exception as error:
            self.error = error
        finally:
            self.stepped_aside.set()
