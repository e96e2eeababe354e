"""Checks of a method: the promises that the pipeline relies on, each tried once."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, get_args
from weakref import finalize

from conrad_bench.contracts import declared, estimated
from conrad_bench.engines.base import Engine
from conrad_bench.engines.calls import METHODS
from conrad_bench.errors import PluginError
from conrad_bench.fits import check_fit, finished_files
from conrad_bench.methods.base import Method, Step
from conrad_bench.rollouts.model import Model
from conrad_bench.testing.settings import Setting
from conrad_bench.testing.toys import ODD, Memory, Silent, ToyEngine
from conrad_bench.types import NEEDS, Estimate, Example, Granularity

Fingerprint = list[tuple[Any, ...]]


@dataclass
class _Trial:
    """A method, fitted where it learns, in a setting; its folder goes with it."""

    method: Method
    setting: Setting
    engine: Engine

    def __post_init__(self) -> None:
        self.memory = Memory()
        self.model = Model(self.engine, self.memory, Silent())
        self.artifact: Path | None = None
        self.elsewhere: list[Path] = []
        if self.method.learns():
            self.folder = Path(mkdtemp())
            finalize(self, rmtree, self.folder, ignore_errors=True)
            self.artifact = self.folder / "artifacts" / f"{self.method.name}@{self.setting.task.name}"
            self.artifact.mkdir(parents=True)
            asked, splits = declared(self.model, self.method), (self.split("train"), self.split("validate"))
            with TemporaryDirectory() as here, chdir(here):
                self.method.fit(self.setting.task, *splits, asked, self.setting.judge, self.artifact)
                self.elsewhere = list(Path(here).iterdir())

    def split(self, name: str) -> list[Example]:
        """Return the examples of one split."""
        return [example for example in self.setting.examples if example.split == name]

    def estimate(self, examples: Sequence[Example]) -> list[Estimate]:
        """Return the method's estimates; what the pipeline would refuse raises PluginError."""
        found = estimated(self.method, self.setting.task, examples, self.model, self.setting.judge, self.artifact)
        if found.failed:
            example, problem = next(iter(found.failed.items()))
            raise PluginError(f"method {self.method.name!r} failed on example {example!r}: {problem}")
        return found.estimates


