"""The contract of an engine: what runs a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from conrad_bench.engines.calls import Answered, Call
from conrad_bench.types import FinishReason, Prompt, Sampling


@dataclass(frozen=True, slots=True)
class Job:
    """One response to generate: a prompt, and the seed of its random numbers (unused by greedy decoding)."""

    prompt: Prompt
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine generated for one job; the fields are those of `conrad_bench.types.Response`."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason


Ticket = TypeVar("Ticket")

Take = Callable[[bool], tuple[Ticket, Call] | None]
"""Gives the next call that there is, with a ticket of whoever asks. None: there is none now, and if it was told to wait
(True), none any more."""


def whole(answers: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """Return the one span of each response that is all of it."""
    return [[(0, len(answer))] for answer in answers]


class Engine(BaseModel):
    """Runs one model. Its fields are its options; the model is loaded on first use, so a finished run loads none.

    The caller (`conrad_bench.Model`) forms batches of `batch_size` and commits their results one by one, unless the
    engine works at many requests at once (`at_once`). Results do not depend on what else is in a batch beyond float
    noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    summary: ClassVar[str]
    provides: ClassVar[frozenset[str]]
    """Which of the needs in `conrad_bench.methods.base.NEEDS` it serves."""

    free: ClassVar[frozenset[str]] = frozenset({"batch_size"})
    """Options that change no answer, but for float noise: they may differ between a run and its continuation."""

    model: str
    """Local folder of a checkpoint, or a hub id."""
    batch_size: int = 16
    """Prompts that are answered together, and committed together. Smaller needs less memory."""

    def identity(self) -> dict[str, str]:
        """Return what determines the outputs (engine, model id, revision or weight hash, dtype, quantization,
        versions).

        Loads no weights. Raises ModelError if the model cannot be found.
        """
        raise NotImplementedError

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        """Generate one response for each job, under the LoRA adapter in folder `adapter` (None: the base model).

        An error may carry the `answers` of those that were answered before it.
        """
        raise NotImplementedError

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], adapter: Path | None
    ) -> list[list[float]]:
        """Return the natural-log probability of each continuation of each prompt (sum over its tokens).

        A continuation that ends with `conrad_bench.types.END` includes the end-of-turn token, so that "1" + END and
        "10" + END exclude each other.
        """
        raise NotImplementedError

    def at_once(self, method: str, adapter: Path | None) -> int:
        """Return how many requests of a method `stream` works at, each a call of its own; 0: a call is a batch."""
        return 0

    def stream(self, take: Take[Ticket]) -> Generator[tuple[Ticket, Answered], None, None]:
        """Answer calls as they come: yield what came of each, with its ticket, as soon as it is done, in any order.

        Here one call after the other; with the next at hand, its images are prepared meanwhile (`prepare`). Ends when
        there are no calls any more. Raises what `conrad_bench.engines.calls.Call.run` raises.
        """
        following = take(True)
        while following is not None:
            (ticket, call), following = following, take(False)
            if following is not None:
                self.prepare(following[1])
            yield ticket, call.run(self)
            if following is None:
                following = take(True)

    def prepare(self, call: Call) -> None:
        """Begin, in threads, with what a call needs that comes next."""

    def hidden(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[int]],
        layer: int,
        at: Literal["last", "mean"],
        adapter: Path | None,
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Return hidden states of each response, of shape (its spans, hidden size).

        `answers` are the token ids of the response to each prompt, `spans` the tokens (start, end) that are read of
        each, in one pass (None: the whole response, one span); `layer` indexes the model's hidden states (0: the
        embeddings, -1: the last). "last" is the state at a span's last token, "mean" the mean over its tokens.
        """
        raise NotImplementedError

    def reread(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], adapter: Path | None
    ) -> list[NDArray[np.float32]]:
        """Return what the model finds at each token of a response that it reads: `conrad_bench.types.TOKEN_COLUMNS`.

        `answers` are the token ids of the response to each prompt; each array has the shape (its tokens, 4).
        """
        raise NotImplementedError

    def offsets(self, answers: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return where each token of each response starts in the response's decoded text, and the text's length.

        Each row has one entry more than its answer has tokens; special tokens have no width. Needs no weights.
        """
        raise NotImplementedError

    def tokenizer(self) -> Any:
        """Return the model's tokenizer, for what goes before a training; needs no weights."""
        raise NotImplementedError

    def reads(self, prompt: Prompt) -> int | None:
        """Return how many tokens the model reads of a prompt, pictures among them; None where that cannot be told.

        Needs no weights; pictures count as many as those of the first prompt that was asked about.
        """
        return None

    def notes(self, pictures: bool) -> tuple[str, ...]:
        """Try what a run would take for granted, before it begins; return what its board must say about the model.

        `pictures`: whether prompts have some. Raises ModelError where the model cannot do what it will be asked.
        """
        return ()

    def dated(self, prompts: Sequence[Prompt]) -> list[str | None]:
        """Return what the keys of prompts must hold beside the identity and the messages: each prompt as it is written
        today where that differs from day to day, else None. Loads no weights.
        """
        return [None] * len(prompts)

    def check_prompts(self) -> None:
        """Raise a UserError if prompts cannot be made for the model; loads no weights."""

    def check_training(self, joint: bool = False) -> None:
        """Raise ModelError if no adapter can be trained on the model, or none by `joint` rollouts; loads no weights."""

    def torch_model(self) -> tuple[Any, Any]:
        """Return (a freshly loaded torch model, processor) for a trainer: the door to training."""
        raise NotImplementedError

    def fills_the_device(self) -> bool:
        """Tell whether its model leaves no room for another engine's on the same device."""
        return False

    def close(self) -> None:
        """Free the model's memory."""
        raise NotImplementedError
