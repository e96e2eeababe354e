"""The certified threshold of each method of a run (leaderboards/thresholds.py), in words for a reader."""

from __future__ import annotations

from pathlib import Path

from conrad_bench.errors import ConfigError
from conrad_bench.leaderboards.thresholds import Advice, thresholds
from conrad_bench.runs import is_run

CONFIDENCE = 0.9
"""With which probability a certified threshold keeps what it says."""


def certified(folder: Path, target: float) -> dict[tuple[str, str], Advice]:
    """Return what is certified for a mean correctness of `target`, by task and method.

    Raises ConfigError for reports for new pictures, and what `thresholds` raises.
    """
    if not is_run(folder):
        raise ConfigError("--target needs a run: nothing tells what is right in reports for new pictures")
    return {(each.task, each.method): each for each in thresholds(folder, target, CONFIDENCE)}


def words(advice: Advice | None, unit: str) -> str:
    """Say what is certified of sentences or reports (`unit`); "" where nothing was asked for."""
    if advice is None:
        return ""
    wanted = f"a mean correctness of at least {advice.target:g}"
    if advice.certified.threshold is None:
        return f"No threshold is certified for {wanted}: {advice.note}."
    said = (
        f"Certified: {unit} at {advice.certified.threshold:.3g} and above have {wanted}, with a probability of "
        f"{CONFIDENCE:g}, by half of this run's patients."
    )
    if advice.kept is not None and advice.correctness is not None:
        mean, low, high = advice.correctness
        span = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
        kept = f"{100 * advice.kept:.0f} %"
        said += f" Of the other half's {unit} {kept} are kept, their mean correctness is {mean:.2f}{span}."
    return f"{said} Note: {advice.note}." if advice.note else said
