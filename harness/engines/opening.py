"""Opens images: the one place where a file becomes the pixels that a model sees.

What a viewer shows is what the model sees: turned as the file's EXIF data say, transparency laid on a ground. Files of
8 bits in grey or colour, neither turned nor transparent, are as they are stored.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.engines.dicom import is_dicom, open_dicom, read_header
from conrad_bench.engines.windows import stretched, to_bytes
from conrad_bench.errors import DataError, ImageError
from conrad_bench.storage import storage_errors, write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

_PARTS = 4
"""An image is laid on white where its greys span less on black than one of so many parts of their span on white."""

_THREADS = 16

_ORIENTATION = 274
_PHOTOMETRIC = 262
"""Tags of EXIF and TIFF."""

_PILLOWS = r"(PIL|pydicom)\."

_SHRINK = "make it smaller: conrad-bench data shrink"


def open_image(path: str) -> Image:
    """Read an image as 8-bit RGB, decoding it whole; of several frames the first.

    - It is turned or mirrored as its EXIF data say.
    - Transparency is laid on black, the ground of a radiograph; on white where next to nothing would be seen on black.
    - Grey of more than 8 bits is cut to the window between two percentiles of its own values (`windows.WINDOW`).
    - A DICOM file is shown as it says itself (`dicom.open_dicom`).

    Raises ImageError for a file that is empty, damaged, no image, too large, wholly transparent, or in colour of more
    than 8 bits; DataError for one that is missing or that the system does not give out.
    """
    return open_pixels(path).convert("RGB")


def open_pixels(path: str) -> Image:
    """Read an image as `open_image` does, but for the last step: in grey ("L") where the file is."""
    if is_dicom(path):
        _hush()
        return open_dicom(path)
    with _opened(path) as image:
        image.load()  # and with it a TIFF is turned, whose mark is then gone
        way = _way(image)
        turned = image if way is None else image.transpose(way)
        if turned.mode.startswith(("I", "F")):
            return _windowed(turned, path, _white_is_zero(image))
        if turned.has_transparency_data:
            return _laid(turned, path)
        return turned


def shrink(path: str, most: int) -> tuple[int, int] | None:
    """Make an image of more than `most` pixels smaller in its place, as `open_image` would have shown it.

    Blocks of k x k pixels become their mean, with the least k. The file stays in its format (JPEG, PNG, TIFF or WebP;
    others become PNG), what it was beside it as `NAME.large`. Returns its new size, None where it is small enough. Not
    for use beside other work: Pillow's limit of pixels is lifted meanwhile. Raises what `open_image` raises, and
    StorageError.
    """
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with _opened(path) as image:
            pixels, kind = image.width * image.height, image.format
        if pixels <= most:
            return None
        whole = open_pixels(path)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    small = (whole if whole.mode == "L" else whole.convert("RGB")).reduce(math.ceil(math.sqrt(pixels / most)))
    written = io.BytesIO()
    small.save(written, kind if kind in ("JPEG", "PNG", "TIFF", "WEBP") else "PNG", quality=95)
    with storage_errors(Path(path)):
        os.link(path, f"{path}.large")
    write_bytes(Path(path), written.getvalue())
    return small.size


def check_header(path: str) -> None:
    """Raise what `open_image` raises of a file whose beginning already tells; decodes nothing."""
    if is_dicom(path):
        _hush()
        read_header(path)
        return
    with _opened(path):
        pass


def departures(path: str) -> str:
    """Return in words how `open_image` departs from the pixels that lie in a file, by its header; "" where it does not.

    Rollouts' keys hold it beside the file's digest: an answer about such a file's bare pixels is another one.
    """
    if is_dicom(path):
        return "dicom"
    try:
        with _opened(path) as image:
            # Pillow decodes a PNG to look for EXIF data behind the pixels, where hardly a program writes them.
            turned = (image.format != "PNG" or "exif" in image.info) and _way(image) is not None
            windowed = image.mode.startswith(("I", "F"))
            laid = image.has_transparency_data
    except ImageError:
        return ""
    return " ".join(word for word, is_so in (("turned", turned), ("windowed", windowed), ("laid", laid)) if is_so)


def unreadable(
    paths: Iterable[str], check: Callable[[str], Any] = open_image, advance: Callable[[int], None] = lambda _: None
) -> dict[str, ImageError]:
    """Return the images that cannot be read and why, in the order of the paths, opening many at once.

    `check` opens one (`open_image` or `check_header`), `advance` is told of each. Raises DataError for a file that is
    missing or that the system does not give out.
    """

    def problem(path: str) -> ImageError | None:
        try:
            check(path)
        except ImageError as error:
            return error.with_traceback(None)  # its frames would hold the image
        return None

    different, found = list(dict.fromkeys(paths)), {}
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        # The pool keeps something for each path that it is given: not for hundreds of thousands at once.
        for start in range(0, len(different), 1000):
            part = different[start : start + 1000]
            for path, error in zip(part, pool.map(problem, part), strict=True):
                advance(1)
                if error is not None:
                    found[path] = error
    return found


@contextmanager
def _opened(path: str) -> Iterator[Image]:
    """Yield an image of which only the header was read, and say what is wrong with a file, then or later."""
    from PIL import Image, UnidentifiedImageError

    _hush()
    try:
        # From an open file: one that Pillow opens by name it may map into memory, a turned TIFF with its sides swapped.
        with open(path, "rb") as file, Image.open(file) as image:
            if _is_deep_colour(image):
                raise ImageError.of(path, "is in colour of 16 bits a channel; convert it to 8 bits")
            yield image
    except (DataError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"image {path} does not exist; check the data root") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError.of(path, f"is too large, more than {most:,} pixels; {_SHRINK} {path}") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"image {path} cannot be read ({error.strerror}); check the data root") from error
        if os.path.getsize(path) == 0:
            raise ImageError.of(path, "is empty (0 bytes); download it again") from error
        if isinstance(error, UnidentifiedImageError):
            known = "no image in a format that Pillow knows (JPEG, PNG, TIFF, WebP ...), nor DICOM"
            raise ImageError.of(path, f"is {known}; download it again, or convert it") from error
        raise ImageError.of(path, "is damaged; download it again") from error


def _hush() -> None:
    """Keep warnings of Pillow and pydicom (odd EXIF data, many pixels) off the screen: what matters is an error.

    One filter that stays: to set and remove it around each file would race among threads.
    """
    if ("ignore", None, Warning, re.compile(_PILLOWS), 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOWS)


def _is_deep_colour(image: Image) -> bool:
    """Tell whether a file has colour, or grey with transparency, of more than 8 bits; Pillow would keep the upper 8."""
    if image.mode.startswith(("I", "F")):
        return "transparency" in image.info
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(value, str) and ";16" in value for value in arguments):
            return True
        if image.format == "PPM" and image.mode == "RGB" and isinstance(arguments[-1], int) and arguments[-1] > 255:
            return True
    return False


def _way(image: Image) -> Transpose | None:
    """Return how an image is to be turned by its EXIF orientation; None where that says nothing or is torn."""
    from PIL.Image import Transpose

    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        return ways.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's readers of EXIF raise nearly anything, and viewers show such an image all the same
        return None


def _white_is_zero(image: Image) -> bool:
    """Tell whether a TIFF's values grow from white to black. Of 8 bits Pillow turns such values round, not of 16."""
    return image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0


def _windowed(image: Image, path: str, white_is_zero: bool) -> Image:
    """Return grey of more than 8 bits as grey of 8 bits: the window's ends become 0 and 255."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError.of(path, "has values that are no finite numbers; save it with 8 bits a pixel")
    grey = stretched(values)
    return Image.fromarray(to_bytes(1.0 - grey if white_is_zero else grey))


def _laid(image: Image, path: str) -> Image:
    """Return an image with transparency laid on black, or on white where that shows much more."""
    from PIL import Image

    clear = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
    least, most = clear.getchannel("A").getextrema()  # of one channel: two numbers
    if most == 0:
        raise ImageError.of(path, "is wholly transparent; save it without its alpha channel")
    if least == 255:
        return clear.convert("RGB")

    def on(ground: str) -> tuple[Image.Image, int]:
        laid = Image.alpha_composite(Image.new("RGBA", clear.size, ground), clear).convert("RGB")
        extrema: Any = laid.convert("L").getextrema()
        return laid, extrema[1] - extrema[0]

    (black, shown), (white, shown_on_white) = on("black"), on("white")
    return white if _PARTS * shown < shown_on_white else black
