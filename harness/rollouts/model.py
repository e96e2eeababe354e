"""The model as methods see it: an engine behind a store, so that nothing is generated twice.

Every request has a key, the sha256 of all that determines its answer: the engine's identity (model, commit or weight
hash, dtype, quantization, versions of libraries), the adapter's files, the exact messages and prefix, the images'
bytes, the sampling parameters with their seed, and the sample index; where a chat template writes the date, the prompt
as it stands, too. A key's beginning knows no versions: seeds and order are made of it, and stay what they are.

What the store lacks is cut into batches in an order that the requests alone determine, and each batch is committed when
it is answered: one after the other in this process, in any order by a
`Pool`. A run that was killed loses what was in the making, and goes on with the very batches that it would have had.
An engine that works at many requests at once gets them one by one; each answer is kept as it comes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from conrad_bench.engines.base import Engine, Generation, Job
from conrad_bench.engines.calls import Answered, Call
from conrad_bench.engines.loading import free_memory
from conrad_bench.engines.opening import unreadable
from conrad_bench.errors import ConfigError, DataError, ImageError
from conrad_bench.rollouts.digests import adapter_digest, image_digest
from conrad_bench.rollouts.protocols import Pool, Reporter, Store
from conrad_bench.rollouts.rows import Row, empty_row, response_of
from conrad_bench.rollouts.spending import Spending
from conrad_bench.types import TOKEN_COLUMNS, Claim, Prompt, Response, Sampling

GREEDY = Sampling()

Payload = TypeVar("Payload")

_UNREADABLE = Generation("", (), None, "image_unreadable")
"""What stands in the place of an answer about an image that cannot be read."""

_STAGES = {"hidden": "hidden states", "reread": "reading again"}
"""What progress calls the engine's methods whose names say too little."""

VERSIONS = ("transformers", "vllm")
"""What an engine's identity calls the versions of libraries."""

_SEED = 15
"""Hexadecimal digits of a key that a request's seed and its place among others are made of: 60 bits."""

_IMAGE_LENGTH = 1024
"""Characters that an image counts for when requests of similar length are put into one batch."""


