"""Numbers as leaderboard.json has them, so that equal records give equal bytes on every machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def rounded(value: Any) -> Any:
    """Return a JSON-like value with sorted keys and floats of 9 significant digits; NaN and infinity are None, tuples
    are lists.
    """
    if isinstance(value, Mapping):
        return {key: rounded(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        if math.isinf(value):
            return None  # the open end of a metric's range
        # What is left of an exact 0 after cancellation differs between machines.
        return None if math.isnan(value) else 0.0 if abs(value) < 1e-12 else float(f"{value:.9g}")
    return value
