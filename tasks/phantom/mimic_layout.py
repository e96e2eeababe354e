"""Writes a phantom world in the on-disk layout of MIMIC-CXR-JPG, with the report texts of MIMIC-CXR beside the images.

Every file has the official name, header and look, so that the loader of the real data set reads it unchanged. The same
seed gives the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conrad_bench.errors import DataError
from conrad_bench.tasks.layouts.sections import is_hand_set
from conrad_bench.tasks.phantom import render, world
from conrad_bench.tasks.phantom.world import Scanner, Study
from conrad_bench.tasks.phantom.writing import impression, whole_folder, wording

METADATA_COLUMNS = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)

README = """Synthetic data: phantom chest radiographs, drawn by a program.

No image and no report here comes from a patient, and no identifier belongs to one. The folders and files follow the
layout of MIMIC-CXR-JPG, so that software for that data set can be tried without it.

{studies} studies, seed {seed}.
attributes.csv.gz: image quality (0 poor to 1 good), sex and age of each study.
"""

PATIENTS = 100_000
"""Identifiers of patients and studies are distinct in a world of up to so many patients."""
_STUDIES_A_PATIENT = 100

_SCANNER = Scanner()
_BLANK = " "
_WITHOUT_FINDINGS = 0.02
_WITH_ADDENDUM = 0.02
_CODE_MEANING = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral", "LL": "left lateral"}


def subject_id(study: Study) -> str:
    """Return the patient's identifier: 8 digits that start with 1."""
    return _identifier(1, study.seed[0], study.patient)


def study_id(study: Study) -> str:
    """Return the study's identifier: 8 digits that start with 5."""
    name = _identifier(5, study.seed[0], study.patient * _STUDIES_A_PATIENT + study.index)
    # The loader treats some real studies by hand; a phantom study must not be taken for one of them.
    while is_hand_set(f"s{name}"):
        name = _identifier(5, study.seed[0], int(name[1:]))
    return name


def _identifier(first: int, seed: int, number: int) -> str:
    # The factor has no divisor in common with 10^7: numbers stay distinct while they look unordered, as real ones do.
    return f"{first}{(number * 4_567_891 + seed * 7_654_321 + first) % 10**7:07d}"


