"""The transformers engine: any image-text-to-text or text-only chat model, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from conrad_bench.engines.base import Engine, Generation, Job, whole
from conrad_bench.engines.boundary import refusals, translated
from conrad_bench.engines.decoders import (
    counts_padding,
    decoder_layers,
    layer_states_of,
)
from conrad_bench.engines.decoding import TokenChooser, write
from conrad_bench.engines.heads import precise_logits
from conrad_bench.engines.inputs import (
    Encoded,
    ahead,
    by_shape,
    collate,
    decoded,
    encode,
    encode_all,
    encode_unexpanded,
    end_of_turn,
    find_last,
    picture_tokens,
    readable,
    scored_ids,
    stop_tokens,
    token_offsets,
)
from conrad_bench.engines.loading import Adapters, empty_model, halving, load, load_preparing, locate
from conrad_bench.engines.processors import check_prompts, dated_texts, load_tokenizer
from conrad_bench.engines.reread import token_statistics
from conrad_bench.engines.scoring import alora_offsets, continuation_scores
from conrad_bench.errors import ConfigError, EngineError, ModelError
from conrad_bench.types import DISTRIBUTIONS, END, HIDDEN_STATES, LOGPROBS, SAMPLING, TRAINING, Prompt, Sampling

if TYPE_CHECKING:
    import torch

    from conrad_bench.engines.calls import Call

Item = TypeVar("Item")
Result = TypeVar("Result")
Asked = tuple[Prompt, Sequence[int], Sequence[tuple[int, int]]]
"""A prompt, the tokens of its answer, and the spans of them whose hidden states are wanted."""


_LENGTHS = 2**15
"""Prompts whose lengths are remembered."""

_NOT_BY_TRL = {"kosmos-2", "mllama", "paligemma"}
"""Kinds of models with inputs that TRL's trainer does not hand on."""


@dataclass(slots=True)
class _Loaded:
    """A model in memory."""

    model: Any
    processor: Any
    adapters: Adapters
    stop_ids: list[int]
    """Tokens that end a response."""
    end_id: int
    """The one with which the chat template ends a turn."""
    pad_id: int
    barred: frozenset[int]
    """Tokens that stand for pictures, which no response may hold."""
    unpadded: bool
    """Whether a batch's prompts must be of one length."""


