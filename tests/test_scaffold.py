"""`conrad-bench new`: what it writes passes `check` and its own test, as a file and installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner, Result

from conrad_bench.cli import app
from conrad_bench.errors import ConfigError, StorageError
from conrad_bench.registry import Registry
from conrad_bench.scaffold import NewKind, Shape, commands, write_plugin

KINDS: tuple[NewKind, ...] = get_args(NewKind)


def conrad_bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def data_of(kind: NewKind, folder: Path) -> tuple[object, ...]:
    return ("--data-root", folder / "example_data") if kind == "task" else ()


@pytest.mark.parametrize(
    ("kind", "shape"), [*((kind, "response") for kind in KINDS), ("method", "sampled"), ("method", "fitted")]
)
def test_what_is_written_passes_check_and_its_own_test(kind: NewKind, shape: Shape, tmp_path: Path) -> None:
    name = f"my_first_{kind}"
    made = conrad_bench("new", kind, name, "--out", tmp_path / "made", "--shape", shape)
    assert made.exit_code == 0, made.output
    folder = tmp_path / "made"
    checked = conrad_bench("check", folder / f"conrad_bench_{name}.py", *data_of(kind, folder))
    assert checked.exit_code == 0, checked.output
    assert "BROKEN" not in checked.output
    assert f"ok      {name}" in checked.output
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(folder)]
    tested = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert tested.returncode == 0, tested.stdout
    assert "passed" in tested.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_entry_point_leads_to_the_plugin(kind: NewKind, tmp_path: Path) -> None:
    name = f"entry_{kind}"
    write_plugin(kind, name, tmp_path, Registry())
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    ((group, entries),) = project["project"]["entry-points"].items()
    info = tmp_path / f"{project['project']['name']}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['project']['name']}\nVersion: 0.1.0\n")
    lines = [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    script = f"""
from conrad_bench.registry import Registry
for _ in range(2):  # the second finds what the first one's import has registered
    registry = Registry()
    assert registry.origin("{kind}s", "{name}") == "{project["project"]["name"]}"
    print(registry.create("{kind}s", "{name}", {{}}).name)
"""
    command = [sys.executable, "-W", "error", "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name, name]


@pytest.mark.parametrize("name", ["path", "field", "score", "task", "claim", "response", "sequence", "json", "a__b_"])
def test_names_that_python_or_the_package_use_are_fine(name: str, tmp_path: Path) -> None:
    for kind in KINDS:
        folder = tmp_path / kind
        write_plugin(kind, name, folder, Registry())
        checked = conrad_bench("check", folder / f"conrad_bench_{name}.py", *data_of(kind, folder))
        assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("verbalized", "taken by a method"),
        ("ece", "taken by a metric"),
        ("platt", "taken by a recalibrator"),
        ("bootstrap", "taken by a section"),
        ("My_idea", "write my_idea"),
        ("my-idea", "write my_idea"),
        ("1st", "small letter"),
        ("class", "no word of Python's"),
        ("conrad.joint", "small letters"),
        ("../up", "small letters"),
        ("ünlü", "small letters"),
        ("", "small letter"),
        ("a" * 41, "40 at most"),
    ],
)
def test_names_are_checked_and_nothing_is_written(name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        write_plugin("scorer", name, tmp_path / "out", Registry())
    assert list(tmp_path.iterdir()) == []


def test_a_shape_is_a_method_s(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--shape fitted is for methods"):
        write_plugin("scorer", "mine", tmp_path / "out", Registry(), "fitted")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_plugin("method", "mine", tmp_path, Registry())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for kind in KINDS:
        with pytest.raises(ConfigError, match="is there already"):
            write_plugin(kind, "other", tmp_path, Registry())  # its pyproject.toml
    (tmp_path / "pyproject.toml").unlink()
    (tmp_path / "pyproject.toml").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"pyproject.toml is there already"):
        write_plugin("method", "other", tmp_path, Registry())
    (tmp_path / "pyproject.toml").unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}.items() < before.items()


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is no folder"):
        write_plugin("metric", "mine", tmp_path / "file", Registry())
    with pytest.raises(StorageError, match="cannot write"):
        write_plugin("metric", "mine", tmp_path / "file" / "below", Registry())


def test_the_commands_that_are_told_quote_their_paths() -> None:
    told = commands("task", "mine", Path("a folder"))
    assert told[0] == "conrad-bench check 'a folder/conrad_bench_mine.py' --data-root 'a folder/example_data'"
    assert told[-1].startswith("pip install -e './a folder' ")
    assert commands("method", "mine", Path())[-1].startswith("pip install -e . ")
