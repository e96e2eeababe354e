"""The visual question answering tasks: the real files where they are there, hand-made trees, the phantom VQA-RAD."""

import hashlib
import json
import pickle
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conrad_bench.engines.opening import open_image
from conrad_bench.errors import DataError, ImageError
from conrad_bench.reading.elicitation import INSTRUCTIONS
from conrad_bench.tasks.layouts import vqa
from conrad_bench.tasks.layouts.vqa import Item, VqaTask, disjoint, hub_items, loaded, read_rows, with_validation
from conrad_bench.tasks.path_vqa import PathVqa
from conrad_bench.tasks.phantom import mimic_layout, questions, render, vqa_layout, world
from conrad_bench.tasks.scorers.vqa_match import VqaMatch, tokens
from conrad_bench.tasks.slake import Slake
from conrad_bench.tasks.vqa_med_2019 import VqaMed2019, alternatives
from conrad_bench.tasks.vqa_rad import VqaRad
from conrad_bench.types import Claim, Example, Response

REAL = Path(__file__).parents[1].parent / "shared" / "data"
real_vqa_rad = pytest.mark.skipif(not (REAL / "vqa-rad").is_dir(), reason="the VQA-RAD files are not there")
real_slake = pytest.mark.skipif(not (REAL / "slake").is_dir(), reason="the SLAKE files are not there")

TASKS = (VqaRad, Slake, PathVqa, VqaMed2019)


def counts(examples: list[Example]) -> dict[str, tuple[int, int]]:
    """Questions and images by split."""
    splits = {example.split for example in examples}
    return {
        split: (
            sum(example.split == split for example in examples),
            len({example.cluster for example in examples if example.split == split}),
        )
        for split in splits
    }


def assert_disjoint(examples: list[Example]) -> None:
    assert len({(example.cluster, example.split) for example in examples}) == len({e.cluster for e in examples})
    assert len({(example.images, example.split) for example in examples}) == len({e.images for e in examples})
    assert len({example.id for example in examples}) == len(examples)


