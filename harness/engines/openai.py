"""The OpenAI-compatible engine: a model that a server has loaded, for the methods that need only what it writes."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, field_validator

from conrad_bench.engines.base import Engine, Generation, Job
from conrad_bench.engines.inputs import open_image
from conrad_bench.errors import EngineError, MissingExtra, ModelError
from conrad_bench.types import END, LOGPROBS, SAMPLING, Prompt, Sampling

if TYPE_CHECKING:
    import openai

KEY = "OPENAI_API_KEY"
"""Environment variable with the server's key. It is never written anywhere."""

_LISTED = 20
"""Most likely tokens that the interface lists at a position."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class OpenAIEngine(Engine):
    """Asks a server that speaks OpenAI's chat completions (vLLM, llama.cpp, hosted models).

    The server does not give token ids. In their place stand the lengths of the tokens in characters, which is all that
    `offsets` needs.
    """

    name = "openai"
    summary = "any server with OpenAI's chat interface; for methods that need text, or probabilities if it gives them"
    provides: ClassVar[frozenset[str]] = frozenset({LOGPROBS, SAMPLING})
    free: ClassVar[frozenset[str]] = frozenset({"batch_size", "base_url", "concurrency", "retries", "timeout"})

    batch_size: int = 64
    base_url: str = "http://127.0.0.1:8000/v1"
    """Address of the interface, up to /v1."""
    concurrency: int = Field(16, ge=1)
    """Requests under way at once."""
    retries: int = Field(6, ge=0)
    """How often a request is sent again, with growing pauses, when the server is busy, fails or cannot be reached."""
    timeout: float = Field(600.0, gt=0)
    """Seconds after which a request counts as failed."""

    _client: Any = PrivateAttr(default=None)
    _gives_logprobs: bool = PrivateAttr(default=True)

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is no address; it should look like http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None or parts.query:
            raise ValueError(f"must not hold a key or password, since it is written down; set {KEY} instead")
        return value.rstrip("/")

    def identity(self) -> dict[str, str]:
        """Return engine, the model's name on the server, and the server's address. Asks nobody."""
        return {"engine": self.name, "model": self.model, "server": self.base_url}

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        """Generate one response for each job; without log-probabilities where the server gives none.

        Raises ModelError for a key or a model that the server refuses, EngineError for prompts that a server cannot
        continue (with a prefix), for adapters, and when it goes on failing.
        """
        self._refuse(adapter)
        return self._each(jobs, lambda job: self._generate(job, sampling))

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], adapter: Path | None
    ) -> list[list[float]]:
        """Return log-probabilities of continuations of one token each, such as "True" and "False".

        They are read off the list of the first token's likeliest values; one that is not on it gets -inf, being far
        less likely than one that is. Raises EngineError where none of a prompt's continuations is listed.
        """
        self._refuse(adapter)
        items = list(zip(prompts, continuations, strict=True))
        return self._each(items, lambda item: self._score(*item))

    def hidden(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[int]],
        layer: int,
        at: Literal["last", "mean"],
        adapter: Path | None,
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Raise EngineError: a server shows no hidden states."""
        raise EngineError("a server shows no hidden states; use engine transformers or vllm")

    def offsets(self, answers: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return where each token of each response starts in the response's text, and the text's length."""
        return [[sum(lengths[:i]) for i in range(len(lengths) + 1)] for lengths in answers]

    def torch_model(self) -> tuple[Any, Any]:
        """Raise EngineError: the model is on the server."""
        raise EngineError("a served model cannot be trained; use engine transformers or vllm")

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> openai.OpenAI:
        if self._client is None:
            if find_spec("openai") is None:
                raise MissingExtra('engine openai needs its client: pip install "conrad-bench[openai]"')
            from openai import OpenAI

            self._client = OpenAI(
                base_url=self.base_url,
                api_key=os.environ.get(KEY) or "none",  # a local server needs none
                max_retries=self.retries,
                timeout=self.timeout,
            )
        client: openai.OpenAI = self._client
        return client

    def _each(self, items: Sequence[Item], ask: Callable[[Item], Result]) -> list[Result]:
        """Ask for several items at once; the first failure stops those that have not been sent."""
        self._connected()
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            waiting = [pool.submit(ask, item) for item in items]
            try:
                return [each.result() for each in waiting]
            finally:
                for each in waiting:
                    each.cancel()

    def _ask(self, prompt: Prompt, **options: Any) -> Any:
        """Send one request and return its only choice."""
        import openai

        if prompt.prefix or prompt.prefix_ids:
            raise EngineError("a server does not continue an answer that was begun; use engine transformers or vllm")
        try:
            answer = self._connected().chat.completions.create(model=self.model, messages=_messages(prompt), **options)
        except openai.OpenAIError as error:
            self._explain(error)
        return answer.choices[0]

    def _generate(self, job: Job, sampling: Sampling) -> Generation:
        import openai

        options: dict[str, Any] = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
        if sampling.temperature > 0:
            options |= {"top_p": sampling.top_p, "seed": job.seed}
        if sampling.choices:  # vLLM's server reads it; one that does not know it refuses, or answers with other texts
            options["extra_body"] = {"structured_outputs": {"choice": list(sampling.choices)}}
        if self._gives_logprobs and not sampling.choices:
            try:
                return _read(self._ask(job.prompt, logprobs=True, **options))
            except EngineError as error:
                refused = isinstance(error.__cause__, openai.BadRequestError) and error.__cause__.param == "logprobs"
                if not refused:
                    raise
                self._gives_logprobs = False
        return _read(self._ask(job.prompt, **options))

    def _score(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        if any(text.endswith(END) for text in continuations):
            raise EngineError("a server does not score whole answers; use engine transformers or vllm")
        choice = self._ask(prompt, max_tokens=1, temperature=0, logprobs=True, top_logprobs=_LISTED)
        if choice.logprobs is None or not choice.logprobs.content:
            raise EngineError(f"the server gives no log-probabilities of {self.model!r}")
        listed = {entry.token: entry.logprob for entry in reversed(choice.logprobs.content[0].top_logprobs)}
        values = [listed.get(text, float("-inf")) for text in continuations]
        if continuations and max(values) == float("-inf"):
            wanted = ", ".join(map(repr, continuations))
            raise EngineError(f"none of {wanted} is among the {_LISTED} likeliest tokens of {self.model!r}")
        return values

    def _refuse(self, adapter: Path | None) -> None:
        if adapter is not None:
            raise EngineError("a server cannot be given an adapter here; use engine transformers or vllm")

    def _explain(self, error: openai.OpenAIError) -> NoReturn:
        """Raise what an error of the client means. Its own text is left out: it may quote the request."""
        import openai

        where = f"the server at {self.base_url}"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            raise ModelError(f"{where} refuses the key ({error.status_code}); set {KEY} to a valid one") from error
        if isinstance(error, openai.NotFoundError):
            raise ModelError(f"{where} has no model {self.model!r}; it serves: {self._served()}") from error
        if isinstance(error, openai.RateLimitError):
            raise EngineError(
                f"{where} is too busy (429) after {self.retries + 1} tries; lower openai.concurrency, or come back "
                "later: what was answered is kept"
            ) from error
        if isinstance(error, openai.APITimeoutError):
            raise EngineError(f"{where} did not answer within {self.timeout:.0f} s; raise openai.timeout") from error
        if isinstance(error, openai.APIConnectionError):
            raise EngineError(f"{where} cannot be reached; start it, or set --base-url") from error
        if isinstance(error, openai.APIStatusError):
            about = f", about {error.param!r}" if getattr(error, "param", None) else ""
            raise EngineError(f"{where} refuses a request ({error.status_code}{about})") from error
        raise EngineError(f"{where} gave an answer that cannot be read ({type(error).__name__})") from error

    def _served(self) -> str:
        import openai

        try:
            return ", ".join(model.id for model in self._connected().models.list()) or "nothing"
        except openai.OpenAIError:
            return "it does not say which"


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    """Return the chat, with the images in the first turn: as PNG, so that nothing of a file but its pixels is sent."""
    messages: list[dict[str, Any]] = [{"role": message.role, "content": message.text} for message in prompt.messages]
    if prompt.images:
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(path)}} for path in prompt.images]
        messages[0]["content"] = [*pictures, {"type": "text", "text": prompt.messages[0].text}]
    return messages


def _data_url(path: str) -> str:
    buffer = io.BytesIO()
    open_image(path).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _read(choice: Any) -> Generation:
    """Return a choice of the server as a generation."""
    text = choice.message.content or ""
    reason: Literal["stop", "length"] = "length" if choice.finish_reason == "length" else "stop"
    content = None if choice.logprobs is None else choice.logprobs.content
    if not content:
        return Generation(text, (len(text),), None, reason)
    return Generation(text, _lengths(content, text), tuple(entry.logprob for entry in content), reason)


def _lengths(content: Sequence[Any], text: str) -> tuple[int, ...]:
    """Return how many characters of the text each token adds; the end of the turn and half characters add none."""
    lengths, raw, before = [], b"", 0
    for entry in content:
        raw += bytes(entry.bytes) if entry.bytes is not None else entry.token.encode()
        now = min(len(raw.decode(errors="ignore")), len(text))
        lengths.append(now - before)
        before = now
    return tuple(lengths)
