"""Several judges of one claim: "judges:green,crimson" is the mean of their scores, and remembers each.

How judges differ is part of what is not known about correctness: records keep every judge's score, and intervals have
the variance between judges in them (docs/statistics.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import PrivateAttr

from conrad_bench.errors import ConfigError, PlanError
from conrad_bench.tasks.base import Scorer
from conrad_bench.types import Claim, Example, Granularity, Score
from conrad_bench.variants import JUDGES, judge_names, variant

if TYPE_CHECKING:
    from conrad_bench.config import RunConfig
    from conrad_bench.registry import Registry
    from conrad_bench.rollouts.model import Model


class Panel(Scorer):
    """The mean of several scorers. `variant` returns that of named ones; without names it cannot judge."""

    name: ClassVar[str] = JUDGES
    summary: ClassVar[str] = "the mean of several scorers, as judges:A,B; intervals know how they differ"
    source: ClassVar[str] = "docs/statistics.md, Several judges"
    label: ClassVar[str] = "Mean of judges"
    _members: dict[str, Scorer] = PrivateAttr(default_factory=dict)

    @classmethod
    def variant(cls, names: str) -> type[Panel]:
        """Return the scorer named "judges:<names>". Raises ConfigError unless these are two scorers or more."""
        given = [name.strip() for name in names.split(",")]
        if len(given) < 2 or len(set(given)) < len(given) or not all(given):
            raise ConfigError(f"scorer 'judges:{names}': name two different scorers or more: judges:A,B")
        if nested := [name for name in given if name.partition(":")[0] == JUDGES]:
            raise ConfigError(f"scorer 'judges:{names}': {nested[0]} is no single judge; name its scorers")
        made: type[Panel] = variant(cls, f"{JUDGES}:{','.join(given)}")
        return made

    @classmethod
    def named(cls) -> list[str]:
        """Return the names of the scorers, in order; none of the family itself."""
        return [] if cls.name == JUDGES else judge_names(cls.name)

    @classmethod
    def of(cls, members: Mapping[str, Scorer]) -> Panel:
        """Return the panel of these scorers, by name, in the order of `named`."""
        panel = cls()
        panel._members.update(members)
        return panel

    @property
    def members(self) -> Mapping[str, Scorer]:
        """The scorers by name, each with the options of its own section; none before `of`."""
        return self._members

    def check(self, examples: Sequence[Example]) -> None:
        """Raise ConfigError without judges, and whatever each of them raises."""
        if not self.members:
            raise ConfigError("scorer 'judges' needs two scorers or more: judges:A,B (--judges A,B)")
        for scorer in self.members.values():
            scorer.check(examples)

    def mean(self, scores: Mapping[str, Sequence[Score]]) -> list[Score]:
        """Return the mean of each claim's scores by the judges, with each of them.

        A claim that one of them cannot judge has no score: a mean over some would be by other judges than the rest.
        """
        together = []
        for each in zip(*(scores[name] for name in self.named()), strict=True):
            known = tuple((name, s.value) for name, s in zip(self.named(), each, strict=True) if s.value is not None)
            failed = [f"{name}: {s.reason}" for name, s in zip(self.named(), each, strict=True) if s.value is None]
            value = None if failed else sum(value for _, value in known) / len(known)
            together.append(Score(value, "; ".join(failed), known))
        return together

    def score(
        self, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Model | None = None
    ) -> list[Score]:
        """Return the mean over scorers that ask no model; a run gives each of the others its engine (`judging`)."""
        self.check([example for example, _ in pairs])
        if asking := [name for name, scorer in self.members.items() if scorer.judge() is not None]:
            raise PlanError(f"scorer {self.name!r}: {asking[0]} asks a judge of its own")
        return self.mean({name: scorer.score(pairs, granularity) for name, scorer in self.members.items()})


def make_scorer(name: str, config: RunConfig, registry: Registry) -> Scorer:
    """Return a scorer with its options, of several judges each with its own.

    Raises ConfigError for an unknown name or option.
    """
    cls = registry.get("scorers", name)
    if not issubclass(cls, Panel):
        return registry.create("scorers", name, config.section(name))
    return cls.of({each: make_scorer(each, config, registry) for each in cls.named()})


def single(scorer: Scorer) -> list[Scorer]:
    """Return the judges of a scorer of several, or the scorer itself."""
    return list(scorer.members.values()) if isinstance(scorer, Panel) else [scorer]
