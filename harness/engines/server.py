"""Asking a server with OpenAI's chat interface in words that it takes, and saying what its errors mean.

Servers differ in what they refuse. What one refuses is left out, or said in another word, once it has shown that it
answers so; a server is asked in its own words from then on.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

from conrad_bench.engines.replies import NotAnAnswer, Reply, filtered, read
from conrad_bench.errors import EngineError, MissingExtra, ModelError
from conrad_bench.text import without_keys

if TYPE_CHECKING:
    import openai

KEY = "OPENAI_API_KEY"
"""Environment variable with the server's key. It is never written anywhere."""

RENAMED = {"max_tokens": "max_completion_tokens"}
"""What servers that refuse a word may know under another one."""

CHOOSING = frozenset({"temperature", "top_p"})
"""How tokens are chosen: left out together, and only before the first answer, since the answers change with them."""

OMITTED = frozenset({"logprobs", "top_logprobs", "seed"})
"""What servers may be asked without."""

_WORDS = (
    frozenset({"messages", "model", "n", "logit_bias", "stop"}) | OMITTED | CHOOSING | {*RENAMED, *RENAMED.values()}
)
"""What messages say that a server's error is about."""

_NAME = re.compile(r"[\w./:@+-]{1,96}", re.ASCII)
_MOST_NAMED = 20
"""Models that a message lists, and what their names look like."""

_REFUSALS = frozenset({400, 403, 422, 500, 501})
"""Statuses with which servers refuse a request that has a word too many."""

_UNEXPLAINED = frozenset({400, 403, 422})
"""Those of them with which a server may refuse a word without saying so."""

_LONGEST_PAUSE = 8.0


def phrased(options: Mapping[str, Any], refused: frozenset[str]) -> dict[str, Any]:
    """Return options without the words that a server refuses, or in others."""
    left_out = refused | ({"top_logprobs"} if "logprobs" in refused else frozenset())
    kept = {RENAMED.get(name, name) if name in left_out else name: value for name, value in options.items()}
    return {name: value for name, value in kept.items() if name not in left_out}


