"""The loader of IU-Xray (Open-i): on the phantom tree, on all real reports with Rad-ReStruct's split, on wrong data."""

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from conrad_bench.errors import DataError
from conrad_bench.reading.elicitation import INSTRUCTIONS
from conrad_bench.tasks.base import Loaded
from conrad_bench.tasks.iu_xray import IUXrayReport, IUXraySentence
from conrad_bench.tasks.layouts.openi import load_openi
from conrad_bench.tasks.mimic import MimicReport, MimicSentence
from conrad_bench.tasks.phantom import grammar, openi_layout, render, world
from conrad_bench.tasks.phantom.green import phantom_green, phantom_precision_green
from conrad_bench.tasks.phantom.writing import wording
from conrad_bench.types import Example, Response

DATA = Path(os.environ.get("CONRAD_BENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
REPORTS = DATA / "iu-xray" / "NLMCXR_reports.tgz"
RAD_RESTRUCT = DATA / "rad-restruct"
NUMBER, SEED = 200, 5
FRONTAL = "id_to_img_mapping_frontal_reports.json"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "openi"
    openi_layout.write_openi(folder, NUMBER, SEED)
    return folder


@pytest.fixture
def copy(phantom: Path, tmp_path: Path) -> Path:
    return shutil.copytree(phantom, tmp_path / "openi")


def message(root: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load_openi(root, **options)  # type: ignore[arg-type]
    return str(caught.value)


def one_with_images(root: Path, number: int) -> Example:
    return next(e for e in load_openi(root).examples if len(e.images) == number and e.split == "test")


# The phantom tree.


def test_written_world_comes_back(phantom: Path) -> None:
    loaded = load_openi(phantom)
    studies = {f"CXR{openi_layout.uid(study)}": study for study in openi_layout.studies(NUMBER, SEED)}
    assert len(studies) == NUMBER
    assert len({study.patient for study in studies.values()}) == NUMBER
    assert set(loaded.left_out) <= {"not in any split", "no findings section"}
    assert len(loaded.examples) + loaded.left_out.total() == NUMBER
    assert [e.id for e in loaded.examples] == sorted(e.id for e in loaded.examples)
    for example in loaded.examples:
        study = studies[example.id]
        assert example.cluster == example.id
        assert example.split == openi_layout.split_of(study)
        assert example.context == study.indication
        assert grammar.sentences(example.reference) == wording(study)
        # The frontal image comes first, also where the report names it last.
        pictures = [np.asarray(Image.open(path)) for path in example.images]
        assert (pictures[0] == render.frontal(study, openi_layout.OTHER_SCANNER)).all()
        assert len(pictures) == 1 + study.lateral
        if study.lateral:
            assert (pictures[1] == render.lateral(study, openi_layout.OTHER_SCANNER)).all()
        assert dict(example.attributes) == {"images": len(pictures)}
    assert any(example.images != tuple(sorted(example.images)) for example in loaded.examples)


def test_a_thousand_studies_give_about_four_hundred_test_examples() -> None:
    studies = list(openi_layout.studies(1000, 0))
    splits = Counter(openi_layout.split_of(study) for study in studies)
    assert splits["test"] == pytest.approx(430, abs=30)
    assert splits["train"] == pytest.approx(430, abs=30)
    assert splits["validate"] == pytest.approx(97, abs=20)
    assert splits[None] == pytest.approx(30, abs=15)
    empty = sum(b'Label="FINDINGS" />' in openi_layout.report(study) for study in studies)
    assert empty == pytest.approx(50, abs=20)
    assert len({openi_layout.uid(study) for study in openi_layout.studies(3000, 1)}) == 3000


def test_the_other_scanner_differs_and_its_patients_are_others() -> None:
    other, usual = list(openi_layout.studies(500, 0)), list(world.studies(500, 0))
    assert not {s.seed for s in other} & {s.seed for s in usual}
    abnormal = [np.mean([max(s.findings.effusion) > 0 for s in studies]) for studies in (other, usual)]
    assert abnormal[0] < abnormal[1] - 0.1


def test_same_seed_same_bytes(phantom: Path, tmp_path: Path) -> None:
    def digests(root: Path) -> dict[str, str]:
        files = (path for path in root.rglob("*") if path.is_file())
        return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    steps: list[int] = []
    openi_layout.write_openi(tmp_path / "again", NUMBER, SEED, progress=steps.append)
    assert steps == [1] * NUMBER
    assert digests(tmp_path / "again") == digests(phantom)
    openi_layout.write_openi(tmp_path / "other", 5, SEED + 1)
    assert not {p for p in digests(tmp_path / "other") if "CXR" in p} & set(digests(phantom))
    assert "Synthetic" in (phantom / "README.txt").read_text()


def test_writer_refuses_a_folder_in_use_and_too_many_studies(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not an empty folder"):
        openi_layout.write_openi(tmp_path, 2, 0)
    with pytest.raises(DataError, match="at most 90000 studies"):
        openi_layout.write_openi(tmp_path / "new", 90_001, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Layouts and options.


def test_images_where_and_as_they_are_published(phantom: Path, copy: Path) -> None:
    def images(loaded: Loaded) -> list[tuple[str, ...]]:
        return [tuple(os.path.basename(path) for path in e.images) for e in loaded.examples]

    expected = images(load_openi(phantom))
    shutil.move(copy / "NLMCXR_png", copy / "images")
    assert images(load_openi(copy)) == expected
    (copy / "NLMCXR_reports").mkdir()
    shutil.move(copy / "ecgen-radiology", copy / "NLMCXR_reports" / "ecgen-radiology")
    for path in (copy / "images").iterdir():
        path.rename(copy / path.name)
    assert images(load_openi(copy)) == expected
    (copy / "images" / "images_normalized").mkdir()
    for path in copy.glob("CXR*.png"):
        path.rename(copy / "images" / "images_normalized" / f"{path.stem.removeprefix('CXR')}.dcm.png")
    kaggle = images(load_openi(copy))
    assert kaggle == [tuple(f"{name[3:-4]}.dcm.png" for name in names) for names in expected]


def test_frontal_view(phantom: Path, copy: Path) -> None:
    everything, frontal = load_openi(phantom), load_openi(phantom, views="frontal")
    assert [e.images for e in frontal.examples] == [e.images[:1] for e in everything.examples]
    assert {e.attributes["images"] for e in frontal.examples} == {1}
    # Without the list, images come as the report names them, and no frontal one can be chosen.
    (copy / FRONTAL).unlink()
    assert all(e.images == tuple(sorted(e.images)) for e in load_openi(copy).examples)
    assert message(copy, views="frontal").startswith(f"{copy / FRONTAL}: no such file; views=frontal needs it")
    (copy / FRONTAL).write_text("{}")
    assert load_openi(copy, views="frontal").left_out["no image of the chosen views"] == len(everything.examples)


def test_split_files_beside_the_given_one(phantom: Path, copy: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "rad-restruct"
    elsewhere.mkdir()
    for name in ("train_ids.json", "val_ids.json", "test_ids.json", FRONTAL):
        shutil.move(copy / name, elsewhere / name)
    loaded = load_openi(copy, test_ids=elsewhere / "test_ids.json")
    assert [e.id for e in loaded.examples] == [e.id for e in load_openi(phantom).examples]
    (elsewhere / "train_ids.json").unlink()
    (elsewhere / "val_ids.json").unlink()
    alone = load_openi(copy, test_ids=elsewhere / "test_ids.json")
    assert alone.examples == [e for e in loaded.examples if e.split == "test"]
    assert alone.left_out["not in any split"] > 90


def test_left_out_studies_are_counted(phantom: Path, copy: Path) -> None:
    before = load_openi(phantom)
    no_report, no_image = (e for e in before.examples[:2])
    (copy / "ecgen-radiology" / f"{no_report.id[3:]}.xml").unlink()
    (copy / "NLMCXR_png" / os.path.basename(no_image.images[-1])).unlink()
    after = load_openi(copy)
    gained = after.left_out - before.left_out
    assert gained == Counter({"no report file": 1, "image file not found": 1})
    assert {e.id for e in before.examples} - {e.id for e in after.examples} == {no_report.id, no_image.id}


# Wrong data.


def test_wrong_roots_are_named_with_the_expected_tree(tmp_path: Path, copy: Path) -> None:
    for root, start in ((tmp_path / "nowhere", "nowhere: no such folder"), (tmp_path, "ecgen-radiology: no such")):
        told = message(root)
        assert start in told
        assert "NLMCXR_png/CXR10_IM-0002-2001.png" in told
    (tmp_path / "NLMCXR_reports.tgz").touch()
    assert f"unpack {tmp_path / 'NLMCXR_reports.tgz'} first" in message(tmp_path)
    shutil.rmtree(copy / "NLMCXR_png")
    assert "none of the images of" in message(copy)
    (copy / "test_ids.json").unlink()
    assert message(copy).startswith(f"{copy / 'test_ids.json'}: no such file")
    shutil.rmtree(copy / "ecgen-radiology")
    (copy / "ecgen-radiology").mkdir()
    assert "no reports (*.xml)" in message(copy)


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.7, 0.99])
def test_torn_report_is_named_and_not_quoted(copy: Path, keep: float) -> None:
    example = one_with_images(copy, 2)
    path = copy / "ecgen-radiology" / f"{example.id[3:]}.xml"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    told = message(copy)
    assert told.startswith(f"{path}: not XML (")
    assert example.context not in told
    assert example.reference[:15] not in told


def test_report_of_another_study_is_refused(copy: Path) -> None:
    one, other = [e.id[3:] for e in load_openi(copy).examples[:2]]
    shutil.copy(copy / "ecgen-radiology" / f"{one}.xml", copy / "ecgen-radiology" / f"{other}.xml")
    assert f"{other}.xml: its element uId is not CXR{other}" in message(copy)


@pytest.mark.parametrize("text", ["", "{", "{}", "[1, 2]", '["CXR10"]', '["010"]', "\x00", '[["10"]]', "[" * 100_000])
def test_split_file_of_another_form_is_refused(copy: Path, text: str) -> None:
    (copy / "test_ids.json").write_text(text)
    assert re.match(rf"{re.escape(str(copy))}/test_ids.json(, line 1)?: not (JSON|a list of study ids)", message(copy))


def test_study_in_two_splits_is_refused(copy: Path) -> None:
    ids = json.loads((copy / "test_ids.json").read_text())
    (copy / "val_ids.json").write_text(json.dumps(ids[:1]))
    assert f"study {ids[0]} is listed twice, or in val_ids.json too" in message(copy)
    (copy / "val_ids.json").write_text("[]")
    (copy / "test_ids.json").write_text(json.dumps([*ids, ids[0]]))
    assert f"study {ids[0]} is listed twice" in message(copy)
    (copy / "test_ids.json").write_text(json.dumps(ids))
    (copy / FRONTAL).write_text('{"10": "CXR10_IM-0002-2001"}')
    assert f"{FRONTAL}: not a mapping" in message(copy)


# All real reports.


@pytest.mark.skipif(
    not (REPORTS.is_file() and RAD_RESTRUCT.is_dir()),
    reason=f"{REPORTS} or {RAD_RESTRUCT} is not there (CONRAD_BENCH_TEST_DATA names their folder)",
)
def test_all_real_reports_with_the_split_of_rad_restruct(tmp_path: Path) -> None:
    with tarfile.open(REPORTS) as archive:
        archive.extractall(tmp_path, filter="data")
    for name in ("train_ids.json", "val_ids.json", "test_ids.json", FRONTAL):
        shutil.copy(RAD_RESTRUCT / name, tmp_path)
    assert "none of the images of" in message(tmp_path)

    # Empty files stand for the images: the loader does not open them. Those of one study are missing.
    (tmp_path / "NLMCXR_png").mkdir()
    texts = {path.stem: path.read_text() for path in (tmp_path / "ecgen-radiology").iterdir()}
    assert len(texts) == 3955
    images = {stem: re.findall(r'parentImage id="([^"]+)"', text) for stem, text in texts.items()}
    assert sum(map(len, images.values())) == 7470
    ids = {split: json.loads((RAD_RESTRUCT / f"{split}_ids.json").read_text()) for split in ("train", "val", "test")}
    removed = next(i for i in ids["test"] if images[i] and re.search(r'"FINDINGS">', texts[i]))
    for stem, names in images.items():
        for name in names if stem != removed else []:
            (tmp_path / "NLMCXR_png" / f"{name}.png").touch()

    loaded = load_openi(tmp_path)
    assert len(loaded.examples) + loaded.left_out.total() == 3955
    assert loaded.left_out["not in any split"] == 358
    assert loaded.left_out["image file not found"] == 1
    assert set(loaded.left_out) == {"not in any split", "image file not found", "no findings section"}
    listed = {i: split for split in ids for i in ids[split]}
    without_findings = {i for i in listed if not re.search(r'"FINDINGS">', texts[i])}
    assert loaded.left_out["no findings section"] == len(without_findings)
    by_id = {example.id.removeprefix("CXR"): example for example in loaded.examples}
    assert set(by_id) == set(listed) - without_findings - {removed}
    frontal = json.loads((RAD_RESTRUCT / FRONTAL).read_text())
    for study, example in by_id.items():
        assert example.split == {"train": "train", "val": "validate", "test": "test"}[listed[study]]
        names = [os.path.basename(path)[:-4] for path in example.images]
        assert sorted(names) == sorted(images[study])
        assert set(names[: len(frontal[study])]) == set(frontal[study])
        assert example.reference
        assert "  " not in example.reference
    assert any("XXXX" in example.reference for example in loaded.examples)
    assert len(without_findings) == 485
    # 311 of the 360 test studies have findings.
    assert len(loaded.split("test")) == 310

    only = load_openi(tmp_path, views="frontal")
    assert [e.images for e in only.examples] == [e.images[:1] for e in loaded.examples]
    # Kaggle's names, also for the one study whose image ids hold its number twice.
    for name in images["1"]:
        (tmp_path / "NLMCXR_png" / f"{name}.png").rename(
            tmp_path / "NLMCXR_png" / f"{name.removeprefix('CXR1_')}.dcm.png"
        )
    renamed = next(e for e in load_openi(tmp_path).examples if e.id == "CXR1")
    assert {os.path.basename(path) for path in renamed.images} == {
        "1_IM-0001-3001.dcm.png",
        "1_IM-0001-4001.dcm.png",
    }


# The tasks.


def test_tasks_ask_alike_and_split_responses_into_their_claims(phantom: Path) -> None:
    report, sentence = IUXrayReport(), IUXraySentence()
    example = one_with_images(phantom, 2)
    assert [task.load(phantom).examples for task in (report, sentence)] == [load_openi(phantom).examples] * 2
    for elicit in (None, *INSTRUCTIONS):
        prompts = {task.prompt(example, elicit) for task in (report, sentence, MimicReport(), MimicSentence())}
        assert len(prompts) == 1
        assert prompts.pop().images == example.images
    assert report.prompt(example).messages[0].text.startswith(f"Indication: {example.context}\n")

    response = Response("k", example.reference, (), None, "stop")
    (whole,) = report.claims(response)
    assert phantom_green(whole.text, example.reference) == 1
    sentences = grammar.sentences(example.reference)
    for task in (sentence, MimicSentence()):
        claims = task.claims(response)
        assert [claim.text for claim in claims] == sentences
        assert [response.text[slice(*claim.span)] for claim in claims] == sentences
        assert {phantom_precision_green(claim.text, example.reference) for claim in claims} == {1.0}
        stated = "\n".join(f"{text} Confidence: {i}" for i, text in enumerate(sentences))
        claims = task.claims(Response("k", stated, (), None, "stop"), "sentence_confidence")
        assert [(claim.text, claim.confidence) for claim in claims] == [(s, i / 10) for i, s in enumerate(sentences)]


def test_a_report_in_an_encoding_that_there_is_not(tmp_path: Path) -> None:
    openi_layout.write_openi(tmp_path / "tree", 5, 1)
    path = next((tmp_path / "tree" / "ecgen-radiology").glob("*.xml"))
    for encoding in ("klingon", "utf-7", "rot13"):
        path.write_text(f'<?xml version="1.0" encoding="{encoding}"?><eCitation/>')
        with pytest.raises(DataError, match=f"{path}: not XML"):
            load_openi(tmp_path / "tree")


def test_tasks_say_what_they_are() -> None:
    report, sentence, mimic = IUXrayReport(), IUXraySentence(), MimicSentence()
    assert [t.granularity for t in (report, sentence, mimic)] == ["report", "sentence", "sentence"]
    assert [t.fit_on for t in (report, sentence, mimic)] == ["mimic_report", "mimic_sentence", None]
    assert [t.scorer for t in (report, sentence, mimic)] == ["green", "precision_green", "precision_green"]
    assert [t.quality for t in (report, sentence, mimic)] == [None, "green", "green"]
    assert [t.phantom_layout for t in (report, sentence, mimic)] == ["openi", "openi", "mimic"]
    with pytest.raises(ValidationError):
        IUXrayReport(views="lateral")  # type: ignore[arg-type]
