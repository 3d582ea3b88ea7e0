"""The bodies of requests and answers: read within their size and time, sent in pieces."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import msgspec
from aiohttp import web

from meshtrain.artifacts.answers import encoded, too_large, too_slow
from meshtrain.core.token_bucket import TokenBucket

BODY_MIN_BYTES_PER_S = 64 << 10
REQUEST_TIMEOUT_S = 60.0
_PIECE_BYTES = 1 << 20
"""After each it is asked whether the answer may go on."""
_TLS_PIECE_BYTES = 512 << 10
"""Held in memory twice: as it was read, and encrypted."""

_UNSENT_BYTES = 128 << 10
_PACED_PIECE_BYTES = 128 << 10
"""Where there is a limit for all that is sent: small, so that many advance side by side."""


class BodyLimits(msgspec.Struct, frozen=True):
    """How long a peer may take."""

    request_timeout_s: float = REQUEST_TIMEOUT_S
    """For any request, besides the time for its body."""
    min_bytes_per_s: int = BODY_MIN_BYTES_PER_S
    """A peer that sends or takes a body more slowly is cut off."""

    def timeout_s(self, body_bytes: int) -> float:
        """What a request with such a body may take."""
        return self.request_timeout_s + body_bytes / self.min_bytes_per_s


async def read_body(request: web.Request, size_max_bytes: int, limits: BodyLimits) -> bytes:
    """A request's body.

    Raises:
        HTTPRequestEntityTooLarge: when it is larger than allowed, said or not.
        HTTPRequestTimeout: when it comes too slowly.
        HTTPUnsupportedMediaType: when it is compressed.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise encoded()
    announced_bytes = request.content_length or 0
    if announced_bytes > size_max_bytes:
        raise too_large(size_max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.timeout_s(announced_bytes)):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > size_max_bytes:
                    raise too_large(size_max_bytes)
    except TimeoutError:
        raise too_slow() from None
    return bytes(body)


async def send_file(
    request: web.Request,
    response: web.StreamResponse,
    file: BinaryIO,
    start: int,
    stop: int,
    limits: BodyLimits,
    may_go_on: Callable[[], bool],
    uplink: TokenBucket | None = None,
) -> None:
    """Sends the bytes `start` to `stop - 1` of a file as the body of a prepared response.

    Args:
        may_go_on: asked before each piece; the connection is broken when it says no.
        uplink: what all that is sent from here shares; None is no limit.

    Raises:
        ConnectionResetError: when it was broken off, by either side.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the peer is gone")
    _keep_little_unsent(transport)
    send = _encrypted if request.secure else _from_the_kernel
    piece_bytes = _TLS_PIECE_BYTES if request.secure else _PIECE_BYTES
    if uplink is not None:
        piece_bytes = _PACED_PIECE_BYTES
    why = "the peer takes its answer too slowly"
    try:
        async with asyncio.timeout(limits.timeout_s(stop - start)) as limit:
            while start < stop:
                if not may_go_on():
                    why = "who asked is no member any more"
                    break
                size_bytes = min(piece_bytes, stop - start)
                if uplink is not None:
                    await _wait_for_turn(uplink, size_bytes, limit)
                sent_bytes = await send(transport, response, file, start, size_bytes)
                if sent_bytes < size_bytes:
                    why = "the file is shorter than its manifest says"
                    break
                start += sent_bytes
    except TimeoutError:
        pass
    if start < stop:
        # The headers are out: breaking the connection is all that tells the peer.
        transport.abort()
        raise ConnectionResetError(why)
    await response.write_eof()


def _keep_little_unsent(transport: asyncio.Transport) -> None:
    """What waits in the kernel goes out beside what others send: so it says when it is sent."""
    connection = transport.get_extra_info("socket")
    if connection is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


async def _wait_for_turn(uplink: TokenBucket, size_bytes: int, limit: asyncio.Timeout) -> None:
    """The peer is not to blame for the time that it takes here."""
    delay_s = uplink.delay_s(size_bytes, asyncio.get_running_loop().time())
    if delay_s:
        due_s = limit.when()
        if due_s is not None:
            limit.reschedule(due_s + delay_s)
        await asyncio.sleep(delay_s)


async def _from_the_kernel(
    transport: asyncio.Transport,
    response: web.StreamResponse,
    file: BinaryIO,
    offset: int,
    size_bytes: int,
) -> int:
    """From the page cache to the socket, never through this process."""
    return await asyncio.get_running_loop().sendfile(transport, file, offset, size_bytes)


async def _encrypted(
    transport: asyncio.Transport,
    response: web.StreamResponse,
    file: BinaryIO,
    offset: int,
    size_bytes: int,
) -> int:
    data = await asyncio.to_thread(os.pread, file.fileno(), size_bytes, offset)
    await response.write(data)
    return len(data)
