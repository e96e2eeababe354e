"""`conrad-bench list` and `conrad-bench doctor`: what is installed, and whether it works."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from conrad_bench.cli.common import Harmless, Options, Plugins, say, tell

Kind = Literal["methods", "tasks", "scorers", "engines", "metrics"]


def list_plugins(
    kind: Annotated[Kind | None, typer.Argument(help="One kind only.")] = None,
    plugin: Plugins = None,
) -> None:
    """List the plugins, and why some do not work."""
    from rich.console import Console
    from rich.table import Table

    from conrad_bench.registry import KINDS, Registry

    console = Console()
    if not console.is_terminal:
        console.width = 1000  # piped output keeps one line per plugin
    registry = Registry(plugin or [])
    for shown in (kind,) if kind is not None else KINDS:
        table = Table("name", "summary", _NOTES[shown], "from", title=shown, title_justify="left", box=None)
        for name, cls in registry.available(shown).items():
            table.add_row(name, cls.summary, _note(shown, cls), registry.origin(shown, name))
        for column in (table.columns[0], table.columns[3]):
            column.no_wrap, column.overflow = True, "fold"
        with console.capture() as text:
            console.print(Harmless(table), markup=False, highlight=False)
        print("\n".join(line.rstrip() for line in text.get().splitlines()), end="\n\n")
    for error in registry.failures.values():
        tell(f"unusable: {error}")


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
    registry = Registry([*(plugin or []), path]) if path.suffix == ".py" else own
    found = [
        (kind, name)
        for kind in KINDS
        for name in registry.names(kind)
        if (name not in own.names(kind) if path.suffix == ".py" else name == what)
    ]
    if not found:
        raise ConfigError(f"there is no plugin {what!r}; `conrad-bench list` has the names, a file must end in .py")
    if data_root is not None and not data_root.is_dir():
        raise ConfigError(f"--data-root {data_root}: there is no such folder")
    options = parse_options(option or [])
    broken = 0
    for kind, name in found:
        for each in checks(registry.create(kind, name, options.get(name, {})), data_root):
            try:
                each()
            except (MissingExtra, ModelError):
                raise
            except Exception as error:
                broken += 1
                said = str(error) if isinstance(error, ConradBenchError) else _raised(error)
                tell(f"BROKEN  {name}: {each.name}: {said}")
            else:
                tell(f"ok      {name}: {each.name}: {each.says}")
    if broken:
        say(f"error: {broken} check(s) failed")
        raise typer.Exit(1)


def _raised(error: Exception) -> str:
    """Say which error a plugin raised, and where; toys have no patients."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})"


_NOTES = {
    "methods": "needs",
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
