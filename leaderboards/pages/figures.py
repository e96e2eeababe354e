"""Reliability diagrams with histograms, alone or before beside after, and heat maps of the confidence answers.

Every figure comes as SVG and PNG bytes, or as the wanted one of them; equal rows give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from conrad_bench.leaderboards.metrics.base import BINS
from conrad_bench.text import console

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# After Okabe and Ito's palette, which colour-blind readers can tell apart.
_BLUE, _SKY, _ORANGE, _GREY = "#0072B2", "#A6D5F2", "#D55E00", "#595959"
_ONE_LINE = 0.17
"""Inches of a line of an axes title."""
_IN_SQUARE: Any = {"ha": "center", "va": "center", "fontsize": 7}
_STYLE: Any = {
    "svg.hashsalt": "conrad-bench",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
}

SUFFIXES = (".svg", ".png")
_METADATA: dict[str, dict[str, None]] = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}


def reliability_diagram(
    row: dict[str, Any], board: dict[str, Any], suffixes: Collection[str] = SUFFIXES
) -> dict[str, bytes]:
    """Draw the diagram of one leaderboard row that has `reliability` points; return {".svg": ..., ".png": ...}.

    A point is a distinct confidence (or a bin): its mean correctness with the 95 % interval of the leaderboard.
    """

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        figure.suptitle(
            console(f"{row['method']} on {row['task']}\n{board['model']}, {board['data']}"), y=0.988, fontsize=11
        )
        upper.set_title(_numbers(row), fontsize=10)
        _reliability(upper, row)
        upper.set_ylabel(_mean(board, row["task"]))
        _histogram(lower, row)
        lower.set(ylabel="claims", ylim=(0, 1.2 * _largest(row)))
        _legend(figure, [upper])
        _place(figure, [upper, lower], _ONE_LINE, _largest(row))

    return _files(draw, 5.4, 6.4, suffixes)


def before_after(
    board: dict[str, Any], task: str, before: str, after: str, suffixes: Collection[str] = SUFFIXES
) -> dict[str, bytes]:
    """Draw the diagrams of two methods side by side on common axes, as Figure 2 of the ConRad paper does.

    `board` is the content of leaderboard.json; the rows of both methods need `reliability` points. Returns
    {".svg": ..., ".png": ...}.
    """
    rows = [next(r for r in board["rows"] if (r["task"], r["method"]) == (task, name)) for name in (before, after)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3.2, 1))
        figure.suptitle(
            console(f"{after} against {before} on {task}\n{board['model']}, {board['data']}"), y=0.988, fontsize=11
        )
        for (upper, lower), row, when in zip(axes.T, rows, ("before", "after"), strict=True):
            upper.set_title(console(f"{when}: {row['method']}\n{_numbers(row)}"), fontsize=10)
            _reliability(upper, row)
            _histogram(lower, row)
        axes[0, 0].set_ylabel(_mean(board, task))
        largest = max(map(_largest, rows))
        axes[1, 0].set(ylabel="claims", ylim=(0, 1.2 * largest))
        _legend(figure, axes[0])
        _place(figure, axes[:, 0], 2 * _ONE_LINE, largest)

    return _files(draw, 9.4, 6.6, suffixes)


def token_heat_map(
    row: dict[str, Any], board: dict[str, Any], suffixes: Collection[str] = SUFFIXES
) -> dict[str, bytes]:
    """Draw the mean probability of each confidence answer for each stated one, from a leaderboard row with `tokens`.

    Rows of the map are stated confidences, with their number of claims; a level that is never stated has an empty row.
    Returns {".svg": ..., ".png": ...}.
    """
    import numpy as np

    tokens = row["tokens"]
    matrix = np.array([[np.nan if p is None else p for p in line] for line in tokens["matrix"]])
    measures = {name: estimate["value"] for name, estimate in tokens["measures"].items()}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        figure.suptitle(
            console(f"{row['method']} on {row['task']}\n{board['model']}, {board['data']}"), y=0.988, fontsize=11
        )
        axes.set_title(
            f"stated is likeliest {measures['top']:.0%}, one hump {measures['unimodal']:.0%}, "
            f"rank order {measures['order']:.2f}",
            fontsize=10,
        )
        axes.set_facecolor("#E6E6E6")  # seen where a level was never stated
        # Squares, not an image: an SVG would hold pixels.
        squares = axes.pcolormesh(matrix, cmap="Blues", vmin=0, vmax=1, edgecolor="white", linewidth=0.5)
        for (stated, answer), p in np.ndenumerate(matrix):
            if p >= 0.005:
                axes.text(answer + 0.5, stated + 0.5, f"{p:.2f}", color="white" if p > 0.6 else "black", **_IN_SQUARE)
        for stated, count in enumerate(tokens["counts"]):
            if not count:
                axes.text(len(matrix) / 2, stated + 0.5, "never stated", color=_GREY, **_IN_SQUARE)
        places = np.arange(len(matrix)) + 0.5
        axes.set_xticks(places, [str(level) for level in range(len(matrix))])
        axes.set_yticks(places, [f"{level} (n = {n:,})" for level, n in enumerate(tokens["counts"])])
        axes.set(xlabel="confidence answer", ylabel="stated confidence (number of claims)")
        axes.tick_params(length=0)
        figure.colorbar(squares, ax=axes, label="mean probability")

    return _files(draw, 6.6, 5.2, suffixes, "constrained")


def best_confidences(
    title: str, panels: Mapping[str, Sequence[tuple[float, Sequence[float], Sequence[float]]]]
) -> dict[str, bytes]:
    """Draw which confidences earn most by the mean correctness; return {".svg": ..., ".png": ...}.

    A panel has points (mean correctness, the best of the eleven confidences, the best of all in [0, 1]).
    """

    def draw(figure: Figure) -> None:
        figure.suptitle(console(title), fontsize=11)
        for axes, (name, points) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
            axes.plot((0, 1), (0, 1), color=_GREY, linestyle="--", linewidth=1, label="the mean correctness")
            fine = [(p, best) for p, _, all_best in points for best in all_best]
            levels = [(p, best) for p, eleven, _ in points for best in eleven]
            axes.scatter(*zip(*fine, strict=True), s=4, color=_ORANGE, label="best of all confidences")
            axes.scatter(*zip(*levels, strict=True), s=14, color=_BLUE, marker="s", label="best of the eleven")
            axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xlabel="mean correctness")
            axes.set_title(name, fontsize=10)
        figure.axes[0].set_ylabel("stated confidence")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)

    return _files(draw, 7.6, 4.6, SUFFIXES, "constrained")


def _files(
    draw: Callable[[Figure], None],
    width: float,
    height: float,
    suffixes: Collection[str],
    layout: Literal["constrained"] | None = None,
) -> dict[str, bytes]:
    """Return the files of a figure that `draw` draws, of this size in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    files = {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the figure
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout=layout)
        draw(figure)
        for suffix in suffixes:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix[1:], dpi=150, metadata=_METADATA[suffix])
            files[suffix] = buffer.getvalue()
    return files


