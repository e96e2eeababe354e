"""Plots of leaderboard.html: inline SVG whose colours come from the page's style sheet, for light and dark.

Every plot has a text alternative (`role="img"` with a label); the page has the numbers as a table, too. Plots have one
size, whatever the screen's, so that their texts stay readable; what is too wide scrolls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from conrad_bench.leaderboards.metrics.base import BINS
from conrad_bench.text import html as escape

_LEFT, _TOP, _SIDE, _GAP, _BARS = 28, 6, 150, 6, 26
"""Pixels of a reliability diagram: margins, side of the square, height of the histogram below it."""
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4", "4 2 1 2", "12 3 3 3")
_COLOURS = len(_DASHES)
"""Number of colours in the style sheet (c0, c1, ...), and of dashes."""


def reliability(row: dict[str, Any]) -> str:
    """Return the reliability diagram of a row that has `reliability` points, with a histogram below it.

    Confidence goes to the right, mean correctness up; whoever shows several of them says so once.

    The band around the diagonal is a consistency band: where a group's mean correctness would lie in 95 % of samples if
    the group were calibrated. It is the bootstrap interval of the group, moved from its mean to its confidence, so it
    keeps the clusters and the continuous correctness (after Broecker and Smith 2007).
    """
    points = row["reliability"]
    base = _TOP + _SIDE
    parts = [_frame(_LEFT, _TOP, _SIDE, _SIDE)]
    for tick in (0.0, 0.5, 1.0):
        x, y = _LEFT + tick * _SIDE, base - tick * _SIDE
        parts.append(_line("grid", x, _TOP, x, base) + _line("grid", _LEFT, y, _LEFT + _SIDE, y))
        parts.append(_text(_LEFT - 5, y + 4, f"{tick:g}", "end"))
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
        radius = 2 + 3.5 * (p["n"] / largest) ** 0.5
        parts.append(f'<circle class="dot" cx="{_n(x)}" cy="{_n(base - estimate["value"] * _SIDE)}" r="{_n(radius)}"/>')
    floor = base + _GAP + _BARS
    width = _SIDE / BINS if row["grouping"] == "bin" else _SIDE / 28
    for p in points:
        middle = (p["group"] + 0.5) / BINS if row["grouping"] == "bin" else p["confidence"]
        height = _BARS * p["n"] / largest
        at = f'x="{_n(_LEFT + middle * _SIDE - width / 2 + 0.5)}" y="{_n(floor - height)}"'
        parts.append(f'<rect class="bar" {at} width="{_n(width - 1)}" height="{_n(height)}"/>')
    parts.append(_line("axis", _LEFT, floor, _LEFT + _SIDE, floor))
    for tick in (0.0, 0.5, 1.0):
        parts.append(_text(_LEFT + tick * _SIDE, floor + 14, f"{tick:g}", "middle"))
    parts.append(_text(_LEFT + _SIDE - 4, base - 5, "overconfident", "end"))
    parts.append(_text(_LEFT + 4, _TOP + 12, "underconfident", "start"))
    ece = row["metrics"].get("ece", {}).get("value")
    told = f"Reliability diagram of {row['method']} on {row['task']}: {len(points)} groups"
    told += f", ECE {ece:.3f}" if ece is not None else ""
    below = sum(p["correctness"]["value"] < p["confidence"] for p in points)
    told += f"; {below} of them below the diagonal (overconfident). The numbers are in the table below."
    return _svg(told, _LEFT + _SIDE + 10, floor + 18, parts)


Curve = list[tuple[float, float]]


def risk_coverage(rows: Sequence[dict[str, Any]], colours: dict[str, int], label: str) -> str:
    """Return one plot with a line for each row that has `risk_coverage`, its method's name at the beginning.

    At full coverage all methods of the same answers meet, so names stand on the left, the axis of risk on the right.
    """
    curves = _curves(rows, "risk_coverage", "coverage", "risk")
    marks = ticks(0.0, max((risk for _, curve in curves for _, risk in curve), default=0.05), 6)
    told = f"Risk-coverage curves of {', '.join(method for method, _ in curves)}; lower is better."
    below = "share of claims kept, most confident first"
    return _lines(curves, colours, marks, (below, f"risk (1 − mean {shortened(label, 26)})", told))


def workload(rows: Sequence[dict[str, Any]], colours: dict[str, int]) -> str:
    """Return one plot with a line for each row that has `workload`, beside those of random and of perfect order."""
    curves = _curves(rows, "workload", "read", "caught")
    told = f"Workload curves of {', '.join(method for method, _ in curves)}; higher is better."
    best = [max(points) for points in zip(*(c for _, c in _curves(rows, "workload", "read", "perfect")), strict=False)]
    texts = "share of responses read, least confident first", "share of the errors caught", told
    return _lines(curves, colours, ticks(0.0, 1.0, 5), texts, [[(0.0, 0.0), (1.0, 1.0)], best])


def _curves(rows: Sequence[dict[str, Any]], name: str, x: str, y: str) -> list[tuple[str, Curve]]:
    """Return (method, points) of the rows whose curve has any."""
    curves = [(row["method"], [(p[x], p[y]) for p in row[name] if None not in (p[x], p[y])]) for row in rows]
    return [(method, curve) for method, curve in curves if curve]


def _lines(
    curves: Sequence[tuple[str, Curve]],
    colours: dict[str, int],
    marks: Sequence[float],
    texts: tuple[str, str, str],
    beside: Sequence[Curve] = (),
) -> str:
    """Return curves over shares from 0 to 1, with names on the left; the `texts` are those of both axes and of all.

    Dashed lines `beside` them have no names.
    """
    top = marks[-1]
    left, width, height = 142, 330, max(230, 14 * len(curves))
    base = _TOP + height
    parts = [_frame(left, _TOP, width, height)]
    for k in range(6):
        x = left + k / 5 * width
        parts.append(_line("grid", x, _TOP, x, base) + _text(x, base + 16, f"{k / 5:.1f}", "middle"))
    for mark in marks:
        y = base - mark / top * height
        parts.append(_line("grid", left, y, left + width, y) + _text(left + width + 5, y + 4, f"{mark:g}", "start"))

    def placed(curve: Curve) -> list[tuple[float, float]]:
        return [(left + x * width, base - y / top * height) for x, y in curve]

    def line(curve: Curve) -> str:
        return " ".join(f"{_n(x)},{_n(y)}" for x, y in placed(curve))

    parts += [f'<polyline class="diagonal" fill="none" points="{line(curve)}"/>' for curve in beside if curve]
    wanted = [placed(curve)[0][1] for _, curve in curves]
    for (method, curve), y in zip(curves, _apart(wanted, 13.5, _TOP + 4, base), strict=True):
        first, number = placed(curve)[0], colours[method]
        parts.append(
            f'<g data-method="{escape(method)}">'
            f'<line class="leader" x1="{left - 4}" y1="{_n(y)}" x2="{_n(first[0])}" y2="{_n(first[1])}"/>'
            f'<polyline {line_style(number)} points="{line(curve)}"/>'
            f'<text class="tick t{number % _COLOURS}" x="{left - 7}" y="{_n(y + 4)}" text-anchor="end">'
            f"{escape(shortened(method, 22))}</text></g>"
        )
    below, aside, told = texts
    parts.append(_text(left + width / 2, base + 33, below, "middle"))
    parts.append(_upright(left + width + 42, _TOP + height / 2, aside))
    return _svg(told, left + width + 50, base + 40, parts)


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many letters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _apart(wanted: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Return places near the wanted ones, in their order, at least so far apart, and between the ends if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    places = [0.0] * len(wanted)
    at = low - least
    for i in order:
        places[i] = at = max(wanted[i], at + least)
    at = high + least
    for i in reversed(order):
        places[i] = at = min(places[i], at - least)
    return places


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return about so many round numbers, evenly spaced, from at or below `low` to at or above `high`."""
    rough = max(high - low, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(round(factor * power, 12) for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


def line_style(number: int) -> str:
    """Return the attributes of a method's line. The first 64 numbers have styles of their own."""
    return f'class="curve c{number % _COLOURS}" stroke-dasharray="{_DASHES[number // _COLOURS % len(_DASHES)]}"'


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
    size = f'viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" height="{_n(height)}"'
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
