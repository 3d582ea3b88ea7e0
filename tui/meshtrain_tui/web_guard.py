"""Who may see the dashboard in a browser: whoever has the mesh's web token, and nobody else.

The token lies in HOME/web-token, for this user alone, and stays the same, so that a
bookmark does; `--new-token` makes another, and closes out who had the old one. It is
given once, in the address that the command prints; the browser keeps a cookie made
of it, which no other site's page can use.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from meshtrain.errors import SettingsError
from meshtrain.security.loopback import is_own_name
from meshtrain.security.private_file import make_private_home, read_private, write_private

TOKEN_FILE = "web-token"
TOKEN_BYTES = 24
WRONG_TRIES_AT_ONCE_MAX = 20
WRONG_TRIES_PER_S_MAX = 10.0
"""Wrong tokens that are looked at; a guesser needs 2^191."""
COOKIE_DAYS = 30
_COOKIE_LABEL = b"meshtrain web cookie 1\0"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "font-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def web_token(home: Path, *, anew: bool = False) -> str:
    """The token of this home, made first when there is none, or when `anew` asks for another.

    Raises SettingsError when its file is damaged, or others may read it.
    """
    path = home / TOKEN_FILE
    if not anew:
        try:
            token = read_private(path, 1000).decode("ascii", "replace").strip()
        except FileNotFoundError:
            token = ""
        else:
            if len(token) < TOKEN_BYTES:
                raise SettingsError(f"{path} is damaged: make another with --new-token")
        if token:
            return token
    make_private_home(home)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    write_private(path, token.encode() + b"\n")
    return token


class Guard:
    """Lets requests through that show the token, or the cookie made of it.

    Args:
        token: what is to be shown.
        port: names the cookie, since a browser keeps one jar for all ports of a host.
        loopback: only this host is served, under its own names: another name that leads
            here is somebody's trick.
        secure: it is served with TLS.
    """

    def __init__(self, token: str, port: int, *, loopback: bool, secure: bool) -> None:
        self._token = token
        self._cookie_name = f"meshtrain-{port}"
        self._cookie = hashlib.sha256(_COOKIE_LABEL + token.encode()).hexdigest()
        self._loopback = loopback
        self._secure = secure
        self._tries_left = float(WRONG_TRIES_AT_ONCE_MAX)
        self._tried_s = time.monotonic()

    @web.middleware
    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await self._passed(request, handler)
        except web.HTTPException as refusal:
            refusal.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _passed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._loopback and not is_own_name(request.host):
            raise web.HTTPForbidden(text="This is served to this host alone, as 127.0.0.1.\n")
        shown = request.query.get("token")
        if shown is not None and request.path == "/":
            self._check(shown)
            # The token is not to stay in the address, which is kept and shown.
            response = web.HTTPSeeOther("/")
            response.set_cookie(
                self._cookie_name,
                self._cookie,
                max_age=COOKIE_DAYS * 86400,
                httponly=True,
                samesite="Lax",
                secure=self._secure,
                path="/",
            )
            raise response
        cookie = request.cookies.get(self._cookie_name, "")
        if not _is_same(cookie, self._cookie):
            raise web.HTTPUnauthorized(
                text="This dashboard needs the mesh's web token: open the address that "
                "`meshtrain top --web` printed.\n"
            )
        if "Upgrade" in request.headers and not self._is_own(request):
            raise web.HTTPForbidden(text="Another site's page may not open a session here.\n")
        return await handler(request)

    def _is_own(self, request: web.Request) -> bool:
        """Whether a page of ours asks: cookies alone are sent for any page."""
        origin = request.headers.get("Origin", "")
        return origin == f"{'https' if self._secure else 'http'}://{request.host}"

    def _check(self, shown: str) -> None:
        now_s = time.monotonic()
        self._tries_left = min(
            WRONG_TRIES_AT_ONCE_MAX,
            self._tries_left + (now_s - self._tried_s) * WRONG_TRIES_PER_S_MAX,
        )
        self._tried_s = now_s
        if self._tries_left < 1:
            raise web.HTTPTooManyRequests(text="Too many wrong tokens: try again in a second.\n")
        if not _is_same(shown, self._token):
            self._tries_left -= 1
            raise web.HTTPForbidden(
                text="This is not the mesh's web token: open the address that "
                "`meshtrain top --web` printed.\n"
            )


def _is_same(shown: str, secret: str) -> bool:
    """In a time that tells nothing; what is shown may hold bytes that are no text."""
    return hmac.compare_digest(shown.encode("utf-8", "surrogatepass"), secret.encode())
