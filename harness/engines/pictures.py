"""Pictures as a model's image processor wants them: opened and prepared once, by threads, ahead of the model.

A film of 2544 x 3056 pixels takes 150 ms to open, to resize to 896 pixels and to normalise. Prompts ask for the same
film again: for every sample, sentence, score and hidden state. So the last pictures are kept, small, and the last rows
of pixels that a processor made of them; and while the model is at one batch, threads prepare the pictures of the next.
"""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from conrad_bench.engines.opening import open_pixels

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

Made = TypeVar("Made")

_KEY = "conrad_bench_path"

BUDGET = 2**30
"""Bytes of rows of pixels that are kept: about a hundred at 896 pixels."""
_SMALL_BUDGET = 2**29
"""Bytes of opened pictures that are kept: about six hundred in grey at 896 pixels."""

_THREADS = 8
_AHEAD = 16
"""Pictures that are opened ahead where they are kept as large as they are."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The one size that a processor gives to every picture."""

    size: tuple[int, int]
    """Width and height in pixels."""
    resample: Resampling


class Pictures:
    """Opened pictures, made small where a processor has one size for all; the last ones are kept.

    Grey is resized before it becomes RGB, which gives the same pixels in half the time and is kept in a third of the
    memory.
    """

    def __init__(self, processor: Any) -> None:
        """Find out how `processor` (an image processor) resizes."""
        self.fit = _fit(processor)
        self._kept = _Kept[Any](lambda image: image.width * image.height * len(image.getbands()), _SMALL_BUDGET)

    def open(self, path: str) -> Image:
        """Return a picture in RGB. Raises what `open_image` raises."""
        image: Image = self._kept(picture_state(path), lambda: self._small(path))
        return image.convert("RGB")

    def ahead(self, paths: Iterable[str]) -> None:
        """Begin to open pictures that will be asked for soon; their errors are raised then."""
        for path in list(dict.fromkeys(paths))[: None if self.fit is not None else _AHEAD]:
            _threads().submit(self.open, path)

    def _small(self, path: str) -> Image:
        image = open_pixels(path)
        if image.mode != "L":
            image = image.convert("RGB")
        return image if self.fit is None else image.resize(self.fit.size, self.fit.resample)


def stand_in(path: str) -> Any:
    """Return a picture of one pixel that stands for a file until `Prepared` prepares the file's own."""
    from PIL import Image

    image = Image.new("RGB", (1, 1))
    image.info[_KEY] = path  # copies and conversions of a picture keep its info
    return image


