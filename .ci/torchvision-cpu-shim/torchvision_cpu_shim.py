"""Declares the two operators without which a torchvision built for CUDA cannot be imported beside a torch without it.

Such a torchvision finds no library for its compiled operators, and its import then fails where it registers a fake
kernel for `torchvision::nms`. With the operators' schemas declared, the import works; they have no kernels, but nothing
here calls them: reading and resizing images is done in Python. torch calls `declare` at the end of its own import,
through the entry point group "torch.backends".
"""

from __future__ import annotations

from typing import Any

_declared: list[Any] = []
"""The library, kept: its declarations live as long as it does."""


def declare() -> None:
    """Declare the operators, unless torch has CUDA or ROCm, or a torchvision that fits has declared them."""
    import torch

    if _declared or torch.version.cuda is not None or torch.version.hip is not None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:  # declared already
        return
    _declared.append(library)
