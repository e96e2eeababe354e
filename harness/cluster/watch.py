"""Whether Ray is still there: what else would wait for a dead part of it, for ever or until Ray ends the process."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Mapping

EVERY = 2.0
"""Seconds between two looks."""

PATIENCE = 15.0
"""Seconds that a part may not answer before it counts as dead. Ray ends a process without its head after 60."""


class Watch:
    """Looks in a thread whether the parts of Ray that a run cannot do without accept connections.

    Where one no longer does, the main thread is interrupted, as by Ctrl-C.
    """

    def __init__(self, parts: Mapping[str, tuple[str, int]]) -> None:
        """Describe the parts: where each listens (host, port), by its name for a person."""
        self._parts = parts
        self._dead: str | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch over Ray", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> str | None:
        """Look no more, and return the part that died, or None."""
        self._end.set()
        self._thread.join()
        return self._dead

    def _look(self) -> None:
        answered = dict.fromkeys(self._parts, time.monotonic())
        while not self._end.wait(EVERY):
            for name, place in self._parts.items():
                if _accepts(place):
                    answered[name] = time.monotonic()
                elif time.monotonic() - answered[name] > PATIENCE:
                    self._dead = name
                    # A signal, since it ends what the main thread waits for in C, too.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return


def _accepts(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=EVERY).close()
    except OSError:
        return False
    return True
