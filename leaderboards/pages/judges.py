"""What pages say where several judges scored the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TWO = "; two hardly tell how others would differ"


def judges_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the correctness of a task's rows is made of, and how its judges differ; "" where one judged."""
    judged = [row for row in rows if row.get("judges")]
    if not judged:
        return ""
    names = list(judged[0]["judges"])
    few = _TWO if len(names) == 2 else ""
    each = "; ".join(
        f"{row['method']} " + ", ".join("–" if x is None else f"{x:.3f}" for x in row["judges"].values())
        for row in judged
    )
    return (
        f"Correctness is the mean of {len(names)} judges, and intervals and tests have the variance between judges in "
        f"them, as of a sample of judges{few}. Mean correctness by {', '.join(names)}: {each}."
    )
