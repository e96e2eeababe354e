"""Distorted pictures: what a reader would still recognise, moved, turned, brighter or darker, and noisy.

As in VASE (Liao et al. 2025, their code): a cut of 90 to 100 % of the area, a turn by at most 10 degrees, a shift by at
most 10 % of width and height, brightness and contrast times 0.8 to 1.2, Gaussian noise of 7 % of the grey range and
Poisson noise of 70 counts at white. The longer side has at most 512 pixels, theirs.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from conrad_bench.engines.opening import open_pixels
from conrad_bench.rollouts.digests import image_digest
from conrad_bench.storage import write_bytes

LONGEST = 512
VERSION = 1


def distorted(path: str, number: int, seed: int, folder: Path) -> Path:
    """Return the file of distortion `number` of a picture, made unless it is there.

    Raises ImageError and DataError as `open_pixels` does, and StorageError.
    """
    import numpy as np
    from PIL import Image

    digest = hashlib.sha256(f"distorted {VERSION} {seed} {number} {image_digest(Path(path))}".encode()).hexdigest()
    target = folder / f"distorted-{digest[:32]}.png"
    if target.is_file():
        return target
    image = open_pixels(path)
    image = image if image.mode == "L" else image.convert("RGB")
    draw = np.random.default_rng(int(digest[:15], 16))
    kept = float(np.sqrt(draw.uniform(0.9, 1.0)))
    width, height = image.width * kept, image.height * kept
    left, top = draw.uniform(0, image.width - width), draw.uniform(0, image.height - height)
    scale = min(1.0, LONGEST / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    shift = round(draw.uniform(-0.1, 0.1) * size[0]), round(draw.uniform(-0.1, 0.1) * size[1])
    image = image.rotate(draw.uniform(-10, 10), Image.Resampling.BILINEAR, translate=shift)
    pixels = np.asarray(image, dtype=np.float64) / 255
    pixels = pixels * draw.uniform(0.8, 1.2)
    pixels = (pixels - pixels.mean()) * draw.uniform(0.8, 1.2) + pixels.mean()
    noise = draw.standard_normal(pixels.shape[:2])
    pixels = np.clip(pixels + 0.07 * (noise if pixels.ndim == 2 else noise[..., None]), 0, 1)
    pixels = np.clip(draw.poisson(70 * pixels) / 70, 0, 1)
    written = io.BytesIO()
    Image.fromarray(np.rint(255 * pixels).astype(np.uint8)).save(written, "PNG")
    write_bytes(target, written.getvalue())
    return target
