"""Windows: which of a picture's values become black and which white."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

WINDOW = (0.1, 99.9)
"""Percentiles of the values of an image of more than 8 bits that become black and white, where it names none itself. A
film's markers and dead pixels are fewer than what lies outside."""


def stretched(values: Values) -> Values:
    """Return values in [0, 1], cut to the window between two percentiles of their own (`WINDOW`)."""
    low, high = np.percentile(values, WINDOW)
    if low == high:  # what is not background is smaller than what the percentiles leave out
        low, high = float(values.min()), float(values.max())
    return np.asarray(np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0))


def windowed(values: Values, center: float, width: float, function: str = "LINEAR") -> Values:
    """Return values in [0, 1] under a window as DICOM defines it (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    `width` is at least 1 for LINEAR, above 0 for LINEAR_EXACT and SIGMOID.
    """
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((values - center) / width + 0.5, 0.0, 1.0))
    return np.asarray(np.clip((values - (center - 0.5)) / max(width - 1, 1e-12) + 0.5, 0.0, 1.0))


def to_bytes(grey: Values) -> NDArray[np.uint8]:
    """Return grey in [0, 1] as whole numbers from 0 to 255."""
    return np.asarray(np.round(grey * 255), np.uint8)
