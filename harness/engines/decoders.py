"""What is asked of a model's decoder: its linear layers, which can be trained, and the hidden states of a layer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import EngineError, ModelError

if TYPE_CHECKING:
    import torch

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


@contextmanager
def layer_states_of(model: Any, layer: int) -> Iterator[list[torch.Tensor]]:
    """Yield a list that takes up the hidden states (batch, tokens, hidden size) of one layer in the next forward pass.

    Layers are numbered as in transformers' hidden_states: 0 is the first layer's input, the last the normalised output.
    """
    decoder = model.get_decoder()
    layers = decoder.layers
    if not -len(layers) - 1 <= layer <= len(layers):
        raise EngineError(f"there is no layer {layer}; the model's hidden states are numbered 0 to {len(layers)}")
    states: list[torch.Tensor] = []
    index = layer % (len(layers) + 1)
    if index < len(layers):
        handle = layers[index].register_forward_pre_hook(
            lambda _module, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    else:
        handle = decoder.register_forward_hook(lambda _module, _args, output: states.append(output[0]))
    try:
        yield states
    finally:
        handle.remove()
