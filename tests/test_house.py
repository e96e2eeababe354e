"""The house: no two files import each other, and no room imports what its rules forbid."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "conrad_bench": "harness",
    "conrad_bench.tasks": "tasks",
    "conrad_bench.methods": "methods",
    "conrad_bench.trainers": "trainers",
    "conrad_bench.leaderboards": "leaderboards",
}


def files() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for package, folder in ROOMS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The package's modules that a file imports, at its top, inside functions, or for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield from (m for m in (inner if inner in modules else node.module,) if m in modules)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in modules)


MODULES = files()
GRAPH = {name: set(imports(path, MODULES)) - {name} for name, path in MODULES.items()}


def test_no_two_files_import_each_other() -> None:
    """Nor any circle of files: what is left after taking away the files that import nothing left is a circle."""
    left = {name: set(found) for name, found in GRAPH.items()}
    while free := [name for name, found in left.items() if not found & left.keys()]:
        for name in free:
            del left[name]
    assert not left


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("conrad_bench.tasks", "conrad_bench.methods"),
        ("conrad_bench.tasks", "conrad_bench.trainers"),
        ("conrad_bench.leaderboards", "conrad_bench.engines"),
        ("conrad_bench.leaderboards", "conrad_bench.methods"),
        ("conrad_bench.leaderboards", "conrad_bench.trainers"),
        ("conrad_bench.leaderboards", "conrad_bench.tasks"),
        ("conrad_bench.engines", "conrad_bench.methods"),
        ("conrad_bench.engines", "conrad_bench.trainers"),
        ("conrad_bench.engines", "conrad_bench.tasks"),
        ("conrad_bench.methods", "conrad_bench.leaderboards"),
        ("conrad_bench.serving", "conrad_bench.cli"),
        ("conrad_bench.leaderboards.metrics", "conrad_bench.leaderboards.board"),
        ("conrad_bench.leaderboards.inference", "conrad_bench.leaderboards.board"),
        ("conrad_bench.leaderboards.board", "conrad_bench.leaderboards.pages"),
        ("conrad_bench.leaderboards.pages", "conrad_bench.leaderboards.bundles"),
    ],
)
def test_rooms_keep_their_rules(room: str, forbidden: str) -> None:
    broken = {
        name: sorted(other for other in found if f"{other}.".startswith(f"{forbidden}."))
        for name, found in GRAPH.items()
        if f"{name}.".startswith(f"{room}.")
    }
    assert {name: found for name, found in broken.items() if found} == {}


def test_no_file_is_too_long_for_a_reader() -> None:
    long = {name: path.read_text(encoding="utf-8").count("\n") for name, path in MODULES.items()}
    assert {name: lines for name, lines in long.items() if lines > 410} == {}
