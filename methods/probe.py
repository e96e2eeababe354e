"""Trained probe: an MLP reads the expected correctness off the hidden states of the response."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from conrad_bench.errors import TrainingError
from conrad_bench.methods.base import HIDDEN_STATES, TRAINING, Judge, Method, Step
from conrad_bench.storage import write_text
from conrad_bench.types import Estimate, Example, Sampling

if TYPE_CHECKING:
    from conrad_bench.model import Model
    from conrad_bench.tasks.base import Task


class Probe(Method):
    """As in ConRad, section 3: 3000 samples, 10 epochs, early stopping on validation patients."""

    name: ClassVar[str] = "probe"
    summary: ClassVar[str] = "an MLP on hidden states of the response, trained to predict its correctness"
    source: ClassVar[str] = "Azaria & Mitchell 2023; ConRad, section 3 (Trained Probe)"
    needs: ClassVar = frozenset({HIDDEN_STATES, TRAINING})
    granularities: ClassVar = frozenset({"report"})

    samples: int = Field(3000, ge=1)
    """Training examples (paper: 3000)."""
    validation_samples: int = Field(500, ge=1)
    """Examples of validation patients for early stopping."""
    layer: int = -1
    """Index into the model's hidden states (0: embeddings, -1: the last). The paper's "layer 35" is the last of the 35
    hidden states of medgemma-4b-it."""
    at: Literal["last", "mean"] = "mean"
    """The state of the response's last token, or the mean over its tokens."""
    epochs: int = Field(10, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    width: int = Field(256, ge=1)
    batch_size: int = Field(32, ge=1)
    patience: int = Field(3, ge=1)
    max_tokens: int = Field(512, ge=1)

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """Responses and hidden states of all three splits, and the training of the MLP."""
        steps = []
        for name, examples, number in (
            ("training", train, self.samples),
            ("validation", validation, self.validation_samples),
            ("test", test, len(test)),
        ):
            prompts = tuple(task.prompt(example) for example in self._chosen(examples, number))
            sampling = Sampling(max_tokens=self.max_tokens)
            steps.append(Step("generate", len(prompts), f"{name} responses", prompts, sampling))
            steps.append(Step("read hidden states", len(prompts), f"of the {name} responses"))
        steps.insert(4, Step("train", self.epochs, "epochs of the MLP at the most"))
        return steps

    def _chosen(self, examples: Sequence[Example], number: int) -> list[Example]:
        """Return `number` of the examples at random, or all in random order where there are fewer."""
        chosen = list(examples)
        random.Random(self.seed).shuffle(chosen)
        return chosen[:number]

    def fit(
        self,
        task: Task,
        train: Sequence[Example],
        validation: Sequence[Example],
        model: Model,
        judge: Judge,
        out: Path,
    ) -> None:
        """Generate reports, judge them, read their hidden states and train the MLP."""
        from conrad_bench.trainers.probe import train_probe

        x, y = self._states(task, self._chosen(train, self.samples), model, judge)
        vx, vy = self._states(task, self._chosen(validation, self.validation_samples), model, judge)
        with model.reporter.stage("training the probe", self.epochs) as advance:
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
                out=out,
            )
        write_text(out / "training.jsonl", "".join(json.dumps(line) + "\n" for line in history))

    def _states(self, task: Task, examples: list[Example], model: Model, judge: Judge) -> tuple[Any, Any]:
        """Return hidden states (n, hidden size) and correctness (n,) of the responses that could be judged."""
        import numpy as np

        prompts = [task.prompt(example) for example in examples]
        responses = model.generate(prompts, Sampling(max_tokens=self.max_tokens))
        scores = [score[0].value for score in judge(examples, [task.claims(r) for r in responses])]
        kept = [i for i, (r, s) in enumerate(zip(responses, scores, strict=True)) if s is not None and r.token_ids]
        if not kept:
            raise TrainingError("the probe has nothing to learn from: no response of the training examples was judged")
        states = model.hidden([prompts[i] for i in kept], [responses[i] for i in kept], self.layer, self.at)
        return states, np.array([scores[i] for i in kept], dtype=np.float32)

    def estimate(self, task: Task, examples: Sequence[Example], model: Model, artifact: Path | None) -> list[Estimate]:
        """Predict the correctness of greedy responses from their hidden states."""
        from conrad_bench.trainers.probe import predict

        assert artifact is not None
        prompts = [task.prompt(example) for example in examples]
        responses = model.generate(prompts, Sampling(max_tokens=self.max_tokens))
        claims = [task.claims(response)[0] for response in responses]
        readable = [i for i, response in enumerate(responses) if response.token_ids]
        states = model.hidden([prompts[i] for i in readable], [responses[i] for i in readable], self.layer, self.at)
        for i, confidence in zip(readable, predict(states, artifact), strict=True):
            if claims[i].status == "ok":
                claims[i] = replace(claims[i], confidence=float(confidence))
        return [
            Estimate(example.id, response, (claim,))
            for example, response, claim in zip(examples, responses, claims, strict=True)
        ]
