"""Files that are whole or absent: every write goes to a temporary name, is flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def cache_folder() -> Iterator[Path]:
    """Yield $CONRAD_BENCH_CACHE or ~/.cache/conrad-bench. Raises StorageError, which names the variable, if it or what
    is written there cannot be written."""
    folder = Path(os.environ.get("CONRAD_BENCH_CACHE") or Path.home() / ".cache" / "conrad-bench")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except (OSError, StorageError) as error:
        why = error if isinstance(error, OSError) else error.__cause__
        reason = why.strerror if isinstance(why, OSError) else None
        raise StorageError(
            f"cannot write the cache {folder}: {reason or 'the operation failed'}; set CONRAD_BENCH_CACHE to a folder "
            "that can be written and has room"
        ) from error


@contextmanager
def working_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder in `parent` for its owner alone, and remove it at the end, with those that killed processes left.

    A process holds a lock on its folder. Raises OSError if none can be made.
    """
    for left in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            _remove_unlocked(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_SH)
            if folder.is_dir():  # else another process took it for one that was left, before the lock
                break
            os.close(lock)
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_unlocked(folder: Path) -> None:
    """Remove a folder of ours. Raises OSError if it is locked, or no folder."""
    lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        if os.fstat(lock).st_uid == os.getuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    finally:
        os.close(lock)


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
