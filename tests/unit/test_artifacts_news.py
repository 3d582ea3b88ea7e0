"""Streams of news between real servers on loopback: what is told, to whom, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from even_chunks import cut_evenly
from member_keys import NODE, OTHER_NODE, revoke, roll, security

from meshtrain.artifacts import chunking, news
from meshtrain.artifacts.channel import Channels
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.holder import (
    FETCH_HEADER,
    Holder,
    HolderBusyError,
    HolderError,
    new_session,
)
from meshtrain.artifacts.news import NewsDesk
from meshtrain.artifacts.news_frames import (
    FRAME_BYTES_MAX,
    Frame,
    Gained,
    Holds,
    StillHere,
    frame_bytes,
    frame_length,
    read_frame,
)
from meshtrain.artifacts.partial import Partial
from meshtrain.artifacts.peers import Peers
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.core import offers
from meshtrain.core.manifest import Manifest, artifact_id
from meshtrain.core.swarm import bits_from_bytes, bits_to_bytes
from meshtrain.errors import ProtocolError
from meshtrain.security.signing import HttpSecurity

CHUNK = 16
CHUNKS = 10
CONTENT = b"".join(bytes([n]) * CHUNK for n in range(CHUNKS))
ALL = (1 << CHUNKS) - 1


@pytest.fixture(autouse=True)
def small_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_evenly(monkeypatch, CHUNK)
    monkeypatch.setattr(news, "_EXPIRE_S", 0.005)
    monkeypatch.setattr(offers, "ALL_AFTER_S", 0.0)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "weights").write_bytes(CONTENT)
    return chunking.build_manifest(folder)


@dataclass
class Stream:
    """One who follows: what it was told, and what that amounts to."""

    name: str
    holder: Holder
    manifest: Manifest
    frames: list[Frame] = field(default_factory=list)
    shown: int = 0
    more: bool = False
    error: HolderError | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def begin(self, have: int = 0) -> None:
        self.task = asyncio.create_task(self._run(bits_to_bytes(have, CHUNKS)))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits until something holds, or fails once there is no more to come."""
        assert self.task is not None
        while not holds():
            assert not self.task.done(), f"its news ended: {self.frames} {self.error}"
            self.changed.clear()
            await self.changed.wait()

    async def end(self) -> None:
        """Waits for the end of the stream."""
        assert self.task is not None
        await self.task

    async def leave(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait({self.task})

    async def take(self, chunk: int) -> bytes:
        buffer = bytearray(CHUNK)
        await self.holder.chunk(0, self.manifest.files[0].chunks[chunk], memoryview(buffer))
        return bytes(buffer)

    async def _run(self, have: bytes) -> None:
        try:
            async for frame in self.holder.news(have):
                self.frames.append(frame)
                match frame:
                    case Holds():
                        assert len(frame.bits) == (CHUNKS + 7) // 8
                        self.shown, self.more = bits_from_bytes(frame.bits), frame.more
                    case Gained():
                        self.shown |= sum(1 << chunk for chunk in frame.chunks)
                self.changed.set()
        except HolderError as error:
            self.error = error
        finally:
            self.changed.set()


@dataclass
class Host:
    store: ArtifactStore
    server: ArtifactServer
    url: str

    @property
    def desk(self) -> NewsDesk:
        return self.server._desk


Start = Callable[..., Awaitable[Host]]
Follow = Callable[..., Stream]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    hosts: list[Host] = []

    async def start_host(of: HttpSecurity | None = None, **options: Any) -> Host:
        store = ArtifactStore(tmp_path / f"host{len(hosts)}")
        server = ArtifactServer(store, "127.0.0.1", security=of)
        if options:
            server._desk = NewsDesk(store, **options)
        hosts.append(Host(store, server, await server.start()))
        return hosts[-1]

    yield start_host
    for host in hosts:
        await host.server.stop()


@pytest.fixture
async def follow(manifest: Manifest) -> AsyncIterator[Follow]:
    session, pool = new_session(), Channels(5.0, 5.0)
    streams: list[Stream] = []

    def follow_host(
        host: Host,
        name: str = "a",
        *,
        have: int = 0,
        of: HttpSecurity | None = None,
        node: str = "gpu2",
    ) -> Stream:
        peer = Peers(of).of(node) if of is not None else None
        full_name = name * 16 if len(name) == 1 else name
        holder = Holder(
            session,
            host.url,
            artifact_id(manifest),
            peer,
            channels=pool,
            fetch_name=full_name,
        )
        stream = Stream(name, holder, manifest)
        stream.begin(have)
        streams.append(stream)
        return stream

    yield follow_host
    for stream in streams:
        await stream.leave()
    pool.close()
    await session.close()


def begin(host: Host, manifest: Manifest, *chunks: int) -> Partial:
    coming = host.store.begin(manifest)
    write(coming, *chunks)
    return coming


def write(coming: Partial, *chunks: int) -> None:
    for chunk in chunks:
        coming.write_chunk(0, chunk, CONTENT[chunk * CHUNK : (chunk + 1) * CHUNK])


def bits(*chunks: int) -> int:
    return sum(1 << chunk for chunk in chunks)


def lowest(shown: int) -> int:
    assert shown
    return (shown & -shown).bit_length() - 1


# --- what is told ---------------------------------------------------------------------


async def test_one_who_fetches_alone_is_told_of_all_and_takes_all(
    start: Start, follow: Follow, tmp_path: Path
) -> None:
    host = await start()
    host.store.add_tree(tmp_path / "tree")
    stream = follow(host)
    await stream.until(lambda: stream.shown == ALL)
    assert not stream.more
    for chunk in range(CHUNKS):
        assert await stream.take(chunk) == CONTENT[chunk * CHUNK : (chunk + 1) * CHUNK]
    await stream.end()
    assert stream.error is None


async def test_of_a_part_each_chunk_is_told_as_it_comes(
    start: Start, follow: Follow, manifest: Manifest
) -> None:
    host = await start()
    coming = begin(host, manifest, 0, 3)
    stream = follow(host)
    await stream.until(lambda: stream.shown == bits(0, 3))
    assert stream.frames == [Holds(bits_to_bytes(bits(0, 3), CHUNKS), more=False)]
    await asyncio.to_thread(write, coming, 5)
    await stream.until(lambda: stream.shown == bits(0, 3, 5))
    assert stream.frames[1:] == [Gained([5])]
    await asyncio.to_thread(write, coming, 1, 2, 4, 6, 7, 8, 9)
    await asyncio.to_thread(coming.commit)
    await stream.end()
    assert (stream.shown, stream.error) == (ALL, None)


async def test_many_new_chunks_are_told_by_the_bitmap(
    start: Start, follow: Follow, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "GAINED_MAX", 2)
    host = await start()
    coming = begin(host, manifest, 0)
    stream = follow(host)
    await stream.until(lambda: stream.shown == bits(0))
    # No await in between: it hears of the three at once.
    write(coming, 1, 2, 3)
    await stream.until(lambda: stream.shown == bits(0, 1, 2, 3))
    assert [type(frame) for frame in stream.frames] == [Holds, Holds]


async def test_what_has_not_begun_yet_is_told_when_it_begins(
    start: Start, follow: Follow, manifest: Manifest
) -> None:
    host = await start()
    streams = [follow(host, "a"), follow(host, "b")]
    while host.desk._count < 2:
        await asyncio.sleep(0)
    coming = await asyncio.to_thread(begin, host, manifest, 7)
    for stream in streams:
        await stream.until(lambda stream=stream: stream.shown == bits(7))
    await asyncio.to_thread(write, coming, 8)
    for stream in streams:
        await stream.until(lambda stream=stream: stream.shown == bits(7, 8))


async def test_what_comes_whole_at_once_is_told_too(
    start: Start, follow: Follow, tmp_path: Path
) -> None:
    host = await start()
    stream = follow(host)
    while host.desk._count < 1:
        await asyncio.sleep(0)
    await asyncio.to_thread(host.store.add_tree, tmp_path / "tree")
    await stream.until(lambda: stream.shown == ALL)


async def test_what_never_comes_ends_the_stream_after_a_time(start: Start, follow: Follow) -> None:
    host = await start(wait_s=0.0)
    stream = follow(host)
    await stream.end()
    assert (stream.frames, stream.error) == ([], None)
    assert host.desk._boards == {}


async def test_each_of_two_is_told_of_other_chunks(
    start: Start, follow: Follow, tmp_path: Path
) -> None:
    host = await start()
    host.store.add_tree(tmp_path / "tree")
    one = follow(host, "a")
    await one.until(lambda: one.shown == ALL)
    two = follow(host, "b")
    await two.until(lambda: two.shown != 0)
    await one.until(lambda: one.shown != ALL)
    assert not one.shown & two.shown
    assert one.more
    assert two.more
    before = one.shown
    await one.take(lowest(one.shown))
    await one.until(lambda: one.shown != before)
    assert one.shown & before == before, "what it took stays shown"
    assert not one.shown & two.shown


async def test_two_who_trade_get_all_and_their_streams_end(
    start: Start, follow: Follow, tmp_path: Path
) -> None:
    host = await start()
    host.store.add_tree(tmp_path / "tree")
    streams = [follow(host, "a"), follow(host, "b")]
    taken = 0
    while taken != ALL:
        for stream in streams:
            untaken = ALL & ~taken
            if untaken:
                await stream.until(lambda stream=stream, bits=untaken: stream.shown & bits)
                chunk = lowest(stream.shown & untaken)
                await stream.take(chunk)
                taken |= 1 << chunk
    for stream in streams:
        await stream.end()
        assert stream.shown == ALL
    assert host.desk._boards == {}


async def test_who_leaves_leaves_its_chunks_to_the_others(
    start: Start, follow: Follow, tmp_path: Path
) -> None:
    host = await start()
    host.store.add_tree(tmp_path / "tree")
    one, two = follow(host, "a"), follow(host, "b")
    await one.until(lambda: 0 < one.shown.bit_count() < CHUNKS)
    await two.until(lambda: 0 < two.shown.bit_count() < CHUNKS)
    await two.leave()
    await one.until(lambda: one.shown == ALL)


async def test_what_one_has_is_not_promised_to_it(
    start: Start, follow: Follow, tmp_path: Path
) -> None:
    host = await start()
    host.store.add_tree(tmp_path / "tree")
    one, two = follow(host, "a", have=bits(0, 1, 2)), follow(host, "b", have=bits(7, 8))
    await two.until(lambda: 0 < two.shown.bit_count() < CHUNKS)
    await one.until(lambda: 0 < one.shown.bit_count() < CHUNKS)
    assert not (one.shown | two.shown) & bits(0, 1, 2, 7, 8)


async def test_a_bitmap_that_fits_another_artifact_counts_as_none(
    start: Start, follow: Follow, tmp_path: Path, manifest: Manifest
) -> None:
    host = await start()
    host.store.add_tree(tmp_path / "tree")
    url = f"{host.url}/v1/artifacts/{artifact_id(manifest)}/news"
    follow(host, "b")
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=b"\xff" * 9, headers={FETCH_HEADER: "a" * 16}) as response,
    ):
        assert response.status == 200
        length = frame_length(await response.content.readexactly(4))
        frame = read_frame(await response.content.readexactly(length))
        assert isinstance(frame, Holds)
        assert bits_from_bytes(frame.bits) != 0


