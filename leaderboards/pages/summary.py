"""What a leaderboard says in words: who leads, by how much, what cannot be told apart, what is useless.

All of it follows from the board: the lowest Brier score, the Holm-adjusted tests of Brier, and the intervals of skill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conrad_bench.leaderboards.inference.bootstrap import LEAST_UNITS
from conrad_bench.leaderboards.pages import wording

LEVEL = 0.05
"""Methods differ where their adjusted p is below this."""
_MOST_NAMES = 7
LEADS, USELESS, UNSURE = "★", "✗", "?"
MARKS = {
    LEADS: "lowest Brier score of the task, or not to be told from it (Holm-adjusted p of 0.05 or more)",
    USELESS: "no better than always stating the mean: the whole interval of the skill is at or below 0",
    UNSURE: "not shown to be better: the interval of the skill holds 0, or there is none and it is not above 0",
}


_NO_BETTER = "No better than always stating the mean correctness, interval and all (skill at or below 0)"
_NOT_SHOWN = (
    "Not shown to be better than always stating the mean (the interval of the skill holds 0, or patients are too few)"
)


@dataclass(frozen=True)
class Verdict:
    """What one task says about its methods."""

    task: str
    leader: Mapping[str, Any]
    """The row with the lowest Brier score."""
    tied: list[str]
    """The methods that were compared with it and cannot be told from it."""
    untested: list[str]
    """The methods that could not be compared with it."""
    useless: list[str]
    """The methods whose skill is at or below 0, interval and all."""
    unsure: list[str]
    """The methods whose skill has an interval that holds 0, or is not above 0 without one."""

    def mark(self, method: str) -> str:
        """Return what stands beside a method's skill in the overview."""
        marks = (
            (LEADS, (self.leader["method"], *self.tied)),
            (USELESS, self.useless),
            (UNSURE, self.unsure),
        )
        return "".join(sign for sign, methods in marks if method in methods)


def verdicts(board: dict[str, Any]) -> list[Verdict]:
    """Return the verdict of each task in which a method states confidences."""
    found = []
    for task in board["tasks"]:
        rows = [row for row in wording.ranked(board, task) if value_of(row, "brier") is not None]
        if not rows:
            continue
        pairs = (board["tasks"][task].get("comparisons") or {}).get("pairs", [])
        tests = _tests(pairs, "brier", rows[0]["method"])
        others = [row["method"] for row in rows[1:]]
        found.append(
            Verdict(
                task,
                rows[0],
                [name for name in others if (p := tests.get(name)) is not None and p >= LEVEL],
                [name for name in others if tests.get(name) is None],
                [row["method"] for row in rows if _skill(row) == USELESS],
                [row["method"] for row in rows if _skill(row) == UNSURE],
            )
        )
    return found


def sentences(board: dict[str, Any]) -> Iterator[str]:
    """Yield the sentences that stand on top of a leaderboard; none where no method states a confidence."""
    found = verdicts(board)
    if not found:
        return
    best = _by_method((verdict.task, (verdict.leader["method"], *verdict.tied)) for verdict in found)
    if not all(_alone(board, verdict) for verdict in found):
        yield f"Among the best by Brier score (the lowest, or not to be told from it): {_on_tasks(best, len(found))}."
    yield from (_lead(board, verdict) for verdict in found)
    yield from _useless(_NO_BETTER, found, "useless")
    yield from _useless(_NOT_SHOWN, found, "unsure")
    orders = list(_orders(board))
    if shown := [order for order in orders if order.shown]:
        yield f"For triage, best at telling wrong claims from right ones: {'; '.join(map(_order, shown))}."
    if chance := [order.task for order in orders if not order.shown]:
        yield f"No method is shown to tell wrong claims from right ones better than chance on {listed(chance)}."
    useless = {verdict.task: verdict.useless for verdict in found}
    hidden = _by_method(
        (order.task, [name for name in order.shown if name in useless.get(order.task, ())]) for order in orders
    )
    if hidden:
        yield (
            f"Good at telling them apart, though the numbers themselves mislead: {_on_tasks(hidden, len(found))}. A "
            "recalibrator keeps the order and mends the numbers."
        )


def _lead(board: dict[str, Any], verdict: Verdict) -> str:
    """Return how far a task's leader is ahead, and of whom."""
    row, name = verdict.leader, verdict.leader["method"]
    said = f"Brier {wording.estimate_text(row['metrics']['brier'])}"
    difference = (row.get("difference") or {}).get("metrics", {}).get("brier", {}).get("value")
    if difference is not None:
        below = "below" if difference < 0 else "above"
        said += f", {abs(difference):.3f} {below} that of {row['difference']['baseline']}"
    if value_of(row, "skill") is not None:
        said += f"; skill {wording.estimate_text(row['metrics']['skill'])}"
    start = f"On {verdict.task}, {name}"
    if verdict.tied:
        return f"{start} has the lowest Brier score ({said}), but cannot be told from {listed(verdict.tied)}."
    if verdict.untested:
        return f"{start} has the lowest Brier score ({said}); whether others are worse could not be tested."
    alone = "is the only method with confidences" if _alone(board, verdict) else "is ahead of all others"
    return f"{start} {alone} ({said})."


def _alone(board: dict[str, Any], verdict: Verdict) -> bool:
    rows = wording.ranked(board, verdict.task)
    return sum(value_of(row, "brier") is not None for row in rows) == 1


def _useless(start: str, found: Sequence[Verdict], which: str) -> Iterator[str]:
    """Yield which methods are useless, or may be, on which tasks."""
    tasks = _by_method((verdict.task, getattr(verdict, which)) for verdict in found)
    if tasks:
        yield f"{start}: {_on_tasks(tasks, len(found))}."


