"""slake: questions about radiology images (SLAKE), in English or Chinese, one claim an answer.

https://www.med-vqa.com/slake/ (Liu et al. 2021; CC BY 4.0). On the hub, with images: mdwiratathya/SLAKE-vqa-english.

    ROOT/
      train.json, validate.json, test.json
      imgs/xmlab1/source.jpg

    {"qid": 0, "img_name": "xmlab1/source.jpg", "question": "What modality is used to take this image?",
     "answer": "MRI", "q_lang": "en", "location": "Abdomen", "modality": "MRI", "answer_type": "OPEN",
     "content_type": "Modality"}

The published splits are disjoint by image within a language, and not across them: what was fitted on the questions of
one language has seen test images of the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from conrad_bench.errors import DataError
from conrad_bench.tasks.base import Loaded
from conrad_bench.tasks.layouts.vqa import Item, VqaTask, attributes, hub_items, hub_splits, loaded, read_rows, text
from conrad_bench.types import Split

EXPECTED = """expected:
  ROOT/
    train.json, validate.json, test.json
    imgs/xmlab1/source.jpg"""

_FILES: tuple[Split, ...] = ("train", "validate", "test")


class Slake(VqaTask):
    """Questions about radiology images, in one language."""

    name: ClassVar[str] = "slake"
    summary: ClassVar[str] = "SLAKE: answer questions about radiology images, in English or Chinese"
    source: ClassVar[str] = "Liu et al. 2021 (SLAKE)"
    root_variable: ClassVar[str] = "SLAKE_ROOT"
    data_licence: ClassVar[str | None] = "CC BY 4.0"

    q_lang: Literal["en", "zh"] = "en"
    """Language of the questions and answers; those in the other one are left out and counted."""

    def load(self, root: Path) -> Loaded:
        """Read the questions in the chosen language; those in the other are counted as "question in another language".

        Otherwise as `VqaTask.load`. A data set of the hub without a column q_lang is taken to be English.
        """
        items = hub_items(hub_splits(self.hub), self.hub) if self.hub else self.items(root)
        # The language is the same for all that are chosen: no subgroup.
        chosen = [item for item in items if item.attributes.pop("q_lang", "en") == self.q_lang]
        if items and not chosen:
            raise DataError(f"{self.hub or root}: no question in the language {self.q_lang!r}")
        found = loaded(chosen)
        if len(chosen) < len(items):
            found.left_out["question in another language"] = len(items) - len(chosen)
        return found

    def items(self, root: Path) -> list[Item]:
        """Return the questions in both languages, in the order of the files."""
        items = []
        for split in _FILES:
            path = root / f"{split}.json"
            for number, row in enumerate(read_rows(path, EXPECTED), 1):
                where = f"{path}, row {number}"
                image, answer = text(row, "img_name", where), text(row, "answer", where)
                found = attributes(row, answer, where)
                if found.get("q_lang") not in ("en", "zh"):
                    raise DataError(f"{where}, key q_lang: should be en or zh")
                items.append(
                    Item(
                        id=text(row, "qid", where),
                        image=str(root / "imgs" / image) if image else "",
                        cluster=image.split("/")[0],
                        split=split,
                        question=text(row, "question", where),
                        answer=answer,
                        attributes=found,
                    )
                )
        return items
