"""What is asked of a model's decoder: its linear layers, which can be trained, the hidden states of a layer, and how it
counts its tokens' positions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import EngineError, ModelError

if TYPE_CHECKING:
    import torch

_NOT_LANGUAGE = (
    "vision",
    "visual",
    "image",
    "audio",
    "projector",
    "connector",
    "lm_head",
    "cross_attn.k_",
    "cross_attn.v_",
)
"""Parts of the names of modules that belong to other senses, or to the head. Cross-attention makes its keys and values
of pictures."""


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


def _stack(model: Any) -> tuple[Any, Any]:
    """Return (the module that runs a decoder's layers one after another, the list of these layers)."""
    import torch

    count = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        for child in module.children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == count:
                return module, child
    raise EngineError(f"the layers of {type(model).__name__} are not found; its hidden states cannot be read")


@contextmanager
def layer_states_of(model: Any, layer: int) -> Iterator[list[torch.Tensor]]:
    """Yield a list that takes up the hidden states (batch, tokens, hidden size) of one layer in the next forward pass.

    Layers are numbered as in transformers' hidden_states: 0 is the first layer's input, the last the normalised output.
    """
    stack, layers = _stack(model)
    if not -len(layers) - 1 <= layer <= len(layers):
        raise EngineError(f"there is no layer {layer}; the model's hidden states are numbered 0 to {len(layers)}")
    states: list[torch.Tensor] = []

    def before(_module: Any, args: Any, kwargs: Any) -> None:
        if not states:
            states.append(args[0] if args else kwargs["hidden_states"])

    # A layer that the model leaves out, as one for pictures where there are none, changes nothing: the next one's input
    # is what its own would have been.
    handles = [each.register_forward_pre_hook(before, with_kwargs=True) for each in layers[layer % (len(layers) + 1) :]]
    if not handles:
        handles = [stack.register_forward_hook(lambda _module, _args, output: states.append(output[0]))]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def counts_padding(model: Any) -> bool:
    """Tell whether a model generates with positions that count a row's padding, so that its rows must have none."""
    return _offset(model) > 0


def _offset(model: Any) -> int:
    """Return the position of the first token: that behind the padding's own where a table of positions has one."""
    table = getattr(_stack(model)[0], "embed_positions", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None or hasattr(table, "num_embeddings") else int(padding) + 1


def positions(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the positions of a batch's tokens as the model counts them: (batch, tokens), or (axes, batch, tokens).

    Multimodal rotary positions have an axis for time, height and width; text behind a picture goes on from the highest.
    """
    mask = inputs["attention_mask"]
    finder = getattr(model.base_model, "get_rope_index", None)
    if finder is not None and "image_grid_thw" in inputs:
        wanted = inspect.signature(finder).parameters
        found: torch.Tensor = finder(**{name: value for name, value in inputs.items() if name in wanted})[0]
        return found
    return (mask.cumsum(dim=1) - 1).clamp(min=0) + _offset(model)


def positions_behind(before: torch.Tensor, mask: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Return the positions of tokens that stand `steps` (tokens,) or (batch, tokens) behind the rows of a batch.

    `before` are the positions of the batch, `mask` (batch, tokens) is 0 on its padding.
    """
    seen = before.masked_fill(mask == 0, -1)
    behind = seen.amax(dim=(0, 2)) if before.ndim == 3 else seen.amax(dim=1)
    found = behind[:, None] + 1 + steps
    return found.expand(len(before), *found.shape) if before.ndim == 3 else found


@contextmanager
def masked_as_told(model: Any) -> Iterator[None]:
    """Let a decoder that makes its own mask, as older ones do, take a mask of four dimensions as it is."""
    stack = _stack(model)[0]
    if not hasattr(stack, "_prepare_decoder_attention_mask"):
        yield
        return
    stack._prepare_decoder_attention_mask = lambda mask, *_: mask
    try:
        yield
    finally:
        del stack._prepare_decoder_attention_mask
