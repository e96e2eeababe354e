"""Trained probe: an MLP reads the expected correctness of each claim off the hidden states of its tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from conrad_bench.errors import TrainingError
from conrad_bench.methods.base import Judge, Method, Responses, Step, drawn, respond
from conrad_bench.storage import write_text
from conrad_bench.trainers.settings import Tracker, tracker_problem
from conrad_bench.types import FITTING, HIDDEN_STATES, Estimate, Example, Granularity, Sampling

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class Probe(Method):
    """As in ConRad, section 3: 3000 samples, 10 epochs, early stopping on validation patients."""

    name: ClassVar[str] = "probe"
    summary: ClassVar[str] = "an MLP on hidden states of the claim's tokens, trained to predict its correctness"
    source: ClassVar[str] = "Azaria & Mitchell 2023; ConRad, section 3 (Trained Probe)"
    needs: ClassVar = frozenset({HIDDEN_STATES, FITTING})

    samples: int = Field(3000, ge=1)
    """Training examples at report and answer level (paper: 3000)."""
    sentence_samples: int = Field(1500, ge=1)
    """Training examples (reports) at sentence level."""
    validation_samples: int = Field(500, ge=1)
    """Examples of validation patients for early stopping."""
    layer: int = -1
    """Index into the model's hidden states (0: embeddings, -1: the last). The paper's "layer 35" is the last of the 35
    hidden states of medgemma-4b-it."""
    at: Literal["last", "mean"] = "mean"
    """The state of the claim's last token, or the mean over its tokens."""
    epochs: int = Field(10, ge=1)
    """Passes over the training claims, at the most."""
    learning_rate: float = Field(1e-3, gt=0)
    """Step size of AdamW."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay of AdamW."""
    width: int = Field(256, ge=1, le=2**16)
    """Units of the MLP's hidden layer."""
    batch_size: int = Field(32, ge=1)
    """Claims per step of the MLP's training."""
    patience: int = Field(3, ge=1)
    """Epochs without a better validation loss after which the training ends; the best epoch is kept."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""
    report_to: Tracker = "none"
    """Where the training's curves go beside training.jsonl: nowhere, or to the tracker of this name."""

    def problem(self, granularity: Granularity) -> str | None:
        """A tracker whose package is not installed."""
        return tracker_problem(self.report_to)

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """Responses and hidden states of all three splits, and the training of the MLP."""
        steps = []
        for name, examples, number in (
            ("training", train, self._number(task)),
            ("validation", validation, self.validation_samples),
            ("test", test, len(test)),
        ):
            prompts = tuple(task.prompt(example) for example in drawn(examples, number, self.seed))
            sampling = Sampling(max_tokens=self.max_tokens)
            steps.append(Step("generate", len(prompts), f"{name} responses", prompts, sampling))
            steps.append(Step("read hidden states", len(prompts), f"of the {name} responses"))
        steps.insert(4, Step("train", self.epochs, "epochs of the MLP at the most"))
        return steps

    def _number(self, task: Task) -> int:
        return self.sentence_samples if task.granularity == "sentence" else self.samples

    def fit(
        self,
        task: Task,
        train: Sequence[Example],
        validation: Sequence[Example],
        model: Model,
        judge: Judge,
        out: Path,
    ) -> None:
        """Generate responses, judge their claims, read the hidden states and train the MLP."""
        from conrad_bench.trainers.probe import train_probe
        from conrad_bench.trainers.tracking import tracked

        x, y = self._states(task, drawn(train, self._number(task), self.seed), model, judge)
        vx, vy = self._states(task, drawn(validation, self.validation_samples, self.seed), model, judge)
        options = self.model_dump(mode="json")
        with (
            model.reporter.stage("training the probe", self.epochs) as advance,
            tracked(self.report_to, out, options) as report,
        ):
            history = train_probe(
                x,
                y,
                vx,
                vy,
                width=self.width,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                batch_size=self.batch_size,
                patience=self.patience,
                seed=self.seed,
                advance=advance,
                report=report,
                out=out,
            )
        write_text(out / "training.jsonl", "".join(json.dumps(line) + "\n" for line in history))

    def _states(self, task: Task, examples: list[Example], model: Model, judge: Judge) -> tuple[Any, Any]:
        """Return hidden states (n, hidden size) and correctness (n,) of the claims that could be judged."""
        import numpy as np

        found = respond(task, examples, model, self.max_tokens)
        scores = judge(examples, found.claims)
        judged = {(i, k): value for i, k in found.open() if (value := scores[i][k].value) is not None}
        places, states = self._read(found, list(judged), model)
        if not places:
            raise TrainingError("the probe has nothing to learn from: no claim of the training examples was judged")
        return states, np.array([judged[place] for place in places], dtype=np.float32)

    def _read(self, found: Responses, places: list[tuple[int, int]], model: Model) -> tuple[list[tuple[int, int]], Any]:
        """Return the claims that have tokens, and the hidden states of each, shape (n, hidden size)."""
        read: list[tuple[int, int]] = []
        spans: dict[int, list[tuple[int, int]]] = {}
        for i, k in sorted(places):
            response = found.responses[i]
            # The one claim of a response is the response: its end of turn is a token to read, too.
            whole = len(found.claims[i]) == 1
            start, end = (0, len(response.token_ids)) if whole else model.token_spans(response, found.claims[i][k])
            if end > start:
                read.append((i, k))
                spans.setdefault(i, []).append((start, end))
        prompts, responses = [found.prompts[i] for i in spans], [found.responses[i] for i in spans]
        return read, model.hidden(prompts, responses, self.layer, self.at, list(spans.values()))

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Predict the correctness of the claims of greedy responses from their hidden states."""
        from conrad_bench.trainers.probe import predict

        assert artifact is not None
        found = respond(task, examples, model, self.max_tokens)
        places, states = self._read(found, found.open(), model)
        return found.estimates(dict(zip(places, map(float, predict(states, artifact)), strict=True)))
