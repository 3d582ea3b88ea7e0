"""Signed requests: who asks a member's HTTP server for something, shown by a key of its own.

    Authorization: Mesh node/gpu1 nonce=… instance=… count=… body=… signature=…
    WWW-Authenticate: Mesh nonce=…                 with each 401

The signature (Ed25519) covers the server that is asked, its nonce, the client,
the instance of the client and its count, the method, the path with its query,
the Range and the SHA-256 of the body. So a request is good for one server, in
one of its nonce's lives, once, and for nothing else than it says. The server
looks the key up in its last list of members: that works while the master is
away, and a key that is revoked there is refused from then on.

A nonce is drawn when the server starts, and anew after a time or when the
table of counts is full. The table then starts empty: what was signed over the
former nonce is refused anyway. So memory is bounded, and no replay passes.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meshtrain.core.member import Member, MemberKind
from meshtrain.errors import MeshtrainError
from meshtrain.security.keys import Identity
from meshtrain.security.membership import Roll

HEADER_BYTES_MAX: Final = 1024
NONCE_LIFE_S: Final = 3600.0
INSTANCES_MAX: Final = 4096
"""Clients whose counts a server keeps, over all members."""
WINDOW: Final = 1024
"""How far behind a client's highest count one may come: requests run in parallel."""
NO_BODY: Final = "-"

_TAG: Final = "meshtrain-http-1"
_TOKEN_BYTES: Final = 16
_NONCE = r"[0-9a-f]{32}"
_CHALLENGE = re.compile(rf"Mesh nonce=({_NONCE})")
_AUTHORIZATION = re.compile(
    r"Mesh (?P<kind>master|node|person)/(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,63})"
    rf" nonce=(?P<nonce>{_NONCE}) instance=(?P<instance>{_NONCE})"
    r" count=(?P<count>[1-9][0-9]{0,17}) body=(?P<body>[0-9a-f]{64}|-)"
    r" signature=(?P<signature>[0-9a-f]{128})",
    re.ASCII,
)


class NotSignedError(MeshtrainError):
    """Raised when a request is not signed, or not so that it counts; it may be signed anew."""


class HttpSecurity(msgspec.Struct, frozen=True):
    """How a member serves and asks over HTTP."""

    identity: Identity
    roll: Roll
    encrypt: bool = True
    """Whether bodies travel by TLS; without it they are in the clear, and requests signed."""


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """What a request asks for, as it is signed."""

    method: str
    target: str
    """The path with its query, as it stands in the request."""
    range: str = ""
    """The Range header."""


class _Header(msgspec.Struct, frozen=True):
    kind: MemberKind
    name: str
    nonce: str
    instance: str
    count: int
    body: str
    signature: bytes


class Signed(msgspec.Struct, frozen=True):
    """A request whose signature is good."""

    member: Member
    """Who asks."""
    body_sha256: str
    """Of the body, in hex; NO_BODY when there is none."""


class Signer:
    """Signs one client's requests to one server.

    Args:
        identity: who asks.
        server: who is asked.
    """

    def __init__(self, identity: Identity, server: Member) -> None:
        self.server = server
        self._identity = identity
        self._instance = secrets.token_hex(_TOKEN_BYTES)
        self._count = 0
        self._nonce: str | None = None

    @property
    def knows_nonce(self) -> bool:
        """Whether the server has told its nonce; before that nothing can be signed."""
        return self._nonce is not None

    def learn(self, challenge: str | None) -> bool:
        """Takes the nonce from a WWW-Authenticate header; says whether there is one."""
        match = _CHALLENGE.fullmatch(challenge) if challenge is not None else None
        if match is None:
            return False
        self._nonce = match[1]
        return True

    def sign(self, asked: Asked, body_sha256: str = NO_BODY) -> str:
        """The Authorization header of a request; each one is good once.

        Raises:
            NotSignedError: when the server's nonce isn't known yet.
        """
        if self._nonce is None:
            raise NotSignedError(
                f"nothing can be signed for {self.server.name}: its nonce isn't known yet. Ask "
                "it once without a signature, and learn the nonce from its answer"
            )
        self._count += 1
        client = self._identity.member
        signature = self._identity.sign(
            _to_sign(
                self.server, client, self._nonce, self._instance, self._count, asked, body_sha256
            )
        )
        return (
            f"Mesh {client.kind.value}/{client.name} nonce={self._nonce} "
            f"instance={self._instance} count={self._count} body={body_sha256} "
            f"signature={signature.hex()}"
        )