class Server:
    """One model on one server."""

    def __init__(self, base_url: str, model: str, retries: int, timeout: float) -> None:
        self._base_url, self.model, self._retries, self._timeout = base_url, model, retries, timeout
        self._addresses: tuple[str, ...] = (base_url,) if base_url.endswith("/v1") else (base_url, f"{base_url}/v1")
        """Where the interface may be; one as soon as it has answered."""
        self._client: Any = None
        self._answered = False
        self.refused: frozenset[str] = frozenset()
        """Words that the server is not asked with any more."""

    @property
    def where(self) -> str:
        """How messages call the server."""
        return f"the server at {without_keys(self._base_url)}"

    def connect(self) -> openai.OpenAI:
        """Return the client, whose threads share its connections. Raises MissingExtra without its package."""
        if self._client is None:
            if find_spec("openai") is None:
                raise MissingExtra('engine openai needs its client: pip install "conrad-bench[openai]"')
            from openai import OpenAI

            self._client = OpenAI(
                base_url=self._base_url,
                api_key=os.environ.get(KEY) or "none",  # a local server needs none
                max_retries=self._retries,
                timeout=self._timeout,
            )
        client: openai.OpenAI = self._client
        return client

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def ask(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> Reply:
        """Return the server's answer to a chat.

        Raises ModelError for a key, a model or an address that is wrong, EngineError for what else goes wrong, after
        the retries where these may help. No message holds text of request or reply.
        """
        import openai

        try:
            return self.try_to_ask(messages, options)
        except openai.OpenAIError as error:
            self.explain(error)
        except NotAnAnswer as error:
            raise EngineError(
                f"{self.where} sent {error} in place of an answer, after {self._retries + 1} tries; look at its log "
                "and at what stands between (a proxy, a gateway), and check --base-url; what was answered is kept"
            ) from error

    def try_to_ask(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], patient: bool = True
    ) -> Reply:
        """Return what `ask` returns, and raise the client's errors or NotAnAnswer; no retries if not `patient`."""
        reply, refused = self._ask(messages, options, self.refused, patient)
        self._answered = True
        self.refused |= refused
        return reply

    def _ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        refused: frozenset[str],
        patient: bool,
        guessing: bool = False,
    ) -> tuple[Reply, frozenset[str]]:
        """Return the answer, and the words without which it came."""
        import openai

        asked = phrased(options, refused)
        try:
            return self._send(messages, asked, patient), refused
        except openai.APIStatusError as error:
            if getattr(error, "code", None) == "content_filter":
                return filtered(), refused
            named = _named(error, asked)
            silent = not named and not getattr(error, "param", None) and error.status_code in _UNEXPLAINED
            guesses = silent and not guessing and not self._answered
            for more in self._without(named, asked, guesses) if error.status_code in _REFUSALS else ():
                try:
                    return self._ask(messages, options, refused | more, patient, guessing or guesses)
                except openai.APIStatusError:
                    continue
            raise

    def _without(self, named: frozenset[str], asked: Mapping[str, Any], guess: bool) -> Iterator[frozenset[str]]:
        """Yield the words to do without: those that an error names, or else all in turn if `guess`, and then together.

        A refusal that names none is most often about what the request says. So nothing is guessed once the server has
        answered.
        """
        some = named or (frozenset({"logprobs", *CHOOSING, *RENAMED}) & asked.keys() if guess else frozenset())
        if self._answered:
            some -= CHOOSING
        parts = [part for part in (some & OMITTED, some & CHOOSING, some & RENAMED.keys()) if part]
        yield from (part | (CHOOSING if part & CHOOSING else frozenset()) for part in parts)
        if len(parts) > 1:
            yield some | (CHOOSING if some & CHOOSING else frozenset())

    def _send(self, messages: Sequence[Mapping[str, Any]], asked: Mapping[str, Any], patient: bool) -> Reply:
        """Send one request until it is answered. The client sends it again when the server is busy or fails."""
        tries = self._retries + 1 if patient else 1
        for number in range(1, tries + 1):
            try:
                return self._send_once(messages, asked, tries - 1)
            except NotAnAnswer:
                if number == tries:
                    raise
                time.sleep(min(0.5 * 2 ** (number - 1), _LONGEST_PAUSE) * random.uniform(0.75, 1))
        raise AssertionError("unreachable: the last try returns or raises")

    def _send_once(self, messages: Sequence[Mapping[str, Any]], asked: Mapping[str, Any], retries: int) -> Reply:
        import openai

        first: Exception | None = None
        for address in self._addresses:
            client = self.connect().with_options(base_url=address, max_retries=retries)
            try:
                raw = client.chat.completions.with_raw_response.create(
                    model=self.model,
                    messages=messages,
                    **asked,
                )
                reply = read(raw.text, raw.headers.get("content-type", ""))
            except (openai.APIStatusError, NotAnAnswer) as error:
                if isinstance(error, openai.APIStatusError) and error.status_code not in (404, 405):
                    raise
                first = first or error
                continue
            self._addresses = (address,)
            return reply
        assert first is not None
        raise first

    def explain(self, error: openai.OpenAIError) -> NoReturn:
        """Raise what an error of the client means. Its own text is left out: it may quote the request."""
        import openai

        where = self.where
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            raise ModelError(f"{where} refuses the key ({error.status_code}); set {KEY} to a valid one") from error
        if isinstance(error, openai.APIStatusError) and error.status_code in (404, 405):
            served = self._served()
            if served is None:
                raise ModelError(
                    f"{where} has no model {self.model!r}, or no chat interface at this address "
                    f"({error.status_code}); check --model and --base-url"
                ) from error
            raise ModelError(f"{where} has no model {self.model!r}; it serves: {served}") from error
        if isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota":
            raise EngineError(f"{where} has no credit left for this key (429); what was answered is kept") from error
        if isinstance(error, openai.RateLimitError):
            raise EngineError(
                f"{where} is too busy (429) after {self._retries + 1} tries; lower openai.concurrency, or come back "
                "later: what was answered is kept"
            ) from error
        if isinstance(error, openai.APITimeoutError):
            raise EngineError(f"{where} did not answer within {self._timeout:.0f} s; raise openai.timeout") from error
        if isinstance(error, openai.APIConnectionError):
            raise EngineError(f"{where} cannot be reached; start it, or set --base-url") from error
        if isinstance(error, openai.APIStatusError):
            said = str(getattr(error, "param", None))
            about = f", about {said!r}" if said in _WORDS else ""  # any other could quote the request, or a key
            raise EngineError(f"{where} refuses a request ({error.status_code}{about})") from error
        raise EngineError(f"{where} gave an answer that cannot be read ({type(error).__name__})") from error

    def _served(self) -> str | None:
        """Return the models that the server lists, None where it lists none."""
        import openai

        for address in self._addresses:
            try:
                models = self.connect().with_options(base_url=address, max_retries=0).models.list()
                names = [name for model in models if _NAME.fullmatch(name := without_keys(str(model.id)))]
                return ", ".join(names[:_MOST_NAMED]) + ", ..." * (len(names) > _MOST_NAMED) or "nothing"
            except (openai.OpenAIError, ValueError, TypeError, AttributeError):
                continue  # another address, or a server that lists its models in a way of its own
        return None


def _named(error: openai.APIStatusError, asked: Mapping[str, Any]) -> frozenset[str]:
    """Return the words of a request that an error is about, by its parameter or else by its text."""
    said = getattr(error, "param", None) or error.response.text
    words = OMITTED | CHOOSING | RENAMED.keys()
    return frozenset(name for name in words & asked.keys() if re.search(rf"\b{name}\b", str(said)))
