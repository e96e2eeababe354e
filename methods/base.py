"""The contract of a confidence method."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from conrad_bench.types import (
    FITTING,
    TRAINING,
    Claim,
    Estimate,
    Example,
    Granularity,
    Prompt,
    Response,
    Sampling,
    Score,
    Status,
)

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work that a method will ask for, as `run --dry-run` shows it."""

    action: str
    """What is done: "generate", "score", "read hidden states", "read again", "train"."""
    count: int
    """How often: responses, states, or training steps."""
    what: str
    prompts: tuple[Prompt, ...] = ()
    """The prompts to be answered greedily, where they are known beforehand: answers that are there are counted."""
    sampling: Sampling = Sampling()
    n: int = 1
    """Responses to each prompt; `count` is the number of all."""


Judge = Callable[[Sequence[Example], Sequence[Sequence[Claim]]], list[list[Score]]]
"""Correctness of the claims of each example, by the task's scorer."""


class Method(BaseModel):
    """A way to get a confidence in [0, 1] for every claim. Its fields are its options.

    A method that learns lists `FITTING` in `needs`, or `TRAINING` where it trains the model itself, and implements
    `fit`. What it learned lies in the folder `out` that `fit` is given, as safetensors or JSON, and is handed to
    `estimate` as `artifact`. Methods never cache: they ask the model, whose store answers what was generated before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `conrad-bench list`."""
    source: ClassVar[str] = ""
    """Paper, section or equation that defines the method."""
    needs: ClassVar[frozenset[str]] = frozenset()
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"report", "sentence", "answer"})
    confident: ClassVar[bool] = True
    """Whether it gives confidences; without them a task measures the quality of its responses alone."""

    seed: int = 0
    """Seeds every random choice of the method; the run's seed unless set."""

    @classmethod
    def learns(cls) -> bool:
        """Return whether the method is fitted before it estimates."""
        return not cls.needs.isdisjoint({FITTING, TRAINING})

    def requirements(self) -> frozenset[str]:
        """Return what the method needs of an engine with these options; `needs` unless an option asks for more."""
        return self.needs

    def problem(self, granularity: Granularity) -> str | None:
        """Return why these options make no sense at one of the method's granularities, or None."""
        return None

    def judges_given(self) -> bool:
        """Return whether its confidence is read behind a response that `respond` gave it, with these options.

        Then it can judge a response beside other images than those that it was written about (`Example.answered`).
        """
        return False

    def rates_given(self) -> bool:
        """Return whether it can rate the claims of a response that another method wrote (`Example.given`).

        Whatever gets its responses from `respond`, and its confidence from elsewhere than the response's text, can.
        """
        return self.judges_given()

    def expert(self) -> tuple[str, dict[str, Any]] | None:
        """Return name and options of the engine of a model that it asks beside the run's (`Model.expert`), or None."""
        return None

    def asks_while_training(self) -> bool:
        """Return whether the training itself asks the model or the judge, as it goes; such a fit runs alone."""
        return False

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

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Return one estimate for each example, in the order given.

        `artifact` is what `fit` left, or None. The examples come without their references. `judge` is for comparing
        responses with each other: give it examples with the response to compare with in the reference's place.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Responses:
    """Responses to examples, cut into claims: what a method that adds confidences afterwards starts from."""

    examples: Sequence[Example]
    prompts: list[Prompt]
    responses: list[Response]
    claims: list[list[Claim]]

    def open(self) -> list[tuple[int, int]]:
        """Return (example, claim) indices of the claims that can be given a confidence."""
        return [(i, k) for i, found in enumerate(self.claims) for k, claim in enumerate(found) if claim.status == "ok"]

    def estimates(self, confidences: Mapping[tuple[int, int], float]) -> list[Estimate]:
        """Return estimates with the confidence of each (example, claim).

        Open claims that are not among them have none and say so.
        """
        claims = [list(found) for found in self.claims]
        for i, k in self.open():
            stated = confidences.get((i, k))
            status: Status = "ok" if stated is not None else "no_confidence"
            claims[i][k] = replace(claims[i][k], confidence=stated, status=status)
        return self.with_claims(claims)

    def with_claims(self, claims: Sequence[Sequence[Claim]]) -> list[Estimate]:
        """Return estimates with other claims about the same responses."""
        rows = zip(self.examples, self.responses, claims, strict=True)
        return [Estimate(example.id, response, tuple(found)) for example, response, found in rows]


def respond(
    task: Task, examples: Sequence[Example], model: Model, max_tokens: int, elicit: str | None = None
) -> Responses:
    """Answer examples greedily, in an elicitation format or without a confidence, and cut the responses into claims.

    Of an example with `answered` images the response is the one about these; the prompt has those beside which it is to
    be judged. What an example has as `given` is neither written nor cut anew.
    """
    prompts = [task.prompt(example, elicit) for example in examples]
    asked = [
        prompt if example.answered is None else task.prompt(replace(example, images=example.answered), elicit)
        for example, prompt in zip(examples, prompts, strict=True)
        if example.given is None
    ]
    written = iter(model.generate(asked, Sampling(max_tokens=max_tokens)))
    responses, claims = [], []
    for example in examples:
        given = example.given
        responses.append(next(written) if given is None else given.response)
        claims.append(task.claims(responses[-1], elicit) if given is None else [_bare(claim) for claim in given.claims])
    return Responses(examples, prompts, responses, claims)


def _bare(claim: Claim) -> Claim:
    """Return a claim without the confidence that somebody gave it."""
    stated = claim.status in ("no_confidence", "out_of_range")
    status: Status = "ok" if stated else claim.status
    return replace(claim, confidence=None, status=status, distribution=None, reading="")


def without_references(examples: Sequence[Example]) -> list[Example]:
    """Return examples as a method sees them while it estimates."""
    return [replace(example, reference="") for example in examples]


def responding(task: Task, examples: Sequence[Example], max_tokens: int, elicit: str | None = None) -> Step:
    """Return what `respond` asks for: one greedy response to each test example."""
    prompts = tuple(task.prompt(example, elicit) for example in examples)
    return Step("generate", len(prompts), "test responses", prompts, Sampling(max_tokens=max_tokens))


def sampling_again(greedy: Step, n: int, sampling: Sampling) -> Step:
    """Return what asks for n sampled responses to the prompts of a step."""
    prompts = greedy.prompts
    return Step("generate", n * len(prompts), f"{n} sampled responses each", prompts, sampling, n)


def drawn(examples: Sequence[Example], number: int, seed: int) -> list[Example]:
    """Return `number` of the examples at random, or all in random order where there are fewer."""
    chosen = list(examples)
    random.Random(seed).shuffle(chosen)
    return chosen[:number]
