"""Reliability diagrams with the confidence histogram underneath, as SVG and PNG bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from conrad_bench.leaderboards.metrics import BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# After Okabe and Ito's palette, which colour-blind readers can tell apart.
_BLUE, _SKY, _ORANGE, _GREY = "#0072B2", "#A6D5F2", "#D55E00", "#595959"
_STYLE: Any = {
    "svg.hashsalt": "conrad-bench",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
}


def reliability_diagram(row: dict[str, Any], board: dict[str, Any]) -> dict[str, bytes]:
    """Draw the diagram of one leaderboard row that has `reliability` points; return {".svg": ..., ".png": ...}.

    A point is a distinct confidence (or a bin): its mean correctness with the 95 % interval of the leaderboard. Equal
    rows give equal bytes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the figure
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(5.4, 6.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        label = board["tasks"][row["task"]]["label"]
        figure.suptitle(f"{row['method']} on {row['task']}\n{board['model']}, {board['data']}", fontsize=11)
        ece = row["metrics"]["ece"]["value"]
        upper.set_title(f"ECE {ece:.3f}, n = {row['n']:,} claims, {row['n_clusters']:,} clusters", fontsize=10)
        _reliability(upper, row, f"mean {label}")
        _histogram(lower, row)
        files = {}
        for suffix, metadata in ((".svg", {"Date": None, "Creator": None}), (".png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix[1:], dpi=150, metadata=metadata)
            files[suffix] = buffer.getvalue()
    return files


def _reliability(axes: Axes, row: dict[str, Any], label: str) -> None:
    points = row["reliability"]
    x = [point["confidence"] for point in points]
    y = [point["correctness"]["value"] for point in points]
    axes.plot((0, 1), (0, 1), color=_GREY, linestyle="--", linewidth=1, label="perfect calibration")
    largest = max(point["n"] for point in points)
    sizes = [15 + 165 * point["n"] / largest for point in points]
    axes.scatter(
        x, y, s=sizes, color=_SKY, edgecolor=_BLUE, label=f"mean of a {row['grouping']} (area: number of claims)"
    )
    bounded = [point for point in points if point["correctness"]["low"] is not None]
    # Not `errorbar`: a percentile interval need not contain the mean, and errorbar refuses negative lengths.
    lows, highs = ([point["correctness"][end] for point in bounded] for end in ("low", "high"))
    axes.vlines([p["confidence"] for p in bounded], lows, highs, color=_BLUE, zorder=3, label="95 % interval")
    axes.text(0.99, 0.02, "overconfident", transform=axes.transAxes, ha="right", color=_GREY)
    axes.text(0.01, 0.76, "underconfident", transform=axes.transAxes, color=_GREY)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), ylabel=label)
    axes.grid(alpha=0.25)


def _histogram(axes: Axes, row: dict[str, Any]) -> None:
    points = row["reliability"]
    counts = [point["n"] for point in points]
    if row["grouping"] == "level":
        x, width = [point["confidence"] for point in points], 0.05
    else:
        x, width = [(point["group"] + 0.5) / BINS for point in points], 1 / BINS
    bars = axes.bar(x, counts, width=width, color=_ORANGE, edgecolor="white")
    axes.bar_label(bars, labels=[f"{n:,}" for n in counts], fontsize=7, padding=1)
    axes.set(xlabel="stated confidence", ylabel="claims", ylim=(0, 1.2 * max(counts)))
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
