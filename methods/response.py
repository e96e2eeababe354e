"""The short way to a method: a function from a response to its claims' confidences."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from conrad_bench.errors import PluginError
from conrad_bench.methods.base import Judge, Method, Step, respond, responding
from conrad_bench.types import Claim, Estimate, Example, Response

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task


class ResponseMethod(Method):
    """A method that looks at the greedy response alone: implement `confidence`, and nothing else.

    With `logprobs` among its needs, `response.logprobs` has those of the tokens.
    """

    elicit: ClassVar[str | None] = None
    """The elicitation format of the response; None: no confidence is asked for."""

    max_tokens: int = Field(512, ge=1)
    """Longest response, in tokens."""

    @abstractmethod
    def confidence(self, response: Response, claims: Sequence[Claim]) -> float | Sequence[float]:
        """Return a confidence in [0, 1] for all of a response's claims, or one for each.

        `claims` are those that can have one: of the status `ok`.
        """

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """One response for each test example."""
        return [responding(task, test, self.max_tokens, self.elicit)]

    def estimate(
        self, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
    ) -> list[Estimate]:
        """Respond, and ask `confidence` about each response."""
        found = respond(task, examples, model, self.max_tokens, self.elicit)
        places_of: dict[int, list[tuple[int, int]]] = {}
        for place in found.open():
            places_of.setdefault(place[0], []).append(place)
        confidences: dict[tuple[int, int], float] = {}
        for i, places in places_of.items():
            response = found.responses[i]
            values = self.confidence(response, [found.claims[i][k] for _, k in places])
            each = [values] * len(places) if isinstance(values, (int, float)) else list(values)
            if len(each) != len(places):
                raise PluginError(f"confidence returned {len(each)} numbers for {len(places)} claims")
            confidences |= dict(zip(places, each, strict=True))
        return found.estimates(confidences)
