"""A channel without a network: bytes are put in by hand, as an event loop would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from meshtrain.artifacts.channel import Channel, Reply

REQUEST = b"GET / HTTP/1.1\r\n\r\n"


class HandTransport(asyncio.Transport):
    """Takes what is written; once it is aborted, nothing is read any more."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.aborted = True


class HandChannel:
    """One connection, and the buffers of the requests that were sent over it.

    Args:
        sizes_bytes: of the buffers, one for each request.
    """

    def __init__(self, sizes_bytes: Iterable[int] = (), silence_max_s: float = 60.0) -> None:
        self.ends = 0
        self.channel = Channel(silence_max_s, self._count_end)
        self.transport = HandTransport()
        self.channel.connection_made(self.transport)
        self.buffers: list[bytearray] = []
        self.answers: list[asyncio.Future[Reply]] = []
        for size_bytes in sizes_bytes:
            self.ask(size_bytes)

    def ask(self, size_bytes: int) -> asyncio.Future[Reply]:
        buffer = bytearray(size_bytes)
        self.buffers.append(buffer)
        self.answers.append(self.channel.get(REQUEST, [memoryview(buffer)]))
        return self.answers[-1]

    def feed(self, data: bytes) -> None:
        """As many reads as it takes; none once the connection was broken off."""
        left = memoryview(data)
        while left and not self.transport.aborted:
            into = self.channel.get_buffer(-1)
            assert len(into) > 0, "an event loop takes an empty buffer for a bug"
            taken = min(len(into), len(left))
            into[:taken] = left[:taken]
            self.channel.buffer_updated(taken)
            left = left[taken:]

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone."""
        if error is None:
            self.channel.eof_received()
        self.channel.connection_lost(error)

    def outcomes(self) -> list[tuple[int, bytes] | str]:
        """Of each request: the status and the body, or what went wrong."""
        found: list[tuple[int, bytes] | str] = []
        for answer, buffer in zip(self.answers, self.buffers, strict=True):
            if not answer.done():
                found.append("waits")
            elif answer.cancelled():
                found.append("cancelled")
            elif (error := answer.exception()) is not None:
                found.append(f"{type(error).__name__}: {error}")
            else:
                reply = answer.result()
                found.append((reply.status, bytes(buffer) if reply.status == 206 else reply.body))
        return found

    def _count_end(self, channel: Channel) -> None:
        assert channel is self.channel
        self.ends += 1


def answer_bytes(body: bytes, status: bytes = b"206 Partial Content", more: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 " + status + b"\r\n" + length + more + b"\r\n" + body


GONE = answer_bytes(b'{"error": "gone"}', b"404 Not Found")
