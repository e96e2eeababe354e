"""vqa_rad: questions about radiology images (VQA-RAD), one claim an answer.

https://osf.io/89kps/ (Lau et al. 2018; CC0 1.0). On the hub: flaviagiammarino/vqa-rad.

    form "original"                          form "mevf" (Nguyen et al. 2019: the questions and their rephrasings)
      ROOT/                                    ROOT/
        VQA_RAD_Dataset_Public.json              mevf/trainset.json   (or both in ROOT)
        images/synpic54610.jpg                   mevf/testset.json
                                                 images/synpic54610.jpg

    {"qid": 1, "phrase_type": "freeform", "image_name": "synpic29265.jpg", "image_organ": "CHEST",
     "question": "Are the lungs normal appearing?", "question_type": "ABN", "answer": "No", "answer_type": "CLOSED"}

The test split is the published one (451 questions about 203 images). The published training questions are mostly about
the same images; those are left out, and 16 of the 111 training images that remain validate. Other data sets draw on
the same teaching files (VQA-Med 2019 does): a model that was fitted on one of them may have seen these images.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from conrad_bench.errors import DataError
from conrad_bench.tasks.layouts.vqa import Item, VqaTask, attributes, read_rows, text
from conrad_bench.types import Split

EXPECTED = """expected:
  ROOT/
    VQA_RAD_Dataset_Public.json   (form "original"), or mevf/trainset.json and mevf/testset.json (form "mevf")
    images/synpic54610.jpg"""

_TEST = {"freeform": False, "para": False, "frame": False, "test_freeform": True, "test_para": True}
"""Whether a phrase_type marks a test question."""
_TYPOS = {"PRSE": "PRES", "ATRIB": "ATTRIB"}


class VqaRad(VqaTask):
    """Questions about radiology images."""

    name: ClassVar[str] = "vqa_rad"
    summary: ClassVar[str] = "VQA-RAD: answer questions about radiology images"
    source: ClassVar[str] = "Lau et al. 2018 (VQA-RAD)"
    root_variable: ClassVar[str] = "VQA_RAD_ROOT"
    data_licence: ClassVar[str | None] = "CC0 1.0"
    phantom_layout: ClassVar[str | None] = "vqa_rad"

    form: Literal["original", "mevf"] = "original"
    """"original": the one file of the authors. "mevf": the common train and test files, with more training questions
    about the same images."""

    def items(self, root: Path) -> list[Item]:
        """Return the questions of the chosen form, in the order of its files."""
        images = _first(root / "images", root / "VQA_RAD Image Folder")
        if self.form == "original":
            return _items(_first(root / "VQA_RAD_Dataset_Public.json", root / "VQA_RAD Dataset Public.json"), images)
        folder = _first(root / "mevf", root)
        return _items(folder / "trainset.json", images, "train") + _items(folder / "testset.json", images, "test")


def _first(*places: Path) -> Path:
    """Return the first path that exists, else the first."""
    return next((place for place in places if place.exists()), places[0])


def _items(path: Path, images: Path, split: Split | None = None) -> list[Item]:
    """Read one file; `split` is None where each row's phrase_type tells its split."""
    items = []
    for number, row in enumerate(read_rows(path, EXPECTED), 1):
        where = f"{path}, row {number}"
        phrase, image, answer = (text(row, key, where) for key in ("phrase_type", "image_name", "answer"))
        if phrase not in _TEST:
            raise DataError(f"{where}, key phrase_type: should be one of {', '.join(_TEST)}")
        items.append(
            Item(
                id=text(row, "qid", where),
                image=str(images / image) if image else "",
                cluster=image,
                split=split or ("test" if _TEST[phrase] else "train"),
                question=text(row, "question", where),
                answer=answer,
                attributes={**attributes(row, answer, where), "question_type": _types(row, where)},
            )
        )
    return items


def _types(row: dict[str, object], where: str) -> str:
    """Return a question's types, several in the order of the alphabet: "ATTRIB, PRES"."""
    names = (name.strip().upper() for name in text(row, "question_type", where).split(","))
    return ", ".join(sorted(_TYPOS.get(name, name) for name in names))
