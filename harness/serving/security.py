"""What every request passes, and every answer gets: pages with patients' texts are for one person on this machine.

- Only the server's own name is answered: a foreign page that points its name at this machine is not.
- Requests that another page begins are refused, those from other ports of this machine too, for which a cookie holds as
  well; a request that changes something must say that it comes from here.
- A token in the first address opens a session. The cookie in its place can be read by no script, and the token is in no
  later address.
- Pages may load styles and pictures from here and nothing else: no script runs, nothing is sent elsewhere. Nothing is
  kept in a cache.
- An error that nobody caught is logged by its kind and place: its message may quote a report.
"""

from __future__ import annotations

import hmac
import secrets
import traceback
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import Any

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

NEEDS_TOKEN = "This page is closed. Open the whole address that the command printed; it ends with a token."
FOREIGN = "Refused: another page asked for this one. Paste the address into the browser's address bar."
WRONG_HOST = "Refused: this server has another name. A tunnel must have the server's own port at both ends."


class Guard:
    """An application behind a token."""

    def __init__(self, app: ASGIApp, port: int, say: Callable[[str], None]) -> None:
        """`say` tells the owner of the terminal what went wrong."""
        self.app, self._say = app, say
        self.token = secrets.token_urlsafe(32)
        """What the printed address ends with."""
        self._once = {secrets.token_urlsafe(32)}
        self._session = secrets.token_urlsafe(32)
        self._cookie = f"conrad_bench_{port}"
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    def address(self) -> str:
        """Return the address to print."""
        return f"http://127.0.0.1:{self._cookie.rpartition('_')[2]}/?token={self.token}"

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
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*(h for h in message["headers"] if h[0].decode() not in HEADERS), *ours]
            await send(message)

        request = Request(scope, receive)
        refused = self._refused(request)
        token = request.query_params.get("token")
        if refused is not None:
            await PlainTextResponse(refused[1] + "\n", refused[0])(scope, receive, sending)
        elif token is not None and self._opens(token):
            rest = [(k, v) for k, v in parse_qsl(scope["query_string"].decode("latin-1")) if k != "token"]
            here = f"http://{request.headers['host']}{quote(scope['path'])}"  # whole: "//other" would lead elsewhere
            moved = RedirectResponse(here + f"?{urlencode(rest)}" * bool(rest), 303)
            moved.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
            await moved(scope, receive, sending)
        elif not _equal(request.cookies.get(self._cookie, ""), self._session):
            await PlainTextResponse(NEEDS_TOKEN + "\n", 403)(scope, receive, sending)
        else:
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
        origin, here = request.headers.get("origin"), f"http://{hosts[0].lower()}"
        changes = request.method not in ("GET", "HEAD")
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, FOREIGN
        if (origin is None and changes) or origin not in (None, here):
            return 403, FOREIGN
        return None

    def _opens(self, token: str) -> bool:
        once = next((each for each in self._once if _equal(each, token)), None)
        self._once.discard(once or "")
        return once is not None or _equal(token, self.token)


def _equal(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())
