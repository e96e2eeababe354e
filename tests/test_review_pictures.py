"""Reports for new pictures under review: what `conrad-bench report --out` wrote, in the same pages and the same log."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_review import Reviewing, sentences_of

from conrad_bench.cli import app
from conrad_bench.errors import ConfigError, DataError
from conrad_bench.progress import Reporter
from conrad_bench.reporting.reports import REPORTS
from conrad_bench.reporting.schema import Report
from conrad_bench.reviews.exports import write_ratings
from conrad_bench.serving.references import write_references
from conrad_bench.tasks.phantom import render, world


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command wrote for three studies of two phantom films; the films lie in `films` beside it."""
    folder = tmp_path_factory.mktemp("pictures")
    table = [["id", "images", "indication"]]
    (folder / "films").mkdir()
    for number, study in enumerate(itertools.islice(world.studies(120, 3, split="test"), 3)):
        names = []
        for view in ("frontal", "lateral"):
            names.append(f"films/{number}-{view}.png")
            Image.fromarray(getattr(render, view)(study)).save(folder / names[-1])
        table.append([f"study {number}", ";".join(names), f"cough {number}"])
    with open(folder / "studies.csv", "w", newline="") as file:
        csv.writer(file).writerows(table)
    app(["report", str(folder / "studies.csv"), "--out", str(folder / "out")], standalone_mode=False)
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy without a review; the pictures stay where they are."""
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


@pytest.fixture
def reviewing(out: Path) -> Iterator[Any]:
    opened: list[Reviewing] = []

    def begin(**options: Any) -> Reviewing:
        opened.append(Reviewing(out, **options))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()


def reports_of(out: Path) -> dict[str, Report]:
    lines = (out / REPORTS).read_text().splitlines()
    return {report.study: report for report in map(Report.model_validate_json, lines)}


def test_reports_for_new_pictures_are_reviewed_as_those_of_a_run(out: Path, reviewing: Any) -> None:
    reports = reports_of(out)
    review = reviewing()
    browser = review.browser()
    for number in range(len(review.reports.all)):
        report = reports[review.reports.study(number)[1]]
        page = browser.get(f"/review/{number}")
        assert [text for _, text, _ in sentences_of(page)] == [one.text for one in report.statements]
        assert f'<p class="text">{report.indication}</p>' in page
        assert "The reference report" not in page
        assert "How much to read" not in page  # nobody knows what is wrong
        assert all(f"{one.confidence:.2f}" in page for one in report.statements if one.confidence is not None)
        assert "The embedded model has seen synthetic pictures alone" in page
        assert page.count('<figure class="film"') == 2
        for picture in report.pictures:
            assert picture.sha256
    assert browser.client.get("/pictures/5").headers["content-type"] == "image/png"
    assert browser.client.get("/pictures/6").status_code == 404


def test_blind_pages_of_new_pictures_hide_what_is_known_of_confidences(out: Path, reviewing: Any) -> None:
    review = reviewing(blind=True, order="random")
    page = review.browser().get("/review/0")
    assert "verbalized" not in page
    assert "phantom-gemma3" not in page
    assert "synthetic pictures alone" not in page
    assert "data-confidence" not in page


def test_their_ratings_and_corrections_are_exported(out: Path, made: Path, reviewing: Any) -> None:
    review = reviewing()
    browser = review.browser()
    for number in range(len(review.reports.all)):
        for sentence, _, _ in sentences_of(browser.get(f"/review/{number}")):
            review.refill()
            assert browser.post(f"/review/{number}", sentence=sentence, rating=4).status_code == 200
            assert browser.post(f"/review/{number}", sentence=sentence, action="accept").status_code == 200
    write_ratings(out, out / "review.csv")
    with open(out / "review.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    reports = reports_of(out)
    assert {row["report"] for row in rows} == reports.keys()
    assert len(rows) == sum(len(report.statements) for report in reports.values())
    written = write_references(out, out / "references", None, Reporter(quiet=True))
    assert (written.what, written.left_out) == ("3 references", ())
    with open(out / "references" / "corrected_reports.csv", newline="") as file:
        for row in csv.DictReader(file):
            assert row["reference"] == reports[row["id"]].report
            assert row["indication"] == reports[row["id"]].indication
            assert all(Path(path).is_file() for path in row["images"].split(";"))
    for command in ("score", "agreement"):
        with pytest.raises(DataError, match="reports for new pictures"):
            app(["ratings", command, str(out)], standalone_mode=False)


def test_a_review_of_new_pictures_goes_on_behind_another_report_of_the_same_studies(out: Path, reviewing: Any) -> None:
    """Other confidences of the same text are the same report; another text is another."""
    browser = reviewing().browser()
    number, (sentence, _, _) = 0, sentences_of(browser.get("/review/0"))[0]
    assert browser.post(f"/review/{number}", sentence=sentence, rating=2).status_code == 200
    lines = [json.loads(line) for line in (out / REPORTS).read_text().splitlines()]
    for line in lines:
        for statement in line["statements"]:
            statement["confidence"] = 0.25
    (out / REPORTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = reviewing().browser()
    assert 'aria-pressed="true">2<' in again.get("/review/0")
    for line in lines:
        line["model"] = "another"
    (out / REPORTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert 'aria-pressed="true">2<' not in reviewing().browser().get("/review/0")


def test_a_picture_that_has_changed_is_not_shown(out: Path, made: Path, reviewing: Any) -> None:
    """One is another picture now, one is gone."""
    changed, gone = made / "films" / "0-frontal.png", made / "films" / "1-lateral.png"
    kept = changed.read_bytes(), gone.read_bytes()
    try:
        shutil.copy(made / "films" / "2-frontal.png", changed)
        gone.unlink()
        review = reviewing()
        browser = review.browser()
        pages = {review.reports.study(n)[1]: browser.get(f"/review/{n}") for n in range(3)}
        shown = {study: page.count('<figure class="film"') for study, page in pages.items()}
        assert shown == {"study 0": 1, "study 1": 1, "study 2": 2}
        assert "are not shown: 1." in pages["study 0"]
        assert "not shown" not in pages["study 2"]
    finally:
        changed.write_bytes(kept[0])
        gone.write_bytes(kept[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: line.update(format=2), "line 1: format is not as"),
        (lambda line: line["statements"][0].update(start=3), "line 1: a statement is not where"),
        (lambda line: line.update(study="study 1"), "line 2: this study stands in an earlier line"),
        (lambda line: line.update(statements=[]), None),
    ],
)
def test_a_damaged_file_of_reports_says_where(change: Any, says: str | None, out: Path, reviewing: Any) -> None:
    lines = [json.loads(line) for line in (out / REPORTS).read_text().splitlines()]
    change(lines[0])
    (out / REPORTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    if says is None:  # a study without a statement has nothing to review
        assert len(reviewing().reports.all) == 2
        return
    with pytest.raises(DataError, match=says) as error:
        reviewing()
    assert lines[0]["report"] not in str(error.value)


def test_nothing_is_certified_for_new_pictures(reviewing: Any) -> None:
    with pytest.raises(ConfigError, match="--target needs a run"):
        reviewing(target=0.8)


def test_a_folder_of_neither_is_named(out: Path, tmp_path: Path, reviewing: Any) -> None:
    for text in ("", "no json\n"):
        (out / REPORTS).write_text(text)
        with pytest.raises(DataError, match=r"reports\.jsonl"):
            reviewing()
    (out / REPORTS).unlink()
    with pytest.raises(DataError, match=r"neither a run nor reports\.jsonl"):
        reviewing()
    with pytest.raises(DataError, match="neither a run nor"):
        app(["review", str(tmp_path / "nowhere"), "--no-browser"], standalone_mode=False)
