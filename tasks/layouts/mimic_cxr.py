"""Loader of MIMIC-CXR-JPG with the report texts of MIMIC-CXR, in their official on-disk layout.

Source: https://physionet.org/content/mimic-cxr-jpg/ and https://physionet.org/content/mimic-cxr/ (Johnson et al. 2019).

Images and reports may lie in one folder or in two folders below one root; `EXPECTED` draws both. Csv files are read by
column name, gzipped or plain, of any version.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from conrad_bench.errors import DataError
from conrad_bench.tasks.base import Loaded
from conrad_bench.tasks.layouts.sections import findings, indication, is_hand_set
from conrad_bench.types import Example, Split

Views = Literal["all", "frontal", "frontal_lateral"]
"""all: every image of the study. frontal: the best frontal image. frontal_lateral: that and the best lateral one."""

SPLITS: tuple[Split, ...] = get_args(Split)

EXPECTED = """expected, in one folder:
  ROOT/
    mimic-cxr-2.0.0-split.csv.gz
    mimic-cxr-2.0.0-metadata.csv.gz
    files/p10/p10000032/s50414267.txt
    files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg
or in two:
  ROOT/
    mimic-cxr-jpg/2.1.0/   the two csv files and files/p10/p10000032/s50414267/*.jpg
    mimic-cxr/2.1.0/       mimic-cxr-reports/files/p10/p10000032/s50414267.txt (mimic-cxr-reports.zip, unpacked)"""

_IDS = {
    "subject_id": (re.compile(r"1\d{7}", re.ASCII), "8 digits that start with 1"),
    "study_id": (re.compile(r"5\d{7}", re.ASCII), "8 digits that start with 5"),
    "dicom_id": (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}"), 'five groups of 8 hex digits joined by "-"'),
}
_PROBES = 200
"""Number of studies looked for in a folder before it is held to have no images, or no reports."""


class _Image(NamedTuple):
    rank: tuple[int, int]
    """Order among the images of a study: kind of view, then preference within the kind."""
    dicom: str
    view: str


class _Study(NamedTuple):
    subject: str
    split: Split
    images: list[_Image]


def view_rank(view_position: str) -> tuple[int, int]:
    """Return (kind, preference) of a ViewPosition; smaller comes first.

    Kind 0 is frontal: PA, then AP, then other projections that begin so (AP AXIAL, and the decubitus views AP LLD, PA
    RLD, ...). Kind 1 is lateral: LATERAL and LL, then others (XTABLE LATERAL, RL). Kind 2 is everything else, obliques
    and swimmer's views, and images whose field is empty: such an image is one of "all" views, and never chosen as the
    frontal or the lateral one.
    """
    name = view_position.strip().upper()
    words = name.split() or [""]
    if words[0] in ("PA", "AP"):
        return 0, {"PA": 0, "AP": 1}.get(name, 2)
    if "LATERAL" in words or words[0] in ("LL", "RL"):
        return 1, 0 if name in ("LATERAL", "LL") else 1
    return 2, 0


def load_mimic_cxr(
    root: Path,
    views: Views = "all",
    splits: Collection[Split] = SPLITS,
    reports_root: Path | None = None,
    hand_set: bool = False,
) -> Loaded:
    """Read the studies of `splits` as examples, in the order of their ids.

    An example's id is "s" + study_id, its cluster "p" + subject_id, its context the indication, its reference the
    findings. Images come in the order frontal, lateral, others; within a kind by `view_rank`, then by dicom id.
    Attributes: view (ViewPosition of the first image, "unknown" where empty), and the columns of the optional file
    attributes.csv[.gz] beside the csv files, keyed by study_id; a column that holds numbers alone becomes floats.

    Counted in `left_out`, one reason a study: "no report file", "empty report", "no findings section", "findings set by
    hand" (unless `hand_set`: the 46 studies that the official sectioned csv lacks), "no image of the chosen views",
    "image file not found" (of one of its images). Images are not opened: the engine's `open_image` says
    which file is torn. Report texts are read for the wanted splits only.

    Raises DataError naming the file that is missing (with a drawing of the expected tree) or the file, line and column
    that is wrong: bad ids, an image without metadata, a study or a patient in two splits.
    """
    folders = _folders(root)
    split_csv = _official_csv(root, folders, "split")
    metadata_csv = _official_csv(root, folders, "metadata")
    studies = _studies(split_csv, metadata_csv, splits)
    if not studies:
        return Loaded(examples=[])
    attributes = _attributes(folders[0], split_csv.parent, studies)
    images_home = _home(folders, studies, _image_paths)
    if images_home is None:
        raise DataError(f"none of the images of {split_csv} is below {root}\n{EXPECTED}")
    report_folders = folders if reports_root is None else _folders(reports_root)
    reports_home = _home(report_folders, studies, _report_paths)
    if reports_home is None:
        packed = [path for folder in report_folders if (path := folder / "mimic-cxr-reports.zip").is_file()]
        unpack = f"; unpack {packed[0]} first" if packed else ""
        raise DataError(f"none of the reports of {split_csv} is below {report_folders[0]}{unpack}\n{EXPECTED}")

    examples = []
    left_out: Counter[str] = Counter()
    for study_id, study in sorted(studies.items()):
        chosen = _chosen(study.images, views)
        paths = [os.path.join(images_home, path) for path in _image_paths(study_id, study._replace(images=chosen))]
        text = _report(os.path.join(reports_home, *_report_paths(study_id, study)))
        reference = None if text is None else findings(text, f"s{study_id}")
        if text is None:
            left_out["no report file"] += 1
        elif not text.strip():
            left_out["empty report"] += 1
        elif reference is None:
            left_out["no findings section"] += 1
        elif not hand_set and is_hand_set(f"s{study_id}"):
            left_out["findings set by hand"] += 1
        elif not chosen:
            left_out["no image of the chosen views"] += 1
        elif not all(map(os.path.isfile, paths)):
            left_out["image file not found"] += 1
        else:
            examples.append(
                Example(
                    id=f"s{study_id}",
                    cluster=f"p{study.subject}",
                    split=study.split,
                    images=tuple(paths),
                    context=indication(text, f"s{study_id}"),
                    reference=reference,
                    attributes={"view": chosen[0].view or "unknown", **attributes.get(study_id, {})},
                )
            )
    return Loaded(examples=examples, left_out=left_out)


def _folders(root: Path) -> list[Path]:
    """Return the folders at and below `root` in which PhysioNet's trees are looked for, the newest version first."""
    root = Path(os.path.abspath(root.expanduser()))
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds MIMIC-CXR\n{EXPECTED}")
    patterns = ("mimic-cxr*", "mimic-cxr*/[0-9]*", "physionet.org/files/mimic-cxr*/[0-9]*")
    # "mimic-cxr-jpg" is looked at before "mimic-cxr": a tree of DICOM files also has a folder "files".
    found = sorted((path for pattern in patterns for path in root.glob(pattern) if path.is_dir()), reverse=True)
    return [root, *found]