def _dicom_id(study: Study, image: int) -> str:
    digest = hashlib.sha1(f"{study.seed} {image}".encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def report(study: Study) -> str:
    """Return a study's report as a text file: the sections, header spellings and line lengths of MIMIC-CXR.

    About 2 % of the reports have no findings section, as real ones, and about 2 % an addendum above.
    """
    rng = np.random.default_rng((*study.seed, 4))

    def header(*spellings: str) -> str:
        # Real reports mostly keep the template's header; the others are rare.
        return spellings[0] if rng.random() < 0.9 else str(rng.choice(spellings))

    procedure = "CHEST (PA AND LAT)" if study.lateral else f"CHEST ({study.projection})"
    views = f"Chest {study.projection}" + (" and lateral" if study.lateral else "")
    lines = []
    if rng.random() < _WITH_ADDENDUM:
        lines += [f"{'FINAL ADDENDUM':>47}", *_section("ADDENDUM", "The report was read again."), f" {'_' * 78}"]
    lines.append(f"{'FINAL REPORT':>45}")
    lines += _section(header("EXAMINATION", "EXAM", "TYPE OF EXAMINATION"), procedure)
    lines += _section(
        header("INDICATION", "REASON FOR EXAMINATION", "REASON FOR EXAM", "CLINICAL INDICATION"), study.indication
    )
    lines += _section(header("TECHNIQUE"), views)
    lines += _section(header("COMPARISON", "COMPARISONS"), "___" if study.index else "None.")
    without_findings = rng.random() < _WITHOUT_FINDINGS
    if not without_findings:
        name = header("FINDINGS", "FINDING", "CHEST, TWO VIEWS" if study.lateral else "PORTABLE AP CHEST")
        lines += _section(name, " ".join(wording(study)), below=rng.random() < 0.5)
    if without_findings or rng.random() < 0.7:
        lines += _section(header("IMPRESSION", "CONCLUSION"), impression(study), below=rng.random() < 0.5)
    return "\n".join(lines[:-1]) + "\n"


def _section(name: str, text: str, below: bool = False) -> list[str]:
    """Return the lines of a section: its text beside or below its header, wrapped, one blank before every line."""
    beside = "" if below else f" {name}:  "
    wrapped = textwrap.wrap(text, 79, initial_indent=beside or _BLANK, subsequent_indent=_BLANK)
    return [*([f" {name}: ", _BLANK] if below else []), *wrapped, _BLANK]


def write_mimic(
    folder: Path,
    number: int,
    seed: int,
    scanner: Scanner = _SCANNER,
    progress: Callable[[int], object] | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Write `number` studies of the world with this seed; `progress` is called with 1 after each study.

    `size` is the (width, height) of the images; None: as they are drawn.

    The folder appears complete or not at all. Raises DataError where it is there already and not empty, StorageError
    where it cannot be written.
    """
    with whole_folder(folder) as partial:
        _write_tree(partial, number, seed, scanner, progress, size)


def _write_tree(
    root: Path,
    number: int,
    seed: int,
    scanner: Scanner,
    progress: Callable[[int], object] | None,
    size: tuple[int, int] | None,
) -> None:
    images: list[tuple[str, ...]] = []
    splits: list[tuple[str, ...]] = []
    records: list[tuple[str, ...]] = []
    studies: list[tuple[str, ...]] = []
    attributes: list[tuple[str, ...]] = []
    for study in world.studies(number, seed, scanner):
        if study.patient >= PATIENTS or study.index >= _STUDIES_A_PATIENT:
            raise DataError(f"a phantom world in this layout has at most {PATIENTS} patients; ask for fewer studies")
        subject, name = subject_id(study), study_id(study)
        patient = f"files/p{subject[:2]}/p{subject}"
        place = f"{patient}/s{name}"
        (root / place).mkdir(parents=True)
        (root / f"{place}.txt").write_bytes(report(study).encode())
        studies.append((subject, name, f"{place}.txt"))
        attributes.append((name, f"{study.quality:.4f}", study.sex, str(study.age)))
        drawn = [(study.projection, render.frontal(study, scanner))]
        if study.lateral:
            drawn.append(("LL" if study.index % 4 == 3 else "LATERAL", render.lateral(study, scanner)))
        for i, (view, pixels) in enumerate(drawn):
            dicom = _dicom_id(study, i)
            _write_jpeg(root / place / f"{dicom}.jpg", render.film(pixels, size, study))
            splits.append((dicom, name, subject, world.split_of(study.patient)))
            records.append((subject, name, dicom, f"{place}/{dicom}.jpg"))
            images.append((dicom, subject, name, *_description(study, view, size or (render.SIZE, render.SIZE))))
        if progress is not None:
            progress(1)
    prefix = "mimic-cxr-2.0.0"
    _write_csv(root / f"{prefix}-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    _write_csv(root / f"{prefix}-metadata.csv.gz", METADATA_COLUMNS, images)
    _write_csv(root / "cxr-record-list.csv.gz", ("subject_id", "study_id", "dicom_id", "path"), records)
    _write_csv(root / "cxr-study-list.csv.gz", ("subject_id", "study_id", "path"), studies)
    _write_csv(root / "attributes.csv.gz", ("study_id", "image_quality", "sex", "age"), attributes)
    (root / "README.txt").write_text(README.format(studies=number, seed=seed), encoding="utf-8")


def _description(study: Study, view: str, size: tuple[int, int]) -> tuple[str, ...]:
    """Return the metadata of one image, from PerformedProcedureStepDescription on. Dates lie in the far future."""
    procedure = (
        "CHEST (PA AND LAT)" if study.lateral else "CHEST (PORTABLE AP)" if view == "AP" else "CHEST (SINGLE VIEW)"
    )
    date = f"{2110 + study.patient % 90}{1 + study.index % 12:02d}{1 + study.patient % 28:02d}"
    time = f"{study.patient % 24:02d}{study.index % 60:02d}00.000"
    width, height = map(str, size)
    return (procedure, view, height, width, date, time, procedure, _CODE_MEANING[view], "Erect")


def _write_jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path, format="JPEG", quality=95)


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Write a gzipped csv file without name and time in its header, so that its bytes repeat."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(sorted(rows))
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
