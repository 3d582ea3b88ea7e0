"""Lets members in, and tells the others how to sign: the first thing each request meets.

Reading is for all members; putting artifacts here is for persons. The routes
that are open to everybody check by themselves who asks. What programs read that
can't sign, as Prometheus can't, is for holders of a read token too:

    Authorization: Bearer mr1.…        by TLS alone, for the paths named to it alone
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from meshtrain.artifacts.answers import refuse
from meshtrain.clock import wall_now_s
from meshtrain.core.member import Member, MemberKind
from meshtrain.security.loopback import is_own_name
from meshtrain.security.read_tokens import Readers
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
_BEARER = "bearer "
_EMPTY_SHA256 = hashlib.sha256().hexdigest()

_SIGNED = web.RequestKey("signed", Signed)


@web.middleware
async def own_names_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Takes the guard's place without keys: this host alone is served, under names of its own.

    A page in a browser here could else ask for all that is served, and put artifacts here.
    """
    if is_own_name(request.headers.get("Host", "")):
        return await handler(request)
    return refuse(
        403,
        "without keys only this host is served, under a name of its own. Ask for 127.0.0.1, "
        "[::1] or localhost",
    )


class Guard:
    """Checks each request to one server.

    Args:
        security: whose server it is, and who belongs to the mesh.
        open_paths: paths that need no signature.
        readers: who has a read token; None where nobody has.
        read_paths: what those may read, with all that lies below.
    """

    def __init__(
        self,
        security: HttpSecurity,
        open_paths: frozenset[str] = frozenset(),
        readers: Readers | None = None,
        read_paths: Sequence[str] = (),
    ) -> None:
        self._verifier = Verifier(security.identity.member, security.roll)
        self._open_paths = open_paths
        self._readers = readers
        self._read_paths = tuple(read_paths)

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers 401 to what isn't signed by a member, 403 to what that member may not do."""
        if request.path in self._open_paths:
            return await handler(request)
        if self._is_for_readers(request):
            if (refused := self._refuse_reader(request)) is not None:
                return refused
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

    def _is_for_readers(self, request: web.Request) -> bool:
        """Whether a request shows a token where one is taken."""
        path = request.path
        return (
            self._readers is not None
            and request.method in _READS
            and request.headers.get("Authorization", "")[: len(_BEARER)].lower() == _BEARER
            and any(path == known or path.startswith(f"{known}/") for known in self._read_paths)
        )

    def _refuse_reader(self, request: web.Request) -> web.Response | None:
        """Why a read token lets nobody in; None when it does."""
        assert self._readers is not None
        if not request.secure:
            return refuse(
                403,
                "a read token is taken by TLS only, and this one was seen by whoever listens: "
                "revoke it (`meshtrain token --revoke NAME`). Ask at the enrol_port, by https",
            )
        word = request.headers["Authorization"][len(_BEARER) :].strip()
        if self._readers.name_of(word, wall_now_s()) is not None:
            return None
        return self.challenge(
            "this read token is unknown, has expired or was revoked. Make another with "
            "`meshtrain token --read NAME`"
        )

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
