"""CURVE on the mesh's sockets: each side proves that it holds its key before anything passes.

The master's sockets are CURVE servers; which keys they admit is the affair of
`admission`. All others are clients: they have the master's public key pinned, so
that nobody else can pass for it.

https://rfc.zeromq.org/spec/26/ (CurveZMQ)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import zmq

from meshtrain.errors import SettingsError
from meshtrain.net.peer_names import peer_name as peer_name
from meshtrain.net.peer_names import peer_prefix as peer_prefix
from meshtrain.net.peer_names import person_of as person_of
from meshtrain.net.sockets import Socket
from meshtrain.security.keys import Identity
from meshtrain.security.membership import Roll
from meshtrain.security.standing import Standing

ZAP_DOMAIN: Final = b"meshtrain"
FEED_DOMAIN: Final = b"meshtrain-feed"
"""Of the feed's socket: somebody may be shut out of it alone."""
HANDSHAKE_MS: Final = 10_000
"""A connection that hasn't proved a key by then is closed."""


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


def secure_server(socket: Socket, security: MasterSecurity, domain: bytes = ZAP_DOMAIN) -> None:
    """Make a socket, not yet bound, admit proven keys only.

    ZAP_ENFORCE_DOMAIN refuses everybody when no handler is there to ask; without
    it ZeroMQ would admit any key then.
    """
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, security.identity.curve_secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, domain)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)


def secure_client(socket: Socket, security: ClientSecurity) -> None:
    """Make a socket, not yet connected, prove its key, and demand the master's."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, security.master_key)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, security.identity.curve_public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, security.identity.curve_secret)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