def _title(figure: Figure, said: str, board: dict[str, Any]) -> None:
    figure.suptitle(console(f"{said}\n{board['model']}, {board['data']}"), y=0.988, fontsize=11)


def _place(figure: Figure, left: Iterable[Axes], titles: float, largest: int) -> None:
    """Set the margins of panels, with axes titles of `titles` inches; `left` are the leftmost ones.

    There is room for numbers up to `largest` beside them. A layout engine would draw each figure several times to find
    these margins, which takes longer than the figure.
    """
    width, height = figure.get_size_inches()
    wide = 0.09 * max(0, len(str(largest)) - 4)
    figure.subplots_adjust(
        left=(0.75 + wide) / width,
        right=1 - 0.12 / width,
        bottom=0.98 / height,
        top=1 - (0.58 + titles) / height,
        hspace=0.06,
        wspace=0.05,
    )
    for axes in left:
        axes.yaxis.set_label_coords(-(0.56 + wide) / (width * axes.get_position().width), 0.5)


def _numbers(row: dict[str, Any]) -> str:
    ece = row["metrics"].get("ece")  # a board may be without it
    said = f"ECE {ece['value']:.3f}, " if ece is not None else ""
    return f"{said}n = {row['n']:,} claims, {row['n_clusters']:,} clusters"


def _mean(board: dict[str, Any], task: str) -> str:
    label = console(board["tasks"][task]["label"])
    return label if label.lower().startswith("mean ") else f"mean {label}"


def _largest(row: dict[str, Any]) -> int:
    return max(int(point["n"]) for point in row["reliability"])


def _reliability(axes: Axes, row: dict[str, Any]) -> None:
    points = row["reliability"]
    x = [point["confidence"] for point in points]
    y = [point["correctness"]["value"] for point in points]
    axes.plot((0, 1), (0, 1), color=_GREY, linestyle="--", linewidth=1, label="perfect calibration")
    sizes = [15 + 165 * point["n"] / _largest(row) for point in points]
    axes.scatter(
        x, y, s=sizes, color=_SKY, edgecolor=_BLUE, label=f"mean of a {row['grouping']} (area: number of claims)"
    )
    bounded = [point for point in points if point["correctness"]["low"] is not None]
    # Not `errorbar`: a percentile interval need not contain the mean, and errorbar refuses negative lengths.
    lows, highs = ([point["correctness"][end] for point in bounded] for end in ("low", "high"))
    axes.vlines([p["confidence"] for p in bounded], lows, highs, color=_BLUE, zorder=3, label="95 % interval")
    axes.text(0.99, 0.02, "overconfident", transform=axes.transAxes, ha="right", color=_GREY)
    axes.text(0.01, 0.98, "underconfident", transform=axes.transAxes, va="top", color=_GREY)
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    axes.grid(alpha=0.25)


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """Put one legend below the panels, where it hides no point."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries.update(zip(map(str, labels), handles, strict=True))
    figure.legend(list(entries.values()), list(entries), loc="lower center", ncols=2, fontsize=8, frameon=False)


def _histogram(axes: Axes, row: dict[str, Any]) -> None:
    points = row["reliability"]
    counts = [point["n"] for point in points]
    if row["grouping"] == "level":
        x, width = [point["confidence"] for point in points], 0.05
    else:
        x, width = [(point["group"] + 0.5) / BINS for point in points], 1 / BINS
    bars = axes.bar(x, counts, width=width, color=_ORANGE, edgecolor="white")
    axes.bar_label(bars, labels=[f"{n:,}" for n in counts], fontsize=7, padding=1)
    axes.set_xlabel("stated confidence")
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
