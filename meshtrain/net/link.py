"""Why a link to the master doesn't come up: read from ZeroMQ's monitor of the socket."""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import zmq

from meshtrain.net.socket_reader import NOBLOCK, SocketReader
from meshtrain.net.sockets import Socket

_EVENTS: Final = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_EVENT: Final = struct.Struct("=HI")
_EVENTS_PER_TURN_MAX: Final = 64


class LinkState(Enum):
    """What the last handshake came to."""

    UNTRIED = auto()
    UP = auto()
    REFUSED = auto()
    """The master doesn't admit our key."""
    UNPROVEN = auto()
    """The other side can't prove the key that we expect, or speaks without keys."""


class LinkMonitor:
    """Follows the handshakes of one socket.

    Within an event loop give `on_state`, which is called when the state changes;
    otherwise call `read` often, or poll `socket`.
    """

    def __init__(self, socket: Socket, on_state: Callable[[LinkState], None] | None = None) -> None:
        self.state = LinkState.UNTRIED
        self._watched = socket
        self._on_state = on_state
        self.socket: Socket = socket.get_monitor_socket(_EVENTS)
        self._reader: SocketReader | None = None
        if on_state is not None:
            self._reader = SocketReader(
                self.socket,
                self._take,
                sends_max=_EVENTS_PER_TURN_MAX,
                bytes_max=1 << 20,
                frames_max=2,
            )

    def read(self) -> LinkState:
        """The state after all that happened so far."""
        try:
            while True:
                self._take([self.socket.recv_multipart(NOBLOCK)])
        except zmq.Again:
            return self.state

    def close(self) -> None:
        """Stop; to be called before the watched socket is closed."""
        if self._reader is not None:
            self._reader.close()
        self._watched.disable_monitor()
        self.socket.close(0)

    def _take(self, multiparts: list[list[bytes]]) -> None:
        for frames in multiparts:
            event, _ = _EVENT.unpack(frames[0])
            former, self.state = self.state, _state_after(event)
            if self.state is not former and self._on_state is not None:
                self._on_state(self.state)


def _state_after(event: int) -> LinkState:
    if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
        return LinkState.UP
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return LinkState.REFUSED
    return LinkState.UNPROVEN


def trouble_of(state: LinkState, address: str, *, with_keys: bool) -> str:
    """What to tell people of a link that isn't up; "" when the handshake is not the reason."""
    match state:
        case LinkState.REFUSED:
            return (
                f"the master at {address} refuses these keys: they belong to no member of its "
                "mesh, or the membership was ended; ask for a token (`meshtrain token` where the "
                "master runs) and join"
            )
        case LinkState.UNPROVEN if with_keys:
            return (
                f"what listens at {address} can't prove to be the master that these keys belong "
                "to: see that the address is right; if the master has new keys, join anew"
            )
        case LinkState.UNPROVEN:
            return (
                f"the master at {address} speaks only to members, and no keys were given: ask "
                "for a token (`meshtrain token` where the master runs) and join"
            )
        case _:
            return ""
