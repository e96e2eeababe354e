"""What every request passes, and every answer gets: pages with patients' texts are for one person on this machine.

- Only the server's own name is answered: a foreign page that points its name at this machine is not.
- Requests that another page begins are refused, those from other ports of this machine too, for which a cookie holds as
  well; a request that changes something must say that it comes from here.
- A token in the first address opens a session, one for each browser. The cookie in its place can be read by no script,
  and the token is in no later address. A session ends when its page says so, or half a day after its last request.
- Pages may load styles and pictures from here and nothing else: no script runs (but for files of our own on pages that
  need them, never one within a page), nothing is sent elsewhere. Nothing but
  these files is kept in a cache.
- What changes something must hold the session's own token too (`Session.csrf`), has a small body, and comes no faster
  than a person can type (`Session.may_write`).
- An error that nobody caught is logged by its kind and place: its message may quote a report.
"""

from __future__ import annotations

import hmac
import secrets
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import Any

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""On every answer. (Without referrers at all a form could not say that it comes from here.)"""

STATIC = "private, max-age=600"
"""How long a browser may keep styles, scripts and icons."""
SCRIPTS = "; script-src 'self'; connect-src 'self'"
"""What the policy of pages with scripts allows besides: files of this server, and requests to it."""
MOST_BODY = 2**16
"""Bytes of a request that changes something."""
WRITES_A_SECOND, WRITES_AT_ONCE = 20, 60
"""Above these a session is told to wait."""
_MOST_SESSIONS = 200
_IDLE_S = 12 * 3600

NEEDS_TOKEN = "This page is closed. Open the whole address that the command printed; it ends with a token."
FOREIGN = "Refused: another page asked for this one. Paste the address into the browser's address bar."
WRONG_HOST = "Refused: this server has another name. A tunnel must have the server's own port at both ends."


@dataclass(slots=True)
class Session:
    """What the server knows of one browser; pages find it as `request.state.session`."""

    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """What each form of this session holds."""
    known: dict[str, int] = field(default_factory=dict)
    """What pages keep of it."""
    ended: bool = False
    _used: float = field(default_factory=time.monotonic)
    _allowed: float = WRITES_AT_ONCE
    _counted: float = field(default_factory=time.monotonic)

    def is_open(self) -> bool:
        """Tell whether the session goes on, and count this request as its last."""
        now = time.monotonic()
        self.ended = self.ended or now - self._used > _IDLE_S
        self._used = now
        return not self.ended

    def may_write(self) -> bool:
        """Tell whether something may be changed now, and count it."""
        now = time.monotonic()
        self._allowed = min(WRITES_AT_ONCE, self._allowed + (now - self._counted) * WRITES_A_SECOND)
        self._counted = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True


class Guard:
    """An application behind a token."""

    def __init__(
        self,
        app: ASGIApp,
        port: int,
        say: Callable[[str], None],
        scripts: bool = False,
        host: str | None = None,
    ) -> None:
        """`say` tells the owner of the terminal what went wrong; `scripts` allows files of them.

        A `host` is that of another address than this machine's own; it is spoken to by TLS alone.
        """
        self.app, self._say = app, say
        self.token = secrets.token_urlsafe(32)
        """What the printed address ends with."""
        self.headers = dict(HEADERS)
        if scripts:
            self.headers["content-security-policy"] += SCRIPTS
        self._once = {secrets.token_urlsafe(32)}
        self._sessions: dict[str, Session] = {}
        self._cookie = f"conrad_bench_{port}"
        self._scheme = "http" if host is None else "https"
        names = ("127.0.0.1", "localhost") if host is None else (f"[{host}]" if ":" in host else host.lower(),)
        # A browser leaves out the port that is usual.
        self._hosts = [f"{name}:{port}" for name in names] + [n for n in names if host is not None and port == 443]

    def address(self) -> str:
        """Return the address to print."""
        return f"{self._scheme}://{self._hosts[0]}/?token={self.token}"

    def address_once(self) -> str:
        """Return an address that opens once: others may read it where a browser is started with it."""
        return self.address().replace(self.token, next(iter(self._once)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass a request on."""
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse, RedirectResponse

        if scope["type"] != "http":
            return
        begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                # Styles and scripts are nobody's: fetched anew for each page they would be half of its time.
                file = scope["path"].startswith("/static/")
                kept = self.headers | {"cache-control": STATIC} if file else self.headers
                ours = [(name.encode(), value.encode()) for name, value in kept.items()]
                message["headers"] = [*(h for h in message["headers"] if h[0].decode() not in HEADERS), *ours]
            await send(message)

        request = Request(scope, receive)
        refused = self._refused(request)
        token = request.query_params.get("token")
        if refused is not None:
            await PlainTextResponse(refused[1] + "\n", refused[0])(scope, receive, sending)
        elif token is not None and self._opens(token):
            rest = [(k, v) for k, v in parse_qsl(scope["query_string"].decode("latin-1")) if k != "token"]
            # Whole: "//other" would lead elsewhere.
            here = f"{self._scheme}://{request.headers['host']}{quote(scope['path'])}"
            moved = RedirectResponse(here + f"?{urlencode(rest)}" * bool(rest), 303)
            moved.set_cookie(
                self._cookie, self._opened(), httponly=True, samesite="strict", secure=self._scheme == "https"
            )
            await moved(scope, receive, sending)
        elif (session := self._session(request.cookies.get(self._cookie, ""))) is None:
            await PlainTextResponse(NEEDS_TOKEN + "\n", 403)(scope, receive, sending)
        else:
            scope.setdefault("state", {})["session"] = session
            try:
                await self.app(scope, receive, sending)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{where.filename}, line {where.lineno}"
                self._say(f"error: unexpected {type(error).__name__} in {place}; this is a bug or a broken plugin")
                if not begun:
                    await PlainTextResponse("Something failed; the command's terminal says where.\n", 500)(
                        scope, receive, sending
                    )

    def _refused(self, request: Any) -> tuple[int, str] | None:
        """Return status and reason where a request is not from here."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 421, WRONG_HOST
        origin, here = request.headers.get("origin"), f"{self._scheme}://{hosts[0].lower()}"
        changes = request.method not in ("GET", "HEAD")
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, FOREIGN
        if (origin is None and changes) or origin not in (None, here):
            return 403, FOREIGN
        return None

    def _opened(self) -> str:
        """Begin a session and return its name; the oldest goes where there are too many."""
        name = secrets.token_urlsafe(32)
        if len(self._sessions) >= _MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        self._sessions[name] = Session()
        return name

    def _session(self, name: str) -> Session | None:
        session = self._sessions.get(name)  # names of 256 random bits: the time to look one up tells nothing of them
        if session is not None and not session.is_open():
            del self._sessions[name]
            return None
        return session

    def _opens(self, token: str) -> bool:
        once = next((each for each in self._once if _equal(each, token)), None)
        self._once.discard(once or "")
        return once is not None or _equal(token, self.token)


def _equal(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form of this session. Raises HTTPException: 403, 413, 415, 429."""
    from starlette.exceptions import HTTPException

    session: Session = request.state.session
    if not session.may_write():
        raise HTTPException(429, "Too many requests; wait a moment.", {"retry-after": "1"})
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "This is no form.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            raise HTTPException(413, "This is too long.")
    try:
        fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=10, errors="strict"))
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None
    if not _equal(fields.pop("csrf", ""), session.csrf):
        raise HTTPException(403, "Refused: this form is not of this session. Load the page again.")
    return fields