class Prepared:
    """An image processor that prepares the file behind each stand-in once, and keeps what it made of the last ones.

    Only of processors that make one row of pixels of each picture the rows are kept; for others, which cut pictures
    into tiles, the opened pictures are. Everything else is the processor's own.
    """

    def __init__(self, processor: Any, budget: int = BUDGET) -> None:
        self._processor = processor
        self._pictures = Pictures(processor)
        self._rows = _Kept(_size, budget)
        self._chats = _Kept[tuple[Any, int]](lambda made: made[1], budget)
        self._most_ahead = budget // 2
        self._asked: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        """Arguments of the last call: those of the next, as it seems."""
        self._in_rows = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy, as it is made to be saved, is one of the processor itself."""
        return copy.deepcopy(self._processor, memo)

    def __call__(self, images: Any, *arguments: Any, **named: Any) -> Any:
        """Prepare pictures (nested in lists, as processors take them) and return their features."""
        paths = [image.info.get(_KEY) for image in _flat(images)]
        if not paths or None in paths:
            return self._processor(images, *arguments, **named)
        self._asked = arguments, named
        if len(paths) > 1:
            self.ahead(paths)
        rows = [self._prepared(path) for path in paths] if self._in_rows else [None]
        if any(row is None for row in rows):
            return self._processor(self._opened(images), *arguments, **named)
        from transformers import BatchFeature

        return BatchFeature({name: _joined([row[name] for row in rows if row is not None]) for name in rows[0] or {}})

    def remembered(self, chat: Hashable, encode: Callable[[], tuple[Made, int]]) -> Made:
        """Return what `encode` made of a chat with its pictures when it was asked for last, or makes of it now.

        `encode` returns it with its bytes. The last ones are remembered, up to the budget of prepared pictures.
        """
        made: Made = self._chats(chat, encode)[0]
        return made

    def ahead(self, paths: Iterable[str]) -> None:
        """Begin to prepare pictures that will be asked for soon; their errors are raised then."""
        different = list(dict.fromkeys(paths))
        if self._asked is None or not self._in_rows:
            self._pictures.ahead(different)
            return
        for path in different[: max(1, self._most_ahead // self._rows.largest)]:
            _threads().submit(self._prepared, path)

    def _prepared(self, path: str) -> dict[str, Any] | None:
        """Return the features of one picture, or None where they are no single row."""
        arguments, named = self._asked or ((), {})
        key = repr((picture_state(path), arguments, sorted(named.items())))
        return self._rows(key, lambda: self._row(path, arguments, named))

    def _row(self, path: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any] | None:
        import torch

        row = dict(self._processor([self._pictures.open(path)], *arguments, **named | {"return_tensors": "pt"}))
        if row["pixel_values"].ndim != 4 or any(isinstance(v, torch.Tensor) and len(v) != 1 for v in row.values()):
            self._in_rows = False
            return None
        return row

    def _opened(self, images: Any) -> Any:
        if isinstance(images, (list, tuple)):
            return [self._opened(image) for image in images]
        return self._pictures.open(images.info[_KEY])


class _Kept(Generic[Made]):
    """What was made last, up to a budget of bytes; made once, though several threads ask for it."""

    def __init__(self, size: Callable[[Made], int], budget: int) -> None:
        self._size, self._budget = size, budget
        self._made: OrderedDict[Hashable, tuple[Future[Made], int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()
        self.largest = 1
        """Bytes of the largest so far."""

    def __call__(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what was made for a key, or make it now."""
        with self._lock:
            known = self._made.get(key)
            if known is not None:
                self._made.move_to_end(key)
            else:
                future: Future[Made] = Future()
                self._made[key] = future, 0
        if known is not None:
            return known[0].result()
        try:
            made = make()
        except BaseException as error:
            with self._lock:
                del self._made[key]
            future.set_exception(error)
            raise
        future.set_result(made)
        with self._lock:
            self._made[key] = future, self._size(made)
            self._bytes += self._made[key][1]
            self.largest = max(self.largest, self._made[key][1])
            for oldest in [other for other, (_, size) in self._made.items() if size]:
                if self._bytes <= self._budget:
                    break
                self._bytes -= self._made.pop(oldest)[1]
        return made


def _fit(processor: Any) -> Fit | None:
    """Return the one size that a processor gives to all pictures, if it makes the same of those that have it already.

    Tried with noise that is smaller, wider and higher; processors that cut such pictures into tiles do not.
    """
    import numpy as np
    from PIL import Image

    width, height = (getattr(getattr(processor, "size", None), side, None) for side in ("width", "height"))
    if not (width and height and getattr(processor, "do_resize", False)):
        return None
    fit = Fit((width, height), Image.Resampling(processor.resample))
    noise = np.random.default_rng(0)
    for shape in ((height // 2 + 1, width // 3 + 1, 3), (height // 2 + 1, 2 * width, 3), (2 * height, width - 1, 3)):
        image = Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8))
        whole, small = (
            dict(processor([each], return_tensors="pt")) for each in (image, image.resize(fit.size, fit.resample))
        )
        if whole.keys() != small.keys() or not all(np.array_equal(whole[name], small[name]) for name in whole):
            return None
    return fit


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="pictures")


def picture_state(path: str) -> tuple[str, int, int]:
    """Return a file's path, size and time of change; zeros where it is not there, which opening it will say."""
    try:
        status = os.stat(path)
    except OSError:
        return path, 0, 0
    return path, status.st_size, status.st_mtime_ns


def _flat(images: Any) -> Iterator[Any]:
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from _flat(image)
    else:
        yield images


def _joined(values: list[Any]) -> Any:
    """Return the features of several pictures as those of one batch."""
    import torch

    if isinstance(values[0], torch.Tensor):
        return values[0] if len(values) == 1 else torch.cat(values)
    return [item for value in values for item in value]


def _size(row: dict[str, Any] | None) -> int:
    return 1 if row is None else int(row["pixel_values"].numel() * row["pixel_values"].element_size())