class Verifier:
    """Checks the signatures of requests to one server.

    Args:
        server: whose server it is.
        roll: who belongs to the mesh.
        nonce_life_s: after which a new nonce is drawn.
        instances_max: clients whose counts are kept; one more brings a new nonce.
    """

    def __init__(
        self,
        server: Member,
        roll: Roll,
        *,
        nonce_life_s: float = NONCE_LIFE_S,
        instances_max: int = INSTANCES_MAX,
    ) -> None:
        self._server = server
        self._roll = roll
        self._nonce_life_s = nonce_life_s
        self._instances_max = instances_max
        self._counts: dict[tuple[MemberKind, str, str], _Counts] = {}
        self._nonce = ""
        self._nonce_until_s = float("-inf")

    def challenge(self, now_s: float) -> str:
        """The WWW-Authenticate header that tells the nonce.

        Args:
            now_s: on a clock that never goes back.
        """
        if now_s >= self._nonce_until_s:
            self._renew(now_s)
        return f"Mesh nonce={self._nonce}"

    def verify(self, authorization: str | None, asked: Asked, now_s: float) -> Signed:
        """Who asks; each signature passes once.

        The body has still to be held against `body_sha256`.

        Raises:
            NotSignedError: when there is no signature, or one that doesn't count; the
                message tells why.
        """
        header = _parse(authorization)
        if now_s >= self._nonce_until_s:
            self._renew(now_s)
        if header.nonce != self._nonce:
            raise NotSignedError(
                "the request is signed over another nonce than this server's. Sign it anew"
            )
        member = self._roll.by_name(header.kind, header.name)
        if member is None or not _is_good(self._server, member, header, asked):
            raise NotSignedError(
                f"the signature is not that of {header.kind.value} {header.name!r} on the list of "
                "members here, or not of this request. Join the mesh with a token "
                "(`meshtrain token` where the master runs); a new member waits a moment, until "
                "the list has come here"
            )
        self._count(header, now_s)
        return Signed(member, header.body)

    def still_member(self, member: Member) -> bool:
        """Whether a member's key still counts; to be asked while a long answer is sent."""
        now = self._roll.by_name(member.kind, member.name)
        return now is not None and now.sign_key == member.sign_key

    def _count(self, header: _Header, now_s: float) -> None:
        key = (header.kind, header.name, header.instance)
        counts = self._counts.get(key)
        if counts is None:
            if len(self._counts) >= self._instances_max:
                self._renew(now_s)
                raise NotSignedError(
                    "this server has seen too many clients, and drew a new nonce. Sign the "
                    "request anew"
                )
            counts = self._counts[key] = _Counts()
        if not counts.take(header.count):
            raise NotSignedError(
                f"request {header.count} of this client was seen already, or comes after "
                f"{WINDOW} later ones. Sign it anew"
            )

    def _renew(self, now_s: float) -> None:
        self._nonce = secrets.token_hex(_TOKEN_BYTES)
        self._nonce_until_s = now_s + self._nonce_life_s
        self._counts.clear()


class _Counts:
    """Which counts of one client were seen: the highest, and a window behind it (RFC 4303)."""

    __slots__ = ("_highest", "_seen")

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 0
        """Bit n stands for the n-th count below the highest."""

    def take(self, count: int) -> bool:
        """Whether a count is new; it is not any more after this."""
        ahead = count - self._highest
        if ahead > 0:
            shifted = self._seen << ahead if ahead < WINDOW else 0
            self._seen = (shifted | 1) & ((1 << WINDOW) - 1)
            self._highest = count
            return True
        if -ahead >= WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


def _parse(authorization: str | None) -> _Header:
    if authorization is None:
        raise NotSignedError("the request is not signed. Only members of the mesh are served")
    match = None
    if len(authorization) <= HEADER_BYTES_MAX:
        match = _AUTHORIZATION.fullmatch(authorization)
    if match is None:
        raise NotSignedError(
            "the Authorization header has not the form that this server reads. Use the same "
            "version of meshtrain on both sides"
        )
    return _Header(
        kind=MemberKind(match["kind"]),
        name=match["name"],
        nonce=match["nonce"],
        instance=match["instance"],
        count=int(match["count"]),
        body=match["body"],
        signature=bytes.fromhex(match["signature"]),
    )


def _is_good(server: Member, member: Member, header: _Header, asked: Asked) -> bool:
    signed = _to_sign(
        server, member, header.nonce, header.instance, header.count, asked, header.body
    )
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(member.sign_key))
        key.verify(header.signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def _to_sign(
    server: Member,
    client: Member,
    nonce: str,
    instance: str,
    count: int,
    asked: Asked,
    body_sha256: str,
) -> bytes:
    """One encoding for each request: a list in MessagePack, whose first item is the protocol."""
    return msgspec.msgpack.encode(
        (
            _TAG,
            server.kind.value,
            server.name,
            server.cert_sha256,
            nonce,
            client.kind.value,
            client.name,
            client.sign_key,
            instance,
            count,
            asked,
            body_sha256,
        )
    )
