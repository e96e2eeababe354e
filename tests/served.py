"""A local web server that answers as real ones do, and the engine that asks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from conrad_bench.engines.openai import OpenAIEngine
from conrad_bench.types import Message, Prompt

Answer = Callable[[dict[str, Any], int], tuple[int, Any]]
"""Returns the status and the body (JSON, or a text that is sent as a web page) for a request and its number."""

CHAT = "/v1/chat/completions"


class Servers:
    """Web servers whose answer is a function of the request and of how many came before."""

    def __init__(self) -> None:
        self._running: list[ThreadingHTTPServer] = []

    def __call__(self, answer: Answer, path: str = CHAT) -> tuple[str, list[dict[str, Any]]]:
        """Start one and return its address up to /v1 and the list of what it is asked; other paths are 404."""
        asked: list[dict[str, Any]] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def _reply(self, status: int, body: Any) -> None:
                page = isinstance(body, str)
                data = (body if page else json.dumps(body)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html; charset=utf-8" if page else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                listed = {"object": "list", "data": [{"id": "the/model", "object": "model"}]}
                self._reply(*((200, listed) if self.path == "/v1/models" else (404, {"detail": "Not Found"})))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == path:
                    with lock:
                        asked.append({**body, "authorization": self.headers["Authorization"]})
                        number = len(asked)
                    self._reply(*answer(body, number))
                else:
                    self._reply(404, {"detail": "Not Found"})

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._running.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/v1", asked

    def stop(self) -> None:
        """End them all."""
        for server in self._running:
            server.shutdown()
            server.server_close()


def said(
    text: Any,
    tokens: list[tuple[str, float]] | None = None,
    top: list[tuple[str, float]] | None = None,
    prompt_tokens: int | None = None,
    finish: str | None = "stop",
    **message: Any,
) -> tuple[int, dict[str, Any]]:
    """Return an answer: its text, its tokens, the likeliest at each place, further fields of its message."""
    content = [
        {
            "token": token,
            "logprob": value,
            "bytes": list(token.encode()),
            "top_logprobs": [{"token": t, "logprob": v, "bytes": None} for t, v in top or []],
        }
        for token, value in tokens or []
    ]
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text, **message},
        "logprobs": {"content": content} if tokens else None,
    }
    usage = {} if prompt_tokens is None else {"usage": {"prompt_tokens": prompt_tokens}}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], **usage}


def refused(status: int, **error: Any) -> tuple[int, dict[str, Any]]:
    """Return an error in OpenAI's form."""
    return status, {"error": {"message": "", "param": None, "code": None, "type": "invalid_request_error", **error}}


def picture_of(body: dict[str, Any]) -> str | None:
    """Return the first picture in a request, as its URL."""
    content = body["messages"][0]["content"]
    return None if isinstance(content, str) else str(content[0]["image_url"]["url"])


def ask(text: str, images: tuple[str, ...] = (), prefix: str = "") -> Prompt:
    """Return a prompt of one turn."""
    return Prompt((Message("user", text),), images, prefix=prefix)


def engine(url: str, **options: Any) -> OpenAIEngine:
    """Return the engine for the model on a server."""
    return OpenAIEngine(model="the/model", base_url=url, **options)
