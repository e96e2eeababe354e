"""What the methods share that read the hidden states of claims: the base model's responses, their states, the fit."""

from __future__ import annotations

import json
from abc import abstractmethod
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

At = Literal["last", "mean"]
Place = tuple[int, int]
States = tuple[Any, Any]
"""Hidden states (claims, layers * hidden size) and correctness (claims,), float32 arrays."""


class StateMethod(Method):
    """A method that learns from the hidden states of claims: implement `_reads`, `_learn` and `_rate`."""

    needs: ClassVar = frozenset({HIDDEN_STATES, FITTING})

    samples: int = Field(3000, ge=1)
    """Training examples at report and answer level (paper: 3000)."""
    sentence_samples: int = Field(1500, ge=1)
    """Training examples (reports) at sentence level."""
    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    @abstractmethod
    def _reads(self) -> tuple[tuple[int, ...], At]:
        """Return the layers whose states are read, side by side, and of which of a span's tokens."""

    @abstractmethod
    def _learn(self, train: States, validation: States | None, model: Model, out: Path) -> None:
        """Learn from states and correctness, and leave what was learned in `out`."""

    @abstractmethod
    def _rate(self, states: Any, artifact: Path) -> Sequence[float]:
        """Return a confidence for each row of states."""

    def _training(self) -> Step:
        return Step("train", 1, "pass over the states")

    def _validation_samples(self) -> int:
        return 0

    def _elicit(self, granularity: Granularity) -> str | None:
        """Return the elicitation format of the responses; None: no confidence is asked for."""
        return None

    def judges_given(self) -> bool:
        """It reads the states of the response behind the images."""
        return True

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """Responses and hidden states of all splits that are used, and the fit."""
        steps = []
        for name, examples, number in (
            ("training", train, self._number(task)),
            ("validation", validation, self._validation_samples()),
            ("test", test, len(test)),
        ):
            if number == 0 and name == "validation":
                continue
            chosen = drawn(examples, number, self.seed)
            prompts = tuple(task.prompt(example, self._elicit(task.granularity)) for example in chosen)
            sampling = Sampling(max_tokens=self.max_tokens)
            steps.append(Step("generate", len(prompts), f"{name} responses", prompts, sampling))
            steps.append(Step("read hidden states", len(self._reads()[0]) * len(prompts), f"of the {name} responses"))
        steps.insert(len(steps) - 2, self._training())
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
        """Generate responses, judge their claims, read the hidden states and learn from them."""
        learned = self._states(task, drawn(train, self._number(task), self.seed), model, judge)
        number = self._validation_samples()
        held_out = self._states(task, drawn(validation, number, self.seed), model, judge) if number else None
        self._learn(learned, held_out, model, out)

    def _states(self, task: Task, examples: list[Example], model: Model, judge: Judge) -> States:
        """Return hidden states and correctness of the claims that could be judged."""
        import numpy as np

        found = respond(task, examples, model, self.max_tokens, self._elicit(task.granularity))
        scores = judge(examples, found.claims)
        judged = {(i, k): value for i, k in found.open() if (value := scores[i][k].value) is not None}
        read, states = self._read(found, list(judged), model)
        if not read:
            raise TrainingError("the probe has nothing to learn from: no claim of the training examples was judged")
        return states, np.array([judged[place] for place in read], dtype=np.float32)

    def _span(self, found: Responses, place: Place, model: Model) -> tuple[int, int]:
        """Return the first and the end index of a claim's tokens that are read."""
        i, k = place
        response = found.responses[i]
        # The one claim of a response is the response: its end of turn is a token to read, too.
        whole = len(found.claims[i]) == 1
        return (0, len(response.token_ids)) if whole else model.token_spans(response, found.claims[i][k])

    def _read(self, found: Responses, places: list[Place], model: Model) -> tuple[list[Place], Any]:
        """Return the claims that have tokens, and the hidden states of each, shape (n, layers * hidden size)."""
        import numpy as np

        read: list[Place] = []
        spans: dict[int, list[tuple[int, int]]] = {}
        for place in sorted(places):
            start, end = self._span(found, place, model)
            if end > start:
                read.append(place)
                spans.setdefault(place[0], []).append((start, end))
        prompts, responses = [found.prompts[i] for i in spans], [found.responses[i] for i in spans]
        layers, at = self._reads()
        states = [model.hidden(prompts, responses, layer, at, list(spans.values())) for layer in layers]
        return read, np.concatenate(states, axis=1)

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Rate the claims of greedy responses by their hidden states."""
        assert artifact is not None
        found = respond(task, examples, model, self.max_tokens, self._elicit(task.granularity))
        places, states = self._read(found, found.open(), model)
        return found.estimates(dict(zip(places, map(float, self._rate(states, artifact)), strict=True)))


class TrainedProbe(StateMethod):
    """A network that is trained to predict the correctness of a claim from its states: implement `_reads`."""

    widths: ClassVar[tuple[int, ...]] = ()
    """Units of the network's hidden layers."""
    dropout: ClassVar[float] = 0.0

    validation_samples: int = Field(500, ge=1)
    """Examples of validation patients for early stopping."""
    epochs: int = Field(10, ge=1)
    """Passes over the training claims, at the most."""
    learning_rate: float = Field(1e-3, gt=0)
    """Step size of AdamW."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay of AdamW."""
    batch_size: int = Field(32, ge=1)
    """Claims per step of the training."""
    patience: int = Field(3, ge=1)
    """Epochs without a better validation loss after which the training ends; the best epoch is kept."""
    report_to: Tracker = "none"
    """Where the training's curves go beside training.jsonl: nowhere, or to the tracker of this name."""

    def problem(self, granularity: Granularity) -> str | None:
        """A tracker whose package is not installed."""
        return tracker_problem(self.report_to)

    def _widths(self) -> tuple[int, ...]:
        return self.widths

    def _validation_samples(self) -> int:
        return self.validation_samples

    def _training(self) -> Step:
        return Step("train", self.epochs, "epochs of the probe at the most")

    def _learn(self, train: States, validation: States | None, model: Model, out: Path) -> None:
        from conrad_bench.trainers.probe import train_probe
        from conrad_bench.trainers.tracking import tracked

        assert validation is not None
        options = self.model_dump(mode="json")
        with (
            model.reporter.stage("training the probe", self.epochs) as advance,
            tracked(self.report_to, out, options) as report,
        ):
            history = train_probe(
                *train,
                *validation,
                widths=self._widths(),
                layers=len(self._reads()[0]),
                dropout=self.dropout,
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

    def _rate(self, states: Any, artifact: Path) -> Sequence[float]:
        from conrad_bench.trainers.probe import predict

        return [float(value) for value in predict(states, artifact)]
