"""Calls: batches of work for an engine, in this process or in another, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from conrad_bench.engines.opening import unreadable
from conrad_bench.errors import ConradBenchError, ImageError
from conrad_bench.types import Prompt

METHODS = ("generate", "score", "hidden", "reread")
"""The methods of an engine that a call may name."""

_EACH = {"generate": (0,), "score": (0, 1), "hidden": (0, 1, 5), "reread": (0, 1)}
"""Which arguments of an engine's methods have one entry for each prompt."""

_ADAPTER = {"generate": 2, "score": 2, "hidden": 4, "reread": 2}
"""Which argument is the adapter."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a call."""

    answers: Sequence[Any]
    """One for each prompt; None for those that a failure left without."""
    failure: ConradBenchError | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One batch of work for an engine: a method of `conrad_bench.engines.base.Engine` and its arguments."""

    method: Literal["generate", "score", "hidden", "reread"]
    arguments: tuple[Any, ...]

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter that it is answered under, or None."""
        where: Path | None = self.arguments[_ADAPTER[self.method]]
        return where

    def prompts(self) -> list[Prompt]:
        """Return the prompts that it asks."""
        return [getattr(asked, "prompt", asked) for asked in self.arguments[0]]  # a job has one

    def run(self, engine: Any) -> Answered:
        """Return the answers of an engine (`conrad_bench.engines.base.Engine`), those before a failure included.

        Raises the failure where there are none. In the place of an answer about an image that cannot be read stands the
        ImageError.
        """
        try:
            return Answered(getattr(engine, self.method)(*self.arguments))
        except ImageError as error:
            broken = error.with_traceback(None)  # its frames would hold the batch
        except ConradBenchError as error:
            if all(answer is None for answer in error.answers):
                raise
            answers, error.answers = error.answers, ()
            return Answered(answers, error)
        return self._without_images(engine, broken)

    def _without_images(self, engine: Any, met: ImageError) -> Answered:
        """Return the answers to the prompts whose images can be read, of which some may be there with the error."""
        prompts = self.prompts()
        broken = unreadable(path for prompt in prompts for path in prompt.images)
        if not broken:
            raise met
        answers: list[Any] = list(met.answers or [None] * len(prompts))
        for i, prompt in enumerate(prompts):
            answers[i] = next((broken[path] for path in prompt.images if path in broken), answers[i])
        left = [i for i, answer in enumerate(answers) if answer is None]
        if not left:
            return Answered(answers)
        each = _EACH[self.method]
        parts = ([given[k] for k in left] if i in each else given for i, given in enumerate(self.arguments))
        try:
            rest = Call(self.method, tuple(parts)).run(engine)
        except ConradBenchError as error:
            return Answered(answers, error)
        for i, answer in zip(left, rest.answers, strict=True):
            answers[i] = answer
        return Answered(answers, rest.failure)
