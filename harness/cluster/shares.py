"""How work is spread over the nodes of a cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conrad_bench.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Share:
    """How many replicas there are, and what Ray gives to each."""

    replicas: int
    cpus: int
    gpus: float

    def of(self, what: str) -> str:
        """Return it for a person: "8 replicas with 1 GPU each"."""
        each = f"{self.gpus:g} GPU" if self.gpus else f"{self.cpus} CPU"
        return f"{self.replicas} {what}{'s' * (self.replicas > 1)} with {each} each"

    def __str__(self) -> str:
        return self.of("replica")


def allot(
    nodes: Sequence[Mapping[str, float]],
    replicas: int | None,
    gpus_per_replica: float,
    what: str = "replica",
    remedy: str = "lower --replicas or --gpus-per-replica, or add nodes before the run begins",
) -> Share:
    """Return how the replicas of an engine are spread over nodes, each given by its Ray resources ("CPU", "GPU").

    `replicas` None: as many as have room, with `gpus_per_replica` GPUs each, or with 2 CPUs each where no node has a
    GPU (one replica on a single CPU). Raises ConfigError if the nodes have too little room.
    """
    if any(node.get("GPU", 0) for node in nodes):
        found, wanted = room(nodes, 1, gpus_per_replica), f"{gpus_per_replica:g} GPUs and a CPU"
        cpus, gpus = 1, gpus_per_replica
    else:
        cpus = 2 if room(nodes, 2, 0) >= (replicas or 1) else 1
        found, wanted, gpus = room(nodes, cpus, 0), "a CPU", 0.0
    if found < (replicas or 1):
        raise ConfigError(f"Ray sees room for {found} {what}(s) with {wanted} each, not for {replicas or 1}; {remedy}")
    return Share(replicas or found, cpus, gpus)


def room(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """Return how many replicas fit; a replica lies on one node, and a part of a GPU on one GPU."""
    total = 0
    for node in nodes:
        here = int(node.get("CPU", 0)) // cpus
        if gpus:
            on_gpus = int(node.get("GPU", 0))
            here = min(here, on_gpus * math.floor(1 / gpus + 1e-9) if gpus < 1 else on_gpus // int(gpus))
        total += here
    return total