def error(load: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        load()
    return str(caught.value)


@real_vqa_rad
def test_real_vqa_rad_in_both_forms() -> None:
    root = REAL / "vqa-rad"
    original, mevf = VqaRad().load(root), VqaRad(form="mevf").load(root)
    assert original.left_out == {"train question about a test image": 1063}
    assert mevf.left_out == {"train question about a test image": 1912}
    assert counts(original.examples) == {"train": (632, 95), "validate": (102, 16), "test": (451, 203)}
    assert counts(mevf.examples) == {"train": (993, 95), "validate": (159, 16), "test": (451, 203)}
    for found in (original, mevf):
        assert_disjoint(found.examples)
        assert Counter(e.attributes["answer_type"] for e in found.split("test")) == {"closed": 272, "open": 179}
        assert {e.attributes["organ"] for e in found.examples} == {"CHEST", "ABD", "HEAD"}
        types = {str(e.attributes["question_type"]) for e in found.examples}
        known = ["ABN", "ATTRIB", "COLOR", "COUNT", "MODALITY", "ORGAN", "OTHER", "PLANE", "POS", "PRES", "SIZE"]
        assert {name for several in types for name in several.split(", ")} == set(known)
        assert all(several == ", ".join(sorted(several.split(", "))) for several in types)
        assert not any(vqa.ALTERNATIVES in e.reference for e in found.examples)
    assert original.split("validate")[0].cluster in {e.cluster for e in mevf.split("validate")}

    def asked(found: list[Example]) -> set[tuple[str, str, str]]:
        return {(e.cluster, e.context.lower(), e.reference.lower()) for e in found}

    assert asked(original.split("test")) == asked(mevf.split("test"))


@real_vqa_rad
def test_real_vqa_rad_rows_are_all_read_and_all_images_open() -> None:
    items = VqaRad().items(REAL / "vqa-rad")
    assert len(items) == 2248
    numbers = [item.answer for item in items if item.answer.isdigit()]
    assert {"2", "4", "12"} <= set(numbers)
    assert all(isinstance(item.answer, str) and "\t" not in item.answer for item in items)
    assert len(VqaRad(form="mevf").items(REAL / "vqa-rad")) == 3064 + 451
    images = sorted((REAL / "vqa-rad" / "images").iterdir())
    assert len(images) == 315
    assert all(open_image(str(path)).mode == "RGB" for path in images)


@real_vqa_rad
def test_reference_answers_of_real_vqa_rad_are_right() -> None:
    examples = VqaRad(form="mevf").load(REAL / "vqa-rad").examples
    pairs = [(e, Claim(e.reference, (0, len(e.reference)))) for e in examples]
    for scorer in (VqaMatch(), VqaMatch(open="f1")):
        scorer.check(examples)
        assert {score.value for score in scorer.score(pairs, "answer")} == {1.0}
    assert all(tokens(e.reference) for e in examples)


@real_slake
@pytest.mark.parametrize(("language", "total", "lacks"), [("en", 7033, 1), ("zh", 6995, 0)])
def test_real_slake(language: Any, total: int, lacks: int, tmp_path: Path) -> None:
    items = Slake().items(REAL / "slake")
    assert len(items) == 9835 + 2099 + 2094
    assert error(lambda: Slake(q_lang=language).load(REAL / "slake")).endswith(
        "not found, nor any of the other 641; put the images there"
    )
    # Stand-ins for the images, which are not among the files.
    for name in ("train", "validate", "test"):
        shutil.copy(REAL / "slake" / f"{name}.json", tmp_path)
    for cluster in {item.cluster for item in items}:
        image = tmp_path / "imgs" / cluster / "source.jpg"
        image.parent.mkdir(parents=True)
        image.write_text(cluster)
    found = Slake(q_lang=language).load(tmp_path)
    assert found.left_out == Counter({"question in another language": 14028 - total, "no answer": lacks})
    assert len(found.examples) == total - lacks
    assert {split: images for split, (_, images) in counts(found.examples).items()} == {
        "train": 450,
        "validate": 96,
        "test": 96,
    }
    assert_disjoint(found.examples)
    chinese = [re.search("[\u4e00-\u9fff]", e.context) is not None for e in found.examples]
    assert all(chinese) if language == "zh" else not any(chinese)
    attributes = {name for e in found.examples for name in e.attributes}
    assert attributes == {"answer_type", "question_type", "organ", "modality"}
    assert not any(vqa.ALTERNATIVES in e.reference for e in found.examples)
    pairs = [(e, Claim(e.reference, (0, len(e.reference)))) for e in found.examples]
    assert {score.value for score in VqaMatch(open="f1").score(pairs, "answer")} == {1.0}


def row(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "qid": n,
        "phrase_type": "freeform",
        "image_name": f"{n}.jpg",
        "image_organ": "HEAD",
        "question": f"What is {n}?",
        "question_type": "PRSE, ABN",
        "answer": n,
        "answer_type": "OPEN",
    } | changes


def vqa_rad_tree(root: Path, rows: Any, images: int = 30) -> Path:
    (root / "images").mkdir(parents=True)
    for n in range(images):
        picture(n).save(root / "images" / f"{n}.jpg")
    (root / "VQA_RAD_Dataset_Public.json").write_text(json.dumps(rows))
    return root


def test_every_row_is_an_example_or_counted(tmp_path: Path) -> None:
    rows = [row(n) for n in range(20)]
    rows += [
        row(20, phrase_type="test_para", image_name="0.jpg", answer_type="CLOSED ", answer="YES"),
        row(21, question=" \t"),
        row(22, answer=None),
        row(23, answer="\n"),
        row(24, image_name="absent.jpg"),
        row(25, image_name=None),
        row(26, answer="two\t words\n"),
    ]
    found = VqaRad().load(vqa_rad_tree(tmp_path, rows))
    assert found.left_out == {
        "no question": 1,
        "no answer": 2,
        "image file not found": 2,
        "train question about a test image": 1,
    }
    assert len(found.examples) + found.left_out.total() == len(rows)
    (test,) = found.split("test")
    assert (test.cluster, test.images) == ("0.jpg", (str(tmp_path / "images" / "0.jpg"),))
    assert test.attributes == {"answer_type": "closed", "question_type": "ABN, PRES", "organ": "HEAD"}
    assert {e.id: e.reference for e in found.examples}["26"] == "two words"
    assert 0 < len(found.split("validate")) < 10


def test_one_image_under_two_names_is_one_image(tmp_path: Path) -> None:
    root = vqa_rad_tree(tmp_path, [row(1), row(2, phrase_type="test_freeform"), row(3)])
    shutil.copy(root / "images" / "2.jpg", root / "images" / "1.jpg")
    found = VqaRad().load(root)
    assert found.left_out == {"train question about a test image": 1}
    assert {e.id: e.cluster for e in found.examples} == {"2": "1.jpg", "3": "3.jpg"}
    # Two questions of one split about the two names fall into one cluster.
    (root / "VQA_RAD_Dataset_Public.json").write_text(json.dumps([row(1), row(2)]))
    assert {e.cluster for e in VqaRad().load(root).examples} == {"1.jpg"}


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_files_that_are_equal_without_being_images_are_not_one_image(content: bytes, tmp_path: Path) -> None:
    root = vqa_rad_tree(tmp_path, [row(1), row(2, phrase_type="test_freeform"), row(3)])
    for name in ("1.jpg", "2.jpg"):
        (root / "images" / name).write_bytes(content)
    found = VqaRad().load(root)
    assert not found.left_out
    assert {e.id: e.cluster for e in found.examples} == {"1": "1.jpg", "2": "2.jpg", "3": "3.jpg"}


def test_names_under_which_vqa_rad_is_published(tmp_path: Path) -> None:
    root = vqa_rad_tree(tmp_path, [row(1)])
    expected = VqaRad().load(root).examples
    (root / "VQA_RAD_Dataset_Public.json").rename(root / "VQA_RAD Dataset Public.json")
    (root / "images").rename(root / "VQA_RAD Image Folder")
    (again,) = VqaRad().load(root).examples
    assert (again.id, again.reference) == (expected[0].id, expected[0].reference)
    (root / "trainset.json").write_text(json.dumps([row(1, phrase_type="frame")]))
    (root / "testset.json").write_text(json.dumps([row(2, phrase_type="para")]))
    assert {e.id: e.split for e in VqaRad(form="mevf").load(root).examples}["2"] == "test"
    (root / "testset.json").unlink()
    assert error(lambda: VqaRad(form="mevf").load(root)).startswith(f"{root / 'testset.json'} not found\nexpected:")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"a": 1}, "should hold a list of objects"),
        ([row(1), "secret"], "should hold a list of objects"),
        ([row(1), row(2, answer=["secret"])], "row 2, key answer: should be text or a number"),
        ([row(1), {key: value for key, value in row(2).items() if key != "answer"}], "row 2: no key answer"),
        ([row(1, answer_type="secret")], "row 1, key answer_type: should be CLOSED or OPEN"),
        ([row(1, phrase_type="secret")], "row 1, key phrase_type: should be one of freeform"),
        ([row(1), row(1)], "two questions have the id 1"),
        ([row(90), row(91)], "90.jpg not found, nor any of the other 1; put the images there"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, rows: Any, expected: str) -> None:
    text = error(lambda: VqaRad().load(vqa_rad_tree(tmp_path, rows)))
    assert expected in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'[{"answer": "secret",\n}]', "line 2: not JSON"), (b'["secret \xff"]', "byte 10: not UTF-8")],
)
def test_damaged_json(tmp_path: Path, content: bytes, expected: str) -> None:
    path = vqa_rad_tree(tmp_path, []) / "VQA_RAD_Dataset_Public.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path}, {expected}")) as caught:
        VqaRad().load(tmp_path)
    assert "secret" not in str(caught.value).removeprefix(str(path))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("task", TASKS)
