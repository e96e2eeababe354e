"""Toys that plugins are checked with: an engine without a model, a store without a disk, tasks without data."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from conrad_bench.engines.base import Engine, Generation, Job
from conrad_bench.reading.elicitation import INSTRUCTIONS, LEVELS
from conrad_bench.tasks.base import Loaded, Scorer, Task
from conrad_bench.types import (
    DISTRIBUTIONS,
    HIDDEN_STATES,
    LOGPROBS,
    SAMPLING,
    Claim,
    Example,
    Granularity,
    Message,
    Prompt,
    Sampling,
    Score,
    Split,
)

WORDS = ("The", "heart", "is", "large", "small", "lungs", "clear", "no", "effusion", "seen", "left", "right", "yes")
ODD = ("", "Confidence:", "Confidence: 80", "?!", "Confidence: 7\nConfidence: 3", "\x00\n\n", "[" * 40)
"""Responses that a model may well write, and no method may stumble over."""
WIDTH = 8


class ToyEngine(Engine):
    """Writes words, and confidences where they are asked for, by a digest of what it is asked; has no weights.

    It answers every need but `training`. The same prompt and seed give the same answer, alone and in a batch.
    """

    name = "toy"
    summary = "no model: words by a digest of the prompt, to check plugins with"
    provides: ClassVar[frozenset[str]] = frozenset({LOGPROBS, HIDDEN_STATES, DISTRIBUTIONS, SAMPLING})

    model: str = "toy"
    odd: str | None = None
    """What every other response is instead: an empty text, for one."""
    _sampled: set[tuple[int, int]] = PrivateAttr(default_factory=set)

    def sampled(self) -> set[tuple[int, int]]:
        """Return (digest of the prompt, seed) of every response that was sampled."""
        return set(self._sampled)

    def identity(self) -> dict[str, str]:
        """Return the options: they are all that there is."""
        return {"engine": self.name, "model": self.model, "odd": repr(self.odd)}

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        """Return words, cut to `max_tokens`."""
        return [self._write(job, sampling) for job in jobs]

    def _write(self, job: Job, sampling: Sampling) -> Generation:
        if sampling.temperature > 0:
            self._sampled.add((_digest(job.prompt, 0), job.seed))
        draw = random.Random(_digest(job.prompt, job.seed if sampling.temperature > 0 else 0))
        if sampling.choices:
            text = draw.choice(sampling.choices)
        elif self.odd is not None and draw.random() < 0.5:
            text = self.odd
        elif job.prompt.prefix:
            text = str(draw.randrange(LEVELS))
        else:
            lines = [" ".join(draw.choices(WORDS, k=draw.randint(2, 6))) + "." for _ in range(draw.randint(1, 3))]
            if job.prompt.elicit == "sentence_confidence":
                lines = [f"{line} Confidence: {draw.randrange(LEVELS)}" for line in lines]
            elif job.prompt.elicit is not None:
                lines.append(f"Confidence: {draw.randrange(LEVELS)}")
            text = "\n".join(lines)
        cut = len(text) + 1 > sampling.max_tokens
        text = text[: sampling.max_tokens]
        ids = tuple(ord(character) % 0x110000 for character in text) + (() if cut else (0,))
        logprobs = tuple(-draw.random() for _ in ids)
        return Generation(text, ids, logprobs if not sampling.choices else None, "length" if cut else "stop")

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], adapter: Path | None
    ) -> list[list[float]]:
        """Return log-probabilities that sum to less than 1 over the continuations."""
        scores = []
        for prompt, texts in zip(prompts, continuations, strict=True):
            shares = [1 + _digest(prompt, text) % 97 for text in texts]
            scores.append([math.log(share / (sum(shares) + 1)) for share in shares])
        return scores

    def hidden(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[int]],
        layer: int,
        at: Literal["last", "mean"],
        adapter: Path | None,
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Return `WIDTH` numbers of each span."""
        read = spans if spans is not None else [((0, len(answer)),) for answer in answers]
        return [
            np.stack(
                [
                    np.random.default_rng(_digest(prompt, tuple(answer), layer, at, span)).normal(size=WIDTH)
                    for span in some
                ]
            ).astype(np.float32)
            for prompt, answer, some in zip(prompts, answers, read, strict=True)
        ]

    def reread(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], adapter: Path | None
    ) -> list[NDArray[np.float32]]:
        """Return a log-probability and three statistics of each token."""
        draws = [np.random.default_rng(_digest(p, tuple(a))) for p, a in zip(prompts, answers, strict=True)]
        tables = [draw.random((len(answer), 4)) for draw, answer in zip(draws, answers, strict=True)]
        return [(table * [-1, 1, 1, 1]).astype(np.float32) for table in tables]

    def offsets(self, answers: Sequence[Sequence[int]]) -> list[list[int]]:
        """A token is a character; the end has no width."""
        return [[*range(len(answer)), len(answer) - (len(answer) > 0 and answer[-1] == 0)] for answer in answers]

    def close(self) -> None:
        """Nothing is held."""


