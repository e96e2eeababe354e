"""What the workers of one training share: gradients, and random numbers.

The group is torch's default process group, where one was made; else it is this process alone, and nothing here does
anything. Each worker takes an equal part of every step, in the order of the ranks, and together they draw the random
numbers that one process would have drawn: what is trained does not depend on their number, beyond the order in which
floating-point numbers are added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed


def place() -> tuple[int, int]:
    """Return (rank of this process, number of workers)."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def add_up(tensors: Iterable[torch.Tensor]) -> None:
    """Replace the tensors, of one dtype and device, by their sums over the group, in place."""
    found = list(tensors)
    if place()[1] == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in found])
    distributed.all_reduce(flat)
    at = 0
    for tensor in found:
        tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
        at += tensor.numel()


def gathered(values: list[Any]) -> list[Any]:
    """Return the values of all workers, in the order of the ranks."""
    if place()[1] == 1:
        return values
    lists: list[list[Any]] = [[] for _ in range(place()[1])]
    distributed.all_gather_object(lists, values)
    return [value for part in lists for value in part]


def wait_for_all() -> None:
    """Return once every worker has come here."""
    if place()[1] > 1:
        distributed.barrier()


class Draws:
    """Samples tokens for the rows of this worker as one process would for those of all workers, from torch's generator.

    Every worker draws the noise of all rows and uses its own, so their generators stay equal. A worker whose rows have
    ended earlier draws on, unused, at the end: `with Draws(device) as draws: ... draws.choose(probabilities)`.
    """

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator(device)
        self._shape = (0, 0)
        self._count = 0

    def __enter__(self) -> Draws:
        self._generator.set_state(_state(self._generator.device))
        return self

    def choose(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return one token id for each row of the probabilities (rows, vocabulary), shape (rows, 1).

        The very ids that `torch.multinomial(probabilities, 1)` gives over the rows of all workers: it divides by
        exponential noise and takes the largest.
        """
        rank, size = place()
        rows = len(probabilities)
        self._shape = (rows * size, probabilities.shape[1])
        self._count += 1
        noise = self._noise(probabilities.dtype)[rank * rows : (rank + 1) * rows]
        return (probabilities / noise).argmax(-1, keepdim=True)

    def _noise(self, dtype: torch.dtype) -> torch.Tensor:
        noise = torch.empty(self._shape, dtype=dtype, device=self._generator.device)
        return noise.exponential_(generator=self._generator)

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None:
            return
        for _ in range(max(gathered([self._count])) - self._count):
            self._noise(torch.float32)
        _set_state(self._generator.device, self._generator.get_state())


def share_random_state() -> None:
    """Give every worker the state of the first one's generators."""
    if place()[1] == 1:
        return
    devices = [torch.device("cpu"), *[torch.device("cuda")] * torch.cuda.is_available()]
    states = [_state(device) for device in devices]
    distributed.broadcast_object_list(states, src=0)
    for device, state in zip(devices, states, strict=True):
        _set_state(device, state)


def _state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
