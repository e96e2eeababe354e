"""Writes a phantom world in the on-disk layout of IU-Xray (Open-i) with the split files of Rad-ReStruct.

It is the out-of-distribution set of the phantom world: the same kinds of findings from other patients and another
scanner. Files have the official names and elements, so that the loader of the real data set reads them unchanged. The
same seed gives the same bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from conrad_bench.errors import DataError
from conrad_bench.tasks.phantom import grammar, render, world
from conrad_bench.tasks.phantom.grammar import Fact
from conrad_bench.tasks.phantom.world import Scanner, Study
from conrad_bench.tasks.phantom.writing import impression, whole_folder, wording
from conrad_bench.types import Split

OTHER_SCANNER = Scanner(clutter=0.72, contrast=0.9, prevalence=0.5, quality=(0.8, 1.3))
"""Rougher images of less contrast, and findings that are rarer than where models of the phantom world are trained."""

STUDIES = 90_000
"""Uids are distinct in a world of up to so many studies."""

README = """Synthetic data: phantom chest radiographs, drawn by a program.

No image and no report here comes from a patient, and no identifier belongs to one. The folders and files follow the
layout of the Indiana University chest X-rays as Open-i publishes them, and of Rad-ReStruct's split of them, so that
software for that data set can be tried without it.

{studies} studies, seed {seed}.
"""

_TITLE = "Phantom chest radiographs (synthetic)"
_OTHER_PATIENTS = 1_000_000_000
"""Added to the seed: worlds in the layout of MIMIC-CXR have patients of smaller seeds."""
_WITHOUT_IMAGES = 0.03
_WITHOUT_FINDINGS = 0.05
_SPLITS: tuple[Split, ...] = ("train",) * 9 + ("validate",) * 2 + ("test",) * 9
_SPLIT_FILES: dict[Split, str] = {"train": "train_ids.json", "validate": "val_ids.json", "test": "test_ids.json"}
_MESH = {"heart": "Cardiomegaly", "opacity": "Opacity/lung", "effusion": "Pleural Effusion", "device": "Medical Device"}


def studies(number: int, seed: int, scanner: Scanner = OTHER_SCANNER) -> Iterator[Study]:
    """Yield `number` studies, each of another patient, as in IU-Xray as far as it tells."""
    of_everyone = world.studies(sys.maxsize, seed + _OTHER_PATIENTS, scanner)
    return islice((study for study in of_everyone if study.index == 0), number)


def uid(study: Study) -> str:
    """Return a study's uid without "CXR": 5 digits. Real ones have 4 at most."""
    # The factor has no divisor in common with the number of uids: they stay distinct while they look unordered.
    return str(10_000 + (study.patient * 7_919 + study.seed[0] * 104_729) % STUDIES)


def split_of(study: Study) -> Split | None:
    """Return a study's split: 9 of 20 train, 2 validate, 9 test; None where it has no images, as in Rad-ReStruct."""
    return _SPLITS[study.patient % len(_SPLITS)] if image_ids(study) else None


def image_ids(study: Study) -> dict[str, str]:
    """Return the view of every image of a study by the image's id, in the order of the ids.

    About 3 % of the studies have no images. Where there is a lateral one, it comes first in 1 of 4.
    """
    if np.random.default_rng((*study.seed, 5)).random() < _WITHOUT_IMAGES:
        return {}
    views = ["frontal", "lateral"] if study.lateral else ["frontal"]
    if study.patient % 4 == 3:
        views.reverse()
    name = f"CXR{uid(study)}_IM-{study.patient % 10_000:04d}"
    return {f"{name}-{place}001": view for place, view in enumerate(views, start=1)}