class TransformersEngine(Engine):
    """Runs a model with transformers: generation, scoring, hidden states, and the torch model itself for training."""

    name = "transformers"
    summary = "transformers in this process, on CPU or one GPU; serves every method"
    provides: ClassVar[frozenset[str]] = frozenset({LOGPROBS, HIDDEN_STATES, DISTRIBUTIONS, TRAINING, SAMPLING})
    free: ClassVar[frozenset[str]] = frozenset({"batch_size", "device"})

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """"auto": bfloat16 on a GPU, float32 on a CPU."""
    device: str = "auto"
    """"auto": the GPU if there is one; else a torch device such as "cpu" or "cuda:1"."""
    quantization: Literal["none", "nf4"] = "none"
    """"nf4": 4-bit weights of the language model's layers through bitsandbytes."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    chat_template: str | None = None
    """Chat template (Jinja) in place of the checkpoint's own: for models whose tokenizer has none, or another one."""

    _loaded: _Loaded | None = PrivateAttr(default=None)
    _tokenizer: Any = PrivateAttr(default=None)
    _processor: Any = PrivateAttr(default=None)
    _picture: float | None = PrivateAttr(default=None)
    """Tokens that a picture has beside its mark in the chat template."""
    _lengths: dict[Prompt, int] = PrivateAttr(default_factory=dict)
    """What `reads` returned: every method asks about the same prompts."""

    def identity(self) -> dict[str, str]:
        """Return engine, model and commit (or a hash of a local checkpoint's files), dtype and quantization.

        A chat template that takes the place of the checkpoint's own is part of it, and transformers' version. Raises
        ModelError if the model cannot be found.
        """
        where = locate(self.model, self.revision)
        dtype = str(self._dtype()).removeprefix("torch.")
        chat = {} if self.chat_template is None else {"chat_template": self.chat_template}
        made = {"engine": self.name, **where, "dtype": dtype, "quantization": self.quantization, **chat}
        return {**made, "transformers": version("transformers")}

    def dated(self, prompts: Sequence[Prompt]) -> list[str | None]:
        """Return the prompts as the chat template writes them where it writes the day, too, else None for each."""
        revision = locate(self.model, self.revision).get("revision")
        return dated_texts(prompts, self.model, revision, self.chat_template)

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        """Generate one response for each job.

        An activated LoRA adapter acts from the last occurrence of its invocation tokens in the prompt. Raises
        EngineError if they do not stand there, since the adapter would silently do nothing.
        """
        return halving(jobs, lambda part: self._generate(part, sampling, adapter))

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], adapter: Path | None
    ) -> list[list[float]]:
        """Return log-probabilities of continuations (see `continuation_ids` for how they are tokenized).

        Each prompt is read once; what is longer than one token is continued from the prompt's key-value cache.
        """
        items = list(zip(prompts, continuations, strict=True))
        return halving(items, lambda part: self._score(part, adapter))

    def hidden(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[int]],
        layer: int,
        at: Literal["last", "mean"],
        adapter: Path | None,
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Return hidden states of layer `layer`, each of shape (spans, hidden size); the last layer's are normalised.

        Attention is causal: a span's states are those of a response that ends with it. A token that stands for a
        picture is read as padding: no picture is there.
        """
        items = list(zip(prompts, answers, spans or whole(answers), strict=True))
        return halving(items, lambda part: self._hidden(part, layer, at, adapter))

    def reread(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], adapter: Path | None
    ) -> list[NDArray[np.float32]]:
        """Return what the model finds at each token of a response, in one pass over prompt and response."""
        items = list(zip(prompts, answers, strict=True))
        return halving(items, lambda part: self._reread(part, adapter))

    def prepare(self, call: Call) -> None:
        """Begin to prepare the images of a call that comes next, once the model is there."""
        if self._loaded is not None:
            ahead(self._loaded.processor, call.prompts())

    def offsets(self, answers: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return where each token of each response starts in the response's decoded text, and the text's length."""
        return [token_offsets(self.tokenizer(), ids) for ids in answers]

    def tokenizer(self) -> Any:
        """Return the model's tokenizer; loads no weights."""
        if self._processor is not None:
            return self._processor.tokenizer
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.model, locate(self.model, self.revision).get("revision"))
        return self._tokenizer

    def reads(self, prompt: Prompt) -> int | None:
        """Return how many tokens a prompt has; loads no weights."""
        known = self._lengths.get(prompt)
        if known is None:
            processor = self._preparing()
            known = len(encode_unexpanded(processor, prompt))
            if prompt.images and self._picture is None:
                self._picture = (len(encode(processor, prompt).ids) - known) / len(prompt.images)
            known += round((self._picture or 0) * len(prompt.images))
            if len(self._lengths) >= _LENGTHS:
                self._lengths.clear()
            self._lengths[prompt] = known
        return known

    def check_prompts(self) -> None:
        """Raise ModelError if the model's processor or its chat template cannot be used; loads no weights."""
        check_prompts(self._preparing(), self.model)

    def check_training(self, joint: bool = False) -> None:
        """Raise ModelError if there are no linear layers, or TRL cannot train by `joint` rollouts; loads no weights."""
        network = empty_model(self.model, locate(self.model, self.revision).get("revision"))
        decoder_layers(network)
        if joint and network.config.model_type in _NOT_BY_TRL:
            raise ModelError(
                f"TRL cannot train {type(network).__name__} by rollouts of report and confidence together; use "
                "conrad.mode=conditional"
            )

    def torch_model(self) -> tuple[Any, Any]:
        """Return (model, processor): weights loaded anew as this engine's options say, and its own processor."""
        revision = locate(self.model, self.revision).get("revision")
        return load(self.model, revision, self._dtype(), self._device(), self.quantization, self._preparing())

    def _preparing(self) -> Any:
        """Return the processor, loaded once: a tokenizer of 262,144 words takes seconds, and every training, and every
        return to the base model behind one, asks for it.
        """
        if self._processor is None:
            revision = locate(self.model, self.revision).get("revision")
            self._processor = load_preparing(self.model, revision, self.chat_template)
        return self._processor

    def close(self) -> None:
        """Free the model's memory; the next call loads it again."""
        if self._loaded is not None:
            import torch

            self._loaded = None
            torch.cuda.empty_cache()

    def _device(self) -> torch.device:
        import torch

        if self.device != "auto":
            try:
                return torch.device(self.device)
            except RuntimeError as error:
                raise ConfigError(
                    f"device: {self.device!r} is no device of torch; should be auto, cpu, cuda or cuda:1, for example"
                ) from error
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _dtype(self) -> torch.dtype:
        import torch

        if self.dtype != "auto":
            dtype: torch.dtype = getattr(torch, self.dtype)
            return dtype
        return torch.float32 if self._device().type == "cpu" else torch.bfloat16

    def _load(self) -> _Loaded:
        if self._loaded is None:
            from transformers import GenerationConfig

            model, processor = self.torch_model()
            model.eval()
            tokenizer = processor.tokenizer
            with translated(f"model {self.model!r} has a chat template or end tokens that cannot be used"):
                stop_ids = stop_tokens(model.generation_config, tokenizer)
                end_id = end_of_turn(processor, stop_ids)
                stops = sorted(stop_ids | {end_id})
            pad_id = end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            # generate() fills gaps from the model's own defaults, such as top_k or a repetition penalty: none here.
            model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=pad_id, do_sample=False)
            barred = picture_tokens(processor) - {*stops}
            unpadded = counts_padding(model)
            self._loaded = _Loaded(model, processor, Adapters(model), stops, end_id, pad_id, barred, unpadded)
        return self._loaded

    @contextmanager
    def _using(self, adapter: Path | None, batch: Sequence[Encoded]) -> Iterator[tuple[Any, list[int] | None]]:
        """Yield (the model under the adapter, where an activated LoRA starts in each prompt or None)."""
        import torch

        adapters = self._load().adapters
        if adapter is None:
            switched_off = adapters.wrapper.disable_adapter() if adapters.wrapper is not None else nullcontext()
            with torch.inference_mode(), switched_off, refusals(adapters.model):
                yield adapters.model, None
            return
        try:
            invocation = adapters.activate(adapter, self.model)
        except Exception:
            self._loaded = None  # its layers may hold half an adapter
            raise
        starts = [find_last(encoded.ids, invocation) for encoded in batch] if invocation else None
        if starts and -1 in starts:
            raise EngineError(
                f"the adapter in {adapter} acts only after the tokens {invocation}, and a prompt lacks them; "
                "end the prompt's prefix with the text that they stand for"
            )
        with torch.inference_mode(), refusals(adapters.model):
            yield adapters.wrapper, starts

    def _generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        loaded = self._load()
        asked: dict[Prompt, list[int]] = {}
        for i, job in enumerate(jobs):
            asked.setdefault(job.prompt, []).append(i)
        batch = encode_all(loaded.processor, list(asked))
        samples = [[jobs[i] for i in places] for places in asked.values()]
        written = by_shape(
            batch, samples, lambda some, part: self._write(some, part, sampling, adapter), same_length=loaded.unpadded
        )
        found = {
            i: g for places, row in zip(asked.values(), written, strict=True) for i, g in zip(places, row, strict=True)
        }
        return [found[i] for i in range(len(jobs))]

    def _write(
        self, batch: Sequence[Encoded], samples: Sequence[Sequence[Job]], sampling: Sampling, adapter: Path | None
    ) -> list[list[Generation]]:
        """Return one response for each of the jobs that share each prompt."""
        loaded = self._load()
        jobs = [job for row in samples for job in row]
        rows = [i for i, row in enumerate(samples) for _ in row]
        allowed = [self._allowed(job.prompt, sampling) for job in jobs] if sampling.choices else None
        chooser = TokenChooser([job.seed for job in jobs], sampling, loaded.model.device, allowed, loaded.barred)
        stops = loaded.stop_ids
        with self._using(adapter, batch) as (model, starts):
            write(model, loaded.model, batch, rows, chooser, stops, starts, loaded.pad_id, sampling.max_tokens)
        made = list(map(self._cut, chooser.written, chooser.logprobs))
        if sampling.choices:
            made = [replace(generation, logprobs=None) for generation in made]
        each = iter(made)
        return [list(islice(each, len(row))) for row in samples]

    def _allowed(self, prompt: Prompt, sampling: Sampling) -> list[tuple[int, ...]]:
        """Return the token sequences of the only responses that there can be, each with the end of the turn."""
        loaded = self._load()
        tokenizer = loaded.processor.tokenizer
        found = [scored_ids(tokenizer, prompt.prefix, text + END, loaded.end_id) for text in sampling.choices]
        if max(map(len, found)) > sampling.max_tokens:
            raise EngineError(f"the longest of the choices takes {max(map(len, found))} tokens; raise max_tokens")
        return found

    def _cut(self, ids: list[int], logprobs: list[float]) -> Generation:
        """Cut a row behind its first stop token."""
        loaded = self._load()
        length = next((i + 1 for i, token in enumerate(ids) if token in loaded.stop_ids), len(ids))
        stopped = ids[length - 1] in loaded.stop_ids
        kept = np.array(logprobs[:length])
        if np.isnan(kept).any():
            raise EngineError(f"the model {self.model!r} returned NaN in {self._dtype()}; choose another dtype")
        text = decoded(loaded.processor.tokenizer, ids[: length - stopped])
        return Generation(text, tuple(ids[:length]), tuple(kept.tolist()), "stop" if stopped else "length")

    def _score(self, items: Sequence[tuple[Prompt, Sequence[str]]], adapter: Path | None) -> list[list[float]]:
        loaded = self._load()
        batch = encode_all(loaded.processor, [prompt for prompt, _ in items])
        tokenizer = loaded.processor.tokenizer
        wanted = [[scored_ids(tokenizer, p.prefix, text, loaded.end_id) for text in texts] for p, texts in items]
        return by_shape(
            batch, wanted, lambda some, part: self._score_ids(some, part, adapter), same_length=loaded.unpadded
        )

    def _score_ids(
        self, batch: Sequence[Encoded], wanted: Sequence[Sequence[tuple[int, ...]]], adapter: Path | None
    ) -> list[list[float]]:
        loaded = self._load()
        with self._using(adapter, batch) as (model, starts), precise_logits(loaded.model):
            return continuation_scores(model, loaded.model, batch, wanted, starts, loaded.pad_id)

    def _hidden(
        self, items: Sequence[Asked], layer: int, at: Literal["last", "mean"], adapter: Path | None
    ) -> list[NDArray[np.float32]]:
        import torch

        loaded = self._load()
        if not all(end > start for _, _, spans in items for start, end in spans):
            raise EngineError(
                "a response without tokens has no hidden states; generate it with max_tokens of at least 1"
            )

        def read(batch: Sequence[Encoded], part: Sequence[Asked]) -> list[NDArray[np.float32]]:
            answers = [readable(loaded.processor, answer) for _, answer, _ in part]
            joined = [encoded.followed_by(answer) for encoded, answer in zip(batch, answers, strict=True)]
            # Padded on the right, positions are those of a single prompt, and no token attends to padding.
            inputs = collate(joined, loaded.pad_id, False, loaded.model.device, loaded.model.dtype)
            width = inputs["input_ids"].shape[1]
            with self._using(adapter, batch) as (model, starts), layer_states_of(loaded.model, layer) as states:
                model(**inputs, **alora_offsets([width] * len(batch), starts), use_cache=False, logits_to_keep=1)
                (layer_states,) = states
                found = []
                for prompt, row, (_, _, spans) in zip(batch, layer_states, part, strict=True):
                    tokens = [row[len(prompt.ids) + start : len(prompt.ids) + end].float() for start, end in spans]
                    states_read = [some[-1] if at == "last" else some.mean(dim=0) for some in tokens]
                    found.append(torch.stack(states_read).cpu().numpy())
                return found

        return by_shape(encode_all(loaded.processor, [prompt for prompt, _, _ in items]), items, read)

    def _reread(self, items: Sequence[tuple[Prompt, Sequence[int]]], adapter: Path | None) -> list[NDArray[np.float32]]:
        loaded = self._load()

        def read(batch: Sequence[Encoded], part: Sequence[tuple[Prompt, Sequence[int]]]) -> list[NDArray[np.float32]]:
            answers = [readable(loaded.processor, answer) for _, answer in part]
            with self._using(adapter, batch) as (model, starts):
                return token_statistics(model, batch, answers, starts, loaded.pad_id)

        return by_shape(encode_all(loaded.processor, [prompt for prompt, _ in items]), items, read)
