"""Files that are whole or absent: every write goes to a temporary name, is flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conrad_bench.errors import StorageError

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again to continue",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again to continue",
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


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object that a JSON file holds; None where the file is missing, torn, or holds something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


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
