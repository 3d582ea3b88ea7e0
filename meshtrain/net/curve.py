"""CURVE on the mesh's sockets: each side proves that it holds its key before anything passes.

The master's sockets are CURVE servers; which keys they admit is the affair of
`admission`. All others are clients: they have the master's public key pinned, so
that nobody else can pass for it.

https://rfc.zeromq.org/spec/26/ (CurveZMQ)
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import zmq

from meshtrain.core.member import Member, MemberKind
from meshtrain.errors import SettingsError
from meshtrain.net.sockets import Socket
from meshtrain.security.keys import Identity
from meshtrain.security.membership import Roll
from meshtrain.security.standing import Standing

ZAP_DOMAIN: Final = b"meshtrain"
HANDSHAKE_MS: Final = 10_000
"""A connection that hasn't proved a key by then is closed."""
_SECRET_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class MasterSecurity:
    """What the master's sockets need: its own keys, and who is admitted."""

    identity: Identity
    roll: Roll


@dataclass(frozen=True, slots=True)
class ClientSecurity:
    """What everybody else needs: its own keys, and the master's public key in Z85."""

    identity: Identity
    master_key: bytes

    @classmethod
    def of(cls, identity: Identity, roll: Roll) -> ClientSecurity:
        """For a member that has a list of members: it says which key is the master's.

        Raises SettingsError when the list has no master.
        """
        if roll.master is None:
            raise SettingsError(
                f"{identity.member.kind.value} '{identity.name}' has keys but has not joined a "
                "mesh with them: ask for a token (`meshtrain token` where the master runs) and "
                "join"
            )
        return cls(identity, roll.master.curve_key.encode())


def client_security(standing: Standing | None) -> ClientSecurity | None:
    """What a member's links need; None for who is none."""
    if standing is None:
        return None
    return ClientSecurity(standing.identity, standing.master.curve_key.encode())


def secure_server(socket: Socket, security: MasterSecurity) -> None:
    """Make a socket, not yet bound, admit proven keys only.

    ZAP_ENFORCE_DOMAIN refuses everybody when no handler is there to ask; without
    it ZeroMQ would admit any key then.
    """
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, security.identity.curve_secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)


def secure_client(socket: Socket, security: ClientSecurity) -> None:
    """Make a socket, not yet connected, prove its key, and demand the master's."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, security.master_key)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, security.identity.curve_public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, security.identity.curve_secret)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)


def peer_prefix(member: Member) -> bytes:
    """What the peer name of each of a member's links begins with; no other member's does."""
    if member.kind is MemberKind.NODE:
        return f"{member.name}/".encode()
    return f"{member.kind.value}@{member.name}/".encode()


def peer_name(member: Member, life: str = "") -> bytes:
    """A fresh name for a link of a member.

    It ends in a secret between the member and the master: the ROUTER hands a
    name over to whoever comes with it last, so no other member may know it.
    """
    middle = f"{life}/" if life else ""
    return peer_prefix(member) + f"{middle}{secrets.token_hex(_SECRET_BYTES)}".encode()


def person_of(peer: bytes) -> str:
    """The person whose link has this name; "" where it is no person's."""
    kind, _, rest = peer.partition(b"@")
    name, slash, _ = rest.partition(b"/")
    return name.decode("ascii", "replace") if kind == b"person" and slash else ""
