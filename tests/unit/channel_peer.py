"""Peers on loopback that do as a test says, and what asks them over real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from channel_double import answer_bytes
from member_keys import OTHER_NODE
from yarl import URL

from meshtrain.artifacts.channel import Channels
from meshtrain.security.tls import pinned_context, server_context

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Peer:
    """A server that does as a test says, on each connection anew; else it answers all."""

    serve: Serve | None = None
    url: URL = field(default_factory=URL)
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    ended: int = 0
    """Connections that the other side closed."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Server | None = None
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, tls: ssl.SSLContext | None) -> None:
        self.server = await asyncio.start_server(self._meet, "127.0.0.1", 0, ssl=tls)
        port = self.server.sockets[0].getsockname()[1]
        self.url = URL(f"{'https' if tls else 'http'}://127.0.0.1:{port}")

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.changed.clear()
            await self.changed.wait()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        self.changed.set()
        return head

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        self.writers.append(writer)
        try:
            await (self.serve or self._answer_all)(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            self.ended += 1
            self.changed.set()
        finally:
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(answer_bytes(body_of(await self.request(reader))))
            await writer.drain()


class Asker:
    """Asks one peer; `get("3/ab")` is answered `ababab`."""

    def __init__(self, pool: Channels, peer: Peer, tls: ssl.SSLContext | None) -> None:
        self.pool, self.peer, self.tls = pool, peer, tls
        self.buffers: dict[str, bytearray] = {}

    async def get(self, path: str, size_bytes: int | None = None) -> tuple[int, bytes]:
        count, word = path.split("/")
        buffer = bytearray(int(count) * len(word) if size_bytes is None else size_bytes)
        self.buffers[path] = buffer
        head = f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        reply = await self.pool.get(self.peer.url, self.tls, head, [memoryview(buffer)])
        return reply.status, bytes(buffer) if reply.status == 206 else reply.body


class Sockets:
    """Peers of one kind, in the clear or with TLS, and connections to them.

    Args:
        encrypt: whether they have TLS.
    """

    def __init__(self, encrypt: bool) -> None:
        self.pool = Channels(connect_s=5.0, silence_max_s=5.0)
        self._served_with = server_context(OTHER_NODE) if encrypt else None
        self._asked_with = pinned_context(OTHER_NODE.member.cert_sha256) if encrypt else None
        self._peers: list[Peer] = []

    async def start(self, serve: Serve | None = None) -> Peer:
        peer = Peer(serve)
        await peer.start(self._served_with)
        self._peers.append(peer)
        return peer

    def asker(self, peer: Peer, pool: Channels | None = None) -> Asker:
        return Asker(pool or self.pool, peer, self._asked_with)

    async def close(self) -> None:
        self.pool.close()
        for peer in self._peers:
            await peer.stop()


def body_of(head: bytes) -> bytes:
    """What is answered: the path's last part, as often as its first one says."""
    _, count, word = head.split(b" ")[1].split(b"/")
    return word * int(count)
