"""`report`: the estimates of a run for new pictures, what they were worth, and the forms that they are given in."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import conrad_bench
from test_dicom import NAME, film

import conrad_bench as cb
from conrad_bench.cli import app
from conrad_bench.errors import ConfigError, DataError, ImageError, MissingExtra, ModelError
from conrad_bench.leaderboards.metrics.base import Correctness
from conrad_bench.plan import load_task
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.reporting import fhir, schema, scope, sr
from conrad_bench.reporting.calibrated import Calibrated
from conrad_bench.reporting.making import Making, plan_anew, plan_from
from conrad_bench.reporting.reports import check_out, lines, make_reports, write_reports
from conrad_bench.reporting.studies import read_studies
from conrad_bench.reporting.terminal import reports_for_console
from conrad_bench.tasks.phantom import render, world
from conrad_bench.text import console
from conrad_bench.types import Example

DATA = Path(os.environ.get("CONRAD_BENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cxr-images"
REPORT = Path(__file__).parents[1] / "docs" / "report.md"
TASK = "mimic_sentence"
PROBE = f"artifacts/probe@{TASK}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a method that learns and of one that does not."""
    folder = tmp_path_factory.mktemp("report") / "run"
    options: dict[str, dict[str, Any]] = {
        "phantom": {"studies": 30},
        "bootstrap": {"replicates": 2},
        "probe": {"epochs": 2},
    }
    cb.run(["verbalized", "probe"], [TASK], out=folder, quiet=True, options=options)
    return folder


def trained(run: Path, **others: Any) -> Making:
    given: dict[str, Any] = {"model": None, "method": None, "level": None, "options": {}, "registry": Registry()}
    return plan_from(run / PROBE, **(given | others))


def untrained(**others: Any) -> Making:
    given: dict[str, Any] = {"model": None, "engine": None, "method": None, "level": None, "options": {}}
    return plan_anew(**(given | others), registry=Registry())


def examples(making: Making) -> list[Example]:
    return load_task(making.plan, TASK, Reporter(quiet=True)).split("test")


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Making, list[Example], list[schema.Report]]:
    """Reports for pictures that the run has seen, too, as if they were new."""
    making = trained(run)
    studies = [replace(example, reference="") for example in examples(making)[:4]]
    return making, studies, make_reports(making, studies, tmp_path_factory.mktemp("out"), Reporter(quiet=True))


PERSON = {
    "PatientName": "Müller^Jürgen",
    "PatientBirthDate": "19500101",
    "PatientSex": "F",
    "ReferringPhysicianName": "",
    "StudyDate": "20260101",
    "StudyTime": "120000",
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.4",
    "StudyID": "1",
    "AccessionNumber": "2",
}


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A phantom film as a clinic would have it."""
    study = next(world.studies(1, 0))
    values = render.frontal(study).astype(np.uint16) * 16
    path = tmp_path_factory.mktemp("dicom") / "film.dcm"
    return film(values, path, **{**PERSON, "PatientName": NAME}, WindowCenter=2040, WindowWidth=4081)


def test_a_report_is_what_the_run_would_have_estimated(
    run: Path, made: tuple[Making, list[Example], list[schema.Report]]
) -> None:
    records = cb.open_run(run).responses("probe", TASK)
    for study, report in zip(made[1], made[2], strict=True):
        wanted = records[records["example"] == study.id].sort_values("claim")
        assert [one.status for one in report.statements] == wanted["status"].tolist()
        assert [one.confidence for one in report.statements] == pytest.approx(wanted["confidence"].tolist(), abs=1e-5)
        for one in report.statements:
            assert report.report[one.start : one.end] == one.text
            assert one.text in wanted["text"].iloc[0]
        assert report.indication == study.context
        assert [picture.file for picture in report.pictures] == [Path(path).name for path in study.images]


def test_such_are_the_test_claims_of_the_same_tenth(
    run: Path, made: tuple[Making, list[Example], list[schema.Report]]
) -> None:
    records = cb.open_run(run).records("probe", TASK)
    ones = [one for report in made[2] for one in report.statements]
    assert ones
    for one in ones:
        assert one.such is not None
        assert one.confidence is not None
        same = records[np.round(10 * records["confidence"]) == round(10 * one.confidence)]
        assert (one.such.claims, one.such.patients) == (len(same), same["cluster"].nunique())
        assert one.such.correctness == pytest.approx(same["correctness"].mean())
        assert f"{len(same):,} sentence" in one.such.said
        assert f"about {one.such.level}/10" in one.such.said


def many(confidence: float, patients: int, right: float, seed: int = 0) -> Any:
    """Records of a method that states one confidence, five claims a patient."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(patients), 5).astype(str)
    return pd.DataFrame(
        {
            "status": "ok",
            "confidence": confidence,
            "correctness": (rng.random(5 * patients) < right).astype(float),
            "cluster": cluster,
        }
    )


