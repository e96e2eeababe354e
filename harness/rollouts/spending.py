"""What a method asks of a model, in tokens: what it would cost if it ran alone, whatever the store had already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conrad_bench.engines.base import Engine
from conrad_bench.types import Prompt

_SCORED = 2
"""Tokens of a continuation that is scored: a number or a letter, and the end of the turn."""


@dataclass(slots=True)
class Spending:
    """Tokens read and written, those of one request once, however often it is made.

    Samples of one prompt are read once. An engine that cannot tell how long a prompt is makes all of it unknown.
    """

    known: bool = True
    _read: dict[str, int] = field(default_factory=dict)
    """By the key of a request; of the first one where a prompt is sampled several times."""
    _written: dict[str, int] = field(default_factory=dict)

    def generated(
        self, engine: Engine, requests: Mapping[str, tuple[Prompt, int, str]], rows: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Take note of responses: `requests` as `Model.sample` has them, and the rows of their answers."""
        for key, (prompt, _, first) in requests.items():
            if rows[key]["finish_reason"] != "image_unreadable":
                self._add(engine, first, prompt, 0)
                self._written[key] = len(rows[key]["token_ids"])

    def scored(self, engine: Engine, requests: Mapping[str, tuple[Prompt, Sequence[str]]]) -> None:
        """Take note of prompts with the continuations whose probabilities were asked for."""
        for key, (prompt, continuations) in requests.items():
            self._add(engine, key, prompt, _SCORED * len(continuations))

    def looked_into(self, engine: Engine, requests: Mapping[str, tuple[Any, ...]]) -> None:
        """Take note of prompts with the responses behind them that were read: (prompt, tokens, ...) by key."""
        for key, (prompt, answer, *_) in requests.items():
            self._add(engine, key, prompt, len(answer))

    def each(self, examples: int) -> dict[str, float] | None:
        """Return the tokens read and written for an example, as records name them; None where that is unknown."""
        if not self.known or not self._read:
            return None
        read, written = sum(self._read.values()), sum(self._written.values())
        return {"tokens_read": read / examples, "tokens_written": written / examples}

    def _add(self, engine: Engine, key: str, prompt: Prompt, behind: int) -> None:
        if self.known and key not in self._read:
            length = engine.reads(prompt)
            self.known = length is not None
            self._read[key] = (length or 0) + behind
