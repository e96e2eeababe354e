"""Writes phantom images with questions in the on-disk layout of VQA-RAD, the authors' original form.

The file has the official name and keys, so that the loader of the real data set reads it unchanged. Every image is of
another patient, and the patients are other ones than in the other layouts. The same seed gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from conrad_bench.tasks.phantom import questions, render, world
from conrad_bench.tasks.phantom.questions import Question
from conrad_bench.tasks.phantom.world import Study
from conrad_bench.tasks.phantom.writing import whole_folder

README = """Synthetic data: phantom chest radiographs, drawn by a program, with questions about them.

No image and no question here comes from a patient. The file and the folder follow the layout of VQA-RAD, so that
software for that data set can be tried without it.

{studies} images, seed {seed}.
"""

_OTHER_PATIENTS = 2_000_000_000
"""Added to the seed: worlds in the other layouts have patients of smaller seeds."""

_CLOSED = 2


def image_name(study: Study) -> str:
    """Return the name of a study's image file, distinct for the first ten million patients."""
    # The factor has no divisor in common with 10^7: numbers stay distinct while they look unordered, as real ones do.
    return f"synpic{(study.patient * 4_567_891 + study.seed[0]) % 10**7:07d}.jpg"


def ask(study: Study) -> list[Question]:
    """Return the questions about a study: two different closed ones, and an open one.

    A closed one has the answer yes in half of the cases, where there is something to affirm.
    """
    rng = np.random.default_rng((*study.seed, 5))
    asked: list[Question] = []
    for _ in range(_CLOSED):
        pool = [question for question in questions.closed_questions(study.findings) if question not in asked]
        want = "yes" if rng.random() < 0.5 else "no"
        pool = [question for question in pool if question.answer == want] or pool
        asked.append(pool[int(rng.integers(len(pool)))])
    pool = questions.open_questions(study.findings)
    return [*asked, pool[int(rng.integers(len(pool)))]]


def write_vqa_rad(
    out: Path,
    studies: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Write the images of `studies` patients with three questions each; `progress` is called with 1 after each image.

    `size` is the (width, height) of the images; None: as they are drawn.

    The test split holds the patients of the world's test split; which of the others validate is the loader's choice.
    The folder appears complete or not at all. Raises DataError where it is there already and not empty, StorageError
    where it cannot be written.
    """
    from PIL import Image

    rows: list[dict[str, Any]] = []
    with whole_folder(out) as root:
        (root / "images").mkdir()
        for study in first_studies(studies, seed):
            name = image_name(study)
            pixels = render.film(render.frontal(study), size, study)
            Image.fromarray(pixels).save(root / "images" / name, format="JPEG", quality=95)
            for question in ask(study):
                rows.append(_row(study, name, question, len(rows)))
            if progress is not None:
                progress(1)
        (root / "VQA_RAD_Dataset_Public.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (root / "README.txt").write_text(README.format(studies=studies, seed=seed), encoding="utf-8")


def first_studies(number: int, seed: int) -> Iterator[Study]:
    """Yield the first study of each of `number` patients: those that are asked about."""
    of_everyone = world.studies(sys.maxsize, seed + _OTHER_PATIENTS)
    return islice((study for study in of_everyone if study.index == 0), number)


def _row(study: Study, image: str, question: Question, number: int) -> dict[str, Any]:
    """Return one row with the keys of the real file, in their order."""
    test = world.split_of(study.patient) == "test"
    closed = question.answer in ("yes", "no")
    digest = hashlib.sha256(f"{study.seed} {question.text}".encode()).digest()
    return {
        "qid": number,
        "phrase_type": "test_freeform" if test else "freeform",
        "qid_linked_id": str(uuid.UUID(bytes=digest[:16], version=4)),
        "image_case_url": "NULL",
        "image_name": image,
        "image_organ": "CHEST",
        "evaluation": "not evaluated",
        "question": question.text,
        "question_rephrase": "NULL",
        "question_relation": "NULL",
        "question_frame": "NULL",
        "question_type": _question_type(question, closed),
        "answer": question.answer,
        "answer_type": "CLOSED" if closed else "OPEN",
    }


def _question_type(question: Question, closed: bool) -> str:
    if closed:
        return "PRES"
    return {"heart": "SIZE", "device": "OTHER"}.get(question.about, "POS")
