"""Loader of the Indiana University chest X-rays (IU-Xray, Open-i), as the National Library of Medicine publishes them.

Source: https://openi.nlm.nih.gov/faq (Demner-Fushman et al. 2016): NLMCXR_reports.tgz and NLMCXR_png.tgz. The splits
are those of Rad-ReStruct (Pellegrini et al. 2023): https://github.com/ChantalMP/Rad-ReStruct, folder data/radrestruct.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

from conrad_bench.errors import DataError
from conrad_bench.tasks.base import Loaded
from conrad_bench.types import Example, Split

Views = Literal["all", "frontal"]
"""all: every image of the study. frontal: the first of its frontal images."""

EXPECTED = """expected:
  ROOT/
    ecgen-radiology/10.xml               from NLMCXR_reports.tgz, unpacked
    NLMCXR_png/CXR10_IM-0002-2001.png    from NLMCXR_png.tgz, unpacked (its images may also lie in ROOT or ROOT/images)
    test_ids.json                        from Rad-ReStruct, data/radrestruct
  and, where there are, from the same place:
    train_ids.json  val_ids.json  id_to_img_mapping_frontal_reports.json"""

_REPORTS = ("ecgen-radiology", "NLMCXR_reports/ecgen-radiology")
_IMAGES = ("NLMCXR_png", "images", "images/images_normalized", ".")
_SPLIT_FILES: dict[Split, str] = {"train": "train_ids.json", "validate": "val_ids.json", "test": "test_ids.json"}
_FRONTAL_FILE = "id_to_img_mapping_frontal_reports.json"
_IMAGE_ID = re.compile(r"CXR(\d+)_(?:\1_)?(IM-[\d-]+)", re.ASCII)


class _Report(NamedTuple):
    findings: str
    indication: str
    images: list[str]


def load_openi(root: Path, views: Views = "all", test_ids: Path | None = None) -> Loaded:
    """Read the studies of the splits that are there as examples, in the order of their ids.

    An example's id and its cluster are the report's uid ("CXR10"): the collection says nothing of patients, so every
    study counts as a patient of its own. Its context is the indication, its reference the findings, redactions (XXXX)
    included. Images come in the report's order, the frontal ones first where Rad-ReStruct's list of them is there.
    Attribute: images, the number of images that the model sees.

    `test_ids` names the file of the test split; the other files of Rad-ReStruct are looked for beside it. By default
    they lie in the root.

    Counted in `left_out`, one reason a study: "not in any split", "no report file", "no findings section", "no image of
    the chosen views", "image file not found" (of one of its images). Images are not opened.

    Raises DataError naming the file that is missing (with a drawing of the expected tree) or wrong: a report that is
    not XML or has another study's uid, a split file that is not a list of ids, a study in two splits, no images at all.
    """
    root = Path(os.path.abspath(root.expanduser()))
    reports = _reports_folder(root)
    test_file = root / _SPLIT_FILES["test"] if test_ids is None else Path(os.path.abspath(test_ids.expanduser()))
    if not test_file.is_file():
        raise DataError(f"{test_file}: no such file; it lists the studies of the test split\n{EXPECTED}")
    split_of = _splits(test_file)
    frontal_file = test_file.with_name(_FRONTAL_FILE)
    if views == "frontal" and not frontal_file.is_file():
        raise DataError(f"{frontal_file}: no such file; views=frontal needs it, or choose views=all\n{EXPECTED}")
    frontal = _frontal(frontal_file) if frontal_file.is_file() else {}
    files = _image_files(root)

    stems = {path.stem for path in reports.glob("*.xml")}
    left_out: Counter[str] = Counter({"not in any split": len(stems - set(split_of))})
    examples = []
    any_image = False
    for stem, split in sorted(split_of.items(), key=lambda item: f"CXR{item[0]}"):
        if stem not in stems:
            left_out["no report file"] += 1
            continue
        report = _read_report(reports / f"{stem}.xml")
        first = [image for image in report.images if image in frontal.get(stem, ())]
        chosen = first[:1] if views == "frontal" else first + [image for image in report.images if image not in first]
        paths = [_image_path(image, files) for image in chosen]
        any_image = any_image or any(paths)
        if not report.findings:
            left_out["no findings section"] += 1
        elif not chosen:
            left_out["no image of the chosen views"] += 1
        elif not all(paths):
            left_out["image file not found"] += 1
        else:
            examples.append(
                Example(
                    id=f"CXR{stem}",
                    cluster=f"CXR{stem}",
                    split=split,
                    images=tuple(path for path in paths if path),
                    context=report.indication,
                    reference=report.findings,
                    attributes={"images": float(len(chosen))},
                )
            )
    if not any_image and left_out["image file not found"]:
        raise DataError(f"none of the images of {reports} is below {root}\n{EXPECTED}")
    return Loaded(examples=examples, left_out=+left_out)


def _reports_folder(root: Path) -> Path:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds the Open-i chest X-rays\n{EXPECTED}")
    folder = next((root / place for place in _REPORTS if (root / place).is_dir()), None)
    if folder is None:
        packed = root / "NLMCXR_reports.tgz"
        unpack = f"; unpack {packed} first" if packed.is_file() else ""
        raise DataError(f"{root / _REPORTS[0]}: no such folder{unpack}\n{EXPECTED}")
    if not any(folder.glob("*.xml")):
        raise DataError(f"{folder}: no reports (*.xml); unpack NLMCXR_reports.tgz again\n{EXPECTED}")
    return folder


def _read_report(path: Path) -> _Report:
    """Read a report. Raises DataError; the parser's own message holds a place and no text."""
    try:
        tree = ElementTree.fromstring(path.read_bytes())
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: an encoding that there is not
        raise DataError(f"{path}: not XML ({error}); unpack NLMCXR_reports.tgz again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    uid = tree.find("uId")
    if uid is None or uid.get("id") != f"CXR{path.stem}":
        raise DataError(f"{path}: its element uId is not CXR{path.stem}, as the file's name says; unpack it again")
    sections = {
        str(part.get("Label")): " ".join("".join(part.itertext()).split()) for part in tree.iter("AbstractText")
    }
    images = [image.get("id", "") for image in tree.iter("parentImage")]
    return _Report(sections.get("FINDINGS", ""), sections.get("INDICATION", ""), images)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        place = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{path}{place}: not JSON; download the file again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _is_id(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[1-9]\d*", value, re.ASCII) is not None


def _splits(test_file: Path) -> dict[str, Split]:
    """Return the split of every listed study, by its id without "CXR"."""
    split_of: dict[str, Split] = {}
    for split, name in _SPLIT_FILES.items():
        path = test_file if split == "test" else test_file.with_name(name)
        if not path.is_file():
            continue
        ids = _json(path)
        if not isinstance(ids, list) or not all(map(_is_id, ids)):
            raise DataError(f'{path}: not a list of study ids such as ["10", "11"]; download the file again')
        for study in ids:
            if study in split_of:
                raise DataError(f"{path}: study {study} is listed twice, or in {_SPLIT_FILES[split_of[study]]} too")
            split_of[study] = split
    return split_of


def _frontal(path: Path) -> dict[str, list[str]]:
    """Return the ids of the frontal images of every study."""
    mapping = _json(path)
    if not isinstance(mapping, dict) or not all(
        _is_id(study) and isinstance(images, list) and all(isinstance(image, str) for image in images)
        for study, images in mapping.items()
    ):
        raise DataError(f'{path}: not a mapping such as {{"10": ["CXR10_IM-0002-2001"]}}; download the file again')
    return mapping


def _image_files(root: Path) -> list[tuple[str, frozenset[str]]]:
    """Return the folders in which images may lie, with the names of their files."""
    folders = [os.path.normpath(root / place) for place in _IMAGES if (root / place).is_dir()]
    return [(folder, frozenset(os.listdir(folder))) for folder in folders]


def _image_path(image: str, files: Iterable[tuple[str, frozenset[str]]]) -> str | None:
    """Return the path of an image's file, or None. NLM's names are preferred to Kaggle's, "10_IM-0002-2001.dcm.png"."""
    found = _IMAGE_ID.fullmatch(image)
    names = [f"{image}.png", *([f"{found[1]}_{found[2]}.dcm.png"] if found else [])]
    return next((os.path.join(folder, name) for name in names for folder, here in files if name in here), None)
