"""Thoughts: what a model writes to itself before or between what it says.

A response keeps them; no claim and no confidence is read from them. Known are tags (`<think> ... </think>` and others
of that meaning), MedGemma's `<unused94>thought ... <unused95>`, Gemma's `<|channel>thought ... <channel|>`, Mistral's
`[THINK] ... [/THINK]`, Kimi's `◁think▷ ... ◁/think▷`, Cohere's `<|START_THINKING|> ... <|END_THINKING|>` and
`<|begin_of_thought|> ... <|end_of_thought|>`. Where a chat template writes the opening mark into the prompt, a response
has the closing one alone: all before it is a thought.
"""

from __future__ import annotations

import re

from conrad_bench.types import Response

_NAMES = "think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad"
_OPEN = re.compile(
    rf"<(?:seed:)?(?:{_NAMES})>|<unused94>(?:\s*thought\b)?|<\|channel>\s*thought|\[THINK\]|◁think▷"
    r"|<\|(?:begin_of_thought|start_thinking)\|>",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"</(?:seed:)?(?:{_NAMES})>|<unused95>|<channel\|>|\[/THINK\]|◁/think▷"
    r"|<\|(?:end_of_thought|end_thinking)\|>",
    re.IGNORECASE,
)


def thought_spans(text: str) -> tuple[list[tuple[int, int]], bool]:
    """Return the character spans of a text's thoughts in order, marks included, and whether the last one never ends."""
    spans: list[tuple[int, int]] = []
    at = 0
    while True:
        opened, closed = _OPEN.search(text, at), _CLOSE.search(text, at)
        if closed and (opened is None or closed.start() < opened.start()):
            # No opening mark in this text: the template wrote it, or an inner thought was closed already.
            start = spans[-1][0] if spans else 0
            spans[-1:] = [(start, closed.end())]
            at = closed.end()
            continue
        if opened is None:
            return spans, False
        if closed is None:
            return [*spans, (opened.start(), len(text))], True
        spans.append((opened.start(), closed.end()))
        at = closed.end()


def is_mark(token: str) -> bool:
    """Whether a token is what opens or closes a thought (of `<|channel>thought` the first part)."""
    return any(pattern.fullmatch(text) for pattern in (_OPEN, _CLOSE) for text in (token, f"{token}thought"))


def spoken_spans(text: str) -> list[tuple[int, int]]:
    """Return the character spans of what a text says aloud, in order: what is left between its thoughts."""
    thoughts, _ = thought_spans(text)
    starts = [0, *(end for _, end in thoughts)]
    ends = [*(start for start, _ in thoughts), len(text)]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


def spoken(text: str) -> str:
    """Return a text without its thoughts."""
    return "".join(text[start:end] for start, end in spoken_spans(text))


def thinks(response: Response) -> bool:
    """Whether a response holds thoughts that say something."""
    spans, _ = thought_spans(response.text)
    return any(re.search(r"\w", _CLOSE.sub("", _OPEN.sub("", response.text[start:end]))) for start, end in spans)