def _official_csv(root: Path, folders: Iterable[Path], kind: Literal["split", "metadata"]) -> Path:
    """Return the newest mimic-cxr-<version>-<kind>.csv or .csv.gz; plain is preferred to gzipped."""
    for folder in folders:
        found = [*folder.glob(f"mimic-cxr-*-{kind}.csv.gz"), *folder.glob(f"mimic-cxr-*-{kind}.csv")]
        if found:
            return max(found, key=lambda path: ([int(n) for n in re.findall(r"\d+", path.name)], path.suffix == ".csv"))
    raise DataError(f"mimic-cxr-2.0.0-{kind}.csv.gz not found below {root}\n{EXPECTED}")


def _csv(path: Path, columns: Iterable[str]) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the header and the rows with their line numbers. Raises DataError, from the rows too, naming the line."""
    rows = _csv_rows(path)
    _, header = next(rows, (1, []))
    for column in columns:
        if header.count(column) != 1:
            raise DataError(f"{path}, line 1: no column {column}" + (" of its own" if column in header else ""))
    return header, rows


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    line = width = 0
    begin = 1

    def text(file: Iterable[bytes]) -> Iterator[str]:
        nonlocal line
        for raw in file:
            line += 1
            # Some editors put a byte order mark before the header.
            yield raw.decode("utf-8-sig" if line == 1 else "utf-8")

    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for row in csv.reader(text(file), strict=True):
                width = width or len(row)
                if row and len(row) != width:
                    raise DataError(f"{path}, line {line}: {len(row)} columns where the header has {width}")
                if row:
                    yield line, row
                begin = line + 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {line}, byte {error.start + 1}: not UTF-8; download the file again") from error
    except csv.Error as error:
        # A quote that is never closed swallows what follows: the row's first line is the one to look at.
        raise DataError(f"{path}, line {begin}: not a csv row ({error})") from error
    except gzip.BadGzipFile as error:
        raise DataError(f"{path}: not a gzip file, or a damaged one; download it again") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}, after line {line}: the gzip file is torn; download it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _check_ids(ids: Mapping[str, str], path: Path, line: int) -> None:
    for column, value in ids.items():
        pattern, form = _IDS[column]
        if not pattern.fullmatch(value):
            raise DataError(f"{path}, line {line}, column {column}: the id is not {form}")


def _studies(split_csv: Path, metadata_csv: Path, splits: Collection[Split]) -> dict[str, _Study]:
    """Join the two csv files: the studies of the wanted splits by study_id, their images in order."""
    columns = ("dicom_id", "study_id", "subject_id", "split")
    header, rows = _csv(split_csv, columns)
    pick = itemgetter(*map(header.index, columns))
    known: dict[str, _Study] = {}
    split_of_subject: dict[str, str] = {}
    study_of_image: dict[str, str] = {}
    for line, row in rows:
        dicom, study_id, subject, split = pick(row)
        _check_ids({"dicom_id": dicom, "study_id": study_id, "subject_id": subject}, split_csv, line)
        where = f"{split_csv}, line {line}, column"
        if split not in SPLITS:
            raise DataError(f"{where} split: not one of {', '.join(SPLITS)}")
        if dicom in study_of_image:
            raise DataError(f"{where} dicom_id: this image is listed twice")
        study = known.setdefault(study_id, _Study(subject, split, []))
        study_of_image[dicom] = study_id
        if study.subject != subject:
            raise DataError(f"{where} subject_id: study {study_id} belongs to another patient further up")
        if split_of_subject.setdefault(subject, split) != split:
            raise DataError(f"{where} split: study {study_id} or its patient is in another split further up")
    studies = {study_id: study for study_id, study in known.items() if study.split in splits}

    columns = ("dicom_id", "study_id", "subject_id", "ViewPosition")
    header, rows = _csv(metadata_csv, columns)
    pick = itemgetter(*map(header.index, columns))
    for line, row in rows:
        dicom, study_id, subject, view = pick(row)
        _check_ids({"dicom_id": dicom, "study_id": study_id, "subject_id": subject}, metadata_csv, line)
        where = f"{metadata_csv}, line {line}, column"
        if dicom not in study_of_image:
            raise DataError(f"{where} dicom_id: this image is listed twice, or is not in {split_csv.name}")
        if study_of_image.pop(dicom) != study_id or known[study_id].subject != subject:
            raise DataError(f"{where} study_id: {split_csv.name} has this image in another study or patient")
        if study_id in studies:
            view = view.strip().upper()
            studies[study_id].images.append(_Image(view_rank(view), dicom, view))
    if study_of_image:
        raise DataError(
            f"{metadata_csv}: no row for {len(study_of_image)} image(s) of {split_csv.name}, for example "
            f"{next(iter(study_of_image))}; use two files of one version"
        )
    for study in studies.values():
        study.images.sort()
    return studies


def _attributes(root: Path, home: Path, studies: Collection[str]) -> dict[str, dict[str, str | float]]:
    """Read attributes.csv[.gz] beside the official csv files or in the root; {} where there is none."""
    places = [folder / name for folder in (home, root) for name in ("attributes.csv", "attributes.csv.gz")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return {}
    header, rows = _csv(path, ["study_id"])
    if "view" in header or len(set(header)) < len(header):
        raise DataError(f"{path}, line 1: every column needs a name of its own, other than view")
    key = header.index("study_id")
    seen: set[str] = set()
    table: dict[str, list[str]] = {}
    # A column counts as numbers only where no cell of the whole file says otherwise, so that its type never wavers.
    texts: set[str] = set()
    for line, row in rows:
        _check_ids({"study_id": row[key]}, path, line)
        if row[key] in seen:
            raise DataError(f"{path}, line {line}, column study_id: this study is listed twice")
        seen.add(row[key])
        if row[key] in studies:
            table[row[key]] = row
        texts.update(name for name, value in zip(header, row, strict=True) if value and not _is_number(value))
    return {
        study_id: {
            name: value if name in texts else float(value)
            for name, value in zip(header, row, strict=True)
            if value and name != "study_id"
        }
        for study_id, row in table.items()
    }


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _patient_path(study: _Study) -> str:
    return f"p{study.subject[:2]}/p{study.subject}"


def _report_paths(study_id: str, study: _Study) -> list[str]:
    return [f"{_patient_path(study)}/s{study_id}.txt"]


def _image_paths(study_id: str, study: _Study) -> list[str]:
    return [f"{_patient_path(study)}/s{study_id}/{image.dicom}.jpg" for image in study.images]


def _home(
    folders: Iterable[Path], studies: Mapping[str, _Study], paths_of: Callable[[str, _Study], list[str]]
) -> str | None:
    """Return the folder that holds p10, p11, ... with files of these studies, or None.

    The trees of images and of reports look alike from above: only a study's own files tell them apart. Only patients
    whose folder is there are looked at, since a part of the data set is data too.
    """
    for place in (place for f in folders for place in (f / "files", f / "mimic-cxr-reports" / "files", f)):
        if not any((place / f"p{group}").is_dir() for group in range(10, 20)):
            continue
        probes = 0
        for study_id, study in studies.items():
            if os.path.isdir(os.path.join(place, _patient_path(study))):
                if any(os.path.isfile(os.path.join(place, path)) for path in paths_of(study_id, study)):
                    return str(place)
                probes += 1
                if probes == _PROBES:
                    break
    return None


def _report(path: str) -> str | None:
    """Return a report's text, or None where there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        # The original error holds the text; it is not chained.
        raise DataError(f"{path}, byte {error.start + 1}: not UTF-8; download the file again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _chosen(images: list[_Image], views: Views) -> list[_Image]:
    if views == "all":
        return images
    kinds = (0,) if views == "frontal" else (0, 1)
    return [of_kind[0] for kind in kinds if (of_kind := [image for image in images if image.rank[0] == kind])]
