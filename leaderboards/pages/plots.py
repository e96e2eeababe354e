"""Plots of leaderboard.html: inline SVG whose colours come from the page's style sheet, for light and dark.

Every plot has a text alternative (`role="img"` with a label); the page puts the numbers beside it as a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conrad_bench.leaderboards.metrics.base import BINS
from conrad_bench.text import html as escape

_LEFT, _TOP, _SIDE, _GAP, _BARS = 44, 8, 248, 16, 56
"""Pixels of a reliability diagram: margins, side of the square, height of the histogram below it."""
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4", "4 2 1 2", "12 3 3 3")
_COLOURS = len(_DASHES)
"""Number of colours in the style sheet (c0, c1, ...), and of dashes."""


def reliability(row: dict[str, Any], label: str) -> str:
    """Return the reliability diagram of a row that has `reliability` points, with a histogram below it.

    The band around the diagonal is a consistency band: where a group's mean correctness would lie in 95 % of samples if
    the group were calibrated. It is the bootstrap interval of the group, moved from its mean to its confidence, so it
    keeps the clusters and the continuous correctness (after Broecker and Smith 2007).
    """
    points = row["reliability"]
    base = _TOP + _SIDE
    parts = [_frame(_LEFT, _TOP, _SIDE, _SIDE)]
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = _LEFT + tick * _SIDE, base - tick * _SIDE
        parts.append(_line("grid", x, _TOP, x, base) + _line("grid", _LEFT, y, _LEFT + _SIDE, y))
        parts.append(_text(_LEFT - 6, y + 4, f"{tick:.1f}", "end"))
    band = [(p["confidence"], p["correctness"]) for p in points if p["correctness"]["low"] is not None]
    upper = [(c, _unit(c + e["high"] - e["value"])) for c, e in band]
    lower = [(c, _unit(c + e["low"] - e["value"])) for c, e in band]
    if len(band) == 1:  # a polygon of one point has no area
        (c, high), (_, low) = upper[0], lower[0]
        upper, lower = [(c - 0.012, high), (c + 0.012, high)], [(c - 0.012, low), (c + 0.012, low)]
    if band:
        outline = [*upper, *reversed(lower)]
        corners = " ".join(f"{_n(_LEFT + x * _SIDE)},{_n(base - y * _SIDE)}" for x, y in outline)
        parts.append(f'<polygon class="band" points="{corners}"/>')
    parts.append(_line("diagonal", _LEFT, base, _LEFT + _SIDE, _TOP))
    largest = max(p["n"] for p in points)
    for p in points:
        x, estimate = _LEFT + p["confidence"] * _SIDE, p["correctness"]
        if estimate["low"] is not None:
            parts.append(_line("whisker", x, base - estimate["low"] * _SIDE, x, base - estimate["high"] * _SIDE))
        radius = 2.5 + 4.5 * (p["n"] / largest) ** 0.5
        parts.append(f'<circle class="dot" cx="{_n(x)}" cy="{_n(base - estimate["value"] * _SIDE)}" r="{_n(radius)}"/>')
    floor = base + _GAP + _BARS
    width = _SIDE / BINS if row["grouping"] == "bin" else _SIDE / 28
    for p in points:
        middle = (p["group"] + 0.5) / BINS if row["grouping"] == "bin" else p["confidence"]
        height = _BARS * p["n"] / largest
        at = f'x="{_n(_LEFT + middle * _SIDE - width / 2 + 0.5)}" y="{_n(floor - height)}"'
        parts.append(f'<rect class="bar" {at} width="{_n(width - 1)}" height="{_n(height)}"/>')
    parts.append(_line("axis", _LEFT, floor, _LEFT + _SIDE, floor))
    parts.append(_text(_LEFT - 6, floor - _BARS + 9, f"{largest:,}", "end") + _text(_LEFT - 6, floor, "0", "end"))
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts.append(_text(_LEFT + tick * _SIDE, floor + 15, f"{tick:.1f}", "middle"))
    parts.append(_text(_LEFT + _SIDE / 2, floor + 32, "stated confidence", "middle"))
    parts.append(_upright(11, _TOP + _SIDE / 2, f"mean {label}"))
    parts.append(_text(_LEFT + _SIDE - 5, base - 6, "overconfident", "end", "hint"))
    parts.append(_text(_LEFT + 5, _TOP + 14, "underconfident", "start", "hint"))
    ece = row["metrics"].get("ece", {}).get("value")
    told = f"Reliability diagram of {row['method']} on {row['task']}: {len(points)} groups"
    told += f", ECE {ece:.3f}" if ece is not None else ""
    below = sum(p["correctness"]["value"] < p["confidence"] for p in points)
    told += f"; {below} of them below the diagonal (overconfident). The numbers are in the table below."
    return _svg(told, _LEFT + _SIDE + 12, floor + 40, parts)


def risk_coverage(rows: Sequence[dict[str, Any]], colours: dict[str, int], label: str) -> str:
    """Return one plot with a line for each row that has `risk_coverage`."""
    curves = [
        (
            row["method"],
            [(p["coverage"], p["risk"]) for p in row["risk_coverage"] if None not in (p["coverage"], p["risk"])],
        )
        for row in rows
    ]
    top = max((risk for _, curve in curves for _, risk in curve), default=0.0)
    top = max(0.05, -(-top // 0.05) * 0.05)
    left, width, height = 56, 360, 230
    base = _TOP + height
    parts = [_frame(left, _TOP, width, height)]
    for k in range(6):
        x, y = left + k / 5 * width, base - k / 5 * height
        parts.append(_line("grid", x, _TOP, x, base) + _line("grid", left, y, left + width, y))
        parts.append(
            _text(x, base + 16, f"{k / 5:.1f}", "middle") + _text(left - 6, y + 4, f"{top * k / 5:.2f}", "end")
        )
    for method, curve in curves:
        line = " ".join(f"{_n(left + c * width)},{_n(base - risk / top * height)}" for c, risk in curve)
        parts.append(f'<polyline {_style(colours[method])} points="{line}"/>')
    parts.append(_text(left + width / 2, base + 34, "coverage (share of claims kept, most confident first)", "middle"))
    parts.append(_upright(12, _TOP + height / 2, f"risk (1 − mean {label})"))
    told = f"Risk-coverage curves of {', '.join(method for method, _ in curves)}; lower is better."
    return _svg(told, left + width + 12, base + 42, parts)


def key(number: int) -> str:
    """Return a short line in the style of a method's number, for a legend."""
    line = f'<line {_style(number)} x1="1" y1="5" x2="29" y2="5"/>'
    return f'<svg class="key" viewBox="0 0 30 10" aria-hidden="true" focusable="false">{line}</svg>'


