"""A connection to a peer's HTTP server over which ranges of files come, each into its buffer.

The next request is sent before the former one is answered (pipelining, RFC 9112,
section 9.3.2), and bodies are received straight into the memory that they are for:
no copy is made of them in this process. What isn't a range goes by aiohttp.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from yarl import URL

HEAD_BYTES_MAX: Final = 16 << 10
ERROR_BYTES_MAX: Final = 4096
"""Of the body of an answer that refuses; a longer one ends the connection."""
CHANNELS_MAX: Final = 256
"""Kept open by one pool, over all peers; one that rests makes room."""
_SCRATCH_BYTES: Final = 4096
"""What is read before a body is known to come; the part of it that is body is copied."""
_WAKE_BYTES: Final = 256 << 10
"""The kernel wakes us for no less of a body than this, or its rest."""
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_LENGTH = re.compile(rb"[0-9]{1,15}")


class ChannelError(Exception):
    """Raised when a connection fails, or its peer answers with what is no HTTP."""


class Reply(msgspec.Struct, frozen=True):
    """An answer; with status 206 its body lies in the buffer that was given."""

    status: int
    headers: dict[str, str]
    """By lower-case name; of a name that comes twice the last."""
    body: bytes
    """Of any other status: the body, which tells why."""


@dataclass(slots=True, eq=False)
class _Pending:
    """A request that was sent, in the order of their answers."""

    parts: Sequence[memoryview]
    answer: asyncio.Future[Reply]
    on_part: Callable[[int], None]
    """Called with the number of each part that is filled."""
    abandoned: bool = False
    """Nobody waits any more: the body is let pass, and its buffer is not ours."""


@dataclass(slots=True)
class _Body:
    """The body that is coming."""

    status: int
    headers: dict[str, str]
    parts: Sequence[memoryview]
    size_bytes: int
    done_bytes: int = 0
    part: int = 0
    """The part that is being filled, and how far."""
    part_bytes: int = 0
    kept: bytearray = field(default_factory=bytearray)
    """Of an answer that refuses: what it says."""


class Channel(asyncio.BufferedProtocol):
    """One connection; made by `Channels`.

    Args:
        silence_max_s: after which a peer that owes an answer is given up.
        on_end: called once, when the connection is of no more use.
    """

    def __init__(self, silence_max_s: float, on_end: Callable[[Channel], None]) -> None:
        self._silence_max_s = silence_max_s
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._plain: socket.socket | None = None
        """The socket where bodies come as they are, without TLS."""
        self._pending: deque[_Pending] = deque()
        self._head = bytearray()
        self._body: _Body | None = None
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._wake_bytes = 1
        self._last = False
        """Whether the peer closes after the answer that is coming."""
        self._error = ""
        self._heard_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.ended = False
        self.answered = 0
        """How many answers have come."""
        self.heard = 0
        """How often something was heard."""

    @property
    def pending(self) -> int:
        """How many answers are awaited."""
        return len(self._pending)

    def get(
        self,
        head: bytes,
        parts: Sequence[memoryview],
        on_part: Callable[[int], None] = lambda part: None,
    ) -> asyncio.Future[Reply]:
        """Sends a request whose answer has a body that fills all parts, or refuses.

        The future may be cancelled; the body is then let pass.

        Args:
            head: the request, from its first line to the empty one.
            parts: none is empty.
            on_part: called with the number of each part as it is full.

        Raises:
            ChannelError: by the future, when the connection fails before the end.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        if self.ended or self._transport is None:
            answer.set_exception(ChannelError(self._error or "the connection was closed"))
            return answer
        pending = _Pending(parts, answer, on_part)
        answer.add_done_callback(lambda done: self._note_cancel(pending, done))
        if not self._pending:
            self._heard_s = loop.time()
            self._watch = loop.call_later(self._silence_max_s, self._check_silence)
        self._pending.append(pending)
        self._transport.write(head)
        return answer

    def close(self, why: str = "the connection was closed") -> None:
        """Ends the connection; those that wait get a ChannelError."""
        self._error = self._error or why
        if self._transport is not None:
            self._transport.abort()
        self._end()

    # --- the protocol -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if transport.get_extra_info("sslcontext") is None and hasattr(socket, "SO_RCVLOWAT"):
            self._plain = transport.get_extra_info("socket")

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        body, pending = self._body, self._pending
        if body is not None and body.status == 206 and pending and not pending[0].abandoned:
            return body.parts[body.part][body.part_bytes :]
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self.ended:
            return
        self._heard_s = asyncio.get_running_loop().time()
        self.heard += 1
        body = self._body
        try:
            if body is not None and self._pending and self._reads_into(body):
                body.done_bytes += nbytes
                self._fill(body, nbytes)
                if body.done_bytes == body.size_bytes:
                    self._finish(body)
                else:
                    self._wake_for(body.size_bytes - body.done_bytes)
                return
            self._take(self._scratch[:nbytes])
        except ChannelError as error:
            self.close(str(error))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._error:
            told = str(exc) if exc is not None else ""
            self._error = told or "it closed the connection"
        self._end()

    # --- answers ------------------------------------------------------------

    def _reads_into(self, body: _Body) -> bool:
        return body.status == 206 and not self._pending[0].abandoned

    def _take(self, data: memoryview) -> None:
        """Bytes that were read beside a buffer: heads, the starts of bodies, what refuses."""
        while True:
            body = self._body
            if body is None:
                self._head += data
                end = self._head.find(b"\r\n\r\n")
                if end < 0:
                    if len(self._head) > HEAD_BYTES_MAX:
                        raise ChannelError("the head of its answer has no end")
                    return
                rest = bytes(self._head[end + 4 :])
                head = bytes(self._head[:end])
                self._head.clear()
                body = self._begin(head)
                data = memoryview(rest)
            part = data[: body.size_bytes - body.done_bytes]
            data = data[len(part) :]
            if body.status != 206:
                body.kept += part
            elif not self._pending[0].abandoned:
                self._copy(body, part)
            body.done_bytes += len(part)
            if body.done_bytes < body.size_bytes:
                if self._reads_into(body):
                    self._wake_for(body.size_bytes - body.done_bytes)
                return
            self._finish(body)
            if not data:
                return

    def _fill(self, body: _Body, size_bytes: int) -> None:
        """Counts what came into the part that is being filled."""
        body.part_bytes += size_bytes
        if body.part_bytes == len(body.parts[body.part]):
            part, body.part, body.part_bytes = body.part, body.part + 1, 0
            self._pending[0].on_part(part)

    def _copy(self, body: _Body, data: memoryview) -> None:
        while data:
            into = body.parts[body.part][body.part_bytes :]
            size_bytes = min(len(into), len(data))
            into[:size_bytes] = data[:size_bytes]
            self._fill(body, size_bytes)
            data = data[size_bytes:]

    def _begin(self, head: bytes) -> _Body:
        if not self._pending:
            raise ChannelError("it sent an answer that nobody had asked for")
        first, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        if status is None:
            raise ChannelError("it sent what is no answer of HTTP/1.1")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise ChannelError("it sent a header that is none")
            name = name.lower()
            if name in (b"content-length", b"content-encoding") and name.decode() in headers:
                raise ChannelError("it sent a header twice that may come once")
            headers[name.decode("latin-1")] = value.strip().decode("latin-1")
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or _LENGTH.fullmatch(length.encode("latin-1")) is None:
            raise ChannelError("it did not say how many bytes it sends")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ChannelError("it sent its answer compressed, which was not asked for")
        self._last = headers.get("connection", "").lower() == "close"
        parts, size_bytes, code = self._pending[0].parts, int(length), int(status[1])
        due_bytes = sum(map(len, parts))
        if code == 206 and size_bytes != due_bytes:
            raise ChannelError(f"it sends {size_bytes} bytes, {due_bytes} were due")
        if code < 300 and code != 206:
            raise ChannelError(f"it answered {code} to a request for a range")
        if code != 206 and size_bytes > ERROR_BYTES_MAX:
            raise ChannelError(f"it refused with {code}, and {size_bytes} bytes to say why")
        self._body = _Body(code, headers, parts, size_bytes)
        return self._body

    def _finish(self, body: _Body) -> None:
        pending = self._pending.popleft()
        self._body = None
        self.answered += 1
        self._wake_for(1)
        if not self._pending and self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if not pending.answer.done():
            pending.answer.set_result(Reply(body.status, body.headers, bytes(body.kept)))
        if self._last:
            raise ChannelError("it closed the connection after its answer")

    def _wake_for(self, size_bytes: int) -> None:
        """Lets the kernel gather bytes before it wakes us: fewer, larger reads."""
        wake_bytes = min(size_bytes, _WAKE_BYTES)
        if self._plain is None or wake_bytes == self._wake_bytes:
            return
        self._wake_bytes = wake_bytes
        try:
            self._plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake_bytes)
        except OSError:
            # The connection is going down, which is told elsewhere.
            self._plain = None

    def _note_cancel(self, pending: _Pending, answer: asyncio.Future[Reply]) -> None:
        if not answer.cancelled() or pending not in self._pending:
            return
        pending.abandoned = True
        if all(other.abandoned for other in self._pending):
            self.close("nobody waits for its answer any more")
        elif self._pending[0] is pending:
            # What is left of it goes by in small pieces.
            self._wake_for(1)

    def _check_silence(self) -> None:
        left_s = self._heard_s + self._silence_max_s - asyncio.get_running_loop().time()
        if left_s > 0:
            self._watch = asyncio.get_running_loop().call_later(left_s, self._check_silence)
            return
        self._watch = None
        self.close("it did not answer in time")

    def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if not self.ended:
            self.ended = True
            self._on_end(self)
        pending, self._pending = list(self._pending), deque()
        for one in pending:
            if not one.answer.done():
                one.answer.set_exception(ChannelError(self._error))


