"""The loader of MIMIC-CXR-JPG: on a phantom tree in the official layout, on hand-made trees, and its errors."""

import csv
import gzip
import hashlib
import re
import shutil
from pathlib import Path

import pytest

from conrad_bench.engines.opening import open_image
from conrad_bench.errors import DataError
from conrad_bench.reading.elicitation import INSTRUCTIONS
from conrad_bench.tasks.layouts.mimic_cxr import load_mimic_cxr, view_rank
from conrad_bench.tasks.mimic import MimicReport
from conrad_bench.tasks.phantom import grammar, mimic_layout, world
from conrad_bench.tasks.phantom.green import phantom_green
from conrad_bench.types import Example, Response

NUMBER, SEED = 120, 5


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "mimic"
    mimic_layout.write_mimic(folder, NUMBER, SEED)
    return folder


@pytest.fixture
def copy(phantom: Path, tmp_path: Path) -> Path:
    return shutil.copytree(phantom, tmp_path / "mimic")


def edit(path: Path, pattern: str, replacement: str) -> None:
    """Replace the first match in a gzipped csv file."""
    text = gzip.decompress(path.read_bytes()).decode()
    assert re.search(pattern, text)
    path.write_bytes(gzip.compress(re.sub(pattern, replacement, text, count=1).encode()))


