"""Draws phantom chest radiographs: body, lungs, heart, findings, then noise and clutter as the study's quality says.

White pixel noise is averaged away by any model, so what makes a study ambiguous is spatially correlated clutter at the
size of the findings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conrad_bench.tasks.phantom.world import Scanner, Study

SIZE = 64
"""Width and height of an image in pixels."""

Image = NDArray[np.float64]

_Y, _X = np.mgrid[0:SIZE, 0:SIZE] / SIZE
_FREQUENCY2 = np.fft.fftfreq(SIZE)[:, None] ** 2 + np.fft.fftfreq(SIZE)[None] ** 2
_BLURS = [(np.exp(-2 * (np.pi * scale) ** 2 * _FREQUENCY2), weight) for scale, weight in ((2, 0.5), (4, 1.0), (7, 0.8))]


def _ellipse(cx: float, cy: float, rx: float, ry: float, edge: float) -> Image:
    """A soft ellipse: 1 inside, 0 outside."""
    return _step(1 - ((_X - cx) / rx) ** 2 - ((_Y - cy) / ry) ** 2, edge)


def _step(value: Image, width: float) -> Image:
    """A soft step: 0 where `value` is far below 0, 1 far above."""
    soft: Image = 1 / (1 + np.exp(np.clip(-value / width, -40, 40)))
    return soft


def _clutter(rng: np.random.Generator) -> Image:
    total: Image = np.zeros((SIZE, SIZE))
    for blur, weight in _BLURS:
        field = np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIZE, SIZE))) * blur))
        total += weight * field / field.std()
    return total


def _degrade(image: Image, quality: float, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add noise and clutter, lose exposure, and quantise to 8 bits."""
    poor = 1 - quality
    image = image + rng.normal(0, 0.02 + 0.05 * poor, image.shape) + scanner.clutter * poor * _clutter(rng)
    gain = 1 - 0.4 * poor * rng.uniform()
    return np.round(np.clip(image * gain + 0.4 * (1 - gain), 0, 1) * 255).astype(np.uint8)


def frontal(study: Study, scanner: Scanner = Scanner()) -> NDArray[np.uint8]:
    """Return the frontal image, shape (SIZE, SIZE), 0 black to 255 white. The patient's left is on the right."""
    rng = np.random.default_rng((*study.seed, 1))
    found, contrast = study.findings, scanner.contrast

    def jitter(scale: float = 0.012) -> float:
        return float(rng.normal(0, scale))

    image = 0.55 * _ellipse(0.5, 0.55, 0.46, 0.55, 0.1)
    centres = [(0.70 + jitter(), 0.48 + jitter()), (0.30 + jitter(), 0.48 + jitter())]
    lungs = [_ellipse(cx, cy, 0.155, 0.33, 0.12) for cx, cy in centres]
    for lung in lungs:
        image -= 0.38 * lung
    width = (0.14, 0.185, 0.23)[found.heart] + jitter(0.008)
    image = np.maximum(image, 0.72 * _ellipse(0.54, 0.66, width, 0.15, 0.1))
    image = np.maximum(image, 0.60 * _ellipse(0.5, 0.3, 0.05, 0.3, 0.2))
    for side, (cx, cy) in enumerate(centres):
        lung = lungs[side]
        if found.effusion[side]:
            height = (0.0, 0.10, 0.22)[found.effusion[side]]
            image += contrast * 0.4 * lung * _step(_Y - (cy + 0.33 - height), 0.02)
        if found.opacity[side]:
            ox = cx + rng.uniform(-0.05, 0.05)
            oy = cy + (-0.19, 0.07)[found.opacity_zone[side]] + rng.uniform(-0.05, 0.05)
            strength = contrast * (0.0, 0.16, 0.36)[found.opacity[side]]
            image += strength * lung * np.exp(-((_X - ox) ** 2 + (_Y - oy) ** 2) / (2 * 0.055**2))
        if found.pneumothorax[side]:
            image -= contrast * 0.14 * lung * _ellipse(cx, cy - 0.25, 0.13, 0.09, 0.2)
    if found.device == 1:
        dx, dy = 0.76 + jitter(), 0.14 + jitter()
        image = np.maximum(image, 0.75 * ((abs(_X - dx) < 0.05) & (abs(_Y - dy) < 0.035)))
    if found.device == 2:
        dx = 0.41 + jitter(0.006)
        image = np.maximum(image, 0.75 * ((abs(_X - dx) < 0.012) & (_Y > 0.08) & (_Y < 0.5)))
    return _degrade(image, study.quality, scanner, rng)


def lateral(study: Study, scanner: Scanner = Scanner()) -> NDArray[np.uint8]:
    """Return the lateral image, shape (SIZE, SIZE): both sides lie over each other, the spine is on the right."""
    rng = np.random.default_rng((*study.seed, 2))
    found, contrast = study.findings, scanner.contrast
    image = 0.55 * _ellipse(0.5, 0.55, 0.40, 0.55, 0.1)
    lung = _ellipse(0.5 + rng.normal(0, 0.012), 0.46, 0.27, 0.36, 0.12)
    image -= 0.36 * lung
    depth = (0.13, 0.17, 0.21)[found.heart] + rng.normal(0, 0.008)
    image = np.maximum(image, 0.70 * _ellipse(0.36, 0.66, depth, 0.14, 0.1))
    image = np.maximum(image, 0.62 * _ellipse(0.80, 0.5, 0.06, 0.5, 0.2))
    for side in (0, 1):
        if found.effusion[side]:
            height = (0.0, 0.09, 0.22)[found.effusion[side]]
            image += contrast * 0.3 * lung * _step(_Y - (0.80 - height), 0.02) * _step(_X - 0.5, 0.03)
        if found.opacity[side]:
            oy = (0.28, 0.56)[found.opacity_zone[side]] + rng.uniform(-0.05, 0.05)
            ox = 0.55 + rng.uniform(-0.1, 0.1)
            strength = contrast * (0.0, 0.16, 0.32)[found.opacity[side]]
            image += strength * lung * np.exp(-((_X - ox) ** 2 + (_Y - oy) ** 2) / (2 * 0.055**2))
    if found.device == 1:
        image = np.maximum(image, 0.95 * ((abs(_X - 0.24) < 0.02) & (abs(_Y - 0.16) < 0.04)))
    if found.device == 2:
        image = np.maximum(image, 0.95 * ((abs(_X - 0.52) < 0.012) & (_Y > 0.08) & (_Y < 0.5)))
    return _degrade(image, study.quality, scanner, rng)


def film(pixels: NDArray[np.uint8], size: tuple[int, int] | None, study: Study) -> NDArray[np.uint8]:
    """Return an image enlarged to (width, height) with the grain of a film; with None the image itself.

    Without grain an enlarged image would take no disk and be decoded in no time, unlike the films whose size it has.
    """
    if size is None:
        return pixels
    from PIL import Image

    large = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    grain = np.random.default_rng((*study.seed, 3)).standard_normal(large.shape, dtype=np.float32)
    return np.clip(np.round(large + 3 * grain), 0, 255).astype(np.uint8)
