"""Requests under way in vLLM: as many as it takes at once, whichever calls they belong to.

A batch that has to end before the next begins waits for its longest response, with fewer and fewer requests under way.
So a request takes the place of each that ends, and results come as they are ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from conrad_bench.engines.vllm_requests import Asked
from conrad_bench.engines.vllm_start import Served
from conrad_bench.errors import EngineError, ImageError

Ticket = TypeVar("Ticket")

_QUEUED = 8
"""Requests that vLLM has in advance, so that it need not wait for this process when one ends."""


@dataclass(slots=True)
class _Work:
    ticket: Any
    asked: Asked
    outputs: dict[int, Any] = field(default_factory=dict)
    """vLLM's outputs by their places."""


def flow(
    served: Served,
    take: Callable[[bool], tuple[Ticket, Asked | ImageError] | None],
    adapter: Any,
    most: int,
) -> Iterator[tuple[Ticket, Any]]:
    """Yield (ticket, result) of each piece of work as soon as it is done, with up to `most` requests at work.

    `take` gives the next piece, or the ImageError for which there is none, which is then the result. None means that
    there is none now, and where it was told to wait (True) that there is none any more. What is under way when the
    caller leaves is given up. Raises EngineError for a request that vLLM refuses.
    """
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    engine = served.llm.llm_engine
    under_way: dict[str, tuple[str, _Work, int]] = {}  # by the name that an output has, which starts vLLM's own name
    try:
        while True:
            while len(under_way) < most + _QUEUED:
                taken = take(not under_way)
                if taken is None:
                    break
                ticket, asked = taken
                if isinstance(asked, ImageError):
                    yield ticket, asked
                    continue
                if not asked.requests:
                    yield ticket, asked.read([])
                    continue
                work = _Work(ticket, asked)
                prompts, choices = zip(*asked.requests, strict=True)
                parameters = [SamplingParams(detokenize=False, **choice) for choice in choices]
                numbers = served.llm.enqueue(prompts, parameters, lora_request=adapter, use_tqdm=False)
                under_way |= {name.partition("-")[0]: (name, work, i) for i, name in enumerate(numbers)}
            if not under_way:
                return
            for output in engine.step():
                if not output.finished:
                    continue
                _, work, i = under_way.pop(output.request_id)
                work.outputs[i] = output
                if len(work.outputs) == len(work.asked.requests):
                    yield work.ticket, work.asked.read([work.outputs[k] for k in range(len(work.outputs))])
    except VLLMValidationError as error:  # a length or a sampling parameter: its message holds no text
        raise EngineError(f"vLLM refuses a request: {error}") from error
    finally:
        if under_way:
            engine.abort_request([name for name, _, _ in under_way.values()], internal=True)