@dataclass(frozen=True, slots=True)
class Model:
    """One engine's model, optionally under a LoRA adapter."""

    engine: Engine
    store: Store
    reporter: Reporter
    adapter: Path | None = None
    """Folder of the adapter, or None for the base model."""
    pool: Pool | None = None
    """Answers what the store lacks; None: the engine does, in this process."""
    beside: tuple[Engine, ...] = ()
    """Other engines that may hold a model in this process: they make room for a training, and where one of them or this
    one fills the device, for each other."""
    strict: bool = False
    """Raise ImageError for the first image that cannot be read, instead of leaving its prompt without an answer."""
    unreadable: dict[str, ImageError] = field(default_factory=dict)
    """The images that could not be read so far, by their paths; shared by the models that are made from this one."""
    pictures: Path | None = None
    """Folder for pictures that a method makes of others (absolute), in the run's folder; None: there is none."""
    experts: Mapping[str, Engine] = field(default_factory=dict)
    """The engines of other models that methods ask, by the methods' names."""
    spending: Spending | None = None
    """Counts the tokens of what is asked, where somebody wants to know."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling = GREEDY) -> list[Response]:
        """Return one response to each prompt, in the order of the prompts."""
        return [responses[0] for responses in self.sample(prompts, 1, sampling)]

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Response]]:
        """Return n responses to each prompt; sample i is the same for every n > i.

        A prompt with an image that cannot be read gets an empty response whose finish_reason says so. Raises
        ConfigError for several samples at temperature 0: they would all be the same.
        """
        if n > 1 and sampling.temperature == 0:
            raise ConfigError(f"{n} samples of each response need a temperature above 0; set the method's temperature")
        keys = self.keys(prompts, sampling, n)
        requests = {
            key: (prompt, sample, row[0])
            for prompt, row in zip(prompts, keys, strict=True)
            for sample, key in enumerate(row)
        }

        def call(batch: Mapping[str, tuple[Prompt, int, str]]) -> Call:
            # The seed depends neither on the order of requests nor on the batch.
            jobs = [Job(prompt, int(key[:_SEED], 16)) for key, (prompt, _, _) in batch.items()]
            return Call("generate", (jobs, sampling, self.adapter))

        def stored(key: str, made: Generation) -> Row:
            answer = {name: getattr(made, name) for name in ("text", "token_ids", "logprobs", "finish_reason")}
            return {**empty_row(key, "generate", requests[key][1]), **answer}

        def order(request: tuple[Prompt, int, str]) -> tuple[int, str, int]:
            prompt, sample, first = request
            return (-_length(prompt), first, sample)  # a prompt's samples side by side: it is read once for them

        rows = self._answers("generate", requests, order, call, stored, _UNREADABLE)
        if self.spending is not None:
            self.spending.generated(self.engine, requests, rows)
        return [[response_of(rows[key]) for key in row] for row in keys]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Return the natural-log probability of each continuation of each prompt, shape (prompts, continuations).

        `continuations` are texts for all prompts, or one sequence of texts for each. A text that ends with
        `conrad_bench.types.END` includes the end-of-turn token, so that "1" + END and "10" + END exclude each other.
        """
        each = _for_each(continuations, len(prompts))
        keys = self._keys("score", prompts, [{"continuations": list(texts)} for texts in each])
        requests = dict(zip(keys, zip(prompts, each, strict=True), strict=True))

        def call(batch: Mapping[str, tuple[Prompt, Any]]) -> Call:
            return Call("score", (*zip(*batch.values(), strict=True), self.adapter))

        def stored(key: str, scores: list[float]) -> Row:
            return {**empty_row(key, "score"), "values": scores}

        rows = self._answers("score", requests, lambda request: -_length(request[0]), call, stored)
        if self.spending is not None:
            self.spending.scored(self.engine, requests)
        return [list(rows[key]["values"]) for key in keys]

    def hidden(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[Response],
        layer: int,
        at: Literal["last", "mean"],
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> NDArray[np.float32]:
        """Return hidden states of the responses, shape (len(prompts), hidden size).

        With `spans`, the tokens (start, end) to be read of each response, the states of all spans, one response's
        behind another's: prompt and response are read once for all of them.

        `layer` indexes the model's hidden states (0: the embeddings, -1: the last); "last" is the state at the
        response's last token, "mean" the mean over its tokens.
        """
        answers = [response.token_ids for response in responses]
        details: list[dict[str, Any]] = [{"layer": layer, "at": at, "answer": list(answer)} for answer in answers]
        wanted = spans if spans is not None else [((0, len(answer)),) for answer in answers]
        for detail, answer, some in zip(details, answers, wanted, strict=True):
            if list(some) != [(0, len(answer))]:
                detail["spans"] = [list(span) for span in some]
        keys = self._keys("hidden", prompts, details)
        requests = dict(zip(keys, zip(prompts, answers, wanted, strict=True), strict=True))

        def call(batch: Mapping[str, tuple[Prompt, tuple[int, ...], Any]]) -> Call:
            asked, answered, read = zip(*batch.values(), strict=True)
            return Call("hidden", (asked, answered, layer, at, self.adapter, read))

        def stored(key: str, states: NDArray[np.float32]) -> Row:
            return {**empty_row(key, "hidden"), "values": states.flatten().tolist()}

        def order(request: tuple[Prompt, tuple[int, ...], Any]) -> int:
            return -_length(request[0]) - len(request[1])

        rows = self._answers("hidden", requests, order, call, stored)
        if self.spending is not None:
            self.spending.looked_into(self.engine, requests)
        states = [
            np.array(rows[key]["values"], dtype=np.float32).reshape(len(some), -1)
            for key, some in zip(keys, wanted, strict=True)
        ]
        return np.concatenate(states) if states else np.zeros((0, 0), dtype=np.float32)

    def reread(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[NDArray[np.float32]]:
        """Return `conrad_bench.types.TOKEN_COLUMNS` of each token of responses, arrays of shape (tokens, 4).

        The prompts need not be those that the responses were written to: another picture, for one.
        """
        answers = [response.token_ids for response in responses]
        keys = self._keys("reread", prompts, [{"answer": list(answer)} for answer in answers])
        requests = dict(zip(keys, zip(prompts, answers, strict=True), strict=True))

        def call(batch: Mapping[str, tuple[Prompt, tuple[int, ...]]]) -> Call:
            return Call("reread", (*zip(*batch.values(), strict=True), self.adapter))

        def stored(key: str, table: NDArray[np.float32]) -> Row:
            return {**empty_row(key, "reread"), "values": table.flatten().tolist()}

        def order(request: tuple[Prompt, tuple[int, ...]]) -> int:
            return -_length(request[0]) - len(request[1])

        rows = self._answers("reread", requests, order, call, stored)
        if self.spending is not None:
            self.spending.looked_into(self.engine, requests)
        return [np.array(rows[key]["values"], dtype=np.float32).reshape(-1, len(TOKEN_COLUMNS)) for key in keys]

    def token_spans(self, response: Response, claim: Claim) -> tuple[int, int]:
        """Return the first and the end index of the response's tokens that a claim's text covers, if only in part."""
        start, end = claim.span
        offsets = self.engine.offsets([response.token_ids])[0]
        covered = [i for i in range(len(response.token_ids)) if offsets[i] < end and offsets[i + 1] > start]
        return (covered[0], covered[-1] + 1) if covered else (0, 0)

    def keys(self, prompts: Sequence[Prompt], sampling: Sampling = GREEDY, n: int = 1) -> list[list[str]]:
        """Return the keys of the n responses to each prompt. Loads no model; raises DataError for a missing image."""
        details = asdict(sampling)
        if not sampling.choices:
            del details["choices"]
        if sampling.temperature == 0:
            details |= {"top_p": 1.0, "seed": 0}  # greedy decoding knows neither
        columns = [self._keys("generate", prompts, [{**details, "sample": i}] * len(prompts)) for i in range(n)]
        return [list(row) for row in zip(*columns, strict=True)]

    def readable(self, prompts: Sequence[Prompt]) -> list[bool]:
        """Return for each prompt whether all its images can be read, for who opens them without asking the engine.

        They are decoded whole: some 50 ms each for a film of 2544 x 3056 pixels, on several processors at once.
        """
        paths = dict.fromkeys(path for prompt in prompts for path in prompt.images)
        with self.reporter.stage("opening the images", total=len(paths)) as advance:
            broken = unreadable(paths, advance=advance)
        self._note(broken.values())
        return [not any(path in broken for path in prompt.images) for prompt in prompts]

    def adapted(self, folder: Path) -> Model:
        """Return the same model under the LoRA adapter in `folder`. Raises ModelError if there is none."""
        adapter_digest(folder)
        return replace(self, adapter=folder)

    def judged_by(self, judge: Engine) -> Model:
        """Return another engine's model behind the same store: that of a scorer."""
        others = tuple(other for other in (self.engine, *self.beside) if other is not judge)
        return replace(self, engine=judge, adapter=None, beside=others, spending=None)

    def expert(self, method: str) -> Model:
        """Return the model that a method named as its `expert`, behind the same store. Raises ConfigError."""
        if method not in self.experts:
            raise ConfigError(f"method {method!r} asks another model, and was given none; set Model.experts")
        return self.judged_by(self.experts[method])

    def tokenizer(self) -> Any:
        """Return the model's tokenizer; loads no weights."""
        return self.engine.tokenizer()

    def train(
        self, trainer: Callable[..., None], data: Mapping[str, Any], calls: Mapping[str, Callable[..., Any]]
    ) -> None:
        """Run `trainer(torch_model=..., processor=..., stage=..., **data, **calls)` on a freshly loaded torch model.

        The trainer is a function of a module. With a pool it runs in workers of the pool, all with the same `data`,
        which travel there, in one process group of torch; they share the work, and call the functions `calls` in this
        process. `stage(label, total)` is a context manager that yields a function to report progress with.
        """
        if self.pool is not None:
            self.pool.train(self.engine, trainer, data, calls, self.reporter)
            return
        for engine in (self.engine, *self.beside):
            engine.close()  # one model in memory at a time: the next request loads it again
        free_memory()
        try:
            torch_model, processor = self.engine.torch_model()
            trainer(torch_model=torch_model, processor=processor, stage=self.reporter.stage, **data, **calls)
        finally:
            torch_model = processor = None
            free_memory()

    def _keys(self, kind: str, prompts: Sequence[Prompt], details: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the key of each request. Raises DataError for an image file that is missing."""
        identity = dict(self.engine.identity())
        versions = json.dumps({name: identity.pop(name) for name in VERSIONS if name in identity})
        shared = {
            "engine": identity,
            "adapter": None if self.adapter is None else adapter_digest(self.adapter),
            "kind": kind,
        }
        keys = []
        for prompt, detail, dated in zip(prompts, details, self.engine.dated(prompts), strict=True):
            asked = {
                "messages": [[message.role, message.text] for message in prompt.messages],
                "prefix": prompt.prefix,
                "prefix_ids": list(prompt.prefix_ids),
                "images": [_image_digest(path) for path in prompt.images],
                **({} if dated is None else {"dated": dated}),
            }
            canonical = json.dumps({**shared, **asked, **detail}, sort_keys=True, separators=(",", ":"))
            # The beginning, of which seeds and order are made, is the same with every version of a library.
            seed = hashlib.sha256(canonical.encode()).hexdigest()[:_SEED]
            keys.append(seed + hashlib.sha256((canonical + versions).encode()).hexdigest()[_SEED:])
        return keys

    def _answers(
        self,
        method: Literal["generate", "score", "hidden", "reread"],
        requests: Mapping[str, Payload],
        order: Callable[[Payload], Any],
        call: Callable[[Mapping[str, Payload]], Call],
        stored: Callable[[str, Any], Row],
        broken_image: Generation | None = None,
    ) -> dict[str, Row]:
        """Return the row of every request: read from the store, or answered in committed batches and then read.

        What was answered of a batch before a failure is committed, too. `order` sorts the requests, `call` turns a
        batch of them into the engine's work, `stored` an answer into a row. Where images cannot be read, `broken_image`
        is the answer, which is not kept; without it their ImageError is raised when all others are answered.
        """
        rows = self.store.read(list(requests))
        # Longest first, so that a batch that does not fit into memory is met at the start.
        missing = sorted(requests.keys() - rows.keys(), key=lambda key: (order(requests[key]), key))
        if not missing:
            return rows
        streamed = self.engine.at_once(method, self.adapter) > 0
        enough = self.engine.batch_size
        size = 1 if streamed else enough
        batches = [missing[start : start + size] for start in range(0, len(missing), size)]
        calls = [call({key: requests[key] for key in batch}) for batch in batches]
        without: dict[str, ImageError] = {}
        stage = self.reporter.stage(_STAGES.get(method, method), total=len(missing))
        with stage as advance, closing(self._run(calls)) as results:
            for index, answered in results:
                made = {key: x for key, x in zip(batches[index], answered.answers, strict=True) if x is not None}
                broken = {key: answer for key, answer in made.items() if isinstance(answer, ImageError)}
                rows_made = [stored(key, answer) for key, answer in made.items() if key not in broken]
                if streamed:
                    self.store.note(rows_made, enough)
                else:
                    self.store.append(rows_made)
                advance(len(made))
                self._note(broken.values())
                without |= broken
                if answered.failure is not None:
                    raise answered.failure
        self.store.settle()
        if broken_image is None and without:
            raise next(iter(without.values()))
        # Read back, so that a run that goes on and one that resumes see the same floats.
        return rows | self.store.read(missing) | {key: stored(key, broken_image) for key in without}

    def _note(self, broken: Iterable[ImageError]) -> None:
        """Remember images that cannot be read. Raises the first where the run is strict."""
        for error in broken:
            if self.strict:
                raise error
            self.unreadable.setdefault(error.path, error)

    def _run(self, calls: Sequence[Call]) -> Generator[tuple[int, Answered], None, None]:
        """Return the results of the calls with their indices: in their order, or as they come from the pool."""
        if self.pool is not None:
            return self.pool.run(self.engine, calls)
        for other in self.beside:
            if self.engine.fills_the_device() or other.fills_the_device():
                other.close()
        left = iter(enumerate(calls))
        return self.engine.stream(lambda _wait: next(left, None))


def _for_each(continuations: Sequence[str] | Sequence[Sequence[str]], prompts: int) -> list[Sequence[str]]:
    shared = [text for text in continuations if isinstance(text, str)]
    return [shared] * prompts if len(shared) == len(continuations) else list(continuations)


def _length(prompt: Prompt) -> int:
    """Return a proxy of a prompt's number of tokens."""
    texts = sum(len(message.text) for message in prompt.messages) + len(prompt.prefix)
    return texts + _IMAGE_LENGTH * len(prompt.images)


def _image_digest(path: str) -> str:
    try:
        return image_digest(Path(path))
    except OSError as error:
        raise DataError(f"image {path} cannot be read ({error.strerror}); check the data root") from error
