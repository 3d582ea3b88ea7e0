"""Reads a ZeroMQ socket dry each time it has something, from within an event loop.

ZeroMQ tells readiness by a file descriptor that is edge-triggered in effect: it
becomes readable when the socket's state may have changed, and any call on the
socket, a send too, may use that signal up. So the state itself (`EVENTS`) is
asked after each wake-up, after each drain, and once per turn of the loop in
which something was sent; the descriptor only wakes us. One delivery for all that
is there takes several times as many messages as a future for each, as
`zmq.asyncio` has it (`benchmarks/wire.py`).

http://api.zeromq.org/4-3:zmq-getsockopt (ZMQ_FD)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

NOBLOCK = int(zmq.NOBLOCK)
SNDMORE = int(zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)


class SocketReader:
    """Owns the reading of one socket; must be made within a running event loop.

    `deliver` gets each drained batch of multiparts, each a list of frames. At most
    `sends_max` multiparts or about `bytes_max` bytes are read in one turn. A
    multipart of more than `frames_max` frames is cut to one more than that, so
    that the receiver can tell. `with_user_id` puts what the ZAP handler knows of the
    link before each multipart, as a frame of its own (empty: nothing). What
    `deliver` raises goes to the loop's exception handler; reading goes on.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        deliver: Callable[[list[list[bytes]]], None],
        *,
        sends_max: int,
        bytes_max: int,
        frames_max: int,
        with_user_id: bool = False,
    ) -> None:
        self._socket = socket
        self._deliver = deliver
        self._sends_max = sends_max
        self._bytes_max = bytes_max
        self._frames_max = frames_max + with_user_id
        self._with_user_id = with_user_id
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._scheduled: asyncio.Handle | None = None
        self._paused = False
        self._closed = False
        self._writable_waiters: list[asyncio.Future[None]] = []
        self._loop.add_reader(self._fd, self._wake)
        # What came before we listened gave its signal to nobody.
        self.recheck()

    def recheck(self) -> None:
        """Look at the socket again in this turn of the loop; call it after every send."""
        if self._scheduled is None and not self._closed:
            self._scheduled = self._loop.call_soon(self._rechecked)

    def pause(self) -> None:
        """Leave what comes in the socket, so that its queues fill and senders wait."""
        self._paused = True

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        self.recheck()

    async def wait_writable(self) -> None:
        """Return once the socket takes a message, or is closed."""
        if self._closed or self._events() & _POLLOUT:
            return
        # Asking may have used up the signal of something to read.
        self.recheck()
        waiter = self._loop.create_future()
        self._writable_waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._writable_waiters:
                self._writable_waiters.remove(waiter)

    def close(self) -> None:
        """Stop listening; the socket itself is the caller's to close."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        self._wake_writers()

    def drain(self) -> None:
        """Read and deliver what there is, now."""
        self._wake()

    def _rechecked(self) -> None:
        self._scheduled = None
        self._wake()

    def _wake(self) -> None:
        if self._closed:
            return
        events = self._events()
        if events & _POLLOUT and self._writable_waiters:
            self._wake_writers()
        if not events & _POLLIN or self._paused:
            return
        batch = self._read()
        if self._events() & (_POLLIN | (_POLLOUT if self._writable_waiters else 0)):
            self.recheck()
        if batch:
            self._deliver(batch)

    def _read(self) -> list[list[bytes]]:
        recv = self._socket.recv
        batch: list[list[bytes]] = []
        bytes_left = self._bytes_max
        frames_max = self._frames_max
        with_user_id = self._with_user_id
        try:
            while len(batch) < self._sends_max and bytes_left > 0:
                # A frame object tells whether more follow, at half the cost of asking.
                frame = recv(NOBLOCK, copy=False)
                data = frame.bytes
                bytes_left -= len(data)
                frames = [_user_id(frame), data] if with_user_id else [data]
                while frame.more:
                    frame = recv(NOBLOCK, copy=False)
                    if len(frames) <= frames_max:
                        data = frame.bytes
                        bytes_left -= len(data)
                        frames.append(data)
                batch.append(frames)
        except zmq.Again:
            pass
        return batch

    def _events(self) -> int:
        events = self._socket.getsockopt(_EVENTS)
        assert isinstance(events, int)
        return events

    def _wake_writers(self) -> None:
        waiters, self._writable_waiters = self._writable_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _user_id(frame: zmq.Frame) -> bytes:
    try:
        return str(frame.get("User-Id")).encode()
    except zmq.ZMQError:
        return b""