class MethodChecks:
    """The checks of one method at one granularity; each `check_...` raises what is wrong."""

    def __init__(self, method: Method, setting: Setting) -> None:
        self.method, self.setting = method, setting

    @cached_property
    def _first(self) -> _Trial:
        """The method fitted once, for all checks that do not need it anew; a fit may take its time."""
        return self._trial()

    def check_declaration(self) -> None:
        """Name, needs and granularities are of the list."""
        unknown = sorted((self.method.requirements() | self.method.needs) - set(NEEDS))
        if unknown:
            raise PluginError(f"needs has {', '.join(unknown)}; needs are {', '.join(NEEDS)}")
        if not self.method.granularities <= set(get_args(Granularity)):
            wrong = ", ".join(self.method.granularities)
            raise PluginError(f"granularities are {', '.join(get_args(Granularity))}, not {wrong}")

    def check_estimates(self) -> None:
        """One estimate an example, in order, with confidences in [0, 1]; nothing undeclared is used."""
        self._first.estimate(self._first.split("test"))

    def check_order(self) -> None:
        """Examples in another order get the same confidences."""
        test = self._first.split("test")
        shuffled = random.Random(0).sample(test, len(test))
        before, after = (_by_example(self._first.estimate(some)) for some in (test, shuffled))
        _same(before, after, "the confidences depend on the order of the examples")

    def check_subset(self) -> None:
        """An example alone gets the confidence that it gets among others."""
        test = self._first.split("test")
        before, after = _by_example(self._first.estimate(test)), _by_example(self._first.estimate(test[3:4]))
        _same({id: before[id] for id in after}, after, "an example's confidence depends on which others are estimated")

    def check_seeds(self) -> None:
        """Fitted and estimated again from nothing, with the same seed, all is the same."""
        before = _by_example(self._first.estimate(self._first.split("test")))
        random.seed()
        again = self._trial()
        after = _by_example(again.estimate(again.split("test")))
        _same(before, after, "a second run with the same seed differs; random choices must come from self.seed")

    def check_other_seed(self) -> None:
        """With another seed, other responses are sampled."""
        if not isinstance(self.setting.engine, ToyEngine):
            return
        drawn = []
        for seed in (0, 1):
            engine = ToyEngine(**self.setting.engine.model_dump())
            trial = _Trial(self.method.model_copy(update={"seed": seed}), self.setting, engine)
            trial.estimate(trial.split("test"))
            drawn.append(engine.sampled())
        if drawn[0] & drawn[1]:
            raise PluginError(
                "seeds 0 and 1 sample the same responses, so that training seeds differ in nothing; pass "
                "seed=self.seed to Sampling"
            )

    def check_odd_responses(self) -> None:
        """Empty, cut off and unreadable responses do no harm."""
        engine = self.setting.engine
        if not isinstance(engine, ToyEngine):
            return
        for text in ODD:
            trial = self._trial(engine.model_copy(update={"odd": text}))
            trial.estimate(trial.split("test"))

    def check_fit_folder(self) -> None:
        """A fit leaves something in its folder, and nothing elsewhere."""
        if not self.method.learns():
            return
        trial = self._first
        assert trial.artifact is not None
        check_fit(self.method, trial.folder, trial.artifact, {})
        strays = [p for p in finished_files(trial.folder) if trial.artifact not in p.parents] + trial.elsewhere
        if strays:
            raise PluginError(f"fit wrote {strays[0].name!r} outside its folder; it must write into `out` alone")

    def check_steps(self) -> None:
        """`steps` names as many requests as are made, or more where prompts repeat.

        How many sentences a response has nobody knows beforehand: what is asked about each is not counted.
        """
        trial = self._first
        splits = [trial.split(name) for name in ("train", "validate", "test")]
        trial.estimate(splits[2])
        asked = {kind: trial.memory.count(kind) for kind in METHODS}
        steps = self.method.steps(self.setting.task, *splits)
        planned = _planned(steps)
        sentences, states = self.setting.task.granularity == "sentence", any(step.action == "state" for step in steps)
        for kind, number in asked.items():
            if number > planned[kind] and not (sentences and (kind != "generate" or states)):
                what = {"generate": "responses", "score": "scores", "hidden": "hidden states"}.get(kind, "readings")
                raise PluginError(f"steps plans {planned[kind]} {what}, and {number} were asked for")

    def check_pickle(self) -> None:
        """The method travels to other processes (Ray)."""
        try:
            again = pickle.loads(pickle.dumps(self.method))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise PluginError(f"the method cannot be pickled, which Ray needs ({type(error).__name__})") from error
        if again != self.method:
            raise PluginError("the method differs after it was pickled")

    def _trial(self, engine: Engine | None = None) -> _Trial:
        return _Trial(self.method, self.setting, engine or self.setting.engine)


def _planned(steps: Sequence[Step]) -> dict[str, int]:
    kinds = {"generate": "generate", "state": "generate", "score": "score"}
    kinds |= {"read hidden states": "hidden", "read again": "reread"}
    planned = dict.fromkeys(kinds.values(), 0)
    for step in steps:
        if step.action in kinds:
            planned[kinds[step.action]] += step.count
    return planned


def _by_example(estimates: Sequence[Estimate]) -> dict[str, Fingerprint]:
    return {e.example_id: [(c.text, c.span, c.confidence, c.status) for c in e.claims] for e in estimates}


def _same(before: dict[str, Fingerprint], after: dict[str, Fingerprint], problem: str) -> None:
    for id, found in after.items():
        for (text, span, mine, status), (other_text, other_span, other, other_status) in zip(
            before[id], found, strict=False
        ):
            close = mine == other or (mine is not None and other is not None and abs(mine - other) < 1e-6)
            if not close or (text, span, status) != (other_text, other_span, other_status):
                raise PluginError(f"example {id!r}: {problem}")
        if len(before[id]) != len(found):
            raise PluginError(f"example {id!r}: {problem}")
