"""Methods that are made of others: recalibrated ones (`verbalized+isotonic`, `verbalized+hac_platt:vase`), ensembles.

Each is a map from the confidences of its methods to one, fitted on validation claims. All methods rate the claims of
one response: that of the first, or of the one that can rate no other's (`_leading`). The others are given it
(`Example.given`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, SerializeAsAny

from conrad_bench.errors import PluginError
from conrad_bench.methods.base import Judge, Method, Step, drawn, without_references
from conrad_bench.reading.elicitation import elicit_at
from conrad_bench.storage import write_text
from conrad_bench.trainers.fusion import fit_fusion, load_fusion
from conrad_bench.trainers.recalibrators import HAC, Kind, fit_hac, fit_recalibrator, load_hac, load_recalibrator
from conrad_bench.types import CHANCE, FITTING, Claim, Estimate, Example, Granularity
from conrad_bench.variants import ENSEMBLE_SUMMARY

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task

FILE = "recalibrator.json"

Map = Callable[[Sequence[float]], float]
"""From the confidences of a claim, one of each method, to one."""


class Composed(Method):
    """A method that is made of others: implement `parts`, `with_parts`, `_learned`, `_learn` and `_load`."""

    needs: ClassVar = frozenset({FITTING})

    samples: int = Field(3000, ge=1)
    """Validation examples, drawn at random where there are more."""

    @abstractmethod
    def parts(self) -> dict[str, Method]:
        """Return the methods that it is made of, by their names, in their order."""

    @abstractmethod
    def with_parts(self, parts: Mapping[str, Method]) -> Self:
        """Return the same of other methods of the same names."""

    @abstractmethod
    def _learned(self) -> str:
        """Return what is fitted, in words."""

    @abstractmethod
    def _learn(self, rows: Sequence[tuple[tuple[float, ...], float]]) -> str:
        """Return a map as JSON, fitted on (confidences by each method, correctness) of claims."""

    @abstractmethod
    def _load(self, path: Path) -> Map:
        """Return the map in a file. Raises StorageError if it is damaged."""

    def requirements(self) -> frozenset[str]:
        """What its methods need, and validation examples to fit on."""
        return self.needs.union(*(method.requirements() for method in self.parts().values()))

    def problem(self, granularity: Granularity) -> str | None:
        """What stands against one of its methods, or against all of them together."""
        for name, method in self.parts().items():
            if granularity not in learner(method).granularities:
                return f"{name} works at {', '.join(sorted(learner(method).granularities))} level"
            if problem := method.problem(granularity):
                return problem if len(self.parts()) == 1 else f"{name}: {problem}"
        own = [name for name, method in self.parts().items() if not method.rates_given()]
        if len(own) > 1 or (own and own[0] != self._leading()):
            other = own[-1] if own[-1] != self._leading() else own[0]
            return (
                f"{other} rates no responses but its own, and those of {self._leading()} are others, so that their "
                "confidences are not about the same claims; leave one of the two out"
            )
        return None

    def _leading(self) -> str:
        """Return the name of the method whose responses are rated."""
        return next(iter(self.parts()))

    def judges_given(self) -> bool:
        """Where all its methods do."""
        return all(method.judges_given() for method in self.parts().values())

    def rates_given(self) -> bool:
        """Where all its methods can."""
        return all(method.rates_given() for method in self.parts().values())

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """The steps of its methods, on validation examples too; those that are given a response write none."""
        chosen = drawn(validation, self.samples, self.seed)
        fitted = Step("train", 1, f"{self._learned()} on the validation claims")
        asked = [step for step in self._asked(task, chosen) if step.action != "train" and step.count]
        return [*asked, fitted, *self._asked(task, test, train, validation)]

    def _asked(
        self,
        task: Task,
        examples: Sequence[Example],
        train: Sequence[Example] = (),
        validation: Sequence[Example] = (),
    ) -> Iterator[Step]:
        formats = (None, elicit_at(task.granularity))
        prompts = {task.prompt(example, elicit) for example in examples for elicit in formats}
        for name, method in self.parts().items():
            for step in method.steps(task, train, validation, examples):
                greedy = bool(step.prompts) and step.sampling.temperature == 0 and set(step.prompts) <= prompts
                if name == self._leading() or not greedy:
                    yield step

    def fit(
        self,
        task: Task,
        train: Sequence[Example],
        validation: Sequence[Example],
        model: Model,
        judge: Judge,
        out: Path,
    ) -> None:
        """Fit the map on the validation examples, with the methods as they were fitted before."""
        chosen = drawn(validation, self.samples, self.seed)
        estimates, confidences = self._rated(task, without_references(chosen), model, judge, out)
        scores = judge(chosen, [estimate.claims for estimate in estimates])
        rows = [
            (together, score.value)
            for estimate, rated, judged in zip(estimates, confidences, scores, strict=True)
            for claim, row, score in zip(estimate.claims, rated, judged, strict=True)
            if claim.status == "ok" and (together := _complete(row)) is not None and score.value is not None
        ]
        write_text(out / FILE, self._learn(rows))

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Map the confidences of its methods; a claim that one of them gave none has none."""
        assert artifact is not None
        mapped = self._load(artifact / FILE)
        estimates, confidences = self._rated(task, examples, model, judge, artifact)
        return [
            replace(
                estimate, claims=tuple(_mapped(c, row, mapped) for c, row in zip(estimate.claims, rows, strict=True))
            )
            for estimate, rows in zip(estimates, confidences, strict=True)
        ]

    def _rated(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, out: Path
    ) -> tuple[list[Estimate], list[list[list[float | None]]]]:
        """Return the leading method's estimates, and of each of their claims the confidence by each method."""
        parts = self.parts()
        leading = self._leading()

        def ask(name: str, some: Sequence[Example]) -> list[Estimate]:
            artifact = out.with_name(f"{name}@{out.name.rpartition('@')[2]}") if parts[name].learns() else None
            return parts[name].estimate(task, some, model, judge, artifact)

        found = ask(leading, examples)
        given = [replace(example, given=estimate) for example, estimate in zip(examples, found, strict=True)]
        by_name = {name: found if name == leading else ask(name, given) for name in parts}
        for name, estimates in by_name.items():
            for mine, other in zip(found, estimates, strict=True):
                if (mine.response.key, len(mine.claims)) != (other.response.key, len(other.claims)):
                    raise PluginError(
                        f"method {name!r} was given the responses of {leading!r} and rated others; it must get its "
                        "responses from `respond`, or return False from `rates_given`"
                    )
        return found, [
            [[estimates[i].claims[k].confidence for estimates in by_name.values()] for k in range(len(found[i].claims))]
            for i in range(len(found))
        ]


