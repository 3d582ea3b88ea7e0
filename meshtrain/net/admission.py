"""Who may connect to the master, and who may send it what.

ZeroMQ asks the ZAP handler once for each link, when its key is proven. It can't
drop a link after that, so the master also looks up the sender of each message:
a revoked member's messages are refused from that instant.

https://rfc.zeromq.org/spec/27/ (ZAP)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

import zmq
from zmq.utils import z85

from meshtrain.core.member import Member, MemberKind
from meshtrain.errors import ProtocolError
from meshtrain.net.base import SocketLimits, TransportCounts
from meshtrain.net.curve import FEED_DOMAIN, ZAP_DOMAIN, peer_prefix
from meshtrain.net.socket_reader import SocketReader
from meshtrain.net.sockets import Context, Socket, send_frames
from meshtrain.security.membership import Roll
from meshtrain.wire import messages as wire

ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
_REQUEST_FRAMES: Final = 9
"""The way back, an empty frame, then: version, request, domain, address, identity,
mechanism, and for CURVE one credential, the key."""
_KEY_BYTES: Final = 32

_NODES: Final = frozenset({MemberKind.NODE})
_PEOPLE: Final = frozenset({MemberKind.PERSON, MemberKind.MASTER})

MAY_SEND: Final[Mapping[type, frozenset[MemberKind]]] = {
    **dict.fromkeys(get_args(wire.FromNode), _NODES),
    **dict.fromkeys(get_args(wire.BulkToMaster), _NODES),
    **dict.fromkeys(get_args(wire.FromPerson), _PEOPLE),
}
"""Which kinds of member may send a type of message; a type that isn't here, nobody may."""


class NotAllowedError(ProtocolError):
    """Raised when somebody sends the master what it may not take from them."""


class ZapHandler:
    """Answers ZeroMQ's question whether a key is admitted, for all sockets of one context.

    Must be made within a running event loop, before the sockets that it guards
    are bound. The key, in Z85, becomes the User-Id of all that the link carries.
    """

    def __init__(
        self, context: Context, roll: Roll, counts: TransportCounts, limits: SocketLimits
    ) -> None:
        self._roll = roll
        self._counts = counts
        #: keys, in Z85, that get no link to the feed until this process ends
        self.shut_out_of_feed: set[bytes] = set()
        self._socket: Socket = context.socket(zmq.ROUTER)
        try:
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.bind(ZAP_ENDPOINT)
            self._reader = SocketReader(
                self._socket,
                self._answer,
                sends_max=limits.sends_per_turn_max,
                bytes_max=limits.bytes_per_turn_max,
                frames_max=_REQUEST_FRAMES,
            )
        except BaseException:
            self._socket.close(0)
            raise

    def close(self) -> None:
        """Answer no more: from then on no link is admitted."""
        self._reader.close()
        self._socket.close(0)

    def _answer(self, requests: list[list[bytes]]) -> None:
        for request in requests:
            if len(request) < 4:
                continue
            user_id = self._admitted(request)
            if not user_id:
                self._counts.not_admitted += 1
            status, text = (b"200", b"OK") if user_id else (b"400", b"no member of this mesh")
            reply = [*request[:2], _VERSION, request[3], status, text, user_id, b""]
            send_frames(self._socket, reply)
        self._reader.recheck()

    def _admitted(self, request: list[bytes]) -> bytes:
        if len(request) != _REQUEST_FRAMES:
            return b""
        _, _, version, _, domain, _, _, mechanism, key = request
        if (version, mechanism) != (_VERSION, b"CURVE"):
            return b""
        if domain not in (ZAP_DOMAIN, FEED_DOMAIN):
            return b""
        if len(key) != _KEY_BYTES:
            return b""
        curve_key: bytes = z85.encode(key)
        if domain == FEED_DOMAIN and curve_key in self.shut_out_of_feed:
            return b""
        return curve_key if self._roll.by_curve_key(curve_key.decode()) else b""


class SenderCheck:
    """Tells who sent a message, and refuses what they may not send."""

    def __init__(self, roll: Roll) -> None:
        self._roll = roll

    def sender(self, user_id: bytes, peer: bytes) -> Member:
        """The member that a link belongs to.

        `user_id` is what the ZAP handler gave it, `peer` the name that it took.
        Raises NotAllowedError when the membership was ended since the link was
        made, and when the name is not one of that member's.
        """
        member = self._roll.by_curve_key(user_id.decode("ascii", "replace"))
        if member is None:
            raise NotAllowedError(
                "this key belongs to no member any more: ask for a token (`meshtrain token` "
                "where the master runs) and join anew"
            )
        if not peer.startswith(peer_prefix(member)):
            raise NotAllowedError(
                f"{member.kind.value} '{member.name}' took a name for its link that is not its "
                "own: see that both sides run the same version"
            )
        return member

    def require(self, member: Member, message: Any) -> None:
        """Raises NotAllowedError when this member may not send this message."""
        if member.kind not in MAY_SEND.get(type(message), ()):
            raise NotAllowedError(
                f"a {member.kind.value} may not send a message of type "
                f"'{type(message).__struct_config__.tag}': use the keys of the right member"
            )
        if isinstance(message, wire.Hello) and message.spec.node_id != member.name:
            raise NotAllowedError(
                f"the keys of node '{member.name}' can't speak for node "
                f"'{message.spec.node_id}': start the worker with --name {member.name}, or let "
                "the other name join with keys of its own"
            )
