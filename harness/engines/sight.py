"""Whether a served model sees pictures: a server may refuse them, or drop them and answer 200 all the same.

It is asked the same about two unlike pictures and about none. A model that sees answers the two with other
log-probabilities, and its server counts more tokens for a prompt with a picture. Where neither is given, or they
contradict each other, it cannot be told.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

import numpy as np

from conrad_bench.engines.replies import NotAnAnswer, Reply
from conrad_bench.engines.server import Server
from conrad_bench.errors import ModelError

TRIED = 64
"""Tokens that are asked for."""

_QUESTION = "Describe this picture in one sentence."

_APART = 0.05
"""Difference of two log-probabilities, in nats, that two unlike pictures make at least; numerical noise is smaller."""

_NOTHING = 1e-4
"""Difference of log-probabilities that is none."""

_FEWEST = 8
"""Tokens that a picture takes at least; a mark that stands for one, with nothing behind it, takes fewer."""

_BUSY = frozenset({401, 408, 409, 429, 503})
"""Statuses that say nothing about pictures."""


def sees(server: Server, options: Mapping[str, Any]) -> str:
    """Return what boards must say about a model's sight: nothing ("") where it sees.

    Raises ModelError where the server refuses pictures or drops them, and what `Server.ask` raises.
    """
    plain = server.ask([{"role": "user", "content": _QUESTION}], options)
    one, other = _picture(0), _picture(1)
    a = _ask(server, one, options)
    b = _ask(server, other, options)
    again = server.ask(_chat(one), options) if _distance(a, b) > 0 or a.prompt_tokens != b.prompt_tokens else a
    if None not in (a.prompt_tokens, b.prompt_tokens) and a.prompt_tokens == again.prompt_tokens != b.prompt_tokens:
        return ""  # pictures of two sizes
    apart, noise = _distance(a, b), _distance(a, again)
    if apart > max(_APART, 3 * noise):
        return ""
    known = a.prompt_tokens is not None and plain.prompt_tokens is not None
    more = (a.prompt_tokens or 0) - (plain.prompt_tokens or 0)
    alike = a.tokens is not None and b.tokens is not None and apart <= _NOTHING
    if (known and more <= 0) or (alike and not known):
        raise ModelError(
            f"{server.where} drops pictures: {server.model!r} answers as if there were none; serve a model that "
            "sees, or set openai.images=false to let it answer from the text alone"
        )
    if alike or not known or more < _FEWEST:
        return "Whether the model saw the pictures that its server was sent could not be told from its answers."
    return ""


def _ask(server: Server, picture: str, options: Mapping[str, Any]) -> Reply:
    """Return the answer about a picture. Raises ModelError if the server refuses it, having answered without one."""
    import openai

    refusals = 0
    for pause in (0.0, 0.5, 1.0):
        time.sleep(pause)
        try:
            return server.try_to_ask(_chat(picture), options, patient=False)
        except openai.APIStatusError as error:
            if error.status_code in _BUSY:
                break
            refusals += 1
            # A server that fails may do so by chance, but not twice, and not where it speaks of pictures.
            if refusals == 2 or error.status_code < 500 or _speaks_of_pictures(error.response.text):
                raise ModelError(
                    f"{server.where} cannot read pictures with {server.model!r}: it answers a question, but not one "
                    f"about a picture ({error.status_code}); serve a model that sees (llama.cpp: with --mmproj), or "
                    "set openai.images=false to let it answer from the text alone"
                ) from error
        except openai.APIConnectionError:  # some hang up behind an error
            continue
        except NotAnAnswer:
            break
    return server.ask(_chat(picture), options)


def _speaks_of_pictures(text: str) -> bool:
    return any(word in text.lower() for word in ("image", "multimodal", "vision", "mmproj"))


def _chat(picture: str) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": _QUESTION}]
    return [{"role": "user", "content": parts}]


def _picture(number: int) -> str:
    """Return one of two unlike pictures, grey as films are: a bright disc, or dark stripes in another size."""
    from PIL import Image

    rows, columns = np.mgrid[: (448, 672)[number], :448]
    disc = ((rows - 224) ** 2 + (columns - 224) ** 2 < 150**2) * 230
    stripes = 255 - (columns // 28 % 2) * 200
    buffer = io.BytesIO()
    Image.fromarray((disc, stripes)[number].astype(np.uint8)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _distance(a: Reply, b: Reply) -> float:
    """Return how far two answers are from each other.

    The largest difference of the log-probabilities up to the first token that differs; where one of them has none, 1
    for other texts and 0 for the same.
    """
    if a.tokens is None or b.tokens is None:
        return float(a.text != b.text)
    pairs = list(zip(a.tokens, b.tokens, strict=False))
    same = len(list(takewhile(lambda pair: pair[0].text == pair[1].text, pairs)))
    return max((abs(x.logprob - y.logprob) for x, y in pairs[: same + 1]), default=0.0)
