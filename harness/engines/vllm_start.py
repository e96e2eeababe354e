"""Starting vLLM with a model, and letting go of it."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from conrad_bench.engines.base import Engine
from conrad_bench.engines.boundary import translated
from conrad_bench.engines.inputs import TextProcessor, end_of_turn, stop_tokens
from conrad_bench.engines.loading import locate
from conrad_bench.engines.pictures import Pictures
from conrad_bench.engines.processors import load_processor
from conrad_bench.errors import EngineError

_CPU_CACHE = 2**30
"""Bytes for keys and values on a CPU; $VLLM_CPU_KVCACHE_SPACE (GiB) takes their place."""

_PICTURES_GIB = 1
"""Memory for prepared pictures, which vLLM does not prepare again for the next request: some hundred at 896 pixels."""

_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "CRITICAL",  # its errors show images and tokens of the requests at work
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
_CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: a start of seconds instead of a minute
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else every run on the machine would share its first core
    "TORCHDYNAMO_DISABLE": "1",  # saves compiling the gathering of log-probabilities
}
"""Environment variables of vLLM, for those that are not set."""


class VLLMOptions(Engine):
    """What vLLM is started with."""

    batch_size: int = 128
    """Answers that are put together into one file; each is kept as soon as it is there."""
    concurrency: int = Field(128, ge=1)
    """Requests under way at once, as far as the memory for keys and values holds them. Their prepared pictures are in
    the host's memory: at 896 pixels 9.2 MiB each."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """"auto": bfloat16 on a GPU, float32 on a CPU."""
    quantization: Literal["none", "nf4"] = "none"
    """"nf4": 4-bit weights through bitsandbytes, on a GPU only."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    chat_template: str | None = None
    """Chat template (Jinja) in place of the checkpoint's own: for models whose tokenizer has none, or another one."""
    max_model_len: int = Field(8192, ge=1)
    """Longest prompt and response together, in tokens (an image of a Gemma3 counts 256); at most the model's own."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of the GPU's memory that vLLM takes for weights, keys and values."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that share the model."""
    enforce_eager: bool = False
    """No CUDA graphs: starts sooner, takes less memory, generates more slowly. A CPU has none."""


@dataclass(slots=True)
class Served:
    """A model that vLLM holds in memory."""

    llm: Any
    model: str
    dtype: str
    processor: Any
    pictures: Pictures | None
    """None for a model that reads text only."""
    stop_ids: list[int]
    """Tokens that end a response."""
    end_id: int
    """The one with which the chat template ends a turn."""
    rank: int
    """The highest rank of an adapter that it is ready for; 0: none."""
    adapters: list[str] = field(default_factory=list)
    """Digests of the adapters that were loaded, in that order; vLLM's number of one is its position, from 1."""


def start(engine: VLLMOptions, rank: int) -> Served:
    """Load the engine's model into vLLM, ready for adapters up to a rank (0: none).

    Raises EngineError if vLLM cannot run it.
    """
    from transformers import AutoConfig

    identity, gpu = engine.identity(), has_gpu()
    for name, value in (_ENVIRONMENT if gpu else _ENVIRONMENT | _CPU_ENVIRONMENT).items():
        os.environ.setdefault(name, value)
    revision = locate(engine.model, engine.revision).get("revision")
    processor = load_processor(engine.model, revision, engine.chat_template)
    with translated(f"model {engine.model!r} cannot be loaded"):
        own = AutoConfig.from_pretrained(engine.model, revision=revision).get_text_config()
    options: dict[str, Any] = {
        "revision": revision,
        "tokenizer_revision": revision,
        "dtype": identity["dtype"],
        "max_model_len": min(engine.max_model_len, getattr(own, "max_position_embeddings", engine.max_model_len)),
        "max_num_seqs": engine.concurrency,
        "mm_processor_cache_gb": _PICTURES_GIB,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "enforce_eager": engine.enforce_eager or not gpu,
        "enable_prefix_caching": True,
        # On a CPU the random generator of a request whose prompt was read in parts cannot be set back.
        "enable_chunked_prefill": gpu,
        # Defaults of the model's own, such as top_k or a repetition penalty, would change what is sampled.
        "generation_config": "vllm",
        "use_tqdm_on_load": False,
    }
    if not isinstance(processor, TextProcessor):
        options["mm_processor_kwargs"] = {"backend": "pil"}  # pixels as in the transformers engine
    if engine.quantization == "nf4":
        options["quantization"] = "bitsandbytes"
    if rank:
        # The CPU kernels give a request without an adapter the one in the last place: a second place stays empty.
        options |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 2}
    if not gpu and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        options["kv_cache_memory_bytes"] = _CPU_CACHE
    try:
        with _quiet():
            from vllm import LLM

            llm = LLM(engine.model, **options)
    except Exception as error:
        raise EngineError(f"vLLM cannot run the model {engine.model!r}: {type(error).__name__}: {error}") from error
    stop_ids, end_id = _stop_tokens(engine.model, revision, processor)
    pictures = None if isinstance(processor, TextProcessor) else Pictures(processor.image_processor)
    return Served(llm, engine.model, identity["dtype"], processor, pictures, stop_ids, end_id, rank)


def stop(served: Served) -> None:
    """Let go of a model and its memory."""
    from vllm.distributed import cleanup_dist_env_and_memory

    served.llm.llm_engine.engine_core.shutdown()
    served.llm = None
    gc.collect()
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":  # what ran in this process
        cleanup_dist_env_and_memory()


def has_gpu() -> bool:
    """Return whether torch sees a GPU."""
    import torch

    return torch.cuda.is_available()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what libraries say to their own developers while vLLM starts."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(level)


def _stop_tokens(model: str, revision: str | None, processor: Any) -> tuple[list[int], int]:
    """Return the tokens that end a response, and the one with which the chat template ends a turn."""
    from transformers import AutoConfig, GenerationConfig

    with translated(f"model {model!r} has a chat template or end tokens that cannot be used"):
        try:
            defaults = GenerationConfig.from_pretrained(model, revision=revision)
        except OSError:  # a checkpoint without generation_config.json
            defaults = GenerationConfig.from_model_config(AutoConfig.from_pretrained(model, revision=revision))
        stop_ids = stop_tokens(defaults, processor.tokenizer)
        end_id = end_of_turn(processor, stop_ids)
        return sorted(stop_ids | {end_id}), end_id
