"""Training seeds: a method that learns or samples, run once with each seed of the configuration.

Each seed is a variant with the option `seed` (`conrad.seed0`, `conrad.seed1`), so it has its own artifacts and records,
and shares every answer that does not depend on the seed. The leaderboard makes one row of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from conrad_bench.variants import learner_name, plugin_name

if TYPE_CHECKING:
    from conrad_bench.config import RunConfig

_SEEDED = re.compile(r"([^+]+)[.-]seed([0-9]+)(\+.*)?")


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
        learner = learner_name(name)
        own = config.options.get(learner, {}) if plugin_name(learner) != learner else {}
        for seed in config.seeds:
            variant = seed_variant(name, seed)
            methods.append(variant)
            options[learner_name(variant)] = {**own, "seed": seed}
    return config.model_copy(update={"methods": methods, "options": options})


def seed_variant(name: str, seed: int) -> str:
    """Return the name of the variant that stands for a method with a training seed: "probe.seed1+platt"."""
    learner, plus, recalibrator = name.partition("+")
    return f"{learner}{'-' if '.' in learner else '.'}seed{seed}{plus}{recalibrator}"


def seed_of(name: str, config: RunConfig) -> tuple[str, int] | None:
    """Return the method and the training seed that a variant stands for; None where it is none of these."""
    found = _SEEDED.fullmatch(name)
    if found is None or int(found[2]) not in config.seeds:
        return None
    if config.options.get(learner_name(name), {}).get("seed") != int(found[2]):
        return None
    return found[1] + (found[3] or ""), int(found[2])


def row_name(name: str, config: RunConfig) -> str:
    """Return the name of a method's row: its own, or that of the method whose training seed it is."""
    found = seed_of(name, config)
    return name if found is None else found[0]
