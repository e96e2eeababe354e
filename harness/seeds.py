"""Training seeds: a method that learns or samples, run once with each seed of the configuration.

Each seed is a variant with the option `seed` (`conrad.seed0`, `conrad.seed1`), so it has its own artifacts and records,
and shares every answer that does not depend on the seed. The leaderboard makes one row of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from conrad_bench.variants import parts_of, plugin_name, renamed

if TYPE_CHECKING:
    from conrad_bench.config import RunConfig

_SEEDED = re.compile(r"(.+)[.-]seed([0-9]+)")


def with_seeds(config: RunConfig, by_chance: Collection[str]) -> RunConfig:
    """Return the configuration with a variant for each training seed in the place of each method in `by_chance`.

    Those that are such variants already stay: the configuration of a run folder has them.
    """
    methods: list[str] = []
    options = dict(config.options)
    for name in config.methods:
        if not config.seeds or name not in by_chance or seed_of(name, config) is not None:
            methods.append(name)
            continue
        for seed in config.seeds:
            methods.append(seed_variant(name, seed))
            for part in parts_of(name):
                own = config.options.get(part, {}) if plugin_name(part) != part else {}
                options[seed_variant(part, seed)] = {**own, "seed": seed}
    return config.model_copy(update={"methods": methods, "options": options})


def seed_variant(name: str, seed: int) -> str:
    """Return the name of the variant that stands for a method with a training seed: "probe.seed1+platt".

    Of a method that is made of others, all have the seed: "ensemble:msp.seed1,probe.seed1".
    """
    return renamed(name, lambda part: f"{part}{'-' if '.' in part else '.'}seed{seed}")


def seed_of(name: str, config: RunConfig) -> tuple[str, int] | None:
    """Return the method and the training seed that a variant stands for; None where it is none of these."""
    seeds: set[int | None] = set()

    def without(part: str) -> str:
        found = _SEEDED.fullmatch(part)
        said = config.options.get(part, {}).get("seed")
        seeds.add(said if found is not None and said == int(found[2]) else None)
        return part if found is None else found[1]

    row = renamed(name, without)
    (seed, *others) = seeds
    return None if others or seed is None or seed not in config.seeds else (row, seed)


def row_name(name: str, config: RunConfig) -> str:
    """Return the name of a method's row: its own, or that of the method whose training seed it is."""
    found = seed_of(name, config)
    return name if found is None else found[0]
