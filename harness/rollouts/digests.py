"""Digests of the files that determine a model's outputs: weights, adapters, images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from conrad_bench.errors import ModelError
from conrad_bench.storage import file_sha256

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What a LoRA adapter's folder holds."""


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, computed once per process for each (path, size, modification time).

    Raises OSError if the file cannot be read.
    """
    status = path.stat()
    return _digest(str(path.absolute()), status.st_size, status.st_mtime_ns)


@cache
def _digest(path: str, _size: int, _modified: int) -> str:
    return file_sha256(Path(path))


def files_digest(paths: Iterable[Path]) -> str:
    """Return one sha256 for the names and contents of several files, whatever their order and their folder."""
    listing = sorted((path.name, file_digest(path)) for path in paths)
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def adapter_digest(folder: Path) -> str:
    """Return the sha256 of a LoRA adapter. Raises ModelError if the folder does not hold one as safetensors."""
    paths = [folder / name for name in ADAPTER_FILES]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise ModelError(f"{folder} is not a LoRA adapter: {' and '.join(absent)} missing; fit the method again")
    return files_digest(paths)
