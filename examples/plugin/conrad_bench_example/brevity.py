"""A method without a model of confidence: the longer the response, the lower the confidence."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from conrad_bench import Claim, Response, ResponseMethod


class Brevity(ResponseMethod):
    """Confidence h / (h + n) for a response of n tokens: 1 for none, 0.5 for h tokens, towards 0 for many."""

    name = "brevity"
    summary = "a baseline that trusts short responses"

    half: int = Field(default=50, ge=1)
    """Number of tokens h at which the confidence is 0.5."""

    def confidence(self, response: Response, claims: Sequence[Claim]) -> float:
        """Give every claim of a response the same confidence, by the response's length."""
        return self.half / (self.half + len(response.token_ids))