def _digest(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


class Memory:
    """A store that counts what is asked of the engine and forgets everything at the end."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def read(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the rows of those keys that there are."""
        return {key: self.rows[key] for key in keys if key in self.rows}

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Keep rows."""
        self.rows |= {row["key"]: row for row in rows}

    def note(self, rows: Sequence[dict[str, Any]], enough: int) -> None:
        """Keep rows."""
        self.append(rows)

    def settle(self) -> None:
        """Nothing was left aside."""

    def check_there(self) -> None:
        """Memory is always there."""

    def count(self, kind: str) -> int:
        """Return how many requests of a kind were answered."""
        return sum(row["kind"] == kind for row in self.rows.values())


class Silent:
    """A reporter that says nothing."""

    def stage(self, name: str, total: int | None = None) -> Any:
        """Begin a stage that nobody hears of."""
        return nullcontext(lambda _steps: None)

    def say(self, text: str) -> None:
        """Say nothing."""


class ToyScorer(Scorer):
    """The share of a claim's words that the reference has."""

    name = "toy_words"
    summary = "the share of a claim's words that the reference has"
    label = "words"

    def score(self, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Any = None) -> list[Score]:
        """Return shares; None where the reference is empty."""
        return [self._one(example, claim) for example, claim in pairs]

    def _one(self, example: Example, claim: Claim) -> Score:
        if not example.reference.strip():
            return Score(None, "the reference is empty")
        words, known = claim.text.lower().split(), set(example.reference.lower().split())
        return Score(sum(word in known for word in words) / len(words) if words else 0.0)


class ToyTask(Task):
    """Examples of words, of any granularity."""

    name = "toy"
    summary = "toy: words"
    granularity: ClassVar[Granularity] = "answer"
    root_variable = "TOY_ROOT"
    scorer: str = "toy_words"

    def load(self, root: Path) -> Loaded:
        """Return 24 examples to train on, 8 to validate, 12 to test, two a patient."""
        sizes: dict[Split, int] = {"train": 24, "validate": 8, "test": 12}
        return Loaded(examples=[self._one(split, i) for split, number in sizes.items() for i in range(number)])

    def _one(self, split: Split, index: int) -> Example:
        draw = random.Random(f"{split} {index}")
        reference = " ".join(draw.choices(WORDS, k=6)) + "."
        return Example(
            f"{split}-{index:02d}", f"{split}-p{index // 2}", split, (), f"Question {index}?", reference, {"view": "PA"}
        )

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        """Ask the question."""
        asked = f"{example.context} ({example.split}){INSTRUCTIONS[elicit] if elicit else ''}"
        return Prompt((Message("user", asked),), elicit=elicit)


class ToyReports(ToyTask):
    """Whole reports."""

    name = "toy_reports"
    granularity = "report"


class ToySentences(ToyTask):
    """Reports by sentence."""

    name = "toy_sentences"
    granularity = "sentence"


TASKS: dict[Granularity, type[ToyTask]] = {"answer": ToyTask, "report": ToyReports, "sentence": ToySentences}