async def test_a_promise_that_is_not_kept_is_made_to_another(
    start: Start, follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "PATIENCE_FIRST_S", 0.0)
    monkeypatch.setattr(offers, "PATIENCE_MIN_S", 0.0)
    host = await start()
    host.store.add_tree(tmp_path / "tree")
    silent, other = follow(host, "a"), follow(host, "b")
    await other.until(lambda: other.shown == ALL)
    await silent.until(lambda: silent.shown == ALL)


# --- how they end ---------------------------------------------------------------------


async def test_p12_too_many_are_told_to_come_again(
    start: Start, follow: Follow, manifest: Manifest
) -> None:
    host = await start(followers_max=2)
    begin(host, manifest, 0)
    first = [follow(host, "a"), follow(host, "b")]
    for stream in first:
        await stream.until(lambda stream=stream: stream.shown == 1)
    third = follow(host, "c")
    await third.end()
    assert isinstance(third.error, HolderBusyError)
    # Who comes under a name that is there already takes no place more.
    again = follow(host, "b")
    await again.until(lambda: again.shown == 1)
    assert host.desk._count == 2


@pytest.mark.parametrize(
    "name", ["", "a", "A" * 16, "a" * 17, "a" * 15 + "\u00e4", "../../../../../x"]
)
async def test_p11_a_name_that_is_none_is_refused(
    start: Start, manifest: Manifest, name: str
) -> None:
    host = await start()
    begin(host, manifest, 0)
    url = f"{host.url}/v1/artifacts/{artifact_id(manifest)}/news"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=b"", headers={FETCH_HEADER: name}) as response,
    ):
        assert response.status == 400
        assert "names no fetch" in (await response.json())["error"]
    assert host.desk._boards == {}


