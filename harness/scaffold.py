"""`conrad-bench new KIND NAME`: a plugin that works, to be changed: its file, a test, a pyproject.toml.

The files in `templates` are plugins themselves, called my_plugin.
"""

from __future__ import annotations

import io
import json
import keyword
import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Literal

from conrad_bench.config import SECTIONS
from conrad_bench.errors import ConfigError
from conrad_bench.registry import KINDS, Registry
from conrad_bench.storage import storage_errors
from conrad_bench.trainers.recalibrators import KINDS as RECALIBRATORS

NewKind = Literal["method", "task", "scorer", "metric"]
Shape = Literal["response", "sampled", "fitted"]
"""What a new method looks at: the response alone, other samples beside it, or what it was fitted to."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_DATA = "example_data"

_TEST = '''"""What conrad-bench relies on, tried with toys before a run is."""

from __future__ import annotations

from collections.abc import Callable
{path_import}
from conrad_bench.testing import parametrize_with_checks
from {module} import {cls}


@parametrize_with_checks([{cls}()]{root})
def test_{name}(check: Callable[[], None]) -> None:
    check()
'''

_PYPROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1.0"
description = "The {kind} {name} for conrad-bench"
requires-python = ">=3.11"
dependencies = ["conrad-bench"]

[project.entry-points."conrad_bench.{kind}s"]
{name} = "{module}:{cls}"

[tool.setuptools]
py-modules = ["{module}"]

[tool.pytest.ini_options]
pythonpath = ["."]
"""


def write_plugin(kind: NewKind, name: str, folder: Path, registry: Registry, shape: Shape = "response") -> list[Path]:
    """Write the files of a new plugin into `folder` and return their paths; `shape` is that of a method.

    Raises ConfigError for a name that is none or is taken, a shape of something else than a method, and where a file of
    these names is there; writes nothing then. Raises StorageError where the folder cannot be written.
    """
    _check_name(name, registry)
    if kind != "method" and shape != "response":
        raise ConfigError(f"--shape {shape} is for methods; leave it out")
    contents = _contents(kind, name, shape)
    paths = {folder / path: content for path, content in contents.items()}
    there = [path for path in paths if path.exists() or path.is_symlink()]
    if there:
        raise ConfigError(f"{there[0]} is there already, and nothing is overwritten; name another folder with --out")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is no folder")
    for path, content in paths.items():
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file:
                file.write(content)
    return list(paths)


def commands(kind: NewKind, name: str, folder: Path) -> list[str]:
    """Return what to do with the files, as commands."""
    file = shlex.quote(str(folder / f"{_module(name)}.py"))
    data = shlex.quote(str(folder / _DATA))
    use = {
        "method": f"--methods verbalized,{name} --tasks mimic_report",
        "task": f"--methods verbalized --tasks {name} --data-root {name}={data} --model phantom",
        "scorer": f"--methods verbalized --tasks mimic_report -o mimic_report.scorer={name}",
        "metric": "--methods verbalized --tasks mimic_report",
    }[kind]
    place = shlex.quote(str(folder) if folder.is_absolute() else f"./{folder}".removesuffix("/."))
    return [
        f"conrad-bench check {file}" + (f" --data-root {data}" if kind == "task" else ""),
        f"python -m pytest {shlex.quote(str(folder))}",
        f"conrad-bench run {use} --plugin {file} --limit 20",
        f"pip install -e {place}    # then `conrad-bench check {name}`, and no --plugin any more",
    ]


def _check_name(name: str, registry: Registry) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            f"the name {name[:60]!r} should begin with a small letter, go on with small letters, digits and _ (40 at "
            "most), and be no word of Python's; write my_idea, not MyIdea or my-idea"
        )
    for kind in KINDS:
        if name in registry.names(kind):
            origin = registry.origin(kind, name)
            raise ConfigError(f"the name {name!r} is taken by a {kind[:-1]} ({origin}); choose another")
    if name in SECTIONS or name in RECALIBRATORS:
        what = "a section of options" if name in SECTIONS else "a recalibrator"
        raise ConfigError(f"the name {name!r} is taken by {what}; choose another")


def _module(name: str) -> str:
    return f"conrad_bench_{name}"


def _class(kind: NewKind, name: str) -> str:
    """Return a class's name that ends with its kind: "word_f1", a scorer, is WordF1Scorer."""
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return camel.removesuffix(kind.capitalize()) + kind.capitalize()


def _contents(kind: NewKind, name: str, shape: Shape) -> dict[str, bytes]:
    """Return the files by their paths inside the folder."""
    module, cls = _module(name), _class(kind, name)
    template = kind if shape == "response" else f"{kind}_{shape}"
    plugin = (files("conrad_bench") / "templates" / f"{template}.py").read_text(encoding="utf-8")
    for placeholder, text in {"my_plugin": name, "MY_PLUGIN": name.upper(), "MyPlugin": cls}.items():
        plugin = plugin.replace(placeholder, text)
    values = {
        "name": name,
        "kind": kind,
        "module": module,
        "cls": cls,
        "distribution": module.replace("_", "-"),
        "root": f', Path(__file__).parent / "{_DATA}"' if kind == "task" else "",
        "path_import": "from pathlib import Path\n" if kind == "task" else "",
    }
    contents = {
        f"{module}.py": plugin,
        f"test_{name}.py": _TEST.format(**values),
        "pyproject.toml": _PYPROJECT.format(**values),
    }
    written = {path: text.encode() for path, text in contents.items()}
    return written | (_example_data() if kind == "task" else {})


def _example_data() -> dict[str, bytes]:
    """Return a data root for the task: two grey pictures and questions for each split, one patient a question."""
    from PIL import Image

    rows, pictures = [], {}
    for number, split in enumerate(("train", "train", "validate", "validate", "test", "test"), 1):
        bright = number % 2 == 0
        image = f"images/{number}.png"
        picture = io.BytesIO()
        Image.new("L", (64, 64), 200 if bright else 40).save(picture, "PNG")
        pictures[f"{_DATA}/{image}"] = picture.getvalue()
        row = {"id": f"q{number}", "patient": f"p{number}", "split": split, "image": image}
        rows.append({**row, "question": "Is the image bright?", "answer": "yes" if bright else "no"})
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    return {f"{_DATA}/questions.jsonl": text.encode(), **pictures}
