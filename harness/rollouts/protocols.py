"""What a model of `rollouts.model` works with: a store behind it, somebody who is told, a pool that answers for it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from conrad_bench.engines.base import Engine
from conrad_bench.engines.calls import Answered, Call
from conrad_bench.rollouts.rows import Row


class Store(Protocol):
    """Where answers are kept: rows by key."""

    def read(self, keys: Sequence[str], /) -> dict[str, Row]:
        """Return the rows of those keys that there are."""

    def append(self, rows: Sequence[Row], /) -> None:
        """Commit rows: they are all there after a crash, or none is."""

    def note(self, rows: Sequence[Row], enough: int, /) -> None:
        """Keep rows that come one by one; `enough` of them are committed."""

    def settle(self) -> None:
        """Commit the rows that were noted."""

    def check_there(self) -> None:
        """Raise StorageError if its folder is gone; what belongs beside it must not be written then, either."""


class Reporter(Protocol):
    """Who is told about progress."""

    def stage(self, name: str, /, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Begin a stage of `total` steps; the function it yields is told how many were done."""


class Pool(Protocol):
    """Where calls are answered when not in this process."""

    def run(self, engine: Engine, calls: Sequence[Call], /) -> Generator[tuple[int, Answered], None, None]:
        """Yield (index, result) of each call as it is answered, in any order, by copies of the engine."""

    def train(
        self,
        engine: Engine,
        trainer: Callable[..., None],
        data: Mapping[str, Any],
        calls: Mapping[str, Callable[..., Any]],
        reporter: Reporter,
        /,
    ) -> None:
        """Run a trainer where the pool says; see `Model.train`."""