SOURCE = schema.Source(task=TASK, data="MIMIC-CXR", scorer="GREEN", records="0")


def test_the_sentence_says_what_a_confidence_was_worth() -> None:
    records = many(0.7, 80, 0.62)
    such = Calibrated(records, SOURCE, "sentence").such(0.7)
    numbers = (records[name] for name in ("confidence", "correctness", "cluster"))
    wanted = cb.measure(Correctness(), *numbers, replicates=2000)
    assert (such.correctness, such.low, such.high) == tuple(wanted)
    assert such.said == (
        f"Of 100 sentences given 7/10, about {100 * wanted.value:.0f} were right "
        f"({100 * wanted.low:.0f}-{100 * wanted.high:.0f}, 400 sentences of MIMIC-CXR)."
    )


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (many(0.7, 4, 0.5), "no interval: too few patients, 20 sentences of MIMIC-CXR"),
        (many(0.7, 40, 1.1), "about 100 were right (no interval: all alike, 200 sentences"),
        (many(0.3, 40, 0.5), "No sentence of MIMIC-CXR was given 7/10: nothing tells"),
        (many(0.68, 40, 0.5), "Of 100 sentences given about 7/10,"),
        (many(0.7, 40, 0.5).assign(correctness=0.25), "Sentences given 7/10 had a mean GREEN of 0.25 (no interval"),
    ],
)
def test_what_is_not_known_is_not_said(records: Any, said: str) -> None:
    such = Calibrated(records, SOURCE, "sentence").such(0.7)
    assert said in such.said
    assert (such.low, such.high) == (None, None) or "about 7" in said


