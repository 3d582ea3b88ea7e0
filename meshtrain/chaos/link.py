"""A link between two programs that can be cut, slowed and broken: a TCP proxy.

    connector ──out──▶ Link ──out──▶ target
              ◀──back──      ◀──back──

TCP loses no bytes on its way, so loss is what programs see of it: pauses, as
long as a retransmission takes. A cut swallows bytes, in one direction or both;
a connection that lost some that way is reset when the link is whole again,
for what comes after a hole is no stream any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from meshtrain.errors import UserError

READ_BYTES = 64 * 1024
BUFFER_BYTES_MAX = 1 << 20
"""Bytes of one direction of one connection that the link itself holds."""
CONNECT_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 1000
DELAY_S_MAX = 60.0


class Way(StrEnum):
    """A direction, as seen from who opens connections."""

    OUT = "out"
    """From the connector to the target."""
    BACK = "back"
    BOTH = "both"

    def covers(self, other: Way) -> bool:
        """Whether what is done this way is done that way too."""
        return self in (Way.BOTH, other)


@dataclass(slots=True)
class Counts:
    """What came of the connections of a link."""

    opened: int = 0
    refused: int = 0
    """The target wasn't there, or there were too many."""
    resets: int = 0
    passed_bytes: int = 0
    swallowed_bytes: int = 0


