"""What the workers of one training share: gradients, and the seeds of what they draw.

The group is torch's default process group, where one was made; else it is this process alone, and nothing here does
anything. Each worker takes its part of every step, and what it draws for a row is seeded by step and row: what is
trained does not depend on their number, beyond the order in which floating-point numbers are added up.
"""

from __future__ import annotations

import hashlib
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


def row_seed(seed: int, step: int, row: int) -> int:
    """Return the seed of what is drawn for one row of a step, whichever worker draws it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {row}".encode()).digest()[:7], "big")
