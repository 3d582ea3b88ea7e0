"""Joining the mesh: a token and the joiner's public keys go to the master, the list comes back.

    POST /v1/enrol      {"secret", "member", "proof"}  →  the list of members

The joiner knows the master by the certificate in its token, so the secret goes
to nobody else; and it signs with its new key, so that nobody enrols a key of
someone else's. The same member asked again is answered again: an answer that
was lost costs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Annotated, Final

import aiohttp
import msgspec
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meshtrain.artifacts.answers import refuse
from meshtrain.artifacts.bodies import BodyLimits, read_body
from meshtrain.artifacts.holder import HttpTimeouts, error_in, new_session
from meshtrain.clock import wall_now_s
from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.errors import MeshtrainError, UserError
from meshtrain.security.keys import Identity
from meshtrain.security.member_check import problem_of, problem_of_all
from meshtrain.security.membership import MembershipError
from meshtrain.security.tls import WrongCertificateError, pinned_context
from meshtrain.security.tokens import SECRET_BYTES, JoinToken, TokenError

ENROL_PATH: Final = "/v1/enrol"
REQUEST_BYTES_MAX: Final = 4096
MEMBERS_BYTES_MAX: Final = 8 << 20
WAITING_MAX: Final = 32
"""Who asks to join at a time; they are taken one after the other."""
_TRIES_MAX: Final = 3
_RETRY_WAIT_S: Final = 0.05
_CLOCKS_APART_MAX_S: Final = 60.0
_TAG: Final = "meshtrain-enrol-1"

Admit = Callable[[bytes, Member], Members]
"""Takes a member in for a token's secret; the list that it is on then. Blocks on the disk.
Raises TokenError for the token, MembershipError for the name or the keys."""


class EnrolmentError(UserError):
    """Raised when a host or a person can't join the mesh."""


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    secret: Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    member: Member
    proof: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    """A signature with the member's own key, of what `_to_prove` gives."""


_request_decoder = msgspec.json.Decoder(_Request)