def test_out_of_the_box_the_command_writes_a_report(
    dicom: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    app(["report", dicom, "--indication", "cough", "--json"], standalone_mode=False)
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    report = schema.Report.model_validate_json(line)
    assert report.method == "verbalized"
    assert report.level == "sentence"
    assert report.source is None
    assert any("No run tells what these confidences are worth" in warning for warning in report.warnings)
    assert "Not a medical device" in report.notice
    assert not any(picture.out_of_scope for picture in report.pictures)
    assert report.indication == "cough"
    assert "Doe" not in said.out + said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--json", "--fhir"), "leave out one"),
        (("--sr",), "name a folder with --out"),
        (("--engine", "vllm", "--artifact", "run"), "--engine: the run that --artifact names fixes the engine"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: tuple[str, ...], said: str, dicom: str) -> None:
    with pytest.raises(ConfigError, match=said):
        app(["report", dicom, *options], standalone_mode=False)


@pytest.mark.slow
def test_a_folder_of_studies_on_ray(run: Path, tmp_path: Path) -> None:
    """The same reports as without, all forms written, by the real command; again, it continues."""
    pytest.importorskip("ray")
    making = trained(run)
    for study in examples(making)[:5]:
        (tmp_path / "all" / study.id).mkdir(parents=True)
        for path in study.images:
            shutil.copy(path, tmp_path / "all" / study.id)
    common = ("report", "all", "--artifact", str(run / PROBE), "--fhir", "--out")
    for extra in (("here",), ("ray", "--ray", "local", "--replicas", "2"), ("ray",)):
        done = conrad_bench(*common, *extra, cwd=tmp_path, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    here, there = ((tmp_path / name / "reports.jsonl").read_text() for name in ("here", "ray"))
    confidences = [[one["confidence"] for one in json.loads(line)["statements"]] for line in here.splitlines()]
    others = [[one["confidence"] for one in json.loads(line)["statements"]] for line in there.splitlines()]
    assert len(confidences) == 5
    for found, wanted in zip(others, confidences, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)
    assert (tmp_path / "ray" / "reports.fhir.ndjson").read_text().count("\n") == 5


def test_the_same_command_again_asks_nothing_twice(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making = trained(run)
    studies = examples(making)[:2]
    first = make_reports(making, studies, tmp_path, Reporter(quiet=True))
    monkeypatch.setattr(type(making.plan.engine), "generate", None)
    again = trained(run)
    assert make_reports(again, studies, tmp_path, Reporter(quiet=True)) == first
    check_out(tmp_path)
    assert write_reports(tmp_path, first).read_text(encoding="ascii") == lines(first)


def test_what_learned_needs_its_artifact_and_what_the_run_fixed_stays(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method 'probe' learns .* --artifact RUN/artifacts/probe@TASK"):
        untrained(method="probe")
    with pytest.raises(ConfigError, match="leave out --method"):
        trained(run, method="verbalized")
    with pytest.raises(ConfigError, match="of a sentence each"):
        trained(run, level="report")
    with pytest.raises(ConfigError, match="max_tokens"):
        trained(run, options={"probe": {"max_tokens": 7}})
    assert trained(run, options={"transformers": {"batch_size": 3}}).plan.engine.batch_size == 3
    with pytest.raises(DataError, match="neither an artifact"):
        plan_from(tmp_path, None, None, None, {}, Registry())
    with pytest.raises(ConfigError, match="--method names one"):
        plan_from(run, None, None, None, {}, Registry())
    of_run = plan_from(run, None, "verbalized", None, {}, Registry())
    assert (of_run.name, of_run.task.name, of_run.artifact) == ("verbalized", TASK, None)


def test_another_model_or_a_changed_run_is_refused(run: Path, tiny_gemma3: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="another model"):
        trained(run, model=str(tiny_gemma3))
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with open(copy / PROBE / "probe.safetensors", "ab") as file:
        file.write(b"0")
    with pytest.raises(DataError, match=r"probe\.safetensors changed"):
        trained(copy)
    (records,) = (copy / "records").glob("probe*")
    records.write_bytes(b"")
    with pytest.raises(DataError, match="was changed since"):
        trained(copy)


def test_studies_come_from_files_folders_and_csv(image_files: list[str], dicom: str, tmp_path: Path) -> None:
    first, second, third = image_files
    (one,) = read_studies([Path(second), Path(first)], "cough")
    assert (one.images, one.context, one.id) == ((second, first), "cough", "1")
    root = tmp_path / "all"
    for name, files in {"b": [first, third], "a/series": [dicom], "empty": []}.items():
        (root / name).mkdir(parents=True)
        for number, path in enumerate(files):
            shutil.copy(path, root / name / (f"IM{number}" if path == dicom else f"{number}.png"))
    (root / "notes.txt").write_text("none")
    (root / "b" / ".hidden.png").write_text("none")
    assert [(study.id, [Path(p).name for p in study.images]) for study in read_studies([root], None)] == [
        ("a", ["IM0"]),
        ("b", ["0.png", "1.png"]),
    ]
    assert [study.id for study in read_studies([root / "b"], None)] == ["b"]
    table = tmp_path / "studies.csv"
    table.write_text("id,images,indication,patient\nx,all/b/0.png;all/b/1.png,cough,p\ny,all/b/0.png,,\n")
    found = read_studies([table], None)
    assert [(s.id, s.cluster, s.context, len(s.images)) for s in found] == [("x", "p", "cough", 2), ("y", "y", "", 1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id\nx\n", "has no column 'images'"),
        ("id,images\nx,none.png\n", "line 2: column 'images': there is no file"),
        ("id,images\nx,\n", "line 2: column 'images' is empty"),
        ("id,images\n", "has no rows"),
    ],
)
def test_a_wrong_csv_says_where(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_studies([tmp_path / "a.csv"], None)


def test_wrong_studies_are_named(image_files: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures"):
        read_studies([tmp_path], None)
    with pytest.raises(DataError, match="does not exist"):
        read_studies([tmp_path / "none.png"], None)
    with pytest.raises(DataError, match="is a folder: name one folder alone"):
        read_studies([tmp_path, Path(image_files[0])], None)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(image_files[0], tmp_path / name)
    with pytest.raises(ConfigError, match="--indication is of one study, not of 2"):
        read_studies([tmp_path], "cough")
    shutil.copy(image_files[0], tmp_path)
    with pytest.raises(DataError, match="holds pictures and folders of them"):
        read_studies([tmp_path], None)
    with pytest.raises(ConfigError, match="holds something else than reports"):
        check_out(tmp_path)


def test_a_picture_that_cannot_be_read_costs_its_study(image_files: list[str], tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(Path(image_files[0]).read_bytes()[:90])
    studies = [Example(name, name, "test", (path,), "", "") for name, path in (("a", str(torn)), ("b", image_files[1]))]
    lost, kept = make_reports(untrained(), studies, tmp_path / "out", Reporter(quiet=True))
    assert lost.statements[0].status == "image_unreadable"
    assert lost.report == ""
    assert any("torn.png cannot be read" in warning for warning in lost.warnings)
    assert kept.report
    with pytest.raises(ImageError):
        make_reports(untrained(), studies[:1], tmp_path / "other", Reporter(quiet=True))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("phantoms")
    paths = []
    for study in world.studies(120, 3, split="test"):
        for name, pixels in (("frontal", render.frontal(study)), ("lateral", render.lateral(study))):
            path = folder / f"{study.patient}-{study.index}-{name}.png"
            Image.fromarray(pixels).save(path)
            paths.append(str(path))
    return paths


def test_phantom_films_pass_and_others_do_not(phantoms: list[str], tmp_path: Path) -> None:
    flagged = [path for path in phantoms if scope.departures(path, phantom=True)]
    assert len(flagged) <= 0.02 * len(phantoms)
    enlarged = tmp_path / "large.png"
    with Image.open(phantoms[0]) as image:
        image.resize((900, 900), Image.Resampling.BICUBIC).save(enlarged)
        image.convert("RGB").save(tmp_path / "rgb.png")
    assert scope.departures(str(enlarged), phantom=True) == ()
    assert scope.departures(str(tmp_path / "rgb.png"), phantom=True) == ()
    blank = tmp_path / "blank.png"
    Image.new("L", (64, 64), 90).save(blank)
    for phantom in (True, False):
        assert scope.departures(str(blank), phantom)


def test_a_photo_is_flagged_always(tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_images

    for number, pixels in enumerate(load_sample_images().images):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(pixels).crop((0, 0, 400, 400)).save(path)
        for phantom in (True, False):
            assert any(said.startswith("colour") for said in scope.departures(str(path), phantom))


@pytest.mark.skipif(not DATA.is_dir(), reason="the open chest films are not there")
def test_real_films_are_out_of_scope_for_the_embedded_model_alone() -> None:
    paths = sorted(str(path) for path in DATA.iterdir() if path.suffix in (".png", ".dcm"))
    assert len(paths) == 5
    for path in paths:
        assert scope.departures(path, phantom=True), path
        assert scope.departures(path, phantom=False) == (), path


@pytest.mark.skipif(not DATA.is_dir(), reason="the open chest films are not there")
def test_real_films_through_the_whole_command(tmp_path: Path) -> None:
    films = sorted(path for path in DATA.iterdir() if path.suffix == ".dcm")
    studies = [study for path in films for study in read_studies([path], None)]
    reports = make_reports(untrained(), studies, tmp_path, Reporter(quiet=True))
    assert all(report.report and report.pictures[0].out_of_scope for report in reports)
    assert fhir.fhir_lines(reports).count("\n") == len(films)
    folder = sr.write_sr(tmp_path, studies, reports)
    assert len(list(folder.iterdir())) == len(films)


def test_fhir_reads_back_with_every_confidence(made: tuple[Making, list[Example], list[schema.Report]]) -> None:
    from fhir.resources.R4B.diagnosticreport import DiagnosticReport

    for report, line in zip(made[2], fhir.fhir_lines(made[2]).splitlines(), strict=True):
        read = DiagnosticReport.model_validate_json(line)
        assert read.status == "preliminary"
        assert read.conclusion == report.report
        observations = [each for each in read.contained if each.get_resource_type() == "Observation"]
        assert [each.valueString for each in observations] == [one.text for one in report.statements]
        assert [f"#{each.id}" for each in observations] == [each.reference for each in read.result]
        for one, each in zip(report.statements, observations, strict=True):
            coding = each.component[0].code.coding[0]
            assert (coding.system, coding.code) == ("http://dicom.nema.org/resources/ontology/DCM", "111012")
            assert float(each.component[0].valueQuantity.value) == pytest.approx(100 * one.confidence, abs=0.01)
            assert each.note[0].text == one.such.said
        assert "Not a medical device" in read.text.div


HOSTILE = '<script>"& \x00 \x1b[31m \u202e Größe 漢 \\ ' + "x" * 5000


def test_fhir_of_a_report_without_text_or_confidence(made: tuple[Making, list[Example], list[schema.Report]]) -> None:
    (report, *_) = made[2]
    empty = schema.Statement(text="", start=0, end=0, confidence=None, status="empty", such=None)
    hostile = empty.model_copy(update={"text": HOSTILE, "status": "no_confidence", "end": len(HOSTILE)})
    odd = report.model_copy(update={"report": "", "statements": [empty, hostile], "warnings": ["<b>"], "source": None})
    (line,) = fhir.fhir_lines([odd]).splitlines()
    found = json.loads(line)
    assert "conclusion" not in found
    assert "&lt;script&gt;" in found["text"]["div"]
    assert found["contained"][2]["valueString"] == console(HOSTILE)
    assert found["contained"][1]["component"][0]["dataAbsentReason"]["text"] == "empty"


def test_a_structured_report_reads_back_with_every_confidence(
    dicom: str, made: tuple[Making, list[Example], list[schema.Report]], tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom")
    report = made[2][0]
    studies = read_studies([Path(dicom)], None)
    sr.check_sr(studies)
    (path,) = sr.write_sr(tmp_path, studies, [report]).iterdir()
    read = highdicom.sr.srread(path)
    assert (read.VerificationFlag, read.StudyInstanceUID, str(read.PatientName)) == ("UNVERIFIED", "1.2.3", NAME)
    (findings,) = (item for item in read.ContentSequence if item.ValueType == "CONTAINER")
    assert [item.TextValue for item in findings.ContentSequence] == [one.text for one in report.statements]
    for one, item in zip(report.statements, findings.ContentSequence, strict=True):
        number, comment = item.ContentSequence
        name, measured = number.ConceptNameCodeSequence[0], number.MeasuredValueSequence[0]
        assert (name.CodeValue, name.CodingSchemeDesignator) == ("111012", "DCM")
        assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "%"
        assert float(measured.NumericValue) == pytest.approx(100 * one.confidence, abs=0.01)
        assert comment.TextValue == one.such.said
    again = sr.structured_report(studies[0], report)
    assert highdicom.sr.srread(io.BytesIO(again)).SOPInstanceUID == read.SOPInstanceUID


def test_a_structured_report_holds_any_text(
    dicom: str, made: tuple[Making, list[Example], list[schema.Report]]
) -> None:
    highdicom = pytest.importorskip("highdicom")
    odd = made[2][0].statements[0].model_copy(update={"text": HOSTILE, "confidence": None, "such": None})
    report = made[2][0].model_copy(update={"statements": [odd], "warnings": [HOSTILE]})
    read = highdicom.sr.srread(io.BytesIO(sr.structured_report(read_studies([Path(dicom)], None)[0], report)))
    (findings,) = (item for item in read.ContentSequence if item.ValueType == "CONTAINER")
    assert findings.ContentSequence[0].TextValue == console(HOSTILE)


def test_a_structured_report_keeps_the_patients_name_in_other_letters(
    made: tuple[Making, list[Example], list[schema.Report]], tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom")
    latin = film(np.zeros((8, 8), np.uint8), tmp_path / "a.dcm", SpecificCharacterSet="ISO_IR 100", **PERSON)
    study = read_studies([Path(latin)], None)[0]
    read = highdicom.sr.srread(io.BytesIO(sr.structured_report(study, made[2][0])))
    assert str(read.PatientName) == "Müller^Jürgen"


def test_a_structured_report_needs_dicom_of_one_study(
    dicom: str, made: tuple[Making, list[Example], list[schema.Report]], image_files: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="is no DICOM file"):
        sr.check_sr(read_studies([Path(image_files[0])], None))
    other = film(np.zeros((8, 8), np.uint8), tmp_path / "b.dcm", StudyInstanceUID="1.2.9")
    with pytest.raises(DataError, match="belong to 2 DICOM studies"):
        sr.structured_report(read_studies([Path(dicom), Path(other)], None)[0], made[2][0])
    with pytest.raises(DataError, match="no structured report can be made") as caught:
        sr.structured_report(read_studies([Path(other)], None)[0], made[2][0])
    assert "Doe" not in str(caught.value)


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, check in (("fhir", fhir.require_fhir), ("sr", lambda: sr.check_sr([]))):
        monkeypatch.setattr(f"conrad_bench.reporting.{module}.find_spec", lambda name: None)
        with pytest.raises(MissingExtra, match=r'pip install "conrad-bench\[(fhir|dicom)\]"'):
            check()


def printed(reports: list[schema.Report], **console: Any) -> str:
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=100, **console).print(reports_for_console(reports))
    return file.getvalue()


def test_the_terminal_shows_numbers_with_colours_and_without(
    made: tuple[Making, list[Example], list[schema.Report]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = printed(made[2])
    shaded = printed(made[2], force_terminal=True, color_system="truecolor")
    assert "\x1b[" not in plain
    assert "\x1b[30;48;2;" in shaded
    monkeypatch.setenv("NO_COLOR", "1")
    assert "48;2" not in printed(made[2], force_terminal=True, color_system="truecolor")
    for report in made[2]:
        for one in report.statements:
            assert re.search(rf"{one.confidence:.2f}|{10 * one.confidence:.0f}/10", plain)
        assert report.study in plain
    assert plain.count("Not a medical device") == len(made[2])


def test_the_page_names_every_field_and_option() -> None:
    from conrad_bench.cli.report import report

    text = REPORT.read_text(encoding="utf-8")
    models = (schema.Report, schema.Picture, schema.Statement, schema.Such, schema.Source)
    assert [name for model in models for name in model.model_fields if f"`{name}`" not in text] == []
    named = (
        "--indication",
        "--model",
        "--artifact",
        "--method",
        "--level",
        "--out",
        "--json",
        "--fhir",
        "--sr",
        "--ray",
    )
    assert [name for name in named if name not in text] == []
    assert "not a medical device" in f"{report.__doc__}".lower()
