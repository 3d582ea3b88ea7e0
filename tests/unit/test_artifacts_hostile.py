"""P4, P11, P12: peers that stall, lie, babble or break off delay a fetch, and spoil nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from even_chunks import cut_evenly

from meshtrain.artifacts import asks
from meshtrain.artifacts.fetch import Fetcher, Source
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.holder import HttpTimeouts
from meshtrain.artifacts.listener import Listener
from meshtrain.artifacts.news_frames import Gained, Holds, StillHere, frame_bytes
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.core.manifest import artifact_id, canonical_bytes
from meshtrain.core.swarm import SwarmLimits
from meshtrain.errors import FetchError

CHUNK = 1024
CHUNKS = 6
CONTENT = b"".join(bytes([n]) * CHUNK for n in range(CHUNKS))
HAVE = frame_bytes(Holds(bytes([(1 << CHUNKS) - 1])))
QUICK = SwarmLimits(
    backoff_s=0.001,
    backoff_max_s=0.002,
    last_resort_after_s=60.0,
    slow_after_s=60.0,
    endgame_min_s=60.0,
    refollow_s=0.005,
)


Misbehave = Callable[["Peer", bytes, asyncio.StreamWriter], Awaitable[None]]
"""Called with the answer that an honest peer would give."""


@dataclass
class Peer:
    """Answers honestly but for one kind of request."""

    answers: dict[str, bytes]
    bad_at: str
    misbehave: Misbehave
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    elsewhere: str = ""
    """Where a redirect leads."""
    url: str = ""
    _server: asyncio.Server | None = None
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                body = re.search(r"[Cc]ontent-[Ll]ength: (\d+)", head)
                await reader.readexactly(int(body[1]) if body else 0)
                kind = "chunk" if "/files/" in head else head.split(" ")[1].rsplit("/", 1)[1]
                answer = self._answer(kind, head)
                if kind == self.bad_at:
                    self.asked.set()
                    await self.misbehave(self, answer, writer)
                else:
                    writer.write(answer)
                await writer.drain()

    def _answer(self, kind: str, head: str) -> bytes:
        if kind != "chunk":
            return reply(self.answers[kind])
        wanted = re.search(r"[Rr]ange: bytes=(\d+)-(\d+)", head)
        assert wanted is not None
        return reply(CONTENT[int(wanted[1]) : int(wanted[2]) + 1], b"206 Partial Content")


def reply(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    length = str(len(body)).encode()
    return (
        b"HTTP/1.1 " + status + b"\r\nContent-Length: " + length + b"\r\n" + more + b"\r\n" + body
    )


def split(answer: bytes) -> tuple[bytes, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


async def stall_midway(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(answer[: len(answer) - 1])
    await writer.drain()
    await asyncio.Event().wait()


async def be_silent(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    """A byte now and then: never silent for long, and never done."""
    while True:
        writer.write(b"H" if answer is None else b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def drip_the_body(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    head, body = split(answer)
    writer.write(head.replace(str(len(body)).encode(), b"900"))
    for _ in range(800):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def reset_midway(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(answer[: len(answer) - 1])
    await writer.drain()
    writer.transport.abort()
    raise ConnectionResetError


async def close_at_once(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise ConnectionResetError


async def promise_less(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    head, body = split(answer)
    length = f"Content-Length: {len(body)}".encode()
    writer.write(head.replace(length, f"Content-Length: {len(body) - 1}".encode()) + body)


async def promise_more(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    head, body = split(answer)
    length = f"Content-Length: {len(body)}".encode()
    more = f"Content-Length: {1 << 62}".encode()
    writer.write(head.replace(length, more) + body)


async def promise_twice(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    head, body = split(answer)
    writer.write(head[:-2] + b"Content-Length: 1\r\n\r\n" + body)


async def be_endless(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(split(answer)[0].split(b"\r\n")[0])
    writer.write(b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        await writer.drain()


async def endless_headers(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(answer.split(b"\r\n")[0] + b"\r\n")
    while True:
        writer.write(b"X-More: and more\r\n" * 100)
        await writer.drain()


async def one_endless_header(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(answer.split(b"\r\n")[0] + b"\r\nX-More: ")
    while True:
        writer.write(b"x" * 10_000)
        await writer.drain()


async def babble(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\xff\x00\r\n\r\n" * 20)


async def redirect(peer: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    place = f"Location: {peer.elsewhere}\r\n".encode()
    writer.write(reply(b"", b"307 Temporary Redirect", place))


async def compress(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    head, body = split(answer)
    status = head.split(b"\r\n")[0].removeprefix(b"HTTP/1.1 ")
    writer.write(reply(gzip.compress(body), status, b"Content-Encoding: gzip\r\n"))


async def claim_to_be_compressed(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    """A small body that would unpack to a thousand times its size."""
    head, _body = split(answer)
    status = head.split(b"\r\n")[0].removeprefix(b"HTTP/1.1 ")
    writer.write(reply(gzip.compress(bytes(1 << 20)), status, b"Content-Encoding: gzip\r\n"))


async def send_another_range(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    head, body = split(answer)
    writer.write(head + body[::-1][:-1] + b"?")


async def fail(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(b"\xff" * 10_000, b"500 \x1b[31mBroken"))


MISBEHAVIOURS: list[Misbehave] = [
    stall_midway,
    be_silent,
    drip,
    drip_the_body,
    reset_midway,
    close_at_once,
    promise_less,
    promise_more,
    promise_twice,
    be_endless,
    endless_headers,
    one_endless_header,
    babble,
    redirect,
    compress,
    claim_to_be_compressed,
    send_another_range,
    fail,
]


IMPATIENT = {
    stall_midway: HttpTimeouts(read_s=0.05),
    be_silent: HttpTimeouts(read_s=0.05),
    drip: HttpTimeouts(request_s=0.05),
    drip_the_body: HttpTimeouts(request_s=0.05),
}
"""For those whom only a clock stops. A good answer may be late too: it is asked for again."""
HONEST_FAILURES_MAX = 100


@dataclass
class Scene:
    """A bad peer, an honest one, and who fetches."""

    bad: Peer
    honest_url: str
    honest_asked: list[str]
    store: ArtifactStore
    fetcher: Fetcher
    name: str
    root: Path


Stage = Callable[..., Awaitable[Scene]]


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    cut_evenly(monkeypatch, CHUNK)
    # Each chunk by a request of its own, so that they can be counted and held back.
    monkeypatch.setattr(asks, "REQUEST_BYTES_MAX", CHUNK)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "weights").write_bytes(CONTENT)
    async with contextlib.AsyncExitStack() as stack:

        async def start(bad_at: str, misbehave: Misbehave, failures_max: int) -> Scene:
            honest = ArtifactStore(tmp_path / "honest")
            manifest = honest.add_tree(tmp_path / "tree")
            asked: list[str] = []

            @web.middleware
            async def wait_for_the_bad(request: web.Request, handler: Any) -> Any:
                asked.append(request.path)
                if bad_at == "chunk" and "/files/" in request.path:
                    await bad.asked.wait()
                return await handler(request)

            server = ArtifactServer(honest, "127.0.0.1")
            server.app.middlewares.append(wait_for_the_bad)
            url = await server.start()
            stack.push_async_callback(server.stop)
            answers = {"manifest": canonical_bytes(manifest), "news": HAVE}
            bad = Peer(answers, bad_at, misbehave, elsewhere=url)
            await bad.start()
            stack.push_async_callback(bad.stop)
            store = ArtifactStore(tmp_path / "node")
            limits = msgspec.structs.replace(QUICK, failures_max=failures_max)
            fetcher = Fetcher(store, limits=limits, timeouts=IMPATIENT.get(misbehave), seed=0)
            await fetcher.start()
            stack.push_async_callback(fetcher.close)
            return Scene(bad, url, asked, store, fetcher, artifact_id(manifest), tmp_path)

        yield start


@pytest.mark.parametrize("bad_at", ["manifest", "news", "chunk"])
@pytest.mark.parametrize("misbehave", MISBEHAVIOURS, ids=lambda f: f.__name__)
async def test_p12_a_bad_peer_delays_a_fetch_and_loses_nothing(
    stage: Stage, bad_at: str, misbehave: Misbehave
) -> None:
    scene = await stage(bad_at, misbehave, HONEST_FAILURES_MAX)
    bad, honest = Source("bad", scene.bad.url), Source("honest", scene.honest_url)
    report = await scene.fetcher.fetch(scene.name, [bad, honest])
    assert scene.store.verify(scene.name)
    # A bad answer to `news` may be one that says too much: chunks of it are good then.
    assert sum(report.bytes_by_node.values()) == len(CONTENT)
    if bad_at == "chunk":
        assert report.bytes_by_node == {"honest": len(CONTENT)}


@pytest.mark.parametrize("misbehave", MISBEHAVIOURS, ids=lambda f: f.__name__)
async def test_p4_p12_a_bad_peer_alone_ends_the_fetch_with_its_reason_and_nothing_visible(
    stage: Stage, misbehave: Misbehave
) -> None:
    scene = await stage("chunk", misbehave, 1)
    with pytest.raises(FetchError, match=r"bad \(http://127\.0\.0\.1:\d+\): \S") as caught:
        await scene.fetcher.fetch(scene.name, [Source("bad", scene.bad.url)])
    assert not scene.store.has(scene.name)
    assert scene.store.ids() == []
    assert len(str(caught.value)) < 2000, "no peer fills the log"
    if misbehave is redirect:
        assert scene.honest_asked == [], "a redirect is never followed"


def tell(*frames: bytes) -> Misbehave:
    async def misbehave(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"".join(frames)))

    return misbehave


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([frame_bytes(Holds(b"\xff" * 9))], "bitmap has 9 bytes, which fits another artifact"),
        ([frame_bytes(Holds(b""))], "bitmap has 0 bytes"),
        ([frame_bytes(Holds(b"\0")), frame_bytes(Gained([CHUNKS]))], "chunks that the artifact"),
        ([frame_bytes(Holds(b"\0")), frame_bytes(Gained([-1]))], "chunks that the artifact"),
        ([frame_bytes(Holds(b"\0"))], "it told of no more, and lacks some of it"),
        ([], "it told of no more, and lacks some of it"),
        ([b"\0\0\0\1\xc1"], "its news are no frame"),
        ([b"\xff\xff\xff\xff"], "in a frame of 4294967295 bytes"),
        ([frame_bytes(Holds(b"\0"))[:-1]], "its news broke off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "news",
)
async def test_p11_news_that_cannot_be_are_their_teller_s_failure(
    stage: Stage, frames: list[bytes], words: str
) -> None:
    scene = await stage("news", tell(*frames), 1)
    with pytest.raises(FetchError, match=words):
        await scene.fetcher.fetch(scene.name, [Source("bad", scene.bad.url)])
    sources = [Source("bad", scene.bad.url), Source("honest", scene.honest_url)]
    report = await scene.fetcher.fetch(scene.name, sources)
    assert report.bytes_by_node == {"honest": len(CONTENT)}


async def test_p12_endless_news_of_nothing_hold_up_nobody(stage: Stage) -> None:
    async def babble_on(_: Peer, answer: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
        while True:
            writer.write(frame_bytes(StillHere()) * 1000 + frame_bytes(Holds(b"\0", more=True)))
            await writer.drain()

    scene = await stage("news", babble_on, 1)
    sources = [Source("bad", scene.bad.url), Source("honest", scene.honest_url)]
    report = await scene.fetcher.fetch(scene.name, sources)
    assert report.bytes_by_node == {"honest": len(CONTENT)}
    assert scene.store.verify(scene.name)


# --- bad clients ----------------------------------------------------------------------


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ArtifactServer]:
    made = ArtifactServer(ArtifactStore(tmp_path / "served"), "127.0.0.1", accept_uploads=True)
    yield made
    await made.stop()


async def say(url: str, data: bytes) -> bytes:
    """The head of what a server answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
    writer.write(data)
    try:
        return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()


