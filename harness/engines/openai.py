"""The OpenAI-compatible engine: a model that a server has loaded, for the methods that need only what it writes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, field_validator

from conrad_bench.engines.base import Engine, Generation, Job, Take, Ticket
from conrad_bench.engines.calls import Answered
from conrad_bench.engines.replies import Reply
from conrad_bench.engines.sent import data_url
from conrad_bench.engines.server import KEY, Server
from conrad_bench.engines.sight import TRIED, sees
from conrad_bench.errors import ConradBenchError, EngineError
from conrad_bench.types import END, LOGPROBS, SAMPLING, Prompt, Sampling

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
    """Answers that are put together into one file; each is kept as soon as it is there."""
    base_url: str = "http://127.0.0.1:8000/v1"
    """Address of the interface, up to /v1; one that does not end so is tried with it as well."""
    concurrency: int = Field(16, ge=1)
    """Requests under way at once."""
    retries: int = Field(6, ge=0)
    """How often a request is sent again, with growing pauses, when the server is busy, fails or cannot be reached."""
    timeout: float = Field(600.0, gt=0)
    """Seconds after which a request counts as failed."""
    images: bool = True
    """Whether pictures are sent. False lets a model answer from the text alone, for one that reads nothing else; boards
    say so."""

    _connection: Server | None = PrivateAttr(default=None)

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is no address; it should look like http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(f"must not hold a key or password, since it is written down; set {KEY} instead")
        return value.rstrip("/")

    def identity(self) -> dict[str, str]:
        """Return engine and the model's name on the server. Asks nobody.

        The server's address is no part of it, so that a run can go on when the server has moved.
        """
        unseen = {} if self.images else {"images": "not sent"}
        return {"engine": self.name, "model": self.model, **unseen}

    def notes(self, pictures: bool) -> tuple[str, ...]:
        """Ask the server a few words, and with `pictures` about two unlike ones; return what boards must say.

        So the server's own words are known before the run, and that its model sees. Raises ModelError where it does
        not, and what `generate` raises.
        """
        server, options = self._server, self._options(Sampling(max_tokens=TRIED), None)
        said = []
        if pictures and self.images:
            said.append(sees(server, options))
        else:
            server.ask([{"role": "user", "content": "Describe a chest radiograph in one sentence."}], options)
        if pictures and not self.images:
            said.append("The model was sent no pictures (openai.images=false): it answered from the text alone.")
        if "temperature" in server.refused:
            said.append("The server takes no temperature: it chose tokens at its own, in place of the methods'.")
        return tuple(filter(None, said))

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        """Generate one response for each job; without log-probabilities where the server gives none.

        Raises ModelError for a key or a model that the server refuses, EngineError for prompts that a server cannot
        continue (with a prefix), for adapters, for choices that it does not keep to, and when it goes on failing.
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

    def at_once(self, method: str, adapter: Path | None) -> int:
        """Return the number of requests under way at once."""
        return self.concurrency

    def stream(self, take: Take[Ticket]) -> Generator[tuple[Ticket, Answered], None, None]:
        """Answer calls as they come, `concurrency` at once; see `Engine.stream`.

        After a failure no more is sent; what was sent is still answered, and then the failure is raised.
        """
        failure: BaseException | None = None
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            waiting: dict[Future[Answered], Ticket] = {}
            while True:
                while failure is None and len(waiting) < self.concurrency:
                    taken = take(not waiting)
                    if taken is None:
                        break
                    waiting[pool.submit(taken[1].run, self)] = taken[0]
                if not waiting:
                    break
                for each in wait(waiting, return_when=FIRST_COMPLETED).done:
                    ticket = waiting.pop(each)
                    if each.exception() is None:
                        yield ticket, each.result()
                    else:
                        failure = failure or each.exception()
        if failure is not None:
            raise failure

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

    def reread(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], adapter: Path | None
    ) -> list[NDArray[np.float32]]:
        """Raise EngineError: a server shows no whole distribution."""
        raise EngineError("a server shows no whole distributions of tokens; use engine transformers or vllm")

    def offsets(self, answers: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return where each token of each response starts in the response's text, and the text's length."""
        return [[sum(lengths[:i]) for i in range(len(lengths) + 1)] for lengths in answers]

    def torch_model(self) -> tuple[Any, Any]:
        """Raise EngineError: the model is on the server."""
        raise EngineError("a served model cannot be trained; use engine transformers or vllm")

    def close(self) -> None:
        """Close the connections."""
        if self._connection is not None:
            self._connection.close()

    @property
    def _server(self) -> Server:
        if self._connection is None:
            self._connection = Server(self.base_url, self.model, self.retries, self.timeout)
        return self._connection

    def _each(self, items: Sequence[Item], ask: Callable[[Item], Result]) -> list[Result]:
        """Ask for several items at once; the first failure stops those that have not been sent.

        Its error has the results of those that were answered.
        """
        self._server.connect()
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            waiting = [pool.submit(ask, item) for item in items]
            try:
                wait(waiting, return_when=FIRST_EXCEPTION)
            finally:
                for each in waiting:
                    each.cancel()
        try:
            return [each.result() for each in sorted(waiting, key=lambda each: each.cancelled())]
        except ConradBenchError as error:
            answered = [not each.cancelled() and each.exception() is None for each in waiting]
            error.answers = [each.result() if done else None for each, done in zip(waiting, answered, strict=True)]
            raise

    def _ask(self, prompt: Prompt, options: dict[str, Any]) -> Reply:
        if prompt.prefix or prompt.prefix_ids:
            raise EngineError("a server does not continue an answer that was begun; use engine transformers or vllm")
        return self._server.ask(_messages(prompt, self.images), options)

    def _options(self, sampling: Sampling, seed: int | None) -> dict[str, Any]:
        """Return the options of a request, as OpenAI's interface calls them."""
        options: dict[str, Any] = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
        if sampling.temperature > 0:
            options |= {"top_p": sampling.top_p, "seed": seed}
        if sampling.choices:  # vLLM's server reads it; one that does not know it refuses, or answers with other texts
            options["extra_body"] = {"structured_outputs": {"choice": list(sampling.choices)}}
        else:
            options |= {"logprobs": True, "top_logprobs": 1}  # llama.cpp's server gives none without the second
        return options

    def _generate(self, job: Job, sampling: Sampling) -> Generation:
        unrestricted = EngineError(
            f"{self._server.where} does not keep to the choices of a restricted answer (structured_outputs, which "
            "vLLM's server knows); set the method's option restricted to false"
        )
        try:
            reply = self._ask(job.prompt, self._options(sampling, job.seed))
        except EngineError as error:
            response = getattr(error.__cause__, "response", None)
            if sampling.choices and response is not None and "structured_outputs" in response.text:
                raise unrestricted from error
            raise
        answer, choices = reply.text[reply.thoughts :].strip(), [choice.strip() for choice in sampling.choices]
        cut = reply.finish_reason == "length" and any(choice.startswith(answer) for choice in choices)
        if choices and answer not in choices and not cut:
            raise unrestricted
        values = None if reply.tokens is None or sampling.choices else tuple(token.logprob for token in reply.tokens)
        return Generation(reply.text, reply.lengths if values else (len(reply.text),), values, reply.finish_reason)

    def _score(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        if any(text.endswith(END) for text in continuations):
            raise EngineError("a server does not score whole answers; use engine transformers or vllm")
        listing = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": _LISTED}
        tokens = self._ask(prompt, listing).tokens
        if not tokens or not tokens[0].likeliest:
            raise EngineError(f"the server gives no log-probabilities of {self.model!r}")
        values = [tokens[0].likeliest.get(text, float("-inf")) for text in continuations]
        if continuations and max(values) == float("-inf"):
            wanted = ", ".join(map(repr, continuations))
            raise EngineError(f"none of {wanted} is among the {_LISTED} likeliest tokens of {self.model!r}")
        return values

    def _refuse(self, adapter: Path | None) -> None:
        if adapter is not None:
            raise EngineError("a server cannot be given an adapter here; use engine transformers or vllm")


def _messages(prompt: Prompt, images: bool) -> list[dict[str, Any]]:
    """Return the chat, with the images in the first turn."""
    messages: list[dict[str, Any]] = [{"role": message.role, "content": message.text} for message in prompt.messages]
    if prompt.images and images:
        pictures = [{"type": "image_url", "image_url": {"url": data_url(path)}} for path in prompt.images]
        messages[0]["content"] = [*pictures, {"type": "text", "text": prompt.messages[0].text}]
    return messages
