"""Pictures for a trainer that names them by their files: each is opened and prepared once."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from conrad_bench.engines.opening import open_image

_KEY = "conrad_bench_path"

BUDGET = 2**30
"""Bytes of prepared pictures that are kept: about a hundred at 896 pixels."""


def stand_in(path: str) -> Any:
    """Return a picture of one pixel that stands for a file until `Prepared` prepares the file's own."""
    from PIL import Image

    image = Image.new("RGB", (1, 1))
    image.info[_KEY] = path  # copies and conversions of a picture keep its info
    return image


class Prepared:
    """An image processor that prepares the file behind each stand-in once, and keeps what it made of the last ones.

    A group of rollouts shares its pictures, and a film of 2544 x 3056 pixels takes a second to open and to resize.
    Only processors that make one row of pixels of each picture can be served from memory; for others, which cut
    pictures into tiles, the files are opened each time. Everything else is the processor's own.
    """

    def __init__(self, processor: Any, budget: int = BUDGET) -> None:
        self._processor, self._budget = processor, budget
        self._kept: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self._bytes = 0

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
        rows = [self._row(path, arguments, named) for path in paths]
        if any(row is None for row in rows):
            return self._processor(_opened(images), *arguments, **named)
        from transformers import BatchFeature

        return BatchFeature({name: _joined([row[name] for row in rows if row is not None]) for name in rows[0] or {}})

    def _row(self, path: str, arguments: Any, named: dict[str, Any]) -> dict[str, Any] | None:
        """Return the features of one picture, or None where they are no single row."""
        import torch

        named = {**named, "return_tensors": "pt"}
        key = (path, repr(sorted(named.items())))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        row = dict(self._processor([open_image(path)], *arguments, **named))
        pixels = row["pixel_values"]
        if pixels.ndim != 4 or any(isinstance(v, torch.Tensor) and len(v) != 1 for v in row.values()):
            return None
        self._kept[key] = row
        self._bytes += _size(row)
        while self._bytes > self._budget and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return row


def _flat(images: Any) -> Iterator[Any]:
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from _flat(image)
    else:
        yield images


def _opened(images: Any) -> Any:
    if isinstance(images, (list, tuple)):
        return [_opened(image) for image in images]
    return open_image(images.info[_KEY])


def _joined(values: list[Any]) -> Any:
    """Return the features of several pictures as those of one batch."""
    import torch

    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    return [item for value in values for item in value]


def _size(row: dict[str, Any]) -> int:
    pixels = row["pixel_values"]
    return int(pixels.numel() * pixels.element_size())