def _style(number: int) -> str:
    """Return the attributes of a method's line. The first 64 numbers have styles of their own."""
    dash = _DASHES[(number + number // _COLOURS) % _COLOURS]
    return f'class="curve c{number % _COLOURS}" stroke-dasharray="{dash}"'


def strip(
    estimate: dict[str, float | None], low: float, high: float, good: bool | None, seeds: Sequence[float] = ()
) -> str:
    """Return the row of a forest plot: an interval on the axis from `low` to `high`, with a line at zero.

    Each of `seeds`, the values of single training seeds, is a small dot.

    `good` says whether the whole interval is on the better side, on the worse one, or (None) neither. The table's cells
    have the numbers, so the strip is hidden from screen readers.
    """
    width, middle = 220.0, 12.0

    def x(value: float) -> float:
        return 6 + (value - low) / (high - low) * (width - 12)

    parts = [_line("axis", x(0), 0, x(0), 24)]
    if estimate["low"] is not None and estimate["high"] is not None:
        parts.append(_line("whisker", x(estimate["low"]), middle, x(estimate["high"]), middle))
    if estimate["value"] is not None:
        parts.append(f'<circle class="dot" cx="{_n(x(estimate["value"]))}" cy="{_n(middle)}" r="4.5"/>')
    parts += [f'<circle class="seed" cx="{_n(x(value))}" cy="{_n(middle - 8)}" r="2"/>' for value in seeds]
    mood = {True: "better", False: "worse", None: "open"}[good]
    inside = "".join(parts)
    return f'<svg class="strip {mood}" viewBox="0 0 {_n(width)} 24" aria-hidden="true" focusable="false">{inside}</svg>'


def strip_axis(low: float, high: float) -> str:
    """Return the labels of the axis above the strips of a forest plot."""
    width = 220.0
    zero = 6 + (0 - low) / (high - low) * (width - 12)
    parts = [_text(zero, 11, "0", "middle")]
    digits = 2 if high - low > 0.1 else 3
    if zero > 60:
        parts.append(_text(2, 11, f"{low:.{digits}f}".replace("-", "−"), "start"))
    if zero < width - 60:
        parts.append(_text(width - 2, 11, f"{high:.{digits}f}", "end"))
    inside = "".join(parts)
    return f'<svg class="strip" viewBox="0 0 {_n(width)} 15" aria-hidden="true" focusable="false">{inside}</svg>'


def shares(counts: Sequence[tuple[str, int]], total: int) -> str:
    """Return a bar whose parts have the classes given, each as long as its share of `total`."""
    parts, at = [], 0.0
    for name, count in counts:
        length = 200 * count / total
        parts.append(f'<rect class="{name}" x="{_n(at)}" y="0" width="{_n(length)}" height="12"/>')
        at += length
    inside = "".join(parts)
    return f'<svg class="shares" viewBox="0 0 200 12" preserveAspectRatio="none" aria-hidden="true">{inside}</svg>'


def _svg(told: str, width: float, height: float, parts: Sequence[str]) -> str:
    label = escape(told)
    size = f'viewBox="0 0 {_n(width)} {_n(height)}" style="max-width:{_n(width * 1.25)}px"'
    return f'<svg class="plot" role="img" aria-label="{label}" focusable="false" {size}>{"".join(parts)}</svg>'


def _frame(x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="frame" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"/>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _upright(x: float, y: float, text: str) -> str:
    turned = f'transform="rotate(-90 {_n(x)} {_n(y)})"'
    return f'<text class="tick" x="{_n(x)}" y="{_n(y)}" text-anchor="middle" {turned}>{escape(text)}</text>'


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))


def _n(value: float) -> str:
    """Return a coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
