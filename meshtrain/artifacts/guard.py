"""Lets members in, and tells the others how to sign: the first thing each request meets.

Reading is for all members; putting artifacts here is for persons. The routes
that are open to everybody check by themselves who asks.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from meshtrain.artifacts.answers import refuse
from meshtrain.core.member import Member, MemberKind
from meshtrain.security.signing import (
    NO_BODY,
    Asked,
    HttpSecurity,
    NotSignedError,
    Signed,
    Verifier,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_READS = {"GET", "HEAD"}
_NEWS = "/news"
"""Posted, since it tells what the reader has."""
_READERS = frozenset(MemberKind)
_WRITERS = frozenset({MemberKind.PERSON})
_EMPTY_SHA256 = hashlib.sha256().hexdigest()

_SIGNED = web.RequestKey("signed", Signed)


class Guard:
    """Checks each request to one server.

    Args:
        security: whose server it is, and who belongs to the mesh.
        open_paths: paths that need no signature.
    """

    def __init__(self, security: HttpSecurity, open_paths: frozenset[str] = frozenset()) -> None:
        self._verifier = Verifier(security.identity.member, security.roll)
        self._open_paths = open_paths

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers 401 to what isn't signed by a member, 403 to what that member may not do."""
        if request.path in self._open_paths:
            return await handler(request)
        asked = Asked(request.method, request.raw_path, request.headers.get("Range", ""))
        now_s = asyncio.get_running_loop().time()
        try:
            signed = self._verifier.verify(request.headers.get("Authorization"), asked, now_s)
        except NotSignedError as error:
            return self.challenge(str(error))
        reads = request.method in _READS or request.path.endswith(_NEWS)
        allowed = _READERS if reads else _WRITERS
        if signed.member.kind not in allowed:
            kinds = " and ".join(sorted(f"{kind.value}s" for kind in allowed))
            return refuse(
                403,
                f"{signed.member.kind.value} {signed.member.name!r} may not put anything here: "
                f"that is for {kinds}. Ask with the keys of one",
            )
        request[_SIGNED] = signed
        return await handler(request)

    def challenge(self, why: str) -> web.Response:
        """The answer that asks for a signature, and tells the nonce for it."""
        now_s = asyncio.get_running_loop().time()
        return refuse(401, why, {"WWW-Authenticate": self._verifier.challenge(now_s)})

    def is_signed_body(self, request: web.Request, body: bytes) -> bool:
        """Whether a body is the one that its request was signed with."""
        signed = request.get(_SIGNED)
        if signed is None:
            return False
        expected = _EMPTY_SHA256 if signed.body_sha256 == NO_BODY else signed.body_sha256
        return hashlib.sha256(body).hexdigest() == expected

    def may_go_on(self, request: web.Request) -> bool:
        """Whether who asked is still a member: a long answer stops when it is revoked."""
        signed = request.get(_SIGNED)
        return signed is not None and self._verifier.still_member(signed.member)


def member_of(request: web.Request) -> Member | None:
    """Who made a request; None where there is no membership."""
    signed = request.get(_SIGNED)
    return None if signed is None else signed.member
