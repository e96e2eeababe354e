"""Recalibrated confidence: a post-hoc map fitted on validation claims, written `verbalized+isotonic`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, SerializeAsAny

from conrad_bench.methods.base import Judge, Method, Step, drawn, without_references
from conrad_bench.storage import write_text
from conrad_bench.trainers.recalibrators import Kind, fit_recalibrator, load_recalibrator
from conrad_bench.types import CHANCE, FITTING, Estimate, Example, Granularity

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task

FILE = "recalibrator.json"


class Recalibrated(Method):
    """A method whose confidences go through a map that was fitted on validation patients; its responses stay."""

    name: ClassVar[str] = "recalibrated"
    summary: ClassVar[str] = "a method's confidence, mapped by a recalibrator"
    needs: ClassVar = frozenset({FITTING})

    method: SerializeAsAny[Method]
    method_name: str
    recalibrator: Kind
    samples: int = Field(3000, ge=1)
    """Validation examples, drawn at random where there are more."""

    def requirements(self) -> frozenset[str]:
        """The method's own requirements, and validation examples to fit on."""
        return self.method.requirements() | self.needs

    def problem(self, granularity: Granularity) -> str | None:
        """What stands against the method itself."""
        return self.method.problem(granularity)

    def judges_given(self) -> bool:
        """What the method itself does."""
        return self.method.judges_given()

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """The method's own steps, on validation examples too."""
        chosen = drawn(validation, self.samples, self.seed)
        mine = [step for step in self.method.steps(task, train, validation, chosen) if step.action != "train"]
        fitted = Step("train", 1, f"{self.recalibrator} map on the validation claims")
        return [*mine, fitted, *self.method.steps(task, train, validation, test)]

    def fit(
        self,
        task: Task,
        train: Sequence[Example],
        validation: Sequence[Example],
        model: Model,
        judge: Judge,
        out: Path,
    ) -> None:
        """Fit the map on the validation examples, with the method as it was fitted before."""
        chosen = drawn(validation, self.samples, self.seed)
        estimates = self.method.estimate(task, without_references(chosen), model, judge, self._inner(out))
        scores = judge(chosen, [estimate.claims for estimate in estimates])
        pairs = [
            (claim.confidence, score.value)
            for estimate, judged in zip(estimates, scores, strict=True)
            for claim, score in zip(estimate.claims, judged, strict=True)
            if claim.status == "ok" and claim.confidence is not None and score.value is not None
        ]
        write_text(out / FILE, fit_recalibrator(self.recalibrator, pairs))

    def _inner(self, out: Path) -> Path | None:
        """Return the artifact of the method itself, which lies beside this one's."""
        if not self.method.learns():
            return None
        return out.with_name(f"{self.method_name}@{out.name.rpartition('@')[2]}")

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Map the method's confidences."""
        assert artifact is not None
        mapped = load_recalibrator(artifact / FILE)
        estimates = self.method.estimate(task, examples, model, judge, self._inner(artifact))
        return [
            replace(
                estimate,
                claims=tuple(
                    claim
                    if claim.confidence is None
                    else replace(claim, confidence=mapped(claim.confidence), distribution=None)
                    for claim in estimate.claims
                ),
            )
            for estimate in estimates
        ]


def learner(method: Method) -> Method:
    """Return the method itself, without its recalibrator."""
    return method.method if isinstance(method, Recalibrated) else method


def chance_seed(method: Method) -> int | None:
    """Return the training seed of a method that learns or samples; None where its confidences depend on no seed."""
    learns = learner(method)
    return learns.seed if learns.requirements() & CHANCE else None