class Enrolment:
    """The master's side.

    Args:
        master: whose mesh it is.
        admit: called in a thread, one call at a time.
    """

    def __init__(self, master: Member, admit: Admit) -> None:
        self._master = master
        self._admit = admit
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answers one request to join."""
        if not request.secure:
            return refuse(403, "a token is taken by HTTPS only. Use the address that it names")
        if self._waiting >= WAITING_MAX:
            return refuse(503, "too many ask to join at a time. Try again", {"Retry-After": "1"})
        self._waiting += 1
        try:
            body = await read_body(request, REQUEST_BYTES_MAX, BodyLimits())
            return await self._take(body)
        finally:
            self._waiting -= 1

    async def _take(self, body: bytes) -> web.Response:
        try:
            asked = _request_decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return refuse(
                400,
                f"this is no request to join: {error}. Use the version of meshtrain that the "
                "master runs",
            )
        member = asked.member
        if problem := problem_of(member):
            return refuse(400, f"this member can't be taken: {problem}")
        if member.kind is MemberKind.MASTER or member.revoked:
            return refuse(403, "nodes and persons may join, with keys that were not revoked")
        if not _is_proven(self._master, asked):
            return refuse(
                401, "the request is not signed with the key that is to join. Join with your own"
            )
        try:
            async with self._turn:
                members = await asyncio.to_thread(self._admit, asked.secret, member)
        except TokenError as error:
            return refuse(403, str(error))
        except MembershipError as error:
            return refuse(409, str(error))
        except (MeshtrainError, OSError) as error:
            return refuse(
                507,
                f"the master could not write its list of members: {error}. Mend its disk, and "
                "join again",
            )
        return web.Response(body=msgspec.json.encode(members), content_type="application/json")


async def enrol(
    token: JoinToken, identity: Identity, *, timeouts: HttpTimeouts | None = None
) -> Members:
    """Joins the mesh that a token is of; returns its members.

    May be called again with the same token and keys, for the same answer.

    Raises:
        EnrolmentError: when the master refuses, when it isn't the one that the token
            names, or when it can't be reached; tells which.
    """
    host = f"[{token.host}]" if ":" in token.host else token.host
    where = f"{host}:{token.http_port}"
    body = _request_body(token, identity)
    tls = pinned_context(token.cert_sha256)
    async with new_session(timeouts) as session:
        for tries_left in reversed(range(_TRIES_MAX)):
            try:
                async with session.post(
                    f"https://{where}{ENROL_PATH}", data=body, ssl=tls, allow_redirects=False
                ) as response:
                    return await _read_answer(response, token, identity)
            except aiohttp.ClientConnectorCertificateError as error:
                raise _wrong_master(where, error.certificate_error) from error
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                if not tries_left:
                    raise EnrolmentError(
                        f"the master at {where} can't be reached to join: "
                        f"{str(error) or type(error).__name__}. Check that it runs, and that no "
                        "firewall is between; the token stays good"
                    ) from error
            await asyncio.sleep(_RETRY_WAIT_S)
    raise AssertionError("the last try returns or raises")


_members_decoder = msgspec.json.Decoder(Members)


async def _read_answer(
    response: aiohttp.ClientResponse, token: JoinToken, identity: Identity
) -> Members:
    if response.status != 200:
        why = await error_in(response)
        raise EnrolmentError(f"{identity.name} could not join: {why}{_clock_hint(response)}")
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > MEMBERS_BYTES_MAX:
            raise EnrolmentError(
                f"the master's list of members has more than {MEMBERS_BYTES_MAX:,} bytes. Use the "
                "version of meshtrain that the master runs"
            )
    try:
        members = _members_decoder.decode(data)
        problem = problem_of_all(members)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        problem = str(error)
    else:
        masters = [m for m in members.members if m.kind is MemberKind.MASTER and not m.revoked]
        if identity.member not in members.members:
            problem = problem or "this host is not on it"
        elif [m.cert_sha256 for m in masters] != [token.cert_sha256]:
            problem = problem or "its master is not the one that the token names"
    if problem:
        raise EnrolmentError(
            f"the master's list of members is no good: {problem}. Use the version of meshtrain "
            "that the master runs"
        )
    return members


def _request_body(token: JoinToken, identity: Identity) -> bytes:
    member = identity.member
    proof = identity.sign(_to_prove(token.cert_sha256, token.secret, member))
    return msgspec.json.encode(_Request(token.secret, member, proof))


def _is_proven(master: Member, asked: _Request) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(asked.member.sign_key))
        key.verify(asked.proof, _to_prove(master.cert_sha256, asked.secret, asked.member))
    except (InvalidSignature, ValueError):
        return False
    return True


def _to_prove(cert_sha256: str, secret: bytes, member: Member) -> bytes:
    return msgspec.msgpack.encode((_TAG, cert_sha256, hashlib.sha256(secret).digest(), member))


def _wrong_master(where: str, error: Exception) -> EnrolmentError:
    if isinstance(error, WrongCertificateError):
        return EnrolmentError(
            f"the server at {where} is not the master that the token names: {error}. Nothing was "
            "sent to it. Make a new token where the master runs, and check the address in it"
        )
    return EnrolmentError(f"the server at {where} shows a bad certificate: {error}")


def _clock_hint(response: aiohttp.ClientResponse) -> str:
    """What to say of the clocks, when a refusal may come of them."""
    try:
        told_s = parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
    except ValueError:
        return ""
    apart_s = wall_now_s() - told_s
    if abs(apart_s) <= _CLOCKS_APART_MAX_S:
        return ""
    side = "ahead of" if apart_s > 0 else "behind"
    return (
        f". This host's clock is {abs(apart_s):.0f} s {side} the master's, whose clock counts for "
        "tokens: set them by NTP"
    )
