"""A server for this machine alone, until Ctrl-C."""

from __future__ import annotations

import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import ConfigError, MissingExtra, StorageError
from conrad_bench.runs import open_run
from conrad_bench.storage import read_json

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.routing import Route

    from conrad_bench.progress import Reporter
    from conrad_bench.serving.index import Index
    from conrad_bench.serving.pages import Pages
    from conrad_bench.serving.security import Guard
    from conrad_bench.serving.sources import Source
    from conrad_bench.serving.viewer import Viewer

_HOST = "127.0.0.1"


def check_installed() -> None:
    """Raise MissingExtra where a package of the extra `view` is missing."""
    try:
        import jinja2  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            'the viewer needs starlette, jinja2 and uvicorn: pip install "conrad-bench[view]"'
        ) from error


def read_run(folder: Path, reporter: Reporter) -> tuple[Index, dict[str, Source], dict[str, Any]]:
    """Read a run: its claims, the examples of its tasks, and what its pages may say of it.

    Raises DataError where the folder holds no run or no texts, StorageError for a damaged file.
    """
    from conrad_bench.serving.index import Index
    from conrad_bench.serving.sources import find_sources

    run = open_run(folder)
    index = Index(run.responses())
    reporter.say("reading the data")
    sources = find_sources(folder, {name: index.clusters(name) for name in index.choices["task"]}, reporter)
    about = (read_json(folder / "context.json") or {}).get("context")
    about = about if isinstance(about, dict) else {}
    known = {
        "run": folder.resolve().name,
        "model": str(about.get("model", "")),
        "data": str(about.get("data", "")),
        "phantom": about.get("phantom") is True,
        "home": "/",
        "local": True,
    }
    return index, sources, known


def make_viewer(folder: Path, reporter: Reporter) -> tuple[Viewer, Starlette]:
    """Read a run, and return its viewer and the application that serves it, without a guard.

    Raises what `read_run` raises.
    """
    from conrad_bench.serving.pages import Pages
    from conrad_bench.serving.viewer import Viewer

    index, sources, known = read_run(folder, reporter)
    pages = Pages(**known)
    viewer = Viewer(index, sources, pages)
    return viewer, application(viewer.routes(), pages)


def application(routes: Sequence[Route], pages: Pages) -> Starlette:
    """Return an application of these pages, their styles, and a page for what cannot be met."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException

    from conrad_bench.serving.pages import static

    handlers = dict.fromkeys((HTTPException, StorageError, Exception), pages.problem)
    return Starlette(routes=[*routes, *static()], exception_handlers=handlers)


def view(folder: Path, port: int, browser: bool, reporter: Reporter, tell: Callable[[str], None]) -> None:
    """Serve the pages of a run until Ctrl-C; `tell` is given the address, with its token.

    Port 0 is one that is free. Raises what `make_viewer` raises, MissingExtra, and ConfigError for a port in use.
    """
    check_installed()
    from conrad_bench.serving.security import Guard

    with listening(port) as listener:
        viewer, app = make_viewer(folder, reporter)
        guard = Guard(app, listener.getsockname()[1], reporter.say)
        try:
            serve(guard, listener, browser, tell)
            reporter.say("the viewer has ended")
        finally:
            viewer.films.close()


def serve(
    guard: Guard,
    listener: socket.socket,
    browser: bool,
    tell: Callable[[str], None],
    tls: tuple[Path, Path] | None = None,
) -> None:
    """Answer until Ctrl-C; `tls` are the files of a certificate and its key."""
    import uvicorn

    # Without its logs: an address holds ids and what was searched for, a traceback may quote a report.
    config = uvicorn.Config(
        guard,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        ssl_certfile=None if tls is None else tls[0],
        ssl_keyfile=None if tls is None else tls[1],
    )
    tell(guard.address())
    if browser and _has_browser():
        threading.Thread(target=webbrowser.open, args=[guard.address_once()], daemon=True).start()
    with suppress(KeyboardInterrupt):  # the way it ends: uvicorn lets the last answers go out first
        uvicorn.Server(config).run(sockets=[listener])


def listening(port: int, host: str = _HOST) -> socket.socket:
    """Return a socket that listens at one address, this machine's own unless another is given.

    Raises ConfigError for a port or an address that cannot be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        where = "" if host == _HOST else f" at --host {host}"
        raise ConfigError(
            f"--port {port}{where} cannot be had ({error.strerror}); name another, or leave the option out for a free "
            "one"
        ) from error
    return listener


def _has_browser() -> bool:
    """Tell whether a browser with windows can be opened; one of the terminal's would take the terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
