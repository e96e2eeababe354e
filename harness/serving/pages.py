"""Templates: every text is made harmless by `text.console` and then escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from conrad_bench.errors import StorageError
from conrad_bench.text import console

_HERE = Path(__file__).parent
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Pages:
    """Fills templates; `known` is what every one of them may show."""

    def __init__(self, **known: Any) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_harmless,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(known)
        self._templates.filters.update(number=number, level=level)

    def page(self, template: str, **values: Any) -> Response:
        """Return a page; `status` is the response's own, 200 unless it is given."""
        status = values.get("status", 200)
        return HTMLResponse(self._templates.get_template(template).render(**values), status)

    def problem(self, _request: Request, error: Exception) -> Response:
        """Return a page about a request that cannot be met; starlette asks for it."""
        status, said = 500, "Something failed; the terminal says where."
        if isinstance(error, HTTPException):
            status, said = error.status_code, error.detail
        elif isinstance(error, StorageError):
            status, said = 503, f"Not saved. {error}"
        response = self.page("problem.html", said=said, status=status)
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})
        return response


def static() -> list[Route]:
    """Return the routes of styles and icons, which are read now: no address leads to another file."""

    def route(path: Path) -> Route:
        data, kind = path.read_bytes(), _KINDS[path.suffix]

        def give(_request: Request) -> Response:
            return Response(data, media_type=kind)

        return Route(f"/static/{path.name}", give)

    return [route(path) for path in sorted((_HERE / "static").iterdir()) if path.suffix in _KINDS]


def link(path: str, query: str = "", at: str = "") -> Markup:
    """Return an address for an attribute of a page, as it is: `query` and `at` are encoded already."""
    return escape(path + f"?{query}" * bool(query) + f"#{at}" * bool(at))


def number(value: float | None) -> str:
    """Return a number in [0, 1] with two digits, a dash where it is unknown."""
    return "–" if value is None or value != value else f"{value:.2f}"


def level(confidence: float | None) -> str:
    """Return the class of a confidence's shade: c0 to c10, cx where it is unknown."""
    return "cx" if confidence is None or confidence != confidence else f"c{int(confidence * 10 + 0.5)}"


def _harmless(value: Any) -> Any:
    return console(value) if isinstance(value, str) and not isinstance(value, Markup) else value