def _complete(row: Sequence[float | None]) -> tuple[float, ...] | None:
    """Return the confidences of a claim by all methods, or None where one has none."""
    there = tuple(value for value in row if value is not None)
    return there if len(there) == len(row) else None


def _mapped(claim: Claim, row: Sequence[float | None], mapped: Map) -> Claim:
    """Return a claim with the confidence that a map makes of those that its methods gave it."""
    together = _complete(row)
    if together is not None:
        return replace(claim, confidence=mapped(together), distribution=None)
    if len(row) == 1:
        return claim
    return replace(
        claim, confidence=None, distribution=None, status="no_confidence" if claim.status == "ok" else claim.status
    )


class Recalibrated(Composed):
    """A method whose confidences go through a map that was fitted on validation patients; its responses stay."""

    name: ClassVar[str] = "recalibrated"
    summary: ClassVar[str] = "a method's confidence, mapped by a recalibrator"

    method: SerializeAsAny[Method]
    method_name: str
    recalibrator: Kind

    def parts(self) -> dict[str, Method]:
        """The one method."""
        return {self.method_name: self.method}

    def with_parts(self, parts: Mapping[str, Method]) -> Self:
        """Map another's confidence."""
        return self.model_copy(update={"method": parts[self.method_name]})

    def _learned(self) -> str:
        return f"{self.recalibrator} map"

    def _learn(self, rows: Sequence[tuple[tuple[float, ...], float]]) -> str:
        return fit_recalibrator(self.recalibrator, [(row[0], correctness) for row, correctness in rows])

    def _load(self, path: Path) -> Map:
        mapped = load_recalibrator(path)
        return lambda row: mapped(row[0])