GET = b"GET /v1/artifacts/" + b"0" * 32 + b"/have HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PUT = b"PUT /v1/artifacts/" + b"0" * 32 + b"/manifest HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", {b"400"}),
        (b"GET " + b"/x" * 4000 + b" HTTP/1.1\r\n\r\n", {b"400"}),
        (GET + b"X-Long: " + b"x" * 4000 + b"\r\n\r\n", {b"400"}),
        (GET + b"X-More: y\r\n" * 200 + b"\r\n", {b"400"}),
        (GET + b"Content-Length: -1\r\n\r\n", {b"400"}),
        (GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", {b"400"}),
        (GET + b"Connection: close\r\nRange: bytes=" + b"9" * 500 + b"-\r\n\r\n", {b"404"}),
        (
            PUT + b"Connection: close\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
            {b"415"},
        ),
        (
            PUT + b"Connection: close\r\nContent-Length: 99999999999\r\n\r\n",
            {b"413"},
        ),
    ],
)
async def test_p11_requests_that_are_none_are_refused_and_the_server_goes_on(
    server: ArtifactServer, data: bytes, statuses: set[bytes]
) -> None:
    url = await server.start()
    answer = await say(url, data)
    assert answer.split(b" ")[1] in statuses
    assert (await say(url, GET + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 404")


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))


@pytest.mark.parametrize("said", [b"", b"GET / HT"])
async def test_p12_silent_connections_are_closed(said: bytes) -> None:
    listener = Listener(web.Application(), idle_s=0.02)
    reader, writer = await connect(await listener.listen("127.0.0.1", 0, None))
    writer.write(said)
    assert await reader.read() == b""
    writer.close()
    await listener.close()


async def test_p12_connections_are_bounded() -> None:
    listener = Listener(web.Application(), connections_max=1)
    url = await listener.listen("127.0.0.1", 0, None)
    reader, writer = await connect(url)
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 404")
    second_reader, second_writer = await connect(url)
    assert await second_reader.read() == b""
    for each in (writer, second_writer):
        each.close()
    await listener.close()
