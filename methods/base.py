"""The contract of a confidence method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from conrad_bench.types import Claim, Estimate, Example, Granularity, Prompt, Sampling, Score

if TYPE_CHECKING:
    from conrad_bench.model import Model
    from conrad_bench.tasks.base import Task

LOGPROBS = "logprobs"
"""Log-probabilities of generated or given tokens."""
HIDDEN_STATES = "hidden_states"
"""Hidden states of a chosen layer at chosen tokens."""
TRAINING = "training"
"""A differentiable torch model, and a fit on the task's training examples."""
SAMPLING = "sampling"
"""Several sampled responses to one prompt."""

NEEDS = (LOGPROBS, HIDDEN_STATES, TRAINING, SAMPLING)


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work that a method will ask for, as `run --dry-run` shows it."""

    action: str
    """What is done: "generate", "read hidden states", "train"."""
    count: int
    """How often: responses, states, or training steps."""
    what: str
    prompts: tuple[Prompt, ...] = ()
    """The prompts to be answered greedily, where they are known beforehand: answers that are there are counted."""
    sampling: Sampling = Sampling()


Judge = Callable[[Sequence[Example], Sequence[Sequence[Claim]]], list[list[Score]]]
"""Correctness of the claims of each example, by the task's scorer."""


class Method(BaseModel):
    """A way to get a confidence in [0, 1] for every claim. Its fields are its options.

    A method that learns lists `TRAINING` in `needs` and implements `fit`; what it learned lies in the folder `out` that
    `fit` is given, as safetensors or JSON, and is handed to `estimate` as `artifact`. Methods never cache: they ask the
    model, whose store answers what was generated before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `conrad-bench list`."""
    source: ClassVar[str] = ""
    """Paper, section or equation that defines the method."""
    needs: ClassVar[frozenset[str]] = frozenset()
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"report", "sentence", "answer"})

    seed: int = 0
    """Seeds every random choice of the method; the run's seed unless set."""

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """Return what `fit` and `estimate` will ask of the model, in order, for a dry run. Loads nothing."""
        return []

    def fit(
        self,
        task: Task,
        train: Sequence[Example],
        validation: Sequence[Example],
        model: Model,
        judge: Judge,
        out: Path,
    ) -> None:
        """Learn from training examples and leave an artifact in the folder `out`."""
        raise TypeError(f"method {self.name!r} does not learn")

    def estimate(self, task: Task, examples: Sequence[Example], model: Model, artifact: Path | None) -> list[Estimate]:
        """Return one estimate for each example, in the order given. `artifact` is what `fit` left, or None."""
        raise NotImplementedError