def message(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_mimic_cxr(root)
    return str(caught.value)


def test_written_world_comes_back(phantom: Path) -> None:
    loaded = load_mimic_cxr(phantom)
    examples = {example.id: example for example in loaded.examples}
    studies = {f"s{mimic_layout.study_id(study)}": study for study in world.studies(NUMBER, SEED)}
    assert len(studies) == NUMBER
    assert set(examples) <= set(studies)
    assert set(loaded.left_out) <= {"no findings section"}
    assert len(examples) + loaded.left_out.total() == NUMBER
    assert [example.id for example in loaded.examples] == sorted(examples)
    for name, example in examples.items():
        study = studies[name]
        assert example.split == world.split_of(study.patient)
        assert example.cluster == f"p{mimic_layout.subject_id(study)}"
        assert example.context == study.indication
        assert [grammar.read(s) for s in grammar.sentences(example.reference)] == grammar.facts(study.findings)
        assert grammar.sentences(example.reference) == mimic_layout.wording(study)
        assert len(example.images) == 1 + study.lateral
        assert open_image(example.images[0]).size == (64, 64)
        assert dict(example.attributes) == {
            "view": study.projection,
            "image_quality": pytest.approx(study.quality, abs=1e-4),
            "sex": study.sex,
            "age": study.age,
        }
    assert len({example.cluster for example in examples.values()}) == len({s.patient for s in studies.values()}) > 30


def test_reports_without_findings_and_with_addenda_occur() -> None:
    reports = [mimic_layout.report(study) for study in world.studies(2000, 1)]
    headers = [set(re.findall(r"\n ([A-Z ,()]+):", report)) for report in reports]
    findings_headers = {"FINDINGS", "FINDING", "CHEST, TWO VIEWS", "PORTABLE AP CHEST"}
    assert 0.01 < sum(not h & findings_headers for h in headers) / 2000 < 0.03
    assert 0.01 < sum("ADDENDUM" in h for h in headers) / 2000 < 0.03
    assert findings_headers <= set.union(*headers)
    assert max(len(line) for report in reports for line in report.split("\n")) <= 79


def test_same_seed_same_bytes(phantom: Path, tmp_path: Path) -> None:
    def digests(root: Path) -> dict[str, str]:
        files = (path for path in root.rglob("*") if path.is_file())
        return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    steps: list[int] = []
    mimic_layout.write_mimic(tmp_path / "again", NUMBER, SEED, progress=steps.append)
    assert steps == [1] * NUMBER
    assert digests(tmp_path / "again") == digests(phantom)
    mimic_layout.write_mimic(tmp_path / "other", 10, SEED + 1)
    assert not set(digests(tmp_path / "other")) & {p for p in digests(phantom) if p.startswith("files")}
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["again", "other"]


def test_official_names_and_headers(phantom: Path) -> None:
    def header(name: str) -> str:
        return gzip.decompress((phantom / name).read_bytes()).decode().split("\n")[0]

    assert header("mimic-cxr-2.0.0-split.csv.gz") == "dicom_id,study_id,subject_id,split"
    assert header("mimic-cxr-2.0.0-metadata.csv.gz").startswith("dicom_id,subject_id,study_id,Performed")
    assert header("cxr-study-list.csv.gz") == "subject_id,study_id,path"
    records = csv.DictReader(gzip.decompress((phantom / "cxr-record-list.csv.gz").read_bytes()).decode().split("\n"))
    assert all((phantom / record["path"]).is_file() for record in records)
    assert "Synthetic" in (phantom / "README.txt").read_text()


def test_writer_refuses_a_folder_in_use_and_leaves_no_half(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(DataError, match=r"used: is not an empty folder"):
        mimic_layout.write_mimic(tmp_path / "used", 2, 0)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mimic_layout.write_mimic(tmp_path / "half", 2, 0, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
    (tmp_path / "empty").mkdir()
    mimic_layout.write_mimic(tmp_path / "empty", 2, 0)
    assert len(list((tmp_path / "empty" / "files").rglob("*.txt"))) == 2


def test_splits_and_views(phantom: Path) -> None:
    everything = load_mimic_cxr(phantom).examples
    tests = load_mimic_cxr(phantom, splits=("test",)).examples
    assert tests == [example for example in everything if example.split == "test"]
    frontal = load_mimic_cxr(phantom, views="frontal").examples
    assert [e.images for e in frontal] == [e.images[:1] for e in everything]
    assert load_mimic_cxr(phantom, views="frontal_lateral").examples == everything
    assert load_mimic_cxr(phantom, splits=()).examples == []


def test_plain_csv_and_later_versions(copy: Path, phantom: Path) -> None:
    for path in copy.glob("*.csv.gz"):
        plain = path.with_name(path.name.removesuffix(".gz").replace("2.0.0", "2.10.0"))
        plain.write_bytes(b"\xef\xbb\xbf" + gzip.decompress(path.read_bytes()).replace(b"\n", b"\r\n"))
    # The newest version is read: an older one with no rows would leave nothing.
    (copy / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(gzip.compress(b"dicom_id,study_id,subject_id,split\n"))

    def contents(root: Path) -> list[tuple[str, str, object]]:
        return [(e.id, e.reference, dict(e.attributes)) for e in load_mimic_cxr(root).examples]

    assert contents(copy) == contents(phantom)


def test_two_trees_below_one_root_or_in_two_roots(copy: Path, phantom: Path, tmp_path: Path) -> None:
    jpg, text = tmp_path / "root/mimic-cxr-jpg/2.1.0", tmp_path / "root/mimic-cxr/2.1.0/mimic-cxr-reports"
    for report in list((copy / "files").rglob("*.txt")):
        target = text / report.relative_to(copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        report.rename(target)
    jpg.parent.mkdir(parents=True)
    copy.rename(jpg)
    expected = [(e.id, e.reference) for e in load_mimic_cxr(phantom).examples]
    assert [(e.id, e.reference) for e in load_mimic_cxr(tmp_path / "root").examples] == expected
    assert "none of the reports" in message(jpg)
    (jpg / "mimic-cxr-reports.zip").touch()
    assert f"unpack {jpg / 'mimic-cxr-reports.zip'} first" in message(jpg)
    for folder in (text, text / "files", text.parent):
        assert [(e.id, e.reference) for e in load_mimic_cxr(jpg, reports_root=folder).examples] == expected
    assert len(MimicReport(reports_root=text).load(jpg).examples) == len(expected)
    assert "-split.csv.gz not found" in message(text)


PATIENT, STUDY = "p10/p10000032", "s50414267"
REPORT = " FINAL REPORT\n INDICATION:  ___F with pain.\n \n FINDINGS:  Clear lungs.\n"


def hand_made(root: Path, positions: list[str]) -> Path:
    """Write one study with an image for each ViewPosition; image n is n repeated."""
    folder = root / "files" / PATIENT / STUDY
    folder.mkdir(parents=True)
    folder.with_suffix(".txt").write_text(REPORT)
    split, metadata = ["split,subject_id,study_id,dicom_id"], ["ViewPosition,subject_id,dicom_id,study_id,Rows"]
    for n, position in enumerate(positions):
        dicom = "-".join([f"{n:x}" * 8] * 5)
        (folder / f"{dicom}.jpg").touch()
        split.append(f"test,10000032,50414267,{dicom}")
        metadata.append(f"{position},10000032,{dicom},50414267,64")
    (root / "mimic-cxr-2.0.0-split.csv").write_text("\n".join(split))
    (root / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join(metadata) + "\n\n")
    return root


def chosen(example: Example) -> str:
    return "".join(Path(image).name[0] for image in example.images)


@pytest.mark.parametrize(
    ("positions", "everything", "frontal", "both", "view"),
    [
        (["LATERAL", "AP", "", "PA", "LL"], "31042", "3", "30", "PA"),
        (["AP", "PA", "AP"], "102", "1", "1", "PA"),
        (["AP AXIAL", "XTABLE LATERAL", "LATERAL", "AP"], "3021", "3", "32", "AP"),
        (["SWIMMERS", "LL"], "10", "", "1", "LL"),
        (["", ""], "01", "", "", "unknown"),
    ],
)
def test_order_and_choice_of_views(
    tmp_path: Path, positions: list[str], everything: str, frontal: str, both: str, view: str
) -> None:
    root = hand_made(tmp_path, positions)
    loaded = load_mimic_cxr(root)
    assert chosen(loaded.examples[0]) == everything
    assert loaded.examples[0].attributes == {"view": view}
    assert (loaded.examples[0].context, loaded.examples[0].reference) == ("___F with pain.", "Clear lungs.")
    for views, expected in (("frontal", frontal), ("frontal_lateral", both)):
        loaded = MimicReport(views=views).load(root)
        assert [chosen(example) for example in loaded.examples] == ([expected] if expected else [])
        assert loaded.left_out == ({} if expected else {"no image of the chosen views": 1})


def test_kinds_of_views() -> None:
    assert [view_rank(v)[0] for v in ("PA", "ap", "PA LLD", "LL", " lateral ", "XTABLE LATERAL", "LAO", "", "RPO")] == [
        *(0, 0, 0),
        *(1, 1, 1),
        *(2, 2, 2),
    ]


def test_what_is_left_out_is_counted(copy: Path) -> None:
    examples = load_mimic_cxr(copy).examples
    before = load_mimic_cxr(copy).left_out["no findings section"]

    def report(n: int) -> Path:
        return Path(examples[n].images[0]).parent.with_suffix(".txt")

    report(0).unlink()
    report(1).write_text(" \r\n \r\n")
    report(2).write_text(" FINAL REPORT\n IMPRESSION:  None.\n")
    Path(examples[3].images[0]).unlink()
    loaded = load_mimic_cxr(copy)
    assert loaded.left_out == {
        "no report file": 1,
        "empty report": 1,
        "no findings section": before + 1,
        "image file not found": 1,
    }
    assert loaded.examples == examples[4:]


def test_studies_whose_findings_were_set_by_hand_are_left_out_and_counted(tmp_path: Path) -> None:
    root = hand_made(tmp_path, ["PA"])
    for path in root.glob("*.csv"):
        path.write_text(path.read_text().replace("50414267", "59279892"))
    folder = (root / "files" / PATIENT / STUDY).rename(root / "files" / PATIENT / "s59279892")
    folder.with_name(f"{STUDY}.txt").rename(folder.with_suffix(".txt"))
    folder.with_suffix(".txt").write_text(" FINAL REPORT\n TECHNIQUE:  Clear lungs.\n \n IMPRESSION:  Normal.\n")
    assert MimicReport().load(root).left_out == {"findings set by hand": 1}
    (example,) = MimicReport(hand_set=True).load(root).examples
    assert example.reference == "Clear lungs."


def test_attributes(copy: Path) -> None:
    examples = load_mimic_cxr(copy).examples
    (copy / "attributes.csv.gz").unlink()
    assert set(load_mimic_cxr(copy).examples[0].attributes) == {"view"}
    one, two = examples[0].id[1:], examples[1].id[1:]
    (copy / "attributes.csv").write_text(
        f"group,study_id,score,mixed\nA,{one},1e2,7\n,{two},,none\nB,59999999,3,4\n", encoding="utf-8"
    )
    first, second, third, *_ = load_mimic_cxr(copy).examples
    assert {**first.attributes, "view": ""} == {"view": "", "group": "A", "score": 100.0, "mixed": "7"}
    assert {**second.attributes, "view": ""} == {"view": "", "mixed": "none"}
    assert set(third.attributes) == {"view"}
    for text, expected in (
        (f"study_id,a\n{one},1\n{one},2\n", "line 3, column study_id: this study is listed twice"),
        (f"study_id,view\n{one},1\n", "line 1: every column"),
        ("study_id,a\nX,1\n", "line 2, column study_id"),
        ("study,a\n", "line 1: no column study_id"),
    ):
        (copy / "attributes.csv").write_text(text)
        assert expected in message(copy)


def test_wrong_roots(tmp_path: Path, copy: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        text = message(root)
        assert str(root) in text
        assert "files/p10/p10000032/s50414267.txt" in text
    (copy / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    assert message(copy).startswith("mimic-cxr-2.0.0-metadata.csv.gz not found below")
    shutil.rmtree(copy / "files")
    hand_made(tmp_path / "one", ["PA"])
    shutil.rmtree(tmp_path / "one" / "files" / PATIENT / STUDY)
    assert message(tmp_path / "one").startswith("none of the images of ")


SPLIT, METADATA = "mimic-cxr-2.0.0-split.csv.gz", "mimic-cxr-2.0.0-metadata.csv.gz"


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "expected"),
    [
        (SPLIT, "subject_id", "patient", "line 1: no column subject_id"),
        (METADATA, "ViewPosition", "View", "line 1: no column ViewPosition"),
        (SPLIT, "study_id", "subject_id", "line 1: no column study_id"),
        (SPLIT, r"\n[^\n]*\n", "\na,b\n", "line 2: 2 columns where the header has 4"),
        (METADATA, r"Erect\n", "Erect,Erect\n", "line 2: 13 columns where the header has 12"),
        (SPLIT, r",5(\d{7}),", r",6\1,", "line 2, column study_id"),
        (SPLIT, r",1(\d{7}),", r",1\g<1>0,", "line 2, column subject_id"),
        (SPLIT, r"\n[0-9a-f]", "\nG", "line 2, column dicom_id"),
        (METADATA, r",5(\d{7}),", r",5,", "line 2, column study_id"),
        (SPLIT, r",(train|test|validate)\n", ",val\n", "line 2, column split: not one of train, validate, test"),
        (SPLIT, r"\n([^\n]*)\n", r"\n\1\n\1\n", "line 3, column dicom_id: this image is listed twice"),
        (METADATA, r"\n([^\n]*)\n", r"\n\1\n\1\n", "line 3, column dicom_id: this image is listed twice"),
        (METADATA, r"\n([^\n]*)\n", r"\n", "no row for 1 image(s)"),
        (SPLIT, r"\n(?=[^\n]*\n)", '\n"', "line 2: not a csv row"),
    ],
)
def test_malformed_csv_names_file_and_line(
    copy: Path, name: str, pattern: str, replacement: str, expected: str
) -> None:
    edit(copy / name, pattern, replacement)
    text = message(copy)
    assert text.startswith(str(copy / name))
    assert expected in text


def test_disagreeing_rows(tmp_path: Path) -> None:
    root = hand_made(tmp_path, ["PA", "LL"])
    split = root / "mimic-cxr-2.0.0-split.csv"
    rows = split.read_text()
    last = rows.rindex("\n")
    split.write_text(rows[:last] + rows[last:].replace("test", "train"))
    assert "line 3, column split: study 50414267 or its patient is in another split" in message(root)
    split.write_text(rows[:last] + rows[last:].replace("10000032", "10000033"))
    assert "line 3, column subject_id: study 50414267 belongs to another patient" in message(root)
    split.write_text(rows[:last] + rows[last:].replace("50414267", "50414268").replace("test", "train"))
    assert "line 3, column split" in message(root)
    split.write_text(rows[:last] + rows[last:].replace("50414267", "50414268"))
    assert "metadata.csv, line 3, column study_id" in message(root)


def test_damaged_files(copy: Path) -> None:
    path = copy / SPLIT
    whole = path.read_bytes()
    path.write_bytes(gzip.decompress(whole))
    assert f"{path}: not a gzip file" in message(copy)
    path.write_bytes(whole[: len(whole) // 2])
    assert re.search("after line [0-9]+: the gzip file is torn", message(copy))
    lines = gzip.decompress(whole).split(b"\n")
    path.write_bytes(gzip.compress(b"\n".join([*lines[:3], lines[3][:50] + b"\xff", *lines[4:]])))
    assert f"{path}, line 4, byte 51: not UTF-8" in message(copy)
    path.write_bytes(gzip.compress(b""))
    assert f"{path}, line 1: no column" in message(copy)
    path.write_bytes(whole)
    report = Path(load_mimic_cxr(copy).examples[0].images[0]).parent.with_suffix(".txt")
    report.write_bytes(b" FINDINGS: caf\xe9 secret\n")
    text = message(copy)
    assert text.startswith(f"{report}, byte 15: not UTF-8")
    assert "secret" not in text


def test_damaged_images(copy: Path) -> None:
    path = Path(load_mimic_cxr(copy).examples[0].images[0])
    assert open_image(str(path)).mode == "RGB"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"<html>not found</html>", whole[:10]):
        path.write_bytes(damaged)
        # A torn image is found when it is opened, not when the data set is listed.
        load_mimic_cxr(copy)
        with pytest.raises(DataError, match=re.escape(f"image {path} cannot be read")):
            open_image(str(path))
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        open_image(str(path))


def test_task_prompts_and_claims(phantom: Path) -> None:
    task = MimicReport()
    example = task.load(phantom).split("test")[0]
    prompt = task.prompt(example)
    assert prompt.messages[0].text == f"Indication: {example.context}\nWrite the findings of this chest X-ray."
    assert prompt.images == example.images
    assert prompt.elicit is None
    asked = task.prompt(example, "confidence")
    assert asked.messages[0].text == prompt.messages[0].text + INSTRUCTIONS["confidence"]
    assert asked.elicit == "confidence"
    without = Example("s1", "p1", "test", (), "", "")
    assert task.prompt(without).messages[0].text == "Write the findings of this chest X-ray."
    response = Response("k", f"{example.reference}\nConfidence: 7", (), None, "stop")
    (claim,) = task.claims(response, "confidence")
    assert (claim.text, claim.confidence, claim.status) == (example.reference, 0.7, "ok")
    assert phantom_green(claim.text, example.reference) == 1