def test_missing_files_are_named_with_the_expected_tree(task: type[VqaTask], tmp_path: Path) -> None:
    text = error(lambda: task().load(tmp_path))
    assert text.startswith(str(tmp_path))
    assert "not found\nexpected:\n  ROOT/" in text


items_of_few_images = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(["train", "validate", "test"])), max_size=40
)


@given(items_of_few_images)
def test_disjoint_keeps_or_counts_every_item(drawn: list[tuple[int, Any]]) -> None:
    items = [Item(str(n), "", str(image), split, "?", "!", {}) for n, (image, split) in enumerate(drawn)]
    kept, left_out = disjoint(items)
    assert len(kept) + left_out.total() == len(items)
    assert [item for item in items if item in kept] == kept
    of = {image: {item.split for item in items if item.cluster == image} for image in {i.cluster for i in items}}
    for image, splits in of.items():
        best = next(split for split in ("test", "validate", "train") if split in splits)
        assert {item.split for item in kept if item.cluster == image} == {best}
    assert {item.id for item in kept if item.split == "test"} == {item.id for item in items if item.split == "test"}
    cut = with_validation(kept)
    assert [item.id for item in cut] == [item.id for item in kept]
    assert len({(item.cluster, item.split) for item in cut}) == len(of)


def test_validation_is_a_fifth_of_the_training_images_whatever_else_there_is() -> None:
    items = [Item(str(n), "", f"synpic{n}", "train", "?", "!", {}) for n in range(2000)]
    chosen = {item.id for item in with_validation(items) if item.split == "validate"}
    assert 350 < len(chosen) < 450
    assert {item.id for item in with_validation(items[::2]) if item.split == "validate"} == {
        item.id for item in items[::2] if item.id in chosen
    }


