"""New studies: pictures without a reference, from files, a folder of folders or a csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conrad_bench.engines.dicom import is_dicom
from conrad_bench.errors import ConfigError, DataError
from conrad_bench.tasks.csv_task import read_images, read_rows
from conrad_bench.types import Example

KINDS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".dcm", ".dicom"})
"""Endings of the files of a folder that are taken for pictures; DICOM files may have any other, too."""


def read_studies(paths: Sequence[Path], indication: str | None) -> list[Example]:
    """Return the studies that paths name, as test examples of a task whose references nobody knows.

    Files are the pictures of one study, in that order. A folder with pictures is one study, a folder of such folders a
    study each; a csv has one a row. Raises DataError naming what is not there or holds no picture, and ConfigError for
    an `indication` beside several studies.
    """
    only = paths[0] if len(paths) == 1 else None
    if only is not None and only.suffix.lower() == ".csv":
        found = _of_csv(only)
    elif only is not None and only.is_dir():
        found = _of_folder(only)
    else:
        for path in paths:
            if not path.is_file():
                folder = "is a folder: name one folder alone, or the pictures of one study"
                raise DataError(f"{path} {folder if path.is_dir() else 'does not exist'}")
        found = [_study(paths[0].stem, paths)]
    if indication is None:
        return found
    if len(found) > 1:
        raise ConfigError(f"--indication is of one study, not of {len(found):,}; a csv has a column `indication`")
    return [Example(found[0].id, found[0].cluster, "test", found[0].images, indication, "")]


def _study(name: str, images: Sequence[Path], indication: str = "", patient: str = "") -> Example:
    return Example(name, patient or name, "test", tuple(str(path.absolute()) for path in images), indication, "")


def _of_folder(folder: Path) -> list[Example]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    here = [entry for entry in entries if entry.is_file() and _is_picture(entry)]
    below = {entry: _below(entry) for entry in entries if entry.is_dir()}
    studies = {entry: pictures for entry, pictures in below.items() if pictures}
    if here and studies:
        raise DataError(
            f"{folder} holds pictures and folders of them; a folder is one study, or holds a folder for each study"
        )
    if not here and not studies:
        raise DataError(f"{folder} holds no pictures ({', '.join(sorted(KINDS))}, or DICOM of any name)")
    return [_study(folder.resolve().name, here)] if here else [_study(e.name, found) for e, found in studies.items()]


def _below(folder: Path) -> list[Path]:
    """Return the pictures of a study: those in its folder and below, by name."""
    visible = (path for path in sorted(folder.rglob("*")) if not path.name.startswith("."))
    return [path for path in visible if path.is_file() and _is_picture(path)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in KINDS or (path.name.upper() != "DICOMDIR" and is_dicom(str(path)))


def _of_csv(path: Path) -> list[Example]:
    header, rows = read_rows(path)
    for column in ("id", "images"):
        if column not in header:
            raise DataError(f"{path}: has no column {column!r}; columns: {', '.join(header)}")
    found = []
    for line, cells in rows:
        where = f"{path}, line {line}"
        if len(cells) != len(header):
            raise DataError(f"{where}: {len(cells)} cells, the header has {len(header)} names")
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        images = read_images(where, "images", path.parent, row["images"])
        for column, there in (("id", row["id"]), ("images", images)):
            if not there:
                raise DataError(f"{where}: column {column!r} is empty")
        found.append(_study(row["id"], list(map(Path, images)), row.get("indication", ""), row.get("patient", "")))
    if not found:
        raise DataError(f"{path}: has no rows")
    return found
