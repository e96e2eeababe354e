"""What is asked of vLLM for a response or for scores, and what is read of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conrad_bench.engines.base import Generation, Job
from conrad_bench.engines.inputs import decoded, encode_unexpanded, scored_ids
from conrad_bench.engines.opening import open_image
from conrad_bench.engines.vllm_start import Served
from conrad_bench.errors import EngineError
from conrad_bench.rollouts.digests import image_digest
from conrad_bench.types import Prompt, Sampling

_MOST_TOKENS = 128
"""Tokens whose log-probabilities vLLM gives at one position."""


@dataclass(slots=True)
class Asked:
    """Requests that are one piece of work, and what is made of their outputs."""

    requests: list[tuple[dict[str, Any], dict[str, Any]]]
    """Prompts as vLLM takes them, each with its sampling parameters."""
    read: Callable[[list[Any]], Any]
    """Makes the result of vLLM's outputs, which are in the order of the requests. Raises EngineError."""


def writing(served: Served, jobs: Sequence[Job], sampling: Sampling) -> Asked:
    """Return the requests for one response to each job."""
    restricted = {"structured_outputs": _restriction(sampling.choices)} if sampling.choices else {}
    shared = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "stop_token_ids": served.stop_ids,
        "logprobs": 0,
        **restricted,
    }
    seeds = [job.seed if sampling.temperature > 0 else None for job in jobs]
    requests = [(_request(served, job.prompt), {**shared, "seed": seed}) for job, seed in zip(jobs, seeds, strict=True)]
    return Asked(requests, lambda outputs: [_generation(served, output, sampling) for output in outputs])


def scoring(served: Served, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> Asked:
    """Return the requests that give the log-probabilities of continuations."""
    tokenizer = served.processor.tokenizer
    wanted = [
        [scored_ids(tokenizer, p.prefix, text, served.end_id) for text in texts]
        for p, texts in zip(prompts, continuations, strict=True)
    ]
    nexts: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for i, row in enumerate(wanted):
        for beginning, token in {(ids[:k], ids[k]): None for ids in row for k in range(len(ids))}:
            nexts.setdefault((i, beginning), []).append(token)
    parts = [
        (i, beginning, tokens[start : start + _MOST_TOKENS])
        for (i, beginning), tokens in nexts.items()
        for start in range(0, len(tokens), _MOST_TOKENS)
    ]
    asked = [_request(served, prompt) for prompt in prompts]
    requests = [
        (
            {**asked[i], "prompt_token_ids": [*asked[i]["prompt_token_ids"], *beginning]},
            {"temperature": 0.0, "max_tokens": 1, "logprob_token_ids": tokens},
        )
        for i, beginning, tokens in parts
    ]

    def read(outputs: list[Any]) -> list[list[float]]:
        known: dict[tuple[int, tuple[int, ...]], float] = {}
        for (i, beginning, tokens), output in zip(parts, outputs, strict=True):
            found = output.outputs[0].logprobs[0]
            known |= {(i, (*beginning, token)): found[token].logprob for token in tokens}
        _refuse_nan(served, known.values())
        return [
            [math.fsum(known[i, ids[: k + 1]] for k in range(len(ids))) for ids in row] for i, row in enumerate(wanted)
        ]

    return Asked(requests, read)


def _request(served: Served, prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as vLLM takes it: token ids and images, which it puts in the place of their marks."""
    request: dict[str, Any] = {"prompt_token_ids": encode_unexpanded(served.processor, prompt)}
    if prompt.images:
        opened = open_image if served.pictures is None else served.pictures.open
        request["multi_modal_data"] = {"image": [opened(path) for path in prompt.images]}
        # What vLLM would else compute of the pixels, to know a picture that it has prepared or read before.
        request["multi_modal_uuids"] = {"image": [image_digest(Path(path)) for path in prompt.images]}
    return request


def _generation(served: Served, output: Any, sampling: Sampling) -> Generation:
    (written,) = output.outputs
    ids, stopped = tuple(written.token_ids), written.finish_reason == "stop"
    if written.finish_reason not in ("stop", "length"):
        problem = f"vLLM ended a response with {written.finish_reason!r}"
        raise EngineError(f"{problem}; set VLLM_LOGGING_LEVEL=ERROR to see why, data included")
    if not stopped and len(ids) < sampling.max_tokens:
        raise EngineError(
            f"a prompt and its response are longer than {served.llm.model_config.max_model_len} tokens; raise "
            "max_model_len, or lower max_tokens where this is the longest that the model can read"
        )
    logprobs = tuple(step[token].logprob for step, token in zip(written.logprobs, ids, strict=True))
    _refuse_nan(served, logprobs)
    kept = None if sampling.choices else logprobs
    text = decoded(served.processor.tokenizer, ids[: len(ids) - stopped])
    return Generation(text, ids, kept, "stop" if stopped else "length")


def _refuse_nan(served: Served, values: Iterable[float]) -> None:
    if any(math.isnan(value) for value in values):
        raise EngineError(f"the model {served.model!r} returned NaN in {served.dtype}; choose another dtype")


def _restriction(choices: Sequence[str]) -> Any:
    """Return vLLM's way to say that a response is one of several texts."""
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(choice=list(choices))