class Link:
    """Forwards connections to one address, and spoils them on command.

    What is commanded holds for the connections that are open and for later
    ones, until `heal`.

    Args:
        listen: host and port to listen on; port 0 is any free one.
        target: host and port that connections are forwarded to.
        seed: of the jitter and the pauses.
    """

    def __init__(self, listen: tuple[str, int], target: tuple[str, int], *, seed: int = 0) -> None:
        self._listen = listen
        self._target = target
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut: Way | None = None
        self._delay_s = 0.0
        self._jitter_s = 0.0
        self._pause_share = 0.0
        self._pause_s = 0.0
        self._bytes_per_s: float | None = None
        self.counts = Counts()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; only once it was started."""
        return self._listen

    @property
    def is_healthy(self) -> bool:
        """Whether it passes all on, as fast as it can."""
        spoilt = (self._cut, self._delay_s, self._jitter_s, self._pause_share, self._bytes_per_s)
        return not any(spoilt)

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken."""
        host, port = self._listen
        self._server = await asyncio.start_server(self._accept, host, port)
        self._listen = (host, int(self._server.sockets[0].getsockname()[1]))

    async def close(self) -> None:
        """Stop listening and end all connections; harmless when done twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- commands ---------------------------------------------------------------

    def cut(self, way: Way = Way.BOTH) -> None:
        """Swallow what goes this way; whoever connects meanwhile hears nothing either."""
        self._cut = way

    def delay(self, delay_s: float, jitter_s: float = 0.0) -> None:
        """Hold all bytes, both ways, for `delay_s`, and up to `jitter_s` more; order is kept.

        Raises UserError for a time below 0 or above a minute.
        """
        if not (0 <= delay_s <= DELAY_S_MAX and 0 <= jitter_s <= DELAY_S_MAX):
            raise UserError(f"a delay of {delay_s} s: give 0 to {DELAY_S_MAX:g} s")
        self._delay_s, self._jitter_s = delay_s, jitter_s

    def lose(self, share: float, pause_s: float = 0.2) -> None:
        """Pause this share of the pieces for `pause_s`, as one whose packet was lost would.

        Raises UserError when the share is not between 0 and 1, or the pause is no time.
        """
        if not (0 <= share <= 1 and 0 <= pause_s <= DELAY_S_MAX):
            raise UserError(
                f"a loss of {share} with pauses of {pause_s} s: give a share from 0 to 1, "
                f"and a pause from 0 to {DELAY_S_MAX:g} s"
            )
        self._pause_share, self._pause_s = share, pause_s

    def limit(self, bytes_per_s: float | None) -> None:
        """Pass at most so many bytes a second, each way of each connection; None is no limit.

        Raises UserError for a rate that is not above 0.
        """
        if bytes_per_s is not None and not bytes_per_s > 0:
            raise UserError(f"a bandwidth of {bytes_per_s} bytes a second: give more than 0")
        self._bytes_per_s = bytes_per_s

    def reset(self) -> int:
        """Break all open connections off, as a router that forgot them; returns how many."""
        broken = list(self._connections)
        for connection in broken:
            connection.abort()
        self.counts.resets += len(broken)
        return len(broken)

    def heal(self) -> None:
        """Pass everything on again; connections with a hole in them are reset."""
        self._cut = None
        self._delay_s = self._jitter_s = self._pause_share = self._pause_s = 0.0
        self._bytes_per_s = None
        for connection in list(self._connections):
            if connection.has_hole:
                connection.abort()
                self.counts.resets += 1

    # --- connections --------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        if len(self._connections) >= CONNECTIONS_MAX:
            self.counts.refused += 1
            connection.abort()
            return
        self.counts.opened += 1
        self._connections.add(connection)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(connection, reader, writer)
        except (OSError, TimeoutError):
            self.counts.refused += 1
        except asyncio.CancelledError:
            # Only `close` cancels it, and nobody asks for what it gives.
            return
        finally:
            self._connections.discard(connection)
            self._tasks.discard(task)
            connection.abort()

    async def _serve(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if self._cut is Way.BOTH:
            # Its packets would never have arrived: no connection comes about.
            connection.has_hole = True
            await self._swallow(reader)
            return
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            onward_reader, onward_writer = await asyncio.open_connection(*self._target)
        connection.add(onward_writer)
        out = _Pump(self, connection, Way.OUT, reader, onward_writer)
        back = _Pump(self, connection, Way.BACK, onward_reader, writer)
        await _together(out.take(), out.give(), back.take(), back.give())

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(READ_BYTES):
            self.counts.swallowed_bytes += len(data)

    def swallows(self, way: Way) -> bool:
        """Whether bytes that go this way are lost now."""
        return self._cut is not None and self._cut.covers(way)

    def wait_s(self, size_bytes: int) -> float:
        """How long the next piece takes beyond the delay: pauses and bandwidth."""
        wait_s = 0.0
        if self._pause_share and self._random.random() < self._pause_share:
            wait_s += self._pause_s
        if self._bytes_per_s is not None:
            wait_s += size_bytes / self._bytes_per_s
        return wait_s

    def transit_s(self) -> float:
        """How long a piece that comes in now is held."""
        if not self._jitter_s:
            return self._delay_s
        return self._delay_s + self._random.uniform(0.0, self._jitter_s)


class _Connection:
    """The one or two sockets of a forwarded connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writers = [writer]
        self.has_hole = False

    def add(self, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)

    def abort(self) -> None:
        """Close both ends at once, with a reset, so that nobody waits for an orderly end."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class _Pump:
    """Moves the bytes of one direction of one connection: taken in, held, given on."""

    def __init__(
        self,
        link: Link,
        connection: _Connection,
        way: Way,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._link = link
        self._connection = connection
        self._way = way
        self._reader = reader
        self._writer = writer
        #: when it is due (loop time), and the piece; an empty one is the end
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._has_hole = False
        self._changed = asyncio.Event()

    async def take(self) -> None:
        """Read until the end of the stream, as long as there is room."""
        loop = asyncio.get_running_loop()
        due_s = 0.0
        while True:
            while self._held_bytes >= BUFFER_BYTES_MAX:
                self._changed.clear()
                await self._changed.wait()
            data = await self._reader.read(READ_BYTES)
            # A later piece never overtakes an earlier one.
            due_s = max(due_s, loop.time() + self._link.transit_s())
            self._held.append((due_s, data))
            self._held_bytes += len(data)
            self._changed.set()
            if not data:
                return

    async def give(self) -> None:
        """Write what is due, in order, until the end has been passed on."""
        loop = asyncio.get_running_loop()
        link = self._link
        while True:
            while not self._held:
                self._changed.clear()
                await self._changed.wait()
            due_s, data = self._held[0]
            wait_s = due_s - loop.time() + link.wait_s(len(data))
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._held.popleft()
            self._held_bytes -= len(data)
            self._changed.set()
            if link.swallows(self._way):
                # The end of a stream is a packet too.
                self._connection.has_hole = self._has_hole = True
                link.counts.swallowed_bytes += len(data)
                if not data:
                    return
                continue
            if self._has_hole:
                # Healed meanwhile: it is being reset.
                return
            if not data:
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                return
            self._writer.write(data)
            link.counts.passed_bytes += len(data)
            await self._writer.drain()


async def _together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all parts to their ends; when one fails, the others are ended."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