async def test_p11_a_bitmap_without_end_is_refused(start: Start, manifest: Manifest) -> None:
    host = await start()
    begin(host, manifest, 0)
    url = f"{host.url}/v1/artifacts/{artifact_id(manifest)}/news"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=bytes(1 << 20), headers={FETCH_HEADER: "a" * 16}) as response,
    ):
        assert response.status == 413
    assert host.desk._boards == {}


async def test_the_same_name_again_takes_the_place_of_the_former(
    start: Start, follow: Follow, manifest: Manifest
) -> None:
    host = await start()
    coming = begin(host, manifest, 0)
    former = follow(host, "a")
    await former.until(lambda: former.shown == 1)
    later = follow(host, "a")
    await former.end()
    assert former.error is None
    await later.until(lambda: later.shown == 1)
    assert host.desk._count == 1
    await asyncio.to_thread(write, coming, 4)
    await later.until(lambda: later.shown == bits(0, 4))


async def test_the_same_name_again_is_promised_other_chunks(
    start: Start, follow: Follow, tmp_path: Path
) -> None:
    host = await start()
    host.store.add_tree(tmp_path / "tree")
    other, former = follow(host, "b"), follow(host, "a")
    await former.until(lambda: 0 < former.shown.bit_count() < CHUNKS)
    had = former.shown
    later = follow(host, "a", have=had)
    await later.until(lambda: later.shown != 0)
    assert not later.shown & (had | other.shown)


