"""A toy task, scorer, engine and methods, to be given as a plugin file: runs of a second, without a model.

The task's data root holds `questions.json`: [{"id", "patient", "split", "says", "answer"}, ...]. The engine answers
each prompt with the prompt's own text, so `says` is what the "model" says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from conrad_bench import (
    Engine,
    Estimate,
    Example,
    Loaded,
    Message,
    Method,
    Prompt,
    Response,
    Score,
    Scorer,
    Step,
    Task,
    register_engine,
    register_method,
    register_scorer,
    register_task,
)
from conrad_bench.engines.base import Generation
from conrad_bench.errors import TrainingError
from conrad_bench.reading.claims import report_claim

if TYPE_CHECKING:
    from conrad_bench.methods.base import Judge
    from conrad_bench.rollouts.model import Model
from conrad_bench.types import Claim


@register_task
class ToyTask(Task):
    name = "toy"
    summary = "toy: repeat an answer"
    granularity = "answer"
    root_variable = "TOY_ROOT"
    scorer: str = "toy_match"

    def load(self, root: Path) -> Loaded:
        rows = json.loads((root / "questions.json").read_text())
        attributes = {"length": lambda row: float(len(row["says"]))}
        return Loaded(
            examples=[
                Example(
                    row["id"],
                    row["patient"],
                    row["split"],
                    (),
                    row["says"],
                    row["answer"],
                    {name: of(row) for name, of in attributes.items()},
                )
                for row in rows
            ],
            left_out={"no answer": 3},
        )

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        return Prompt((Message("user", example.context),), elicit=elicit)

    def claims(self, response: Response, elicit: str | None = None) -> list[Claim]:
        return [report_claim(response, elicit)]


@register_scorer
class ToyMatch(Scorer):
    name = "toy_match"
    summary = "whether the answer is the reference"
    label = "match"

    def score(self, pairs: Sequence[tuple[Example, Claim]], granularity: str, model: Any = None) -> list[Score]:
        return [
            Score(None, "no reference") if e.reference == "?" else Score(float(c.text.strip() == e.reference))
            for e, c in pairs
        ]


@register_engine
class Echo(Engine):
    name = "echo"
    summary = "answers with the prompt's text"
    provides: ClassVar[frozenset[str]] = frozenset({"training", "sampling"})

    model: str = "echo"
    calls: Path | None = None
    """File that gets one line for each response."""

    def identity(self) -> dict[str, str]:
        return {"engine": self.name, "model": self.model}

    def generate(self, jobs: Sequence[Any], sampling: Any, adapter: Path | None) -> list[Generation]:
        texts = [job.prompt.messages[0].text for job in jobs]
        if self.calls is not None:
            with open(self.calls, "a", encoding="utf-8") as file:
                file.writelines("generated\n" for _ in texts)
        return [Generation(t, (1, 2), (-0.1, -0.2), "length" if t.endswith("...") else "stop") for t in texts]

    def close(self) -> None:
        pass


@register_method
class Stated(Method):
    name = "stated"
    summary = "the confidence in the text"

    def steps(self, task: Task, train: Any, validation: Any, test: Sequence[Example]) -> list[Step]:
        prompts = tuple(task.prompt(e, "confidence") for e in test)
        return [Step("generate", len(prompts), "answers", prompts)]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        responses = model.generate([task.prompt(e, "confidence") for e in examples])
        return [
            Estimate(e.id, r, tuple(task.claims(r, "confidence"))) for e, r in zip(examples, responses, strict=True)
        ]


@register_method
class Mean(Method):
    name = "mean"
    summary = "the mean correctness of the training examples, once the file `ready` is there"
    needs: ClassVar[frozenset[str]] = frozenset({"training"})

    ready: Path | None = None
    bug: bool = False
    """Whether a missing file is an error that the method did not foresee."""

    def steps(self, task: Task, train: Sequence[Example], validation: Any, test: Sequence[Example]) -> list[Step]:
        return [
            Step("generate", len(train), "training answers", tuple(map(task.prompt, train))),
            Step("train", 1, "mean"),
            Step("generate", len(test), "answers", tuple(map(task.prompt, test))),
        ]

    def fit(self, task: Task, train: Any, validation: Any, model: Model, judge: Any, out: Path) -> None:
        responses = model.generate([task.prompt(e) for e in train])
        if self.ready is not None and not self.ready.exists():
            raise RuntimeError("text of a patient") if self.bug else TrainingError("mean: the file is not there")
        scores = [s.value for (s,) in judge(train, [task.claims(r, "confidence") for r in responses])]
        (out / "mean.json").write_text(json.dumps(sum(scores) / len(scores)))

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        assert artifact is not None
        mean = json.loads((artifact / "mean.json").read_text())
        responses = model.generate([task.prompt(e) for e in examples])
        claims = [replace(report_claim(r, "confidence"), confidence=mean, status="ok") for r in responses]
        return [Estimate(e.id, r, (c,)) for e, r, c in zip(examples, responses, claims, strict=True)]


@register_method
class Picky(Method):
    name = "picky"
    summary = "needs what the echo does not have, for claims that the toy task does not make"
    needs: ClassVar[frozenset[str]] = frozenset({"hidden_states", "logprobs"})
    granularities: ClassVar[Any] = frozenset({"report", "sentence"})
