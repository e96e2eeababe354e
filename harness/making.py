"""Methods by their names: plugins, variants, and what is made of them."""

from __future__ import annotations

from conrad_bench.compositions import composition_problems
from conrad_bench.config import RunConfig
from conrad_bench.errors import ConfigError
from conrad_bench.methods.base import Method
from conrad_bench.methods.recalibrated import Ensemble, HallucinationAware, Recalibrated
from conrad_bench.registry import Registry
from conrad_bench.variants import ENSEMBLE, parts_of


def make_method(name: str, config: RunConfig, registry: Registry) -> Method:
    """Return a method with its options; "verbalized+isotonic" is the method verbalized under a recalibrator.

    Raises ConfigError for an unknown name or option.
    """
    for problem in composition_problems(name):
        raise ConfigError(problem)
    inner, plus, recalibrator = name.partition("+")
    if inner.startswith(ENSEMBLE):
        parts = {part: make_method(part, config, registry) for part in parts_of(inner)}
        method: Method = Ensemble.model_validate({"methods": parts, "seed": config.seed})
    else:
        method = registry.create("methods", inner, {"seed": config.seed, **config.section(inner)})
    if not plus:
        return method
    options = {"method": method, "method_name": inner, "seed": config.seed}
    kind, colon, second = recalibrator.partition(":")
    if colon:
        other = make_method(second, config, registry)
        return HallucinationAware.model_validate({**options, "second": other, "second_name": second})
    return Recalibrated.model_validate({**options, "recalibrator": kind})
