"""Images that cannot be read, in whole runs: each costs its example, is counted, and stops a strict run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_cli import conrad_bench

from conrad_bench import pipeline
from conrad_bench.config import RunConfig
from conrad_bench.errors import DataError, ImageError
from conrad_bench.progress import Reporter
from conrad_bench.records import read_records, records_path
from conrad_bench.registry import Registry
from conrad_bench.tasks.layouts.mimic_cxr import load_mimic_cxr
from conrad_bench.tasks.phantom.mimic_layout import write_mimic
from conrad_bench.types import Example, Split

METHODS = ["verbalized", "probe", "conrad", "verbalized+isotonic"]
OPTIONS: dict[str, dict[str, Any]] = {
    "bootstrap": {"replicates": 20},
    "probe": {"epochs": 1},
    "conrad": {"mode": "joint", "batch_size": 16, "epochs": 1, "max_tokens": 96, "learning_rate": 1e-5},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "mimic"
    write_mimic(root, 50, 0)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "mimic"))


def of(root: Path, split: Split) -> list[Example]:
    return load_mimic_cxr(root).split(split)


def damage(example: Example, how: str) -> None:
    path = Path(example.images[0])
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "torn": whole[: len(whole) // 2], "other": b"<html>"}[how])


def run(root: Path, out: Path, methods: list[str], **options: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "methods": methods,
        "tasks": ["mimic_report"],
        "model": "phantom",
        "data_roots": {"mimic_report": root},
        "options": OPTIONS,
    }
    return pipeline.run(RunConfig.model_validate(values), out, Registry(), Reporter(), **options)


def test_broken_images_cost_their_examples(
    base_model: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test, train, validate = of(root, "test"), of(root, "train"), of(root, "validate")
    for example, how in zip(test, ("empty", "torn", "other"), strict=False):
        damage(example, how)
    damage(train[0], "torn")
    damage(validate[0], "empty")
    board = run(root, tmp_path / "run", METHODS)
    for method in METHODS:
        frame = read_records(records_path(tmp_path / "run", method, "mimic_report"))
        lost = frame[frame["status"] == "image_unreadable"]
        assert list(lost["example"]) == [example.id for example in test[:3]]
        assert lost[["confidence", "correctness"]].isna().all(axis=None)
        assert (frame["status"] == "ok").any()
    assert {row["unparsed"]["image_unreadable"] for row in board["rows"]} == {3}
    shown = capsys.readouterr().err
    assert "images that cannot be read, with their examples left out: 3; image " in shown
    counted = {
        path.parent.name.partition("@")[0]: json.loads(path.read_text())["image_unreadable"]
        for path in (tmp_path / "run" / "artifacts").glob("*/artifact.json")
    }
    assert counted["probe"] == 2
    assert counted["verbalized+isotonic"] == 1
    assert counted["conrad"] == 1
    assert "image_unreadable" in (tmp_path / "run" / "leaderboard.csv").read_text().splitlines()[0]
    assert "(image_unreadable): the model was not asked" in (tmp_path / "run" / "leaderboard.md").read_text()
    assert run(root, tmp_path / "run", METHODS) == board  # finished


@pytest.mark.slow
def test_a_dry_run_names_them(root: Path, tmp_path: Path) -> None:
    for example in of(root, "test")[:3]:
        damage(example, "empty")
    damage(of(root, "test")[3], "other")
    damage(of(root, "test")[4], "torn")  # its header is whole
    damage(of(root, "train")[0], "empty")
    arguments = ("run", "--tasks", "mimic_report", "--model", "phantom", "--data-root", f"mimic_report={root}")
    out = ("--out", str(tmp_path / "run"), "--dry-run")
    done = conrad_bench(*arguments, "--methods", "verbalized", *out, cwd=tmp_path)
    images = sum(len(example.images) for example in of(root, "test"))
    assert done.returncode == 0, done.stderr
    assert f"images: {images} opened, of which cannot be read: 4" in done.stdout
    assert done.stdout.count("it is empty (0 bytes)") == 3
    assert "and 1 more" in done.stdout
    assert "of which cannot be read: 5" in conrad_bench(*arguments, "--methods", "probe", *out, cwd=tmp_path).stdout
    strict = conrad_bench(*arguments, "--methods", "verbalized", *out, "--strict", cwd=tmp_path)
    assert strict.returncode == 2
    assert f"4 of {images} images cannot be read, and --strict makes that an error" in strict.stderr


def test_a_strict_run_stops(base_model: Path, root: Path, tmp_path: Path) -> None:
    damage(of(root, "test")[0], "torn")
    with pytest.raises(ImageError, match="it is damaged"):  # found when it is decoded
        run(root, tmp_path / "run", ["verbalized"], strict=True)
    assert not (tmp_path / "run" / "manifest.json").exists()
    board = run(root, tmp_path / "run", ["verbalized"])  # the same command without it goes on
    assert board["rows"][0]["unparsed"]["image_unreadable"] == 1
    damage(of(root, "test")[1], "empty")
    with pytest.raises(DataError, match=r"1 of \d+ images cannot be read, and --strict"):  # before anything is asked
        run(root, tmp_path / "other", ["verbalized"], strict=True)
    assert not (tmp_path / "other" / "rollouts").exists()


def test_a_run_whose_images_are_all_broken_fails(base_model: Path, root: Path, tmp_path: Path) -> None:
    for example in of(root, "test"):
        damage(example, "empty")
    with pytest.raises(
        DataError, match=r"not one of the \d+ test examples has images that can be read; image .* empty"
    ):
        run(root, tmp_path / "run", ["verbalized"])
    assert not (tmp_path / "run" / "records").exists()
