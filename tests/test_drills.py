"""Fault drills: a run goes on after something that it stands on has changed. It says what, and the result is right.

A corrected reference and an edited plugin are in test_stale.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from served import Servers, said

from conrad_bench import pipeline
from conrad_bench.config import load_config
from conrad_bench.progress import Reporter
from conrad_bench.records import read_records
from conrad_bench.registry import Registry
from conrad_bench.tasks.layouts.mimic_cxr import load_mimic_cxr
from conrad_bench.tasks.phantom.mimic_layout import write_mimic

METHODS = ["verbalized", "verbalized+isotonic"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_mimic(tmp_path / "mimic", 60, 0)
    return tmp_path / "mimic"


def run(root: Path, out: Path, **values: Any) -> dict[str, Any]:
    registry = Registry()
    given = {
        "methods": METHODS,
        "tasks": ["mimic_report"],
        "data_roots": {"mimic_report": root},
        "model": "phantom",
        **values,
        "options": {"bootstrap": {"replicates": 20}, **values.pop("options", {})},
    }
    return pipeline.run(load_config(None, given, registry), out, registry, Reporter())


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what was said since this was asked last, without progress."""
    return [line for line in capsys.readouterr().err.splitlines() if " cannot be used (" in line or "goes on" in line]


def asked(out: Path) -> int:
    return len(list((out / "rollouts").glob("*.parquet")))


def test_a_picture_is_gone(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(root, tmp_path / "run")
    gone = load_mimic_cxr(root).split("test")[0]
    Path(gone.images[0]).unlink()
    told(capsys)
    after = run(root, tmp_path / "run")
    assert told(capsys) == [
        f"the records of {method} on mimic_report cannot be used (changed since: test examples); made again"
        for method in METHODS
    ]
    records = read_records(tmp_path / "run" / "records" / "verbalized@mimic_report.parquet").set_index("example")
    if gone.id in records.index:  # a study whose other pictures are there stays a study
        assert set(records.loc[[gone.id], "status"]) <= {"image_unreadable"}
    assert after == run(root, tmp_path / "clean")


@pytest.mark.parametrize("ended", [True, False])
def test_the_weights_are_others(
    root: Path, tmp_path: Path, base_model: Path, capsys: pytest.CaptureFixture[str], ended: bool
) -> None:
    model = Path(shutil.copytree(base_model, tmp_path / "model"))
    before = run(root, tmp_path / "run", model=str(model))
    if not ended:
        (tmp_path / "run" / "manifest.json").unlink()
        (tmp_path / "run" / "records" / "verbalized+isotonic@mimic_report.parquet").unlink()
    weights = load_file(model / "model.safetensors")
    name = max(weights, key=lambda name: weights[name].size)
    save_file({**weights, name: weights[name] * 1.05}, model / "model.safetensors", {"format": "pt"})
    told(capsys)
    after = run(root, tmp_path / "run", model=str(model))
    lines = told(capsys)
    assert len(lines) == 3 if ended else 2  # the isotonic map was fitted to other confidences
    assert all("(changed since: model (" in line for line in lines), lines
    assert before["rows"] != after["rows"]
    assert after == run(root, tmp_path / "clean", model=str(model))


@pytest.mark.parametrize("ended", [True, False])
def test_transformers_is_another_version(
    root: Path, tmp_path: Path, ended: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(root, tmp_path / "run")
    if not ended:  # only answers are there
        (tmp_path / "run" / "manifest.json").unlink()
        for folder in ("records", "artifacts"):
            shutil.rmtree(tmp_path / "run" / folder)
    batches = asked(tmp_path / "run")
    told(capsys)
    monkeypatch.setattr("conrad_bench.engines.transformers.version", lambda package: "99.0")
    after = run(root, tmp_path / "run")
    lines = told(capsys)
    assert len(lines) == (3 if ended else 0)
    assert all("changed since: model (transformers)" in line for line in lines), lines
    assert asked(tmp_path / "run") == 2 * batches  # another version's answers are not used
    assert after == run(root, tmp_path / "clean")


def test_the_server_has_moved(root: Path, tmp_path: Path, serve: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        return said("The lungs are clear.\nConfidence: 7")

    values: dict[str, Any] = {"engine": "openai", "model": "the/model", "methods": ["verbalized"]}
    first, _ = serve(answer)
    out = tmp_path / "run"
    before = run(root, out, **values, options={"openai": {"base_url": first, "images": False}})
    (out / "manifest.json").unlink()
    (out / "records" / "verbalized@mimic_report.parquet").unlink()
    shards = sorted((out / "rollouts").glob("*.parquet"))
    shards[-1].unlink()  # as if the server had gone before its last answers
    told(capsys)
    second, moved = serve(answer)
    after = run(root, out, **values, options={"openai": {"base_url": second, "images": False}})
    assert told(capsys) == [
        f"goes on with another setting that changes no answer: options.openai.base_url: {first} -> {second}"
    ]
    tests = len(load_mimic_cxr(root).split("test"))
    assert 0 < len(moved) < tests + 2  # what the store has is not asked again
    assert after == before