def path_vqa_tree(root: Path) -> Path:
    for name, number in (("train", 3), ("val", 2), ("test", 2)):
        (root / "qas" / name).mkdir(parents=True)
        (root / "images" / name).mkdir(parents=True)
        rows = [
            {"image": f"{name}_{n:04d}", "question": f"what is {n} ?", "answer": "yes" if n else "fat cells"}
            for n in range(number)
        ]
        (root / "qas" / name / f"{name}_qa.pkl").write_bytes(pickle.dumps(rows, protocol=3))
        for item in rows:
            (root / "images" / name / f"{item['image']}.jpg").write_text(item["image"])
    return root


def test_path_vqa(tmp_path: Path) -> None:
    found = PathVqa().load(path_vqa_tree(tmp_path / "pvqa").parent)
    assert counts(found.examples) == {"train": (3, 3), "validate": (2, 2), "test": (2, 2)}
    assert found.left_out == {}
    first, second = found.split("test")
    assert (first.id, first.cluster, first.context, first.reference) == (
        "test-00001",
        "test_0000",
        "what is 0 ?",
        "fat cells",
    )
    assert [e.attributes for e in (first, second)] == [{"answer_type": "open"}, {"answer_type": "closed"}]
    assert first.images == (str(tmp_path / "pvqa/images/test/test_0000.jpg"),)
    assert PathVqa().load(tmp_path / "pvqa").examples == found.examples


