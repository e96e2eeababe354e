"""An image that occurs several times in a batch passes the vision tower once.

A group of rollouts shares its image, and so do the sentences of one report. The vision tower is the larger part of
reading a prompt in models whose images have thousands of patches; what it returns for equal pixels is equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def see_images_once(model: Any) -> None:
    """Let a model's vision tower, where it has one that takes one row of pixels an image, see equal images once.

    Outputs are those of the model as it was: (images, ...) in the order of the pixels.
    """
    tower = getattr(getattr(model, "model", None), "vision_tower", None)
    if tower is None:
        return
    once = _Once()
    tower.register_forward_pre_hook(once.before, with_kwargs=True)
    tower.register_forward_hook(once.after)


def freeze_vision(model: Any) -> None:
    """Let no gradient run through a model's vision tower, which is not trained.

    Gradients would run through it where a trainer asks for them at the inputs, as gradient checkpointing does: three to
    five gigabytes for a batch of real films, for nothing.
    """
    import torch

    inner = getattr(model, "model", model)
    for name in ("vision_tower", "vision_model", "visual"):
        tower = getattr(inner, name, None)
        if tower is not None:
            tower.forward = torch.no_grad()(tower.forward)


class _Once:
    """Forward hooks of one vision tower."""

    def __init__(self) -> None:
        self._places: torch.Tensor | None = None
        """For each image of the batch, which of the different ones it is; None where all differ."""

    def before(self, _tower: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Leave the different images."""
        self._places = None
        pixels = kwargs.get("pixel_values")
        if pixels is None or pixels.ndim != 4:  # other towers take the patches of all images in one row
            return None
        different, places = _different(pixels)
        if len(different) == len(pixels):
            return None
        self._places = places
        return args, {**kwargs, "pixel_values": pixels[different]}

    def after(self, _tower: Any, _args: Any, output: Any) -> None:
        """Put every image's features in its place."""
        if self._places is not None:
            output.last_hidden_state = output.last_hidden_state[self._places]
            self._places = None


def _different(pixels: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Return the indices of the different images among pixels (n, ...), and for each image its place among them."""
    import torch

    first: dict[float, list[int]] = {}
    different: list[int] = []
    places = []
    for i, key in enumerate(pixels.flatten(1).sum(1, dtype=torch.float64).tolist()):
        # Equal images have equal sums, not the other way round.
        same = next((place for place in first.get(key, []) if torch.equal(pixels[different[place]], pixels[i])), None)
        if same is None:
            same = len(different)
            different.append(i)
            first.setdefault(key, []).append(same)
        places.append(same)
    return different, torch.tensor(places, device=pixels.device)
