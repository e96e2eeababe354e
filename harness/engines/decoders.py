"""What of a model can be trained: the linear layers of its decoder, found by asking the model."""

from __future__ import annotations

import re
from typing import Any

from conrad_bench.errors import ModelError

_NOT_LANGUAGE = ("vision", "visual", "image", "audio", "projector", "connector", "lm_head")
"""Parts of the names of modules that belong to other senses, or to the head."""


def decoder_layers(model: Any) -> str:
    """Return a regular expression for the full names of the linear layers of a model's decoder, and of no others.

    Raises ModelError where there are none.
    """
    import torch

    decoder = model.get_decoder()
    inside = {id(module) for module in (model if decoder is None else decoder).modules()}
    linear = {
        name: id(module) in inside for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    wanted = sorted(name for name, inner in linear.items() if inner and not any(part in name for part in _NOT_LANGUAGE))
    if not wanted:
        raise ModelError(
            f"{type(model).__name__} has no linear layers in its decoder, which an adapter could be trained on; choose "
            "another model, or methods that train none"
        )
    leaves = sorted({name.rpartition(".")[2] for name in wanted})
    start = _shared_start(wanted)
    short = rf"{re.escape(start)}.*\.({'|'.join(leaves)})"
    if [name for name in sorted(linear) if re.fullmatch(short, name)] == wanted:
        return short
    return "|".join(map(re.escape, wanted))


def _shared_start(names: list[str]) -> str:
    """Return the modules that all names begin with: "model.language_model."."""
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for step in zip(*parts, strict=False):
        if len(set(step)) > 1 or step[0].isdecimal():
            break
        shared.append(step[0])
    return "".join(f"{part}." for part in shared)
