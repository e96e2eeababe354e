"""An image that occurs several times in a batch passes the vision tower once.

A group of rollouts shares its image, and so do the sentences of one report. The vision tower is the larger part of
reading a prompt in models whose images have thousands of patches; what it returns for equal pixels is equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def see_images_once(model: Any) -> None:
    """Let a model's vision tower see equal images once, where it takes one row of pixels an image and nothing else.

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
        import torch

        self._places = None
        pixels = kwargs.get("pixel_values", args[0] if args else None)
        others = [*args[1:], *(value for name, value in kwargs.items() if name != "pixel_values")]
        if not isinstance(pixels, torch.Tensor) or pixels.ndim != 4:
            return None  # other towers take the patches of all images in one row
        if any(isinstance(value, (torch.Tensor, list, tuple)) for value in others):
            return None  # sizes or masks of the images, which would have to be sorted out as well
        different, places = _different(pixels)
        if len(different) == len(pixels):
            return None
        self._places = places
        if "pixel_values" in kwargs:
            return args, {**kwargs, "pixel_values": pixels[different]}
        return (pixels[different], *args[1:]), kwargs

    def after(self, _tower: Any, _args: Any, output: Any) -> Any:
        """Put every image's features in its place: all that the tower returns, its layers' states as well."""
        places, self._places = self._places, None
        return None if places is None else _placed(output, places)


def _placed(output: Any, places: torch.Tensor) -> Any:
    """Return a tower's output, tensors in tuples or under names, with a row for each image of the batch."""
    import torch

    if isinstance(output, torch.Tensor):
        return output[places]
    if isinstance(output, (list, tuple)):
        return type(output)(_placed(value, places) for value in output)
    for name, value in output.items() if hasattr(output, "items") else ():
        output[name] = None if value is None else _placed(value, places)
    return output


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
