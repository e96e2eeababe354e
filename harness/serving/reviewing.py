"""A server of the review pages, until Ctrl-C."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conrad_bench.errors import ConfigError
from conrad_bench.reviews.store import NAME, Store
from conrad_bench.serving.reading import read_folder, source_hashes
from conrad_bench.serving.server import application, check_installed, listening, serve
from conrad_bench.version import __version__

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from conrad_bench.progress import Reporter
    from conrad_bench.serving.review import Setting
    from conrad_bench.serving.viewer import Viewer

OPEN_TO_OTHERS = (
    "Others on the network can reach this server. Whoever has the address below can read the pictures and reports of "
    "the run and rate in any rater's name: send it by a safe way, and end the server after the review. The terms of "
    "use of the data hold for everyone who opens it."
)


@dataclass(frozen=True)
class Elsewhere:
    """Another address than this machine's own, with what it needs."""

    host: str
    certificate: Path
    key: Path


def elsewhere(host: str | None, understood: bool, certificate: Path | None, key: Path | None) -> Elsewhere | None:
    """Return where else to listen; None for this machine alone. Raises ConfigError where something is wrong."""
    if host is None:
        if understood or certificate or key:
            raise ConfigError("--i-understand, --tls-cert and --tls-key belong to --host ADDRESS")
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigError("--host takes an address of this machine in numbers, such as 192.0.2.7") from error
    if address.is_unspecified:
        raise ConfigError(f"--host {host} would be every network of this machine; name the one address")
    if certificate is None or key is None or not understood:
        raise ConfigError(
            f"--host {host} needs --tls-cert FILE and --tls-key FILE, so that nobody on the way can read along, and "
            f"--i-understand. {OPEN_TO_OTHERS}"
        )
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--tls-cert {certificate} and --tls-key {key} cannot be used together as PEM files"
        ) from error
    return Elsewhere(str(address), certificate, key)


def make_review(
    folder: Path, setting: Setting, method: str | None, task: str | None, local: bool, reporter: Reporter
) -> tuple[Viewer, Store, Starlette]:
    """Read a run (or reports) and open its log; return the viewer whose pictures are shown, the log, the application.

    Raises what `read_folder`, `certified`, `Reports` and `Store` raise.
    """
    from conrad_bench.reviews.certified import certified
    from conrad_bench.serving.pages import Pages
    from conrad_bench.serving.reports import Reports
    from conrad_bench.serving.review import ReviewPages
    from conrad_bench.serving.viewer import Viewer

    index, sources, known = read_folder(folder, reporter)
    if setting.blind:  # a run's folder is named after its methods, and a model may be known for its confidence
        known |= {"run": "Review", "model": ""}
    pages = Pages(**{**known, "home": "/review", "local": local})
    viewer = Viewer(index, sources, pages)
    advice = {} if setting.blind or setting.target is None else certified(folder, setting.target)
    reports = Reports(viewer, index, sources, method, task)
    store = Store(folder / NAME, *source_hashes(folder), __version__)
    try:
        review = ReviewPages(setting, store, reports, viewer, sources, pages, advice)
    except BaseException:
        store.close()
        raise
    return viewer, store, application(review.routes(), pages)


def review(
    folder: Path,
    setting: Setting,
    method: str | None,
    task: str | None,
    port: int,
    other: Elsewhere | None,
    browser: bool,
    reporter: Reporter,
    tell: Callable[[str], None],
) -> None:
    """Serve the review of a run or of reports until Ctrl-C; `tell` is given the address, with its token.

    Raises what `make_review` raises, MissingExtra, and ConfigError for a port in use.
    """
    check_installed()
    from conrad_bench.serving.security import Guard

    with listening(port) if other is None else listening(port, other.host) as listener:
        viewer, store, app = make_review(folder, setting, method, task, other is None, reporter)
        host = None if other is None else other.host
        guard = Guard(app, listener.getsockname()[1], reporter.say, scripts=True, host=host)
        if other is not None:
            reporter.say(OPEN_TO_OTHERS)
        try:
            serve(guard, listener, browser, tell, None if other is None else (other.certificate, other.key))
            reporter.say("the review has ended; the same command goes on with it")
        finally:
            viewer.films.close()
            store.close()


def _no_password() -> str:
    raise ValueError("the key has a password")  # it would be asked for on the terminal, by OpenSSL