async def test_who_hangs_up_is_forgotten(start: Start, follow: Follow, manifest: Manifest) -> None:
    host = await start()
    begin(host, manifest, 0)
    stream = follow(host)
    await stream.until(lambda: stream.shown == 1)
    await stream.leave()
    while host.desk._boards:
        await asyncio.sleep(0.001)
    assert host.desk._count == 0


async def test_an_artifact_that_is_removed_and_comes_again_is_told_anew(
    start: Start, follow: Follow, manifest: Manifest, tmp_path: Path
) -> None:
    host = await start()
    host.store.add_tree(tmp_path / "tree")
    stream = follow(host)
    await stream.until(lambda: stream.shown == ALL)
    host.store.remove(artifact_id(manifest))
    with pytest.raises(HolderError, match="404"):
        await stream.take(0)
    coming = await asyncio.to_thread(begin, host, manifest, 2)
    await stream.until(lambda: stream.shown == bits(2))
    await asyncio.to_thread(write, coming, 3)
    await stream.until(lambda: stream.shown == bits(2, 3))


async def test_a_part_that_is_discarded_and_begun_again_is_told_anew(
    start: Start, follow: Follow, manifest: Manifest
) -> None:
    host = await start()
    coming = begin(host, manifest, 0, 1, 2)
    stream = follow(host)
    await stream.until(lambda: stream.shown == bits(0, 1, 2))
    await asyncio.to_thread(coming.discard)
    again = await asyncio.to_thread(begin, host, manifest, 9)
    await stream.until(lambda: stream.shown == bits(9))
    await asyncio.to_thread(write, again, 0)
    await stream.until(lambda: stream.shown == bits(0, 9))


async def test_when_the_server_stops_all_streams_end(
    start: Start, follow: Follow, manifest: Manifest
) -> None:
    host = await start()
    begin(host, manifest, 0)
    streams = [follow(host, "a"), follow(host, "b")]
    for stream in streams:
        await stream.until(lambda stream=stream: stream.shown == 1)
    await host.server.stop()
    for stream in streams:
        await stream.end()
    assert host.desk._boards == {}


