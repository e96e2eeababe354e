"""Pictures for a page: opened as the model sees them, made as small as a page needs, and kept while there is room."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from conrad_bench.engines.opening import open_pixels

Size = Literal["page", "large"]

MOST: dict[Size, int] = {"page": 1024, "large": 2560}
"""Pixels of the longer side at most. A film of 2544 x 3056 takes some 150 ms to open and 0.2 MB as `page`."""
_ROOM = 64 * 2**20
"""Bytes of finished pictures that are kept."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is sent."""

    data: bytes
    media_type: str


class Films:
    """The pictures of a run, each by its number. Three are opened at a time, two of them for pages to come."""

    def __init__(self, paths: Sequence[str], room: int = _ROOM) -> None:
        self.paths = paths
        self._room, self._used = room, 0
        self._made: OrderedDict[tuple[int, Size], Future[Picture]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(3, "films")
        self._ahead = ThreadPoolExecutor(2, "films ahead")
        self._coming: list[Future[Picture]] = []

    def get(self, number: int, size: Size) -> Picture:
        """Return a picture: lossless where it is small enough as it is, else as JPEG.

        Raises IndexError for a number of none, ImageError or DataError for a file that cannot be read.
        """
        return self._asked(number, size).result()

    def prepare(self, numbers: Iterable[int]) -> None:
        """Make pictures for pages to come, in this order; those that were to come before are given up."""
        with self._lock:
            for each in self._coming:
                each.cancel()
            self._coming = [self._ahead.submit(self.get, number, "page") for number in numbers]

    def close(self) -> None:
        """Begin no other picture."""
        self._ahead.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def _asked(self, number: int, size: Size) -> Future[Picture]:
        if not 0 <= number < len(self.paths):
            raise IndexError(number)
        key = (number, size)
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
            future = self._made[key] = self._pool.submit(_make, self.paths[number], MOST[size])
        future.add_done_callback(lambda done: self._done(key, done))
        return future

    def _done(self, key: tuple[int, Size], made: Future[Picture]) -> None:
        """Count a picture, and let the oldest go; one that failed is tried again when it is asked for again."""
        with self._lock:
            if made.cancelled() or made.exception() is not None:
                self._made.pop(key, None)
                return
            self._used += len(made.result().data)
            while self._used > self._room:
                oldest = next((k for k, each in self._made.items() if each.done() and k != key), None)
                if oldest is None:
                    return
                self._used -= len(self._made.pop(oldest).result().data)


def _make(path: str, most: int) -> Picture:
    from PIL.Image import Resampling

    image = open_pixels(path)
    if image.mode != "L":
        image = image.convert("RGB")
    written = io.BytesIO()
    if max(image.size) <= most:
        image.save(written, "PNG", compress_level=1)
        return Picture(written.getvalue(), "image/png")
    image.thumbnail((most, most), Resampling.LANCZOS, reducing_gap=3.0)
    image.save(written, "JPEG", quality=92)
    return Picture(written.getvalue(), "image/jpeg")
