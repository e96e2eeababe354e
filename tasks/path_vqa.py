"""path_vqa: questions about pathology images (PathVQA), one claim an answer.

https://github.com/UCSD-AI4H/PathVQA (He et al. 2020). On the hub: flaviagiammarino/path-vqa.

    ROOT/                               (or ROOT/pvqa/)
      images/train/train_0000.jpg       train, val, test
      qas/train/train_qa.pkl            a pickled list: [{"image": "train_0422", "question": ..., "answer": ...}, ...]

The pickles are read without running what they may contain: only texts, numbers, lists and dictionaries are accepted.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from conrad_bench.errors import DataError
from conrad_bench.tasks.layouts.vqa import Item, VqaTask, attributes, check_rows, text
from conrad_bench.types import Split

EXPECTED = """expected:
  ROOT/
    images/train/train_0000.jpg   and the same for val and test
    qas/train/train_qa.pkl"""

_FILES: dict[str, Split] = {"train": "train", "val": "validate", "test": "test"}


class PathVqa(VqaTask):
    """Questions about pathology images."""

    name: ClassVar[str] = "path_vqa"
    summary: ClassVar[str] = "PathVQA: answer questions about pathology images"
    source: ClassVar[str] = "He et al. 2020 (PathVQA)"
    root_variable: ClassVar[str] = "PATH_VQA_ROOT"
    data_licence: ClassVar[str | None] = "MIT"

    def items(self, root: Path) -> list[Item]:
        """Return the questions, in the order of the files; an id is the split's name and the row's number."""
        home = root / "pvqa" if (root / "pvqa").is_dir() else root
        items = []
        for name, split in _FILES.items():
            path = home / "qas" / name / f"{name}_qa.pkl"
            for number, row in enumerate(_unpickle(path), 1):
                where = f"{path}, row {number}"
                image, answer = text(row, "image", where), text(row, "answer", where)
                items.append(
                    Item(
                        id=f"{name}-{number:05d}",
                        image=str(home / "images" / name / f"{image}.jpg") if image else "",
                        cluster=image,
                        split=split,
                        question=text(row, "question", where),
                        answer=answer,
                        attributes=attributes(row, answer, where),
                    )
                )
        return items


class _PlainUnpickler(pickle.Unpickler):
    """Builds texts, numbers, lists and dictionaries; refuses whatever needs an import, and so could run code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to an object outside")


def _unpickle(path: Path) -> list[dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            rows = _PlainUnpickler(file).load()
    except FileNotFoundError as error:
        raise DataError(f"{path} not found\n{EXPECTED}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(
            f"{path}: not a pickled list of plain questions ({type(error).__name__}); download the file again"
        ) from None
    return check_rows(rows, path)
