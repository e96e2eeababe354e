"""Files that are whole or absent: every write goes to a temporary name, is flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conrad_bench.errors import StorageError

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again to continue",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again to continue",
    errno.EFBIG: "a file may not grow so large here (`ulimit -f`); raise the limit and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder with --out",
    errno.EACCES: "permission denied; choose another folder with --out or change its permissions",
    errno.EPERM: "operation not permitted; choose another folder with --out or change its permissions",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, error.strerror or "the operation failed")
        raise StorageError(f"cannot write {path}: {remedy}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: after a crash it is as before or complete, never torn. Raises StorageError."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


MOST_JSON = 64 * 2**20
"""Bytes of a JSON file that is read: a leaderboard of a hundred rows has about one MiB."""


def read_regular(path: Path, most: int) -> bytes:
    """Return the bytes of a file that others may have made.

    Raises OSError, with what is wrong as its `strerror`, also for what is no regular file (reading a pipe would wait
    for ever, a device would never end) and for more than `most` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {_size(most)}", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def load_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises OSError as `read_regular` does, and ValueError where it is no JSON."""
    try:
        return json.loads(read_regular(path, MOST_JSON))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object that a JSON file holds; None where the file is missing, torn, or holds something else."""
    try:
        content = load_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _size(number: int) -> str:
    return f"{number // 2**20:,} MiB" if number >= 2**20 else f"{number // 2**10:,} KiB"


def make_private(folder: Path) -> None:
    """Make a folder that its owner alone may enter: it will hold patients' text. Raises StorageError."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077 and os.access(folder, os.W_OK):
            folder.chmod(0o700)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically. Raises StorageError."""
    write_bytes(path, text.encode())


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
