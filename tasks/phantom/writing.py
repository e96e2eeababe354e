"""What every layout of the phantom world shares: the texts of a study, and folders that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from conrad_bench.errors import DataError
from conrad_bench.storage import storage_errors, working_folder
from conrad_bench.tasks.phantom import grammar
from conrad_bench.tasks.phantom.world import Study


def wording(study: Study) -> list[str]:
    """Return the sentences of a study's findings, the same in every layout."""
    return grammar.write(study.findings, np.random.default_rng((*study.seed, 3)))


def impression(study: Study) -> str:
    """Return a study's impression: what is abnormal."""
    abnormal = [grammar.SENTENCES[fact][0] for fact in grammar.facts(study.findings) if fact.severity]
    return " ".join(abnormal) or "No acute cardiopulmonary process."


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write in, which becomes `folder` at the end, or is removed where something fails.

    Raises DataError where `folder` is there already and not empty, StorageError where it cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise DataError(f"{folder}: is not an empty folder; choose another one, or remove it to write it anew")
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with working_folder(folder.parent, f".{folder.name}.") as temporary:
            partial = temporary / "tree"
            partial.mkdir()
            yield partial
            os.replace(partial, folder)