def report(study: Study) -> bytes:
    """Return a study's report as XML with the elements of NLM's files; about 5 % have empty findings."""
    root = Element("eCitation")
    SubElement(root, "meta", type="rr")
    SubElement(root, "uId", id=f"CXR{uid(study)}")
    SubElement(root, "docSource").text = "CXR"
    SubElement(root, "IUXRId", id=uid(study))
    SubElement(root, "publisher").text = "conrad-bench"
    SubElement(root, "title").text = _TITLE
    SubElement(root, "note").text = "Synthetic: no patient, no hospital."
    citation = SubElement(root, "MedlineCitation", Owner="conrad-bench", Status="synthetic")
    article = SubElement(citation, "Article", PubModel="Electronic")
    SubElement(article, "ArticleTitle").text = _TITLE
    abstract = SubElement(article, "Abstract")
    without_findings = np.random.default_rng((*study.seed, 4)).random() < _WITHOUT_FINDINGS
    for label, text in (
        ("COMPARISON", "XXXX." if study.patient % 2 else "None."),
        ("INDICATION", study.indication),
        ("FINDINGS", "" if without_findings else " ".join(wording(study))),
        ("IMPRESSION", impression(study)),
    ):
        SubElement(abstract, "AbstractText", Label=label).text = text
    SubElement(article, "Language").text = "eng"
    mesh = SubElement(root, "MeSH")
    for name in [_mesh(fact) for fact in grammar.facts(study.findings) if fact.severity] or ["normal"]:
        SubElement(mesh, "major").text = name
    for number, image in enumerate(image_ids(study), start=1):
        figure = SubElement(root, "parentImage", id=image)
        SubElement(figure, "figureId").text = f"F{number}"
        SubElement(figure, "caption").text = "Chest PA and lateral" if study.lateral else f"Chest {study.projection}"
        panel = SubElement(figure, "panel", type="single")
        SubElement(panel, "imgModality").text = "7"
    ElementTree.indent(root, "   ")
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


def _mesh(fact: Fact) -> str:
    """Return the code of a finding in the form of the real ones ("Pleural Effusion/left/small")."""
    zone = f"{fact.zone} lobe" if fact.zone else ""
    words = {"heart": ("mild", "severe"), "effusion": ("small", "large"), "opacity": ("patchy", "dense")}
    degree = words[fact.finding][fact.severity - 1] if fact.finding in words else ""
    return "/".join(filter(None, (_MESH.get(fact.finding, fact.finding.capitalize()), zone, fact.side, degree)))


def write_openi(
    folder: Path,
    number: int,
    seed: int,
    scanner: Scanner = OTHER_SCANNER,
    progress: Callable[[int], object] | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Write `number` studies of the world with this seed; `progress` is called with 1 after each study.

    `size` is the (width, height) of the images; None: as they are drawn.

    The folder appears complete or not at all. Raises DataError where it is there already and not empty, or the studies
    are too many, StorageError where it cannot be written.
    """
    if number > STUDIES:
        raise DataError(f"a phantom world in this layout has at most {STUDIES} studies; ask for fewer")
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
    from PIL import Image

    (root / "ecgen-radiology").mkdir()
    (root / "NLMCXR_png").mkdir()
    ids: dict[Split, list[str]] = {split: [] for split in _SPLIT_FILES}
    frontal: dict[str, list[str]] = {}
    for study in studies(number, seed, scanner):
        (root / "ecgen-radiology" / f"{uid(study)}.xml").write_bytes(report(study))
        images = image_ids(study)
        for image, view in images.items():
            pixels = (render.frontal if view == "frontal" else render.lateral)(study, scanner)
            Image.fromarray(render.film(pixels, size, study)).save(root / "NLMCXR_png" / f"{image}.png", format="PNG")
        split = split_of(study)
        if split is not None:
            ids[split].append(uid(study))
            frontal[uid(study)] = [image for image, view in images.items() if view == "frontal"]
        if progress is not None:
            progress(1)
    for split, name in _SPLIT_FILES.items():
        (root / name).write_text(json.dumps(ids[split]) + "\n", encoding="utf-8")
    (root / "id_to_img_mapping_frontal_reports.json").write_text(json.dumps(frontal, indent=2) + "\n", encoding="utf-8")
    (root / "README.txt").write_text(README.format(studies=number, seed=seed), encoding="utf-8")
