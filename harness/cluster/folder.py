"""The folder of a local Ray: its sockets, session and logs, for their owner alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conrad_bench.errors import ConfigError
from conrad_bench.storage import working_folder

_PREFIX = "conrad-ray-"

_LONGEST = 107 - len(f"/{_PREFIX}12345678/ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Bytes of a path that leave room for what follows: the address of a socket has 107."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a folder for Ray, and remove it at the end.

    Ray opens its folder to everybody, so it lies in one that only its owner may enter. Raises ConfigError if every
    place for temporary files has too long a path, or none can be written.
    """
    for parent in dict.fromkeys(map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp"))):
        if len(os.fsencode(parent)) <= _LONGEST and os.access(parent, os.W_OK | os.X_OK):
            with working_folder(parent, _PREFIX) as folder:
                yield folder / "ray"
            return
    raise ConfigError(
        f"--ray local: no folder for temporary files can be written and has a path of at most {_LONGEST} bytes; "
        "set TMPDIR to a short one"
    )
