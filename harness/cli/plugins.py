"""`conrad-bench list` and `conrad-bench doctor`: what is installed, and whether it works."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from conrad_bench.cli.common import Harmless, Plugins, say, tell

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
