"""Pictures as they are sent to a server: nothing of a file but its pixels, in as few bytes as they lose nothing in."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from conrad_bench.engines.opening import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
"""A marker in a JPEG's coded data: no stuffed zero, no restart, no filling."""

_KEPT_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})


def data_url(path: str) -> str:
    """Return an image file as a data URL with the very pixels that `open_image` gives.

    The file's own compressed pixels, without what else it holds, where they are these: a film that is a JPEG of a
    megabyte would be four as PNG. Otherwise a PNG, grey if the picture is. Raises DataError as `open_image` does.
    """
    image = open_image(path)
    grey = _grey(image)
    kind, data = _stripped(path)
    if data and not _same(data, image, grey):
        data = b""
    if not data:
        buffer = io.BytesIO()
        # Noise as that of a film hardly packs better at higher levels, which take four times as long.
        (grey or image).save(buffer, "PNG", compress_level=1)
        kind, data = "png", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _grey(image: Image) -> Image | None:
    """Return a picture's one channel where all three are the same."""
    from PIL import ImageChops

    red, green, blue = image.split()
    equal = all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))
    return red if equal else None


def _same(data: bytes, image: Image, grey: Image | None) -> bool:
    """Tell whether bytes decode to a picture, and hold a grey one as such."""
    from PIL import ImageChops
    from PIL.Image import open as decode

    try:
        with decode(io.BytesIO(data)) as found:
            if found.size != image.size or found.mode != ("RGB" if grey is None else "L"):
                return False
            return ImageChops.difference(found, grey or image).getbbox() is None
    except (OSError, SyntaxError, ValueError):
        return False


def _stripped(path: str) -> tuple[str, bytes]:
    """Return a file's kind, and its bytes without texts, thumbnails and the like: empty for other kinds."""
    data = Path(path).read_bytes()
    if data.startswith(b"\xff\xd8"):
        return "jpeg", _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png", _png(data)
    return "", b""


def _jpeg(data: bytes) -> bytes:
    """Return a JPEG without its application segments and comments (ITU T.81, annex B); empty where it is torn.

    Only Adobe's segment stays, without which the colours of some files would be read otherwise.
    """
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xDA:  # a scan: its header, then coded data up to the next marker
            found = _MARKER.search(data, end)
            if found is None:
                return b""
            end = found.start()
            kept.append(data[at:end])
            if found[1] == b"\xd9":
                return b"".join([*kept, b"\xff\xd9"])
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE) or data[at + 4 : at + 9] == b"Adobe":
            kept.append(data[at:end])
        at = end
    return b""


def _png(data: bytes) -> bytes:
    """Return a PNG with the chunks alone that its pixels need."""
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        name = data[at + 4 : at + 8]
        if name in _KEPT_CHUNKS:
            kept.append(data[at:end])
        if name == b"IEND":
            break
        at = end
    return b"".join(kept)