class HallucinationAware(Composed):
    """Recalibration with a second signal as input: a method's confidence c and another's, of which h = -log."""

    name: ClassVar[str] = "recalibrated"
    summary: ClassVar[str] = "a method's confidence, mapped by a recalibrator with a second signal"

    method: SerializeAsAny[Method]
    method_name: str
    second: SerializeAsAny[Method]
    second_name: str
    recalibrator: ClassVar[str] = HAC

    def parts(self) -> dict[str, Method]:
        """The method, and the one of the second signal."""
        return {self.method_name: self.method, self.second_name: self.second}

    def with_parts(self, parts: Mapping[str, Method]) -> Self:
        """Map the confidences of others."""
        return self.model_copy(update={"method": parts[self.method_name], "second": parts[self.second_name]})

    def _learned(self) -> str:
        return f"{HAC} map"

    def _learn(self, rows: Sequence[tuple[tuple[float, ...], float]]) -> str:
        return fit_hac([(c, second, correctness) for (c, second), correctness in rows])

    def _load(self, path: Path) -> Map:
        mapped = load_hac(path)
        return lambda row: mapped(*row)


class Ensemble(Composed):
    """Several methods as one: a logistic function of the ranks of their confidences, with weights of 0 or more."""

    name: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = ENSEMBLE_SUMMARY
    source: ClassVar[str] = "ours, after Wolpert 1992 (stacked generalization) and Breiman 1996 (weights of 0 or more)"

    methods: dict[str, SerializeAsAny[Method]]

    def parts(self) -> dict[str, Method]:
        """The methods in the order of the name."""
        return dict(self.methods)

    def with_parts(self, parts: Mapping[str, Method]) -> Self:
        """Weigh others."""
        return self.model_copy(update={"methods": {name: parts[name] for name in self.methods}})

    def _leading(self) -> str:
        own = [name for name, method in self.methods.items() if not method.rates_given()]
        return own[0] if own else next(iter(self.methods))

    def _learned(self) -> str:
        return f"weights of {len(self.methods)} methods"

    def _learn(self, rows: Sequence[tuple[tuple[float, ...], float]]) -> str:
        return fit_fusion(list(self.methods), rows)

    def _load(self, path: Path) -> Map:
        return load_fusion(path)


def learner(method: Method) -> Method:
    """Return the method itself, without its recalibrator."""
    return method.method if isinstance(method, Recalibrated | HallucinationAware) else method


def leaves(name: str, method: Method) -> dict[str, Method]:
    """Return the methods that a method is made of in the end, by their names; itself where it is made of none."""
    if not isinstance(method, Composed):
        return {name: method}
    return {each: leaf for part, inner in method.parts().items() for each, leaf in leaves(part, inner).items()}


def within(method: Method) -> dict[str, Method]:
    """Return all methods inside a method, by their names, those before it that another is made of."""
    found: dict[str, Method] = {}
    for name, part in method.parts().items() if isinstance(method, Composed) else ():
        found |= {**within(part), name: part}
    return found


def chance_seed(method: Method) -> int | None:
    """Return the training seed of a method that learns or samples; None where its confidences depend on no seed."""
    seeds = [leaf.seed for leaf in leaves("", method).values() if leaf.requirements() & CHANCE]
    return seeds[0] if seeds else None
