"""`conrad-bench list`, `describe`, `new`, `check` and `doctor`: what is there, what it is, and whether it works."""

from __future__ import annotations

import shutil
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from conrad_bench.cli.common import Harmless, Options, Plugins, say, tell

Kind = Literal["methods", "recalibrators", "tasks", "scorers", "engines", "metrics"]
NewKind = Literal["method", "task", "scorer", "metric"]
Shape = Literal["response", "sampled", "fitted"]


def list_plugins(
    kind: Annotated[Kind | None, typer.Argument(help="One kind only.")] = None,
    plugin: Plugins = None,
) -> None:
    """List the plugins, and why some do not work."""
    from rich.console import Console
    from rich.table import Table

    from conrad_bench.registry import Registry
    from conrad_bench.trainers.recalibrators import ABOUT, HAC

    console = Console()
    if not console.is_terminal:
        console.width = 1000  # piped output keeps one line per plugin
    registry = Registry(plugin or [])
    for shown in (kind,) if kind is not None else get_args(Kind):
        table = Table("name", "summary", _NOTES[shown], "from", title=shown, title_justify="left", box=None)
        if shown == "recalibrators":
            for recalibrator, about in ABOUT.items():
                second = ":SECOND" if recalibrator == HAC else ""
                table.add_row(f"METHOD+{recalibrator}{second}", about.summary, about.source, "built-in")
        else:
            for name, cls in registry.available(shown).items():
                table.add_row(name, cls.summary, _note(shown, cls), registry.origin(shown, name))
        for column in (table.columns[0], table.columns[3]):
            column.no_wrap, column.overflow = True, "fold"
        with console.capture() as text:
            console.print(Harmless(table), markup=False, highlight=False)
        print("\n".join(line.rstrip() for line in text.get().splitlines()), end="\n\n")
    for error in registry.failures.values():
        tell(f"unusable: {error}")


def describe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Plugin, variant, recalibrator or section of options.")],
    plugin: Plugins = None,
) -> None:
    """Describe one plugin: source, needs, options with their defaults and ranges, cost in generations."""
    from conrad_bench import describe as described
    from conrad_bench.registry import Registry

    width = max(40, min(shutil.get_terminal_size((120, 24)).columns, 120))

    def write(label: str, text: str, column: int) -> None:
        lines = textwrap.wrap(" ".join(text.split()), width - column, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(lines or [""]):
            tell(f"  {label if number == 0 else '':{column - 2}}{line}".rstrip())

    for number, found in enumerate(described.describe(name, Registry(plugin or []))):
        if number:
            tell("")
        tell(f"{found.name} ({found.kind}): {found.summary}")
        for what, said in found.facts:
            write(what, said, 18)
        tell(f"options (-o {found.name}.OPTION=VALUE)" if found.options else "no options")
        wide = max((len(option.name) for option in found.options), default=0) + 4
        for option in found.options:
            allowed = f", {option.allowed}" if option.allowed else ""
            default = "must be set" if option.default == "required" else f"default {option.default}"
            kind = option.type.replace("choice", "one of")
            write(option.name, f"{kind}{allowed}; {default}", wide)
            if option.doc:
                write("", option.doc, wide)


def new(
    kind: Annotated[NewKind, typer.Argument(help="What it is to be.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name: small letters, digits and _.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the files; conrad-bench-NAME unless given.")
    ] = None,
    shape: Annotated[
        Shape, typer.Option(help="What a method looks at: the response, samples beside it, or what it was fitted to.")
    ] = "response",
) -> None:
    """Write a plugin to start from: a file that works, a test of it, and a pyproject.toml with its entry point."""
    from conrad_bench.registry import Registry
    from conrad_bench.scaffold import commands, write_plugin

    folder = out or Path(f"conrad-bench-{name.replace('_', '-')}")
    for path in write_plugin(kind, name, folder, Registry(), shape):
        tell(f"wrote {path}")
    tell("\nnext:")
    for command in commands(kind, name, folder):
        tell(f"  {command}")


def check(
    what: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Name of a plugin, or a file that registers some.")],
    option: Options = None,
    plugin: Plugins = None,
    data_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with the data, where a task is checked.")
    ] = None,
) -> None:
    """Check what plugins promise, before a run relies on it; exit code 1 if anything is broken."""
    from conrad_bench.config import parse_options
    from conrad_bench.errors import ConfigError, ConradBenchError, MissingExtra, ModelError
    from conrad_bench.registry import KINDS, Registry
    from conrad_bench.testing import checks

    own, path = Registry(plugin or []), Path(what)
    is_file = path.suffix in (".py", ".yaml", ".yml")
    registry = Registry([*(plugin or []), path]) if is_file else own
    found = [
        (kind, name)
        for kind in KINDS
        for name in registry.names(kind)
        if (name not in own.names(kind) if is_file else name == what)
    ]
    if not found:
        raise ConfigError(
            f"there is no plugin {what!r}; `conrad-bench list` has the names, a file ends in .py or .yaml"
        )
    if data_root is not None and not data_root.is_dir():
        raise ConfigError(f"--data-root {data_root}: there is no such folder")
    options = parse_options(option or [])
    broken = 0
    for kind, name in found:
        first: dict[str, str] = {}  # the check that said it first: one mistake breaks several
        made = registry.create(kind, name, options.get(name, {}))
        for each in checks(made, data_root):
            try:
                each()
            except (MissingExtra, ModelError):
                raise
            except Exception as error:
                broken += 1
                said = str(error) if isinstance(error, ConradBenchError) else _raised(error, type(made))
                before = first.setdefault(said, each.name)
                tell(f"BROKEN  {name}: {each.name}: {said if before == each.name else f'as {before}'}")
            else:
                tell(f"ok      {name}: {each.name}: {each.says}")
    if broken:
        say(f"error: {broken} check(s) failed")
        raise typer.Exit(1)