class Channels:
    """The open connections to all peers, one to each: its requests wait in line there.

    Args:
        connect_s: how long a peer may take to accept one.
        silence_max_s: after which a peer that owes an answer is given up.
        idle_s: after which one that nobody uses is closed.
    """

    def __init__(self, connect_s: float, silence_max_s: float, idle_s: float = 30.0) -> None:
        self._connect_s = connect_s
        self._silence_max_s = silence_max_s
        self._idle_s = idle_s
        self._open: OrderedDict[object, Channel] = OrderedDict()
        self._opening: dict[object, asyncio.Lock] = {}
        self._used_s: dict[object, float] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def get(
        self,
        url: URL,
        tls: ssl.SSLContext | None,
        head: bytes,
        parts: Sequence[memoryview],
        on_part: Callable[[int], None] = lambda part: None,
    ) -> Reply:
        """Asks the peer at `url`, whose certificate `tls` knows, for a range that fills `parts`.

        A connection that had rested, and ends before it gave a sign, is made anew once:
        the peer may have closed it while the request was on its way.

        Raises:
            ChannelError: when no connection can be had, or it fails.
        """
        key = (url.scheme, url.host, url.port, tls)
        for may_retry in (True, False):
            channel = await self._channel(key, url, tls)
            rested = channel.answered > 0 and channel.pending == 0
            heard = channel.heard
            self._used_s[key] = asyncio.get_running_loop().time()
            try:
                return await channel.get(head, parts, on_part)
            except ChannelError:
                if not (may_retry and rested and channel.heard == heard):
                    raise
        raise AssertionError("the second try returns or raises")

    def close(self) -> None:
        """Ends all connections."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for channel in list(self._open.values()):
            channel.close()

    async def _channel(self, key: object, url: URL, tls: ssl.SSLContext | None) -> Channel:
        lock = self._opening.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                channel = self._open.get(key)
                if channel is None:
                    channel = await self._connect(key, url, tls)
                self._open.move_to_end(key)
                return channel
        finally:
            if not lock.locked():
                self._opening.pop(key, None)

    async def _connect(self, key: object, url: URL, tls: ssl.SSLContext | None) -> Channel:
        loop = asyncio.get_running_loop()
        if url.host is None or url.port is None:
            raise ChannelError(f"{url} is no address of a peer")

        def forget(channel: Channel) -> None:
            if self._open.get(key) is channel:
                del self._open[key]
                self._used_s.pop(key, None)

        channel = Channel(self._silence_max_s, forget)
        try:
            async with asyncio.timeout(self._connect_s):
                await loop.create_connection(
                    lambda: channel,
                    url.host,
                    url.port,
                    ssl=tls,
                    server_hostname="" if tls is not None else None,
                )
        except TimeoutError as error:
            raise ChannelError("it could not be connected to in time") from error
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ChannelError(str(error) or type(error).__name__) from error
        if channel.ended:
            raise ChannelError("it closed the connection")
        former = self._open.get(key)
        if former is not None:
            # Made by one who came when those before it had failed.
            channel.close()
            return former
        while len(self._open) >= CHANNELS_MAX:
            # The one that rested longest; of those that owe answers only when all do.
            oldest = min(self._open.values(), key=lambda channel: channel.pending > 0)
            oldest.close("there are too many connections")
        self._open[key] = channel
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_s, self._close_idle)
        return channel

    def _close_idle(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        for key, channel in list(self._open.items()):
            used_s = self._used_s.get(key, 0.0)
            if not channel.pending and loop.time() - used_s >= self._idle_s:
                channel.close()
        if self._open:
            self._sweep = loop.call_later(self._idle_s, self._close_idle)
