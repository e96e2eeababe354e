"""Reports on a terminal: a line a sentence, with its confidence as a number and a bar, the doubtful ones shaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conrad_bench.reporting.schema import Report, Statement

_SHADES = ((0.3, "black on #ffb000"), (0.5, "black on #ffcf66"), (0.7, "black on #ffe7b3"), (0.85, "black on #fff6e0"))
"""Below which confidence a sentence has which shade: the less sure, the stronger. Numbers and bars say the same."""
_BAR = 10


def reports_for_console(reports: Sequence[Report]) -> Any:
    """Return reports as a rich renderable; without colours every number is still there."""
    from rich.console import Group

    return Group(*(part for report in reports for part in _parts(report)))


def _parts(report: Report) -> list[Any]:
    from rich.table import Table
    from rich.text import Text

    count = len(report.pictures)
    about = [f"{count} picture{'s' * (count != 1)}", report.method, report.model]
    parts: list[Any] = [Text(f"{report.study}  ({', '.join(about)})", style="bold")]
    if report.indication:
        parts.append(Text(f"Indication: {report.indication}"))
    parts += [Text(f"! {warning}") for warning in report.warnings]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for number, one in enumerate(report.statements, start=1):
        text = one.text or f"no report: {one.status.replace('_', ' ')}"
        table.add_row(str(number), _number(one), _bar(one.confidence), Text(text, style=_shade(one.confidence)))
    parts += [Text(""), table, Text("")]
    such = {one.such.level: one.such.said for one in report.statements if one.such is not None}
    parts += [Text(said) for _, said in sorted(such.items(), reverse=True)]
    if report.source is not None:
        parts.append(Text(f"Judged by {report.source.scorer}, on test patients of {report.source.data}."))
    return [*parts, Text(report.notice, style="italic"), Text("")]


def _number(one: Statement) -> str:
    """Return a confidence as it is said: "7/10", or "0.64" between two tenths; the status where there is none."""
    if one.confidence is None:
        return "?"
    tenths = 10 * one.confidence
    return f"{tenths:.0f}/10" if abs(tenths - round(tenths)) < 1e-6 else f"{one.confidence:.2f}"


def _bar(confidence: float | None) -> str:
    full = round(_BAR * (confidence or 0.0))
    return "#" * full + "." * (_BAR - full)


def _shade(confidence: float | None) -> str:
    if confidence is None:
        return _SHADES[0][1]
    return next((style for below, style in _SHADES if confidence < below - 1e-9), "")
