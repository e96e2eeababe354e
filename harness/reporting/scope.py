"""Is a picture of the kind that the model was trained on? Six numbers of it against ranges of such pictures.

Every picture is looked at as 64 x 64 means of its pixels. The check is simple on purpose: it catches photographs,
drawings, blank pictures, other shapes and other contrasts. It does not look at anatomy: a scan of another organ that
has the greys of a chest film passes (docs/report.md says how many).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from conrad_bench.engines.opening import open_pixels

Ranges = Mapping[str, tuple[float, float]]

PHANTOM: Ranges = {
    "shape": (0.99, 1.01),
    "colour": (0.0, 0.01),
    "mean grey": (0.11, 0.76),
    "contrast": (0.18, 0.44),
    "detail": (0.0709, 0.17),
    "share of black": (0.041, 0.70),
}
"""Of 998 in 1,000 pictures of the phantom world's training patients."""

CHEST: Ranges = {
    "shape": (0.6, 1.7),
    "colour": (0.0, 0.03),
    "mean grey": (0.18, 0.80),
    "contrast": (0.11, 0.38),
    "detail": (0.02, 0.12),
    "share of black": (0.0, 0.55),
}
"""Around those of the 107 chest pictures of VQA-RAD and some open films: of chest radiographs at large, since a
model's own training pictures are not at hand where it reports."""

_SIDE = 64
_BLACK = 0.06


def measures(path: str) -> dict[str, float]:
    """Return the numbers of a picture that ranges are about. Raises what `open_pixels` raises.

    - shape: width / height
    - colour: mean over the pixels of the largest less the smallest channel, in [0, 1]
    - mean grey, contrast: mean and standard deviation of the greys, which lie in [0, 1]
    - detail: mean of |4 x grey - the greys of the four neighbours|
    - share of black: of the pixels that are darker than 0.06
    """
    image = open_pixels(path)
    plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    small = plain.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    colours = np.asarray(small.convert("RGB"), float) / 255
    grey = np.asarray(small.convert("L"), float) / 255
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return {
        "shape": image.width / image.height,
        "colour": float((colours.max(axis=2) - colours.min(axis=2)).mean()),
        "mean grey": float(grey.mean()),
        "contrast": float(grey.std()),
        "detail": float(np.abs(4 * grey[1:-1, 1:-1] - around).mean()),
        "share of black": float((grey < _BLACK).mean()),
    }


def departures(path: str, phantom: bool) -> tuple[str, ...]:
    """Return in what a picture lies outside the ranges of the embedded model's pictures, or else of chest films."""
    ranges = PHANTOM if phantom else CHEST
    found = measures(path)
    return tuple(
        f"{name} {found[name]:.3g} (usual: {low:g} to {high:g})"
        for name, (low, high) in ranges.items()
        if not low <= found[name] <= high
    )