def _raised(error: Exception, plugin: type) -> str:
    """Say which error a plugin raised, and in which of its lines; toys have no patients."""
    return f"{type(error).__name__}: {error} ({_line(error, plugin)})"


def _line(error: Exception, plugin: type) -> str:
    """Return the last line of the plugin's own file that an error went through, or else the one that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == getattr(sys.modules[plugin.__module__], "__file__", None)]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


_NOTES = {
    "methods": "needs",
    "recalibrators": "source",
    "tasks": "claims, scorer",
    "scorers": "column",
    "engines": "provides",
    "metrics": "better, range, source",
}


def _note(kind: Kind, cls: Any) -> str:
    """Say what a plugin needs or provides."""
    if kind == "methods":
        return ", ".join(sorted(cls.needs)) or "-"
    if kind == "tasks":
        scorer = cls.model_fields["scorer"]
        name = "-" if scorer.is_required() else scorer.default
        phantom = cls.phantom_scorers.get(name)
        return f"{cls.granularity}, {name}" + (f" ({phantom} on phantom data)" if phantom else "")
    if kind == "metrics":
        return f"{cls.better}, [{cls.range[0]:g}, {cls.range[1]:g}], {cls.source}"
    return str(cls.label) if kind == "scorers" else ", ".join(sorted(cls.provides))


def doctor(
    model: Annotated[str | None, typer.Option(help="Local folder or hub id whose access is checked, too.")] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of a server that serves the model, for engine openai.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Check this machine: packages, GPUs, data roots, and a tiny generation on every engine."""
    from conrad_bench.doctor import examine
    from conrad_bench.registry import Registry

    problems = 0
    for finding in examine(Registry(plugin or []), model, base_url):
        problems += finding.state == "problem"
        tell(f"{finding.state:8}{finding.what}: {finding.found}")
        if finding.remedy:
            tell(f"{'':8}-> {finding.remedy}")
    if problems:
        say(f"error: {problems} problem(s) found; each is named above with its remedy")
        raise typer.Exit(1)
