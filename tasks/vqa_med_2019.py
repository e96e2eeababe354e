"""vqa_med_2019: questions about radiology images (ImageCLEF VQA-Med 2019), one claim an answer.

https://github.com/abachaa/VQA-Med-2019 and https://zenodo.org/records/10499039 (Ben Abacha et al. 2019)

    ROOT/
      ImageClef-2019-VQA-Med-Training/QAPairsByCategory/C1_Modality_train.txt   and C2_Plane, C3_Organ, C4_Abnormality
      ImageClef-2019-VQA-Med-Training/Train_images/synpic41148.jpg
      ImageClef-2019-VQA-Med-Validation/QAPairsByCategory/C1_Modality_val.txt   likewise
      ImageClef-2019-VQA-Med-Validation/Val_images/synpic100003.jpg
      VQAMed2019Test/VQAMed2019_Test_Questions_w_Ref_Answers.txt
      VQAMed2019Test/VQAMed2019_Test_Images/synpic54082.jpg

    synpic41148|what kind of image is this?|cta - ct angiography                    training and validation
    synpic54082|modality|what modality is shown?|cta - ct angiography              test

In the test file "#" separates answers each of which is right, and "()" holds a part that may be left out: both forms
are among the alternatives of the reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from conrad_bench.errors import DataError
from conrad_bench.tasks.layouts.vqa import ALTERNATIVES, Item, VqaTask, attributes
from conrad_bench.types import Split

EXPECTED = """expected:
  ROOT/
    ImageClef-2019-VQA-Med-Training/QAPairsByCategory/C1_Modality_train.txt, Train_images/
    ImageClef-2019-VQA-Med-Validation/QAPairsByCategory/C1_Modality_val.txt, Val_images/
    VQAMed2019Test/VQAMed2019_Test_Questions_w_Ref_Answers.txt, VQAMed2019_Test_Images/"""

_CATEGORIES = ("Modality", "Plane", "Organ", "Abnormality")
_OPTIONAL = re.compile(r"\(([^()]*)\)")


class VqaMed2019(VqaTask):
    """Questions about radiology images, in four categories."""

    name: ClassVar[str] = "vqa_med_2019"
    summary: ClassVar[str] = "VQA-Med 2019: answer questions about modality, plane, organ and abnormality"
    source: ClassVar[str] = "Ben Abacha et al. 2019 (VQA-Med, ImageCLEF 2019)"
    root_variable: ClassVar[str] = "VQA_MED_2019_ROOT"

    def items(self, root: Path) -> list[Item]:
        """Return the questions, in the order of the files; an id is the file's split and category and the line."""
        training, validation = (root / f"ImageClef-2019-VQA-Med-{part}" for part in ("Training", "Validation"))
        test = root / "VQAMed2019Test"
        items = []
        for number, category in enumerate(_CATEGORIES, 1):
            file = f"QAPairsByCategory/C{number}_{category}"
            items += _items(training / f"{file}_train.txt", training / "Train_images", "train", category.lower())
            items += _items(validation / f"{file}_val.txt", validation / "Val_images", "validate", category.lower())
        # Some copies of the test images have one folder more.
        images = test / "VQAMed2019_Test_Images"
        nested = images / images.name
        return items + _items(
            test / "VQAMed2019_Test_Questions_w_Ref_Answers.txt", nested if nested.is_dir() else images, "test"
        )


def alternatives(reference: str) -> str:
    """Return the answers that a reference of the test file admits, separated by "#": each with and without its "()"."""
    answers: dict[str, None] = {}
    for answer in reference.split(ALTERNATIVES):
        for kept in (r"\1", " "):
            variant = " ".join(_OPTIONAL.sub(kept, answer).split())
            if variant:
                answers[variant] = None
    return ALTERNATIVES.join(answers)


def _items(path: Path, images: Path, split: Split, category: str = "") -> list[Item]:
    """Read one file; without a `category` every line names its own."""
    items = []
    for number, fields in _lines(path, 3 if category else 4):
        image, question, answer = fields[0], fields[-2], fields[-1]
        found = attributes({"category": category or fields[1]}, answer, f"{path}, line {number}")
        items.append(
            Item(
                id=f"{split}-{category + '-' if category else ''}{number:05d}",
                image=str(images / f"{image}.jpg") if image else "",
                cluster=image,
                split=split,
                question=question,
                answer=answer if category else alternatives(answer),
                attributes=found,
            )
        )
    return items


def _lines(path: Path, fields: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the numbers and the fields of the lines that are not empty. Raises DataError naming file and line."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} not found\n{EXPECTED}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        # The original error holds the text; it is not chained.
        raise DataError(f"{path}, byte {error.start + 1}: not UTF-8; download the file again") from None
    for number, line in enumerate(content.split("\n"), 1):
        found = [" ".join(field.split()) for field in line.split("|")]
        if found == [""]:
            continue
        if len(found) != fields:
            raise DataError(f'{path}, line {number}: {len(found)} fields separated by "|" where {fields} should be')
        yield number, found
