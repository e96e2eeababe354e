"""The page of every option, docs/options.md, written from the classes: `python -m conrad_bench.reference`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import yaml

from conrad_bench.config import SECTIONS, RunConfig
from conrad_bench.options import Option, options
from conrad_bench.registry import BUILT_IN, KINDS, Registry
from conrad_bench.trainers.recalibrators import ABOUT

_TOP = """# Options

Written from the classes by `python -m conrad_bench.reference > docs/options.md`; a test compares them. `conrad-bench
describe NAME` says the same on the terminal, for plugins of your own too.

An option is set with `-o NAME.OPTION=VALUE`, or in a YAML file:

```yaml
options:
  probe: {layer: -2}
  bootstrap: {replicates: 2000}
```

`NAME` is a method, task, scorer, engine or metric, a variant of one (`conrad.joint`), or one of the sections
`bootstrap` and `phantom`. `null` is no value ("None" below). Where a default has a second value in brackets, a run on
the embedded phantom model has that one (`harness/phantom.yaml`).
"""


def page(registry: Registry) -> str:
    """Return the page as Markdown: the keys of a run, the harness's sections, and every built-in plugin."""
    return "\n".join(_lines(registry)).rstrip() + "\n"


def _lines(registry: Registry) -> Iterator[str]:
    yield _TOP
    yield "## A run\n\nKeys of a configuration file. Each has a flag: `--data-root TASK=DIR` for `data_roots`, `-o` for"
    yield "`options`, else its own name.\n"
    yield from _table(RunConfig, {})
    for name, section in SECTIONS.items():
        yield f"## {name}\n"
        yield from _table(section, {})
    profile = yaml.safe_load((files("conrad_bench") / "phantom.yaml").read_text(encoding="utf-8"))["options"]
    for kind in KINDS:
        yield f"## {kind.capitalize()}\n"
        plain = []
        for name, cls in registry.available(kind).items():
            if registry.origin(kind, name) != BUILT_IN:
                continue
            if not cls.model_fields:
                plain.append(f"`{name}`")
                continue
            yield f"### {name}\n\n{_text(cls.summary)}\n"
            yield from _table(cls, profile.get(name, {}))
        if plain:
            yield f"Without options: {', '.join(plain)}.\n"
        if kind == "methods":
            yield "## Recalibrators\n\nThey have no options: `METHOD+NAME`.\n"
            yield "| name | map of a confidence c | source |\n| --- | --- | --- |"
            yield from (f"| {name} | {_text(about.summary)} | {about.source} |" for name, about in ABOUT.items())
            yield ""


def _table(cls: type[Any], profile: Mapping[str, Any]) -> Iterator[str]:
    yield "| option | type | default | allowed | meaning |\n| --- | --- | --- | --- | --- |"
    for option in options(cls):
        default = f"`{option.default}`" if option.default != "required" else option.default
        if option.name in profile:
            default += f" (`{profile[option.name]}`)"
        cells = (f"`{option.name}`", option.type, default, _cell(option), _text(option.doc))
        yield "| " + " | ".join(cells) + " |"
    yield ""


def _cell(option: Option) -> str:
    if option.type.startswith("choice"):
        return ", ".join(f"`{choice}`" for choice in option.allowed.split(", "))
    if option.allowed.startswith("matches "):
        return f"matches `{_text(option.allowed.removeprefix('matches '))}`"
    return _text(option.allowed)


def _text(text: str) -> str:
    """Return text of our own for a cell; its code stays code."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(page(Registry()), end="")
