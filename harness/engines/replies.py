"""What a server with OpenAI's chat interface sent: an answer, or something else that is named and asked for again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from conrad_bench.errors import EngineError

FINISHED = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence"})
"""Reasons to end, in any server's words, of an answer that its model finished."""

BROKEN = frozenset({"error", "abort", "abandoned"})
"""Reasons to end of an answer that the server gave up."""


class NotAnAnswer(EngineError):  # noqa: N818 - the name says what is wrong
    """A reply without an answer; the message says what came instead, and holds nothing of its text."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer."""

    text: bytes
    logprob: float
    likeliest: Mapping[str, float]
    """The likeliest tokens in its place with their log-probabilities, as far as they were asked for."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    text: str
    """What the model wrote; in front its thoughts, as `<think>...</think>`, where the server keeps them apart."""
    thoughts: int
    """Number of characters of `text` that are thoughts and their marks."""
    tokens: tuple[Token, ...] | None
    """None where the server gave no log-probabilities."""
    finish_reason: Literal["stop", "length"]
    """"length" for every answer that was cut off: by its length, or by the server's filter of contents."""
    prompt_tokens: int | None
    """Number of tokens of the prompt, where the server counts them."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many characters of the text each token adds: one number, the text's length, without known tokens.

        The end of the turn and half characters add none. Tokens of thoughts fall on the thoughts, whether or not the
        server lists them beside those of the answer.
        """
        if self.tokens is None:
            return (len(self.text),)
        answer = len(self.text) - self.thoughts
        whole = b"".join(token.text for token in self.tokens).decode(errors="ignore")
        start = max(0, whole.rfind(self.text[self.thoughts :]))
        lengths, raw, before = [], b"", 0
        for token in self.tokens:
            raw += token.text
            read = len(raw.decode(errors="ignore"))
            now = self.thoughts + min(read - start, answer) if read >= start else min(read, self.thoughts)
            lengths.append(now - before)
            before = now
        return tuple(lengths)


def filtered() -> Reply:
    """Return what a prompt gets that the server's filter of contents refused: an answer cut off before it began."""
    return Reply("", 0, None, "length", None)


def read(body: str, content_type: str) -> Reply:
    """Return the answer in a reply of status 200. Raises NotAnAnswer saying what came where there is none."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        kind = content_type.partition(";")[0].strip() or "text of no named kind"
        raise NotAnAnswer(f"{kind}, which is not JSON" if body.strip() else "an empty page") from None
    if not isinstance(reply, dict):
        raise NotAnAnswer(f"JSON that is {_kind(reply)}")
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        error = reply.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        said = f"an error{f' ({code})' if isinstance(code, int) else ''} with status 200, " if error else ""
        raise NotAnAnswer(said + ("an empty list of choices" if choices == [] else "no choices"))
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise NotAnAnswer("a choice without a message")
    reason = str(choice.get("finish_reason") or "stop").lower()
    if reason in BROKEN:
        raise NotAnAnswer(f"an answer that the server gave up (finish_reason {reason!r})")
    finish: Literal["stop", "length"] = "stop" if reason in FINISHED else "length"
    thoughts = _thoughts(message)
    text = _text(message, finish == "length" or bool(thoughts))
    usage = reply.get("usage")
    counted = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return Reply(
        text=_whole(thoughts + text),
        thoughts=len(thoughts),
        tokens=_tokens(choice.get("logprobs")),
        finish_reason=finish,
        prompt_tokens=counted if isinstance(counted, int) else None,
    )


def _thoughts(message: Mapping[str, Any]) -> str:
    """Return the thoughts that a server delivers in a field of their own, between the marks that models write.

    So they stand where they would without the server's parser, and one reader sets thoughts aside wherever they came
    from. They are in the text for that alone, and no part of what the model answered.
    """
    for field in ("reasoning_content", "reasoning"):
        said = message.get(field)
        if isinstance(said, str) and said.strip():
            return f"<think>{said}</think>"
    return ""


def _text(message: Mapping[str, Any], may_be_absent: bool) -> str:
    """Return the text of a message; where the model declined in a field of its own, that."""
    text = message.get("content")
    if text is None and isinstance(message.get("refusal"), str):
        text = message["refusal"]
    if isinstance(text, str):
        return text
    if text is not None:
        raise NotAnAnswer(f"content in parts ({_kind(text)})")
    if message.get("tool_calls") or message.get("function_call"):
        raise NotAnAnswer("a call of a tool and no text")
    if not may_be_absent:  # as it may be where the answer was cut off, or all thoughts, before its first word
        raise NotAnAnswer("a message whose content is null")
    return ""


def _tokens(logprobs: Any) -> tuple[Token, ...] | None:
    """Return the tokens with their log-probabilities, or None where there are none, or in another form."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or not content:
        return None
    tokens = []
    for entry in content:
        value = _logprob(entry)
        if value is None:
            return None
        listed = entry.get("top_logprobs")
        likeliest: dict[str, float] = {}
        for other in listed if isinstance(listed, list) else ():
            found = _logprob(other)
            if found is not None:
                likeliest.setdefault(other["token"], found)
        tokens.append(Token(_bytes(entry), value, likeliest))
    return tuple(tokens)


def _logprob(entry: Any) -> float | None:
    value = entry.get("logprob") if isinstance(entry, dict) and isinstance(entry.get("token"), str) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _whole(text: str) -> str:
    """Return a text that can be written down: half a character, where an answer was cut in one, becomes a mark."""
    return text.encode(errors="replace").decode()


def _bytes(entry: Mapping[str, Any]) -> bytes:
    """Return a token's bytes, which its text has not where it ends within a character."""
    try:
        return bytes(list(entry["bytes"]))
    except (KeyError, TypeError, ValueError):
        return str(entry["token"]).encode(errors="replace")


def _kind(value: Any) -> str:
    """Return what a JSON value is."""
    kinds = {list: "a list", dict: "an object", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")