async def test_a_silent_stream_says_that_it_stands(
    start: Start, follow: Follow, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "STILL_HERE_S", 0.01)
    host = await start()
    begin(host, manifest, 0)
    stream = follow(host)
    await stream.until(lambda: StillHere() in stream.frames)
    assert stream.shown == 1


@pytest.mark.parametrize("encrypt", [True, False])
async def test_p10_a_member_that_is_revoked_is_told_no_more(
    start: Start, follow: Follow, manifest: Manifest, encrypt: bool
) -> None:
    of_roll = roll()
    host = await start(security(OTHER_NODE, of_roll, encrypt=encrypt))
    coming = begin(host, manifest, 0)
    stream = follow(host, of=security(NODE, encrypt=encrypt))
    await stream.until(lambda: stream.shown == 1)
    revoke(of_roll, NODE.member)
    await asyncio.to_thread(write, coming, 1)
    await stream.end()
    assert stream.shown == 1
    refused = follow(host, of=security(NODE, encrypt=encrypt))
    await refused.end()
    assert "401" in str(refused.error)


async def test_p10_a_bitmap_that_was_not_signed_is_refused(
    start: Start, manifest: Manifest
) -> None:
    host = await start(security(OTHER_NODE, encrypt=False))
    begin(host, manifest, 0)
    of = Peers(security(NODE, encrypt=False)).of("gpu2")
    async with new_session() as session:
        holder = Holder(session, host.url, artifact_id(manifest), of, fetch_name="a" * 16)
        sent = holder._session.request

        def exchange(*args: Any, **options: Any) -> Any:
            if options.get("data"):
                options["data"] = b"\xff\xff"
            return sent(*args, **options)

        holder._session.request = exchange  # type: ignore[method-assign]
        with pytest.raises(HolderError, match="401"):
            async for _ in holder.news(b"\x00\x00"):
                pass
    assert host.desk._boards == {}


async def test_streams_take_no_place_of_requests(
    start: Start, follow: Follow, manifest: Manifest
) -> None:
    host = await start()
    host.server._requests_max = 1
    begin(host, manifest, 0)
    for name in ("a", "b", "c"):
        stream = follow(host, name)
        await stream.until(lambda stream=stream: stream.shown == 1)
    for _ in range(3):
        assert await stream.take(0) == CONTENT[:CHUNK]
        while host.server._requests:
            await asyncio.sleep(0)


# --- frames ---------------------------------------------------------------------------


def test_frames_travel() -> None:
    for frame in (Holds(b"\x01\x02", more=True), Holds(b""), Gained([1, 70_000]), StillHere()):
        data = frame_bytes(frame)
        assert frame_length(data[:4]) == len(data) - 4
        assert read_frame(data[4:]) == frame


def test_p11_what_is_no_frame_is_refused() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        frame_length((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    for data in (b"", b"\xc1", b"\x80", b"\x81\xa4type\xa5other", b"\x93\x01\x02\x03"):
        with pytest.raises(ProtocolError, match="no frame"):
            read_frame(data)
    # Taking in each of many thousands of the largest numbers would stop the event loop.
    with pytest.raises(ProtocolError, match="length <= 64"):
        read_frame(frame_bytes(Gained([1_000_000] * 65))[4:])


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"\x00\x00", "broke off"),
        (b"\x00\x00\x00\x05ab", "broke off"),
        (b"\xff\xff\xff\xff", "at most"),
        (b"\x00\x00\x00\x01\xc1", "no frame"),
        (b"", ""),
    ],
    ids=["prefix", "frame", "length", "content", "none"],
)
async def test_p11_a_stream_that_is_none_fails_with_its_reason(stream: bytes, words: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(stream)
            writer.write(head + stream)
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with new_session() as session:
        holder = Holder(session, f"http://127.0.0.1:{port}", "0" * 32, fetch_name="a" * 16)
        frames: list[Frame] = []

        async def read() -> None:
            frames.extend([frame async for frame in holder.news(b"")])

        if words:
            with pytest.raises(HolderError, match=words):
                await read()
        else:
            await read()
        assert frames == []
    server.close()
