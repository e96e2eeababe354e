"""Rows of the store: what is kept of each answer, by the key of its request."""

from __future__ import annotations

from typing import Any

from conrad_bench.types import Response

Row = dict[str, Any]


def empty_row(key: str, kind: str, sample: int = 0) -> Row:
    """Return a row in which all that an answer may have is None."""
    answer = dict.fromkeys(("text", "token_ids", "logprobs", "finish_reason", "values"))
    return {"key": key, "kind": kind, "sample": sample, **answer}


def response_of(row: Row) -> Response:
    """Return the response that a row of the kind "generate" holds."""
    logprobs = row["logprobs"]
    return Response(
        key=row["key"],
        text=row["text"],
        token_ids=tuple(row["token_ids"]),
        logprobs=None if logprobs is None else tuple(logprobs),
        finish_reason=row["finish_reason"],
        sample=row["sample"],
    )
