"""Why a link to the master doesn't come up: read from ZeroMQ's monitor of the socket."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import zmq

from meshtrain.ids import new_id
from meshtrain.net.socket_reader import NOBLOCK, SocketReader
from meshtrain.net.sockets import Socket

_EVENTS: Final = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
)
_GIVEN_UP: Final = (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_BROKEN_MIN: Final = 2
"""Handshakes that end without a word before it is for the keys; one may be a restart."""
_EVENT: Final = struct.Struct("=HI")
_EVENTS_PER_TURN_MAX: Final = 64
_BYTES_PER_TURN_MAX: Final = 1 << 20


class LinkState(Enum):
    """What the last handshake came to."""

    UNTRIED = auto()
    UP = auto()
    REFUSED = auto()
    """The master doesn't admit our key."""
    UNPROVEN = auto()
    """The other side can't prove the key that we expect, or speaks without keys."""


class LinkMonitor:
    """Follows the handshakes of one socket that connects to `where`, and keeps it trying.

    ZeroMQ gives a link up for good when its keys are refused, or when the other
    side speaks without keys. That may change (a member is taken, a master comes back),
    so within an event loop, with `on_state`, it connects anew after `redial_s` times
    0.5 to 1.5. Elsewhere call `read` often, or poll `socket`, and `redial`.
    """

    def __init__(
        self,
        socket: Socket,
        where: str,
        on_state: Callable[[LinkState], None] | None = None,
        *,
        redial_s: float = 1.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.state = LinkState.UNTRIED
        #: how often it came up
        self.ups = 0
        self._watched = socket
        self._where = where
        self._on_state = on_state
        self._redial_s = redial_s
        self._jitter = jitter
        self._given_up = False
        self._broken_in_row = 0
        self._redialling: asyncio.TimerHandle | None = None
        endpoint = f"inproc://{new_id('monitor')}"
        socket.monitor(endpoint, _EVENTS)
        self.socket: Socket = socket.context.socket(zmq.PAIR)
        # A full queue would hold up ZeroMQ's own thread; a link tries every few seconds.
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.connect(endpoint)
        self._reader: SocketReader | None = None
        if on_state is not None:
            self._reader = SocketReader(
                self.socket,
                self._take,
                sends_max=_EVENTS_PER_TURN_MAX,
                bytes_max=_BYTES_PER_TURN_MAX,
                frames_max=2,
            )

    def read(self) -> LinkState:
        """The state after all that happened so far."""
        try:
            while True:
                self._take([self.socket.recv_multipart(NOBLOCK)])
        except zmq.Again:
            return self.state

    def redial(self) -> None:
        """Connect anew, if ZeroMQ has given the link up."""
        self._redialling = None
        if not self._given_up:
            return
        self._given_up = False
        if self._on_state is None:
            # Who reads asks what this try comes to, not what the last one did.
            self.state = LinkState.UNTRIED
        # What was given up may be forgotten already.
        with contextlib.suppress(zmq.ZMQError):
            self._watched.disconnect(self._where)
        self._watched.connect(self._where)

    def close(self) -> None:
        """Stop; to be called before the watched socket is closed."""
        if self._redialling is not None:
            self._redialling.cancel()
            self._redialling = None
        if self._reader is not None:
            self._reader.close()
        self._watched.monitor(None, 0)
        self.socket.close(0)

    def _take(self, multiparts: list[list[bytes]]) -> None:
        for frames in multiparts:
            event, _ = _EVENT.unpack(frames[0])
            former, self.state = self.state, self._state_after(event)
            self.ups += event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._given_up = self._given_up or event in _GIVEN_UP
            if self._on_state is None:
                continue
            if self._given_up and self._redialling is None:
                delay_s = self._redial_s * (0.5 + self._jitter())
                loop = asyncio.get_running_loop()
                self._redialling = loop.call_later(delay_s, self.redial)
            if self.state is not former:
                self._on_state(self.state)

    def _state_after(self, event: int) -> LinkState:
        if event == zmq.EVENT_DISCONNECTED:
            # It follows a failed handshake too, and says nothing of why.
            return LinkState.UNTRIED if self.state is LinkState.UP else self.state
        broken = event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        self._broken_in_row = self._broken_in_row + 1 if broken else 0
        match event:
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return LinkState.UP
            case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                return LinkState.REFUSED
            case zmq.EVENT_CLOSED:
                # Nobody listens: what a dying master did before says nothing of its keys.
                return LinkState.UNTRIED
            case _ if broken and self._broken_in_row < _BROKEN_MIN:
                return LinkState.UNTRIED
            case _:
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
