"""`conrad-bench reward`: what a reward of stated confidences teaches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conrad_bench.cli.common import show, tell

if TYPE_CHECKING:
    from rich.table import Table

    from conrad_bench.trainers.referee import Array, Ruling


def reward(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A reward, or FILE.py:FUNCTION of a confidence and a correctness.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the figure, as SVG and PNG.")] = None,
) -> None:
    """Referee a reward: the confidence that earns most for each true probability, and whether it is proper."""
    from conrad_bench.leaderboards.pages.figures import best_confidences
    from conrad_bench.storage import write_bytes
    from conrad_bench.trainers import referee

    called, function = referee.reward_named(name)
    ruling = referee.judge(called, function)
    show(_table(ruling))
    for sentence in ruling.sentences():
        tell(f"{called}: {sentence}")
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    panels = {
        "right or wrong": (ruling.levels, ruling.fine),
        "continuous, skewed": (ruling.skewed_levels, ruling.skewed_fine),
    }
    points = {
        title: [(p, levels.at(p).tolist(), fine.at(p).tolist()) for p in referee.PROBABILITIES.tolist()]
        for title, (levels, fine) in panels.items()
    }
    for suffix, content in best_confidences(f"{called}: {ruling.verdict}", points).items():
        write_bytes(out / f"reward_{called}{suffix}", content)
        tell(f"figure: {out / f'reward_{called}{suffix}'}")


def _table(ruling: Ruling) -> Table:
    """Return the best confidences by mean correctness, in steps of 0.05."""
    from rich.table import Table

    from conrad_bench.trainers.referee import PROBABILITIES, median_of_skewed

    table = Table(box=None, title=f"{ruling.name}: what earns most in expectation", title_justify="left")
    table.add_column("mean correctness", justify="right")
    for column in ("right or wrong: of eleven", "of all", "continuous: of eleven", "of all", "its median"):
        table.add_column(column, justify="right")
    for p in PROBABILITIES[::5].tolist():
        table.add_row(
            f"{p:.2f}",
            _levels(ruling.levels.at(p)),
            _range(ruling.fine.at(p)),
            _levels(ruling.skewed_levels.at(p)),
            _range(ruling.skewed_fine.at(p)),
            f"{median_of_skewed(p):.3g}",
        )
    return table


def _levels(best: Array) -> str:
    """Return some of the eleven confidences as the numbers that are stated."""
    return _runs([round(10 * c) for c in best.tolist()], 1)


def _range(best: Array) -> str:
    """Return some of all confidences."""
    from conrad_bench.trainers.referee import FINE

    return _runs(best.tolist(), float(FINE[1]))


def _runs(values: Sequence[float], step: float) -> str:
    """Return rising numbers with runs of steps in short: "0 to 4, 10"."""
    starts = [k for k, value in enumerate(values) if k == 0 or value - values[k - 1] > 1.5 * step]
    ends = [*(k - 1 for k in starts[1:]), len(values) - 1]
    runs = [(values[a], values[b]) for a, b in zip(starts, ends, strict=True)]
    return ", ".join(f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}" for low, high in runs)
