"""The folder of a local Ray: its sockets, session and logs, for their owner alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conrad_bench.errors import ConfigError

_PREFIX = "conrad-ray-"

_LONGEST = 107 - len("/conrad-ray-12345678/ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Bytes of a path that leave room for what follows: the address of a socket has 107."""

_NEW = 60
"""Seconds in which a folder may be one that its run has not locked yet."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder for Ray and remove it at the end, with those that killed runs have left.

    Ray opens its folder to everybody, so it lies in one that only its owner may enter. Raises ConfigError if every
    place for temporary files has too long a path, or none can be written.
    """
    for parent in dict.fromkeys(map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp"))):
        if len(os.fsencode(parent)) > _LONGEST or not os.access(parent, os.W_OK | os.X_OK):
            continue
        _sweep(parent)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield folder / "ray"
        finally:
            os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)
        return
    raise ConfigError(
        f"--ray local: no folder for temporary files can be written and has a path of at most {_LONGEST} bytes; "
        "set TMPDIR to a short one"
    )


def _sweep(parent: Path) -> None:
    """Remove the folders of runs that were killed: ours, and locked by nobody."""
    for left in parent.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            found = os.fstat(lock)
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > _NEW:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)