class Touches:
    """A pickle of it makes a file when it is loaded the usual way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_run_no_code(tmp_path: Path) -> None:
    path = path_vqa_tree(tmp_path) / "qas/val/val_qa.pkl"
    whole = path.read_bytes()
    evil = pickle.dumps([{"image": "x", "question": Touches(tmp_path / "touched"), "answer": "secret"}])
    for content in (evil, whole[:-20], b"", b"<html>", pickle.dumps({"a": 1})):
        path.write_bytes(content)
        text = error(lambda: PathVqa().load(tmp_path))
        assert text.startswith(f"{path}: ")
        assert "secret" not in text
    assert not (tmp_path / "touched").exists()
    pickle.loads(evil)
    assert (tmp_path / "touched").exists()


CATEGORIES = ("C1_Modality", "C2_Plane", "C3_Organ", "C4_Abnormality")


def vqa_med_tree(root: Path) -> Path:
    for part, images, short, first in (("Training", "Train", "train", 0), ("Validation", "Val", "val", 3)):
        home = root / f"ImageClef-2019-VQA-Med-{part}"
        (home / "QAPairsByCategory").mkdir(parents=True)
        (home / f"{images}_images").mkdir()
        for category in CATEGORIES:
            lines = [f"synpic{n}|what is it?|ct w/contrast (iv)\n" for n in range(first, first + 3)]
            (home / "QAPairsByCategory" / f"{category}_{short}.txt").write_text("".join(lines))
        for n in range(first, first + 3):
            (home / f"{images}_images" / f"synpic{n}.jpg").write_text(f"image {n}")
    test = root / "VQAMed2019Test"
    (test / "VQAMed2019_Test_Images").mkdir(parents=True)
    (test / "VQAMed2019_Test_Questions_w_Ref_Answers.txt").write_text(
        "synpic7|modality|is \tthis a t1 weighted image?|yes\r\n"
        "synpic8|organ|what organ system is imaged?|face, sinuses, and neck#skull and contents\r\n"
        "\r\n"
        "synpic9|abnormality|what is abnormal in the ct scan?|(angioinvasive aspergillosis with) septic emboli"
    )
    for n in (7, 8, 9):
        (test / "VQAMed2019_Test_Images" / f"synpic{n}.jpg").write_text(f"image {n}")
    return root


def test_vqa_med_2019(tmp_path: Path) -> None:
    found = VqaMed2019().load(vqa_med_tree(tmp_path))
    assert counts(found.examples) == {"train": (12, 3), "validate": (12, 3), "test": (3, 3)}
    yes, organ, abnormality = found.split("test")
    assert (yes.id, yes.cluster, yes.context) == ("test-00001", "synpic7", "is this a t1 weighted image?")
    assert yes.attributes == {"answer_type": "closed", "question_type": "modality"}
    assert organ.reference == "face, sinuses, and neck#skull and contents"
    assert abnormality.id == "test-00004"
    assert abnormality.reference == "angioinvasive aspergillosis with septic emboli#septic emboli"
    assert {e.id for e in found.split("train")} >= {"train-modality-00001", "train-abnormality-00003"}
    assert {e.reference for e in found.split("train")} == {"ct w/contrast (iv)"}
    # One folder more, as some archives have it.
    images = tmp_path / "VQAMed2019Test" / "VQAMed2019_Test_Images"
    images.rename(tmp_path / "moved")
    images.mkdir()
    (tmp_path / "moved").rename(images / images.name)
    assert len(VqaMed2019().load(tmp_path).split("test")) == 3


def test_vqa_med_2019_lines(tmp_path: Path) -> None:
    path = vqa_med_tree(tmp_path) / "ImageClef-2019-VQA-Med-Validation/QAPairsByCategory/C2_Plane_val.txt"
    path.write_text("synpic3|what is it?|axial\nsynpic4|secret\n")
    text = error(lambda: VqaMed2019().load(tmp_path))
    assert text == f'{path}, line 2: 2 fields separated by "|" where 3 should be'
    path.write_bytes(b"synpic3|what is it?|caf\xe9\n")
    assert error(lambda: VqaMed2019().load(tmp_path)).startswith(f"{path}, byte 24: not UTF-8")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("axial", "axial"),
        ("noncontrast (mri)", "noncontrast mri#noncontrast"),
        ("(iatrogenic) pneumoperitoneum", "iatrogenic pneumoperitoneum#pneumoperitoneum"),
        ("a (b) c#d", "a b c#a c#d"),
        ("(all of it)", "all of it"),
    ],
)
def test_alternatives_of_the_test_file(reference: str, expected: str) -> None:
    assert alternatives(reference) == expected


@given(st.text("ab ()#", max_size=15))
def test_alternatives_are_answers(reference: str) -> None:
    for answer in filter(None, alternatives(reference).split("#")):
        assert answer == " ".join(answer.split())
        assert set(answer) <= {*reference, " "}
    if not set(reference) & set("()#"):
        assert alternatives(reference) == " ".join(reference.split())


def picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((4, 4), value, np.uint8))


def rows_of(values: list[int | None], **columns: list[Any]) -> datasets.Dataset:
    """Rows with images of one grey value each; None: no image."""
    features = {
        "image": datasets.Image(),
        **{name: datasets.Value("int64" if name == "qid" else "string") for name in ("question", "answer", *columns)},
    }
    content = {
        "image": [None if value is None else picture(value) for value in values],
        "question": [f"What is {n}?" for n in range(len(values))],
        "answer": ["Yes" if n else "fat  cells" for n in range(len(values))],
        **columns,
    }
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CONRAD_BENCH_CACHE", str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
    return folder


def test_rows_of_the_hub(cache: Path) -> None:
    splits = {"train": rows_of([1, 1, 2, 3, None]), "validation": rows_of([4]), "test": rows_of([2, 5])}
    items = hub_items(splits, "some/set")
    found = loaded(items)
    assert found.left_out == {"train question about a test image": 1, "image file not found": 1}
    assert counts(found.examples) == {"train": (3, 2), "validate": (1, 1), "test": (2, 2)}
    assert_disjoint(found.examples)
    first = found.split("test")[0]
    assert (first.id, first.context, first.reference) == ("test-000001", "What is 0?", "fat cells")
    assert first.attributes == {"answer_type": "open"}
    assert np.asarray(open_image(first.images[0]))[0, 0].tolist() == [2, 2, 2]
    saved = sorted(path for path in cache.rglob("*") if path.is_file())
    assert len(saved) == 5
    assert {path.suffix for path in saved} == {".png"}
    assert all(path.stem == hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in saved)
    # Images that are there are kept; a torn one is written anew.
    times = {path: path.stat().st_mtime_ns for path in saved[1:]}
    saved[0].write_bytes(b"torn")
    assert hub_items(splits, "some/set") == items
    assert {path: path.stat().st_mtime_ns for path in saved[1:]} == times
    assert saved[0].read_bytes() != b"torn"


def test_a_hub_data_set_through_its_task(tmp_path: Path) -> None:
    for name, rows in (("train", rows_of(list(range(40)))), ("test", rows_of([50, 51]))):
        rows.to_parquet(tmp_path / f"{name}.parquet")
    found = VqaRad(hub=str(tmp_path)).load(tmp_path / "no root")
    assert {split: images for split, (_, images) in counts(found.examples).items()}["test"] == 2
    # There is no validation split: it is cut from the training images.
    assert len(found.split("train")) + len(found.split("validate")) == 40
    assert found.split("validate")


def test_hub_language_and_columns(tmp_path: Path) -> None:
    kinds = {"q_lang": ["en", "zh"], "content_type": ["Organ", "Size"], "answer_type": ["CLOSED ", "OPEN"]}
    for n, name in enumerate(("train", "validation", "test")):
        rows_of([n, n + 100], **kinds).to_parquet(tmp_path / f"{name}.parquet")
    english, chinese = (Slake(hub=str(tmp_path), q_lang=language).load(tmp_path) for language in ("en", "zh"))
    assert english.left_out == chinese.left_out == {"question in another language": 3}
    assert [e.attributes for e in english.split("test")] == [{"answer_type": "closed", "question_type": "Organ"}]
    assert [e.attributes for e in chinese.split("test")] == [{"answer_type": "open", "question_type": "Size"}]
    (tmp_path / "english").mkdir()
    rows_of([1]).to_parquet(tmp_path / "english" / "test.parquet")
    assert len(Slake(hub=str(tmp_path / "english")).load(tmp_path).examples) == 1
    text = error(lambda: Slake(hub=str(tmp_path / "english"), q_lang="zh").load(tmp_path))
    assert text == f"{tmp_path / 'english'}: no question in the language 'zh'"


def test_broken_images_of_the_hub_stay_apart(tmp_path: Path) -> None:
    """Equal bytes that are no image, in several splits: neither one image nor an end of the data set."""
    broken: dict[str, Any] = {"image": [b"not found", b"not found", b""], "question": ["?"] * 3, "answer": ["yes"] * 3}
    rows = datasets.Dataset.from_dict(broken).cast_column("image", datasets.Image())
    found = loaded(hub_items({"train": rows, "test": rows}, "some/set"))
    assert not found.left_out
    assert len({e.cluster for e in found.examples}) == 6
    for example in found.examples:
        with pytest.raises(ImageError, match=r"it is (empty|no image)"):
            open_image(example.images[0])


def test_hub_data_sets_that_do_not_fit(tmp_path: Path) -> None:
    rows = rows_of([1])
    paths = datasets.Dataset.from_dict({"image": ["1.jpg"], "question": ["?"], "answer": ["yes"]})
    for splits, expected in (
        ({"train": rows.remove_columns("answer")}, "data set some/set: no column answer"),
        ({"train": rows.remove_columns("image")}, "no column image"),
        ({"train": paths}, "no column image that holds images"),
        ({"all": rows}, "split 'all' is not one of train, validation"),
    ):
        text = error(lambda given=splits: hub_items(given, "some/set"))  # type: ignore[misc]
        assert expected in text
        assert "secret" not in text
    (tmp_path / "empty").mkdir()
    text = error(lambda: VqaRad(hub=str(tmp_path / "empty")).load(tmp_path))
    assert "cannot be read" in text


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(range(256)) * 9, b"<html>not found</html>"])
def test_a_damaged_parquet_file_is_a_data_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train-0.parquet").write_bytes(data)
    text = error(lambda: VqaRad(hub=str(tmp_path / "set")).load(tmp_path))
    assert f"data set {tmp_path / 'set'} cannot be read" in text


def test_rows_without_an_image_have_none() -> None:
    stored = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    nothing = pa.array([None, {"bytes": None, "path": None}], type=stored)
    table = pa.table({"image": nothing, "question": ["?"] * 2, "answer": ["yes"] * 2})
    lacking = datasets.Dataset(table).cast_column("image", datasets.Image())
    items = hub_items({"test": lacking}, "some/set")
    assert [item.image for item in items] == ["", ""]


@pytest.mark.parametrize("data", [b"[" * 100_000, b"[" + b"1" * 6000 + b"]", b"[NaN", b"\xff\xfe[]"])
def test_json_that_cannot_be_read_is_a_data_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(data)
    assert str(path) in error(lambda: read_rows(path, "expected: rows"))


@pytest.mark.parametrize("task", TASKS)
def test_prompts_and_claims(task: type[VqaTask]) -> None:
    asked = Example("1", "i", "test", ("/i.jpg",), "Where is the mass?", "left lung", {"answer_type": "open"})
    prompt = task().prompt(asked)
    assert prompt.messages[0].text.startswith("Where is the mass?\n")
    assert (prompt.images, prompt.elicit) == (("/i.jpg",), None)
    elicited = task().prompt(asked, "confidence")
    assert elicited.messages[0].text == prompt.messages[0].text + INSTRUCTIONS["confidence"]
    response = Response("key", " Left lung.\nConfidence: 7\n", (1,), None, "stop")
    (claim,) = task().claims(response, "confidence")
    assert (claim.text, claim.confidence) == ("Left lung.", 0.7)
    (claim,) = task().claims(Response("key", " Left lung.\n", (1,), None, "stop"))
    assert (claim.text, claim.confidence, claim.status) == ("Left lung.", None, "ok")
    assert task().scorer == "vqa_match"
    assert task.phantom_layout == ("vqa_rad" if task is VqaRad else None)


NUMBER, SEED = 200, 3


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "vqa"
    vqa_layout.write_vqa_rad(folder, NUMBER, SEED)
    return folder


def test_phantom_questions_come_back(phantom: Path) -> None:
    found = VqaRad().load(phantom)
    assert found.left_out == {}
    assert len(found.examples) == 3 * NUMBER
    assert_disjoint(found.examples)
    studies = {vqa_layout.image_name(study): study for study in vqa_layout.first_studies(NUMBER, SEED)}
    assert len({study.patient for study in studies.values()}) == len(studies) == NUMBER
    asked: dict[str, list[Example]] = {}
    for example in found.examples:
        asked.setdefault(example.cluster, []).append(example)
        study = studies[example.cluster]
        assert (example.split == "test") == (world.split_of(study.patient) == "test")
        known = [*questions.closed_questions(study.findings), *questions.open_questions(study.findings)]
        assert (example.context, example.reference) in {(q.text, q.answer) for q in known}
    for name, examples in asked.items():
        assert len({e.context for e in examples}) == 3
        assert Counter(e.attributes["answer_type"] for e in examples) == {"closed": 2, "open": 1}
        drawn = np.asarray(open_image(examples[0].images[0]), dtype=int)[..., 0]
        assert abs(drawn - render.frontal(studies[name]).astype(int)).mean() < 3
    closed = [e.reference for e in found.examples if e.attributes["answer_type"] == "closed"]
    assert 0.4 < closed.count("yes") / len(closed) < 0.6
    sizes = counts(found.examples)
    assert set(sizes) == {"train", "validate", "test"}
    assert all(n > 0.07 * len(found.examples) for n, _ in sizes.values())


@real_vqa_rad
def test_phantom_rows_have_the_keys_of_real_ones(phantom: Path) -> None:
    name = "VQA_RAD_Dataset_Public.json"
    written = json.loads((phantom / name).read_text())
    real = json.loads((REAL / "vqa-rad" / name).read_text())
    assert {tuple(item) for item in written} == {tuple(real[0])}
    for key in ("phrase_type", "image_organ", "evaluation", "question_type", "answer_type", "question_relation"):
        assert {item[key] for item in written} <= {item[key] for item in real}
    assert [item["qid"] for item in written] == list(range(3 * NUMBER))


def test_phantom_bytes_repeat_and_patients_differ_from_the_reports(phantom: Path, tmp_path: Path) -> None:
    def digests(root: Path) -> dict[str, str]:
        files = (path for path in root.rglob("*") if path.is_file())
        return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    steps: list[int] = []
    vqa_layout.write_vqa_rad(tmp_path / "again", NUMBER, SEED, progress=steps.append)
    assert steps == [1] * NUMBER
    assert digests(tmp_path / "again") == digests(phantom)
    vqa_layout.write_vqa_rad(tmp_path / "other", 20, SEED + 1)
    mimic_layout.write_mimic(tmp_path / "mimic", 60, SEED)
    images = {
        name: {d for path, d in digests(root).items() if path.endswith(".jpg")}
        for name, root in (("vqa", phantom), ("other", tmp_path / "other"), ("mimic", tmp_path / "mimic"))
    }
    assert not images["vqa"] & images["other"]
    assert not images["vqa"] & images["mimic"]
    assert "Synthetic" in (phantom / "README.txt").read_text()
    with pytest.raises(DataError, match="is not an empty folder"):
        vqa_layout.write_vqa_rad(tmp_path / "again", 1, 0)
