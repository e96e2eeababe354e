"""Digests of the files that determine a model's outputs: weights, adapters, images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from conrad_bench.engines.opening import departures
from conrad_bench.errors import ModelError
from conrad_bench.storage import file_sha256, read_json, write_text

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What a LoRA adapter's folder holds."""


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, computed once per process for each (path, size, modification time).

    Raises OSError if the file cannot be read.
    """
    status, place = path.stat(), str(path.absolute())
    state = (status.st_size, status.st_mtime_ns)
    known = _known.get(place)
    if known is None or known[:2] != state:
        known = (*state, file_sha256(path))
        _known[place] = known
    _asked.add(place)
    return known[2]


_known: dict[str, tuple[int, int, str]] = {}
"""Digests by absolute path, with the size and the modification time (ns) that they belong to."""
_asked: set[str] = set()
"""The paths that were asked for since digests are remembered."""


@contextmanager
def remembered(path: Path) -> Iterator[None]:
    """Keep the digests of files in a JSON file between processes; what of it cannot be read is computed again.

    Nothing is written where the file's folder is not there.
    """
    before = read_json(path) or {}
    for place, entry in before.items():
        match entry:
            case [int(size), int(modified), str(digest)]:
                _known.setdefault(place, (size, modified, digest))
    _asked.clear()
    try:
        yield
    finally:
        after = before | {place: list(_known[place]) for place in sorted(_asked)}
        if after != before and path.parent.is_dir():
            write_text(path, json.dumps(after, indent=0))


def all_known(path: Path, files: Iterable[str]) -> bool:
    """Tell whether a JSON file of `remembered` has the digests of all these files, as they are now."""
    known = read_json(path) or {}
    for place in files:
        try:
            status = os.stat(place)
        except OSError:
            return False
        match known.get(place):
            case [size, modified, str()] if (size, modified) == (status.st_size, status.st_mtime_ns):
                continue
        return False
    return True


def image_digest(path: Path) -> str:
    """Return the sha256 of an image file, and behind it how what a model sees departs from the pixels in the file.

    Raises OSError if the file cannot be read.
    """
    status = path.stat()
    departs = _departures(str(path.absolute()), status.st_size, status.st_mtime_ns)
    return " ".join(filter(None, (file_digest(path), departs)))


@cache
def _departures(path: str, _size: int, _modified: int) -> str:
    return departures(path)


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