def _by_method(found: Iterable[tuple[str, Iterable[str]]]) -> dict[str, list[str]]:
    """Return the tasks of each method, from the methods of each task."""
    tasks: dict[str, list[str]] = {}
    for task, methods in found:
        for method in methods:
            tasks.setdefault(method, []).append(task)
    return tasks


def _on_tasks(tasks: Mapping[str, Sequence[str]], number: int) -> str:
    """Return "a and b on all 5 tasks; c on x and y": methods with the same tasks together, most tasks first."""
    together: dict[tuple[str, ...], list[str]] = {}
    for method in sorted(tasks):
        together.setdefault(tuple(tasks[method]), []).append(method)
    order = sorted(together, key=lambda of: (-len(of), together[of]))
    everywhere = "both tasks" if number == 2 else f"all {number} tasks"
    where = {of: everywhere if len(of) == number > 1 else listed(of) for of in order}
    return "; ".join(f"{listed(together[of])} on {where[of]}" for of in order)


@dataclass(frozen=True)
class Order:
    """Which method of a task orders claims best, among those that are shown to order them better than chance."""

    task: str
    best: str
    said: str
    """By which metric, and how well."""
    tied: list[str]
    """The methods that cannot be told from it."""
    shown: list[str]
    """It, and those of `tied`, whose intervals are above chance; none where no method's is."""


def _orders(board: dict[str, Any]) -> Iterator[Order]:
    """Yield which method of each task orders claims best, by AUROC or Somers' D."""
    for task in board["tasks"]:
        rows = list(wording.ranked(board, task))
        metric = next((m for m in ("auroc", "somers_d") if any(value_of(row, m) is not None for row in rows)), None)
        if metric is None:
            continue
        known = [row for row in rows if value_of(row, metric) is not None]
        chance = 0.5 if metric == "auroc" else 0.0
        above = [row for row in known if _above(row, metric, chance)]
        best = max(above or known, key=lambda row: value_of(row, metric))
        pairs = (board["tasks"][task].get("comparisons") or {}).get("pairs", [])
        tests = _tests(pairs, metric, best["method"])
        label = wording.column_label(board, task, metric)
        tied = [row["method"] for row in known if (p := tests.get(row["method"])) is not None and p >= LEVEL]
        shown = [row["method"] for row in above if row is best or row["method"] in tied]
        said = f"{label} {wording.estimate_text(best['metrics'][metric])}"
        yield Order(task, best["method"], said, tied, shown)


def _above(row: Mapping[str, Any], metric: str, chance: float) -> bool:
    """Tell whether a row's order of claims is shown to be better than chance."""
    low = row["metrics"][metric]["low"]
    if low is None:  # a perfect order has no interval
        return bool(value_of(row, metric) == 1.0 and row["effective_clusters"] >= LEAST_UNITS)
    return bool(low > chance)


def _order(order: Order) -> str:
    tied = f", not to be told from {listed(order.tied)}" if order.tied else ""
    return f"{order.best} on {order.task} ({order.said}{tied})"


def _tests(pairs: Iterable[Mapping[str, Any]], metric: str, method: str) -> dict[str, float | None]:
    """Return the Holm-adjusted p of each other method against one, by a metric."""
    return {
        other: pair["p_holm"]
        for pair in pairs
        if pair["metric"] == metric
        for name, other in ((pair["a"], pair["b"]), (pair["b"], pair["a"]))
        if name == method
    }


def value_of(row: Mapping[str, Any], metric: str) -> Any:
    """Return the value of a row's metric, None where it has none."""
    return row["metrics"].get(metric, {}).get("value")


def _skill(row: Mapping[str, Any]) -> str:
    """Return `USELESS`, `UNSURE`, or "" for a row whose skill is above 0, or that has none."""
    value = value_of(row, "skill")
    if value is None:
        return ""
    low, high = row["metrics"]["skill"]["low"], row["metrics"]["skill"]["high"]
    if low is None or high is None:
        return UNSURE if value <= 0 else ""
    return USELESS if high <= 0 else UNSURE if low <= 0 else ""


def overview(board: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[tuple[float, str] | None]]]]:
    """Return the tasks, and for each method its name and (skill, marks) on each of them, None where it has none.

    Methods stand in the order of their mean rank by Brier over the tasks that they have.
    """
    found = {verdict.task: verdict for verdict in verdicts(board)}
    places: dict[str, list[float]] = {}
    cells: dict[tuple[str, str], tuple[float, str]] = {}
    for task, verdict in found.items():
        rows = [row for row in wording.ranked(board, task) if value_of(row, "skill") is not None]
        for place, row in enumerate(rows):
            name = row["method"]
            places.setdefault(name, []).append(place / len(rows))
            cells[name, task] = value_of(row, "skill"), verdict.mark(name)
    order = sorted(places, key=lambda name: (sum(places[name]) / len(places[name]), name))
    return list(found), [(name, [cells.get((name, task)) for task in found]) for name in order]


def skill_text(value: float) -> str:
    """Return a skill with two digits and its sign, with three where two would hide it."""
    digits = 3 if abs(value) < 0.01 else 2
    return f"{value:+z.{digits}f}".replace("-", "−")


def listed(names: Iterable[str]) -> str:
    """Return "a", "a and b", or "a, b and c"; of more than `_MOST_NAMES` names the first, and the number of others."""
    *rest, last = names
    if len(rest) >= _MOST_NAMES:
        rest, last = rest[: _MOST_NAMES - 1], f"{len(rest) + 2 - _MOST_NAMES} others"
    return f"{', '.join(rest)} and {last}" if rest else last
