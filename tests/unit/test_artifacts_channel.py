"""The connections that chunks come over: byte by byte, and over sockets, with TLS and without."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from channel_double import REQUEST, HandChannel, answer_bytes
from member_keys import OTHER_NODE, STRANGER
from yarl import URL

from meshtrain.artifacts import channel as channels
from meshtrain.artifacts.channel import (
    ERROR_BYTES_MAX,
    HEAD_BYTES_MAX,
    ChannelError,
    Channels,
)
from meshtrain.security.tls import pinned_context, server_context

BODY = bytes(range(256)) * 3
GONE = answer_bytes(b'{"error": "gone"}', b"404 Not Found")


# --- one connection, by hand ----------------------------------------------------------


async def test_a_body_lands_in_its_buffer() -> None:
    hand = HandChannel([len(BODY)])
    hand.feed(answer_bytes(BODY, more=b"X-One: 1\r\nx-one:  2 \r\n"))
    assert hand.outcomes() == [(206, BODY)]
    assert hand.answers[0].result().headers["x-one"] == "2"
    assert hand.transport.written == [REQUEST]
    assert hand.channel.pending == 0
    assert not hand.transport.aborted


@pytest.mark.parametrize("size_bytes", [1, 2, 3, 7, 100])
async def test_answers_may_come_in_pieces_of_any_size(size_bytes: int) -> None:
    answers = answer_bytes(BODY) + GONE + answer_bytes(BODY[::-1])
    hand = HandChannel([len(BODY)] * 3)
    for start in range(0, len(answers), size_bytes):
        hand.feed(answers[start : start + size_bytes])
    assert hand.outcomes() == [(206, BODY), (404, b'{"error": "gone"}'), (206, BODY[::-1])]


async def test_answers_may_be_split_in_two_at_every_byte() -> None:
    answers = answer_bytes(b"first") + GONE + answer_bytes(b"third")
    for cut in range(len(answers) + 1):
        hand = HandChannel([5, 5, 5])
        hand.feed(answers[:cut])
        hand.feed(answers[cut:])
        assert hand.outcomes() == [(206, b"first"), (404, b'{"error": "gone"}'), (206, b"third")]


async def test_the_bulk_of_a_body_is_read_straight_into_its_buffer() -> None:
    hand = HandChannel([100_000])
    head, _, body = answer_bytes(bytes(100_000)).partition(b"\r\n\r\n")
    hand.feed(head + b"\r\n\r\n" + body[:10])
    into = hand.channel.get_buffer(-1)
    assert len(into) == 100_000 - 10
    into[:3] = b"abc"
    assert hand.buffers[0][10:13] == b"abc"


async def test_empty_bodies_are_answers_too() -> None:
    hand = HandChannel([0, 5])
    hand.feed(answer_bytes(b"") + answer_bytes(b"", b"503 Busy", b"Retry-After: 1\r\n"))
    assert hand.outcomes() == [(206, b""), (503, b"")]
    assert hand.answers[1].result().headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no answer of HTTP"),
        (b"HTTP/2 200 OK\r\n\r\n", "no answer of HTTP"),
        (b"HTTP/1.1 99 X\r\n\r\n", "no answer of HTTP"),
        (b"HTTP/1.1 206 OK\r\nnonsense\r\n\r\n", "a header that is none"),
        (b"HTTP/1.1 206 OK\r\n: x\r\n\r\n", "a header that is none"),
        (b"HTTP/1.1 206 OK\r\nContent-Length : 5\r\n\r\n", "a header that is none"),
        (b"HTTP/1.1 206 OK\r\n folded: 5\r\n\r\n", "a header that is none"),
        (b"HTTP/1.1 206 OK\r\n\r\n", "how many bytes"),
        (b"HTTP/1.1 206 OK\r\nContent-Length: -5\r\n\r\n", "how many bytes"),
        (b"HTTP/1.1 206 OK\r\nContent-Length: 5,5\r\n\r\n", "how many bytes"),
        (b"HTTP/1.1 206 OK\r\nContent-Length: \xb2\r\n\r\n", "how many bytes"),
        (b"HTTP/1.1 206 OK\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n", "how many bytes"),
        (b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "how many bytes"),
        (answer_bytes(b"first", more=b"Content-Length: 5\r\n"), "a header twice"),
        (answer_bytes(b"first", more=b"content-LENGTH: 6\r\n"), "a header twice"),
        (answer_bytes(b"first", more=b"Content-Encoding: gzip\r\n"), "compressed"),
        (answer_bytes(b"firs"), "it sends 4 bytes, 5 were due"),
        (answer_bytes(b"first!"), "it sends 6 bytes, 5 were due"),
        (answer_bytes(b"first", b"200 OK"), "answered 200"),
        (answer_bytes(b"", b"100 Continue"), "answered 100"),
        (answer_bytes(b"", b"204 No Content"), "answered 204"),
        (answer_bytes(bytes(ERROR_BYTES_MAX + 1), b"500 X"), "refused with 500, and 4097 bytes"),
        (b"HTTP/1.1 206 OK\r\nX: " + b"x" * (HEAD_BYTES_MAX + 1), "has no end"),
        (b"x" * (HEAD_BYTES_MAX + 5000), "has no end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "answer",
)
async def test_p11_what_is_no_answer_ends_the_connection_with_its_reason(
    answer: bytes, words: str
) -> None:
    for size_bytes in (len(answer), 1):
        hand = HandChannel([5, 5])
        for start in range(0, len(answer), size_bytes):
            hand.feed(answer[start : start + size_bytes])
        assert hand.transport.aborted
        assert hand.ends == 1
        for outcome in hand.outcomes():
            assert isinstance(outcome, str)
            assert words in outcome


async def test_p11_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    hand = HandChannel([5])
    hand.feed(answer_bytes(b"first") + answer_bytes(b"other"))
    assert hand.outcomes() == [(206, b"first")]
    assert hand.transport.aborted


async def test_nothing_is_taken_in_once_the_connection_was_ended() -> None:
    hand = HandChannel([5])
    hand.feed(answer_bytes(b"first")[:-2])
    hand.channel.close("enough")
    hand.channel.get_buffer(-1)[:2] = b"st"
    hand.channel.buffer_updated(2)
    hand.lose()
    assert hand.outcomes() == ["ChannelError: enough"]
    assert hand.ends == 1


async def test_after_the_last_answer_the_connection_is_given_up() -> None:
    hand = HandChannel([5, 5])
    hand.feed(answer_bytes(b"first", more=b"Connection: Close\r\n") + answer_bytes(b"other"))
    assert hand.outcomes()[0] == (206, b"first")
    assert "closed the connection after" in str(hand.outcomes()[1])
    assert hand.channel.ended


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset by peer"), OSError()])
async def test_who_waits_when_the_connection_breaks_is_told(error: Exception | None) -> None:
    hand = HandChannel([5, 5])
    hand.feed(answer_bytes(b"first") + answer_bytes(b"other")[:-1])
    hand.lose(error)
    assert hand.outcomes()[0] == (206, b"first")
    assert str(hand.outcomes()[1]).startswith("ChannelError: ")
    assert len(str(hand.outcomes()[1])) > len("ChannelError: ")
    assert hand.ends == 1
    assert isinstance(hand.ask(5).exception(), ChannelError)


# --- nobody waits any more ------------------------------------------------------------


async def test_the_first_of_two_may_be_cancelled() -> None:
    hand = HandChannel([5, 5])
    hand.answers[0].cancel()
    await asyncio.sleep(0)
    hand.feed(answer_bytes(b"first") + answer_bytes(b"other"))
    assert hand.outcomes() == ["cancelled", (206, b"other")]
    assert hand.buffers[0] == bytes(5), "that memory may be somebody else's by now"


async def test_the_first_of_two_may_be_cancelled_while_its_body_comes() -> None:
    for cut in range(1, 5):
        hand = HandChannel([5, 5])
        answer = answer_bytes(b"first")
        hand.feed(answer[: -5 + cut])
        hand.answers[0].cancel()
        await asyncio.sleep(0)
        hand.feed(answer[-5 + cut :] + answer_bytes(b"other"))
        assert hand.outcomes() == ["cancelled", (206, b"other")]
        assert hand.buffers[0] == b"first"[:cut].ljust(5, b"\0")


async def test_the_second_of_two_may_be_cancelled() -> None:
    hand = HandChannel([5, 5])
    hand.answers[1].cancel()
    await asyncio.sleep(0)
    hand.feed(answer_bytes(b"first") + answer_bytes(b"other"))
    assert hand.outcomes() == [(206, b"first"), "cancelled"]
    assert hand.buffers[1] == bytes(5)
    hand.ask(5)
    hand.feed(answer_bytes(b"third"))
    assert hand.outcomes()[2] == (206, b"third")


async def test_what_was_refused_and_cancelled_passes_by() -> None:
    hand = HandChannel([5, 5])
    hand.answers[0].cancel()
    await asyncio.sleep(0)
    hand.feed(GONE + answer_bytes(b"other"))
    assert hand.outcomes() == ["cancelled", (206, b"other")]


async def test_when_all_are_cancelled_the_connection_is_ended() -> None:
    """The peer would send what nobody takes."""
    hand = HandChannel([5, 5])
    for answer in hand.answers:
        answer.cancel()
    await asyncio.sleep(0)
    assert hand.transport.aborted
    assert hand.ends == 1


async def test_what_is_cancelled_after_its_answer_disturbs_nothing() -> None:
    hand = HandChannel([5, 5])
    hand.feed(answer_bytes(b"first"))
    hand.answers[0].cancel()
    await asyncio.sleep(0)
    hand.feed(answer_bytes(b"other"))
    assert hand.outcomes() == [(206, b"first"), (206, b"other")]


# --- over sockets ---------------------------------------------------------------------

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


@pytest.fixture(params=["clear", "tls"])
def tls(request: pytest.FixtureRequest) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """The server's context and the client's."""
    if request.param == "clear":
        return None, None
    return server_context(OTHER_NODE), pinned_context(OTHER_NODE.member.cert_sha256)


Start = Callable[..., Awaitable[Peer]]
Contexts = tuple[ssl.SSLContext | None, ssl.SSLContext | None]


@pytest.fixture
async def start(tls: Contexts) -> AsyncIterator[Start]:
    peers: list[Peer] = []

    async def start_peer(serve: Serve | None = None) -> Peer:
        peer = Peer(serve)
        await peer.start(tls[0])
        peers.append(peer)
        return peer

    yield start_peer
    for peer in peers:
        await peer.stop()


def body_of(head: bytes) -> bytes:
    """What is answered: the path's last part, as often as its first one says."""
    _, count, word = head.split(b" ")[1].split(b"/")
    return word * int(count)


@pytest.fixture
async def pool() -> AsyncIterator[Channels]:
    made = Channels(connect_s=5.0, silence_max_s=5.0)
    yield made
    made.close()


class Asker:
    """Asks one peer; `get("3/ab")` is answered `ababab`."""

    def __init__(self, pool: Channels, peer: Peer, tls: ssl.SSLContext | None) -> None:
        self.pool, self.peer, self.tls = pool, peer, tls
        self.buffers: dict[str, bytearray] = {}

    async def get(self, path: str, size_bytes: int | None = None) -> tuple[int, bytes]:
        count, word = path.split("/")
        buffer = bytearray(int(count) * len(word) if size_bytes is None else size_bytes)
        self.buffers[path] = buffer
        head = f"GET /{path} HTTP/1.1\r\nHost: peer\r\n\r\n".encode()
        reply = await self.pool.get(self.peer.url, self.tls, head, [memoryview(buffer)])
        return reply.status, bytes(buffer) if reply.status == 206 else reply.body


async def test_ranges_come_over_one_connection(start: Start, pool: Channels, tls: Contexts) -> None:
    peer = await start()
    asker = Asker(pool, peer, tls[1])
    for word in ("a", "b", "c"):
        assert await asker.get(f"7/{word}") == (206, word.encode() * 7)
    assert peer.connections == 1


async def test_the_second_request_is_sent_before_the_first_is_answered(
    start: Start, pool: Channels, tls: Contexts
) -> None:
    async def answer_both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads = [await peer.request(reader) for _ in range(2)]
        for head in heads:
            writer.write(answer_bytes(body_of(head)))
        await peer.request(reader)

    peer = await start(answer_both)
    asker = Asker(pool, peer, tls[1])
    answers = await asyncio.gather(asker.get("3/a"), asker.get("4/b"))
    assert list(answers) == [(206, b"aaa"), (206, b"bbbb")]
    assert peer.connections == 1


async def test_large_bodies_come_whole_and_in_their_order(
    start: Start, pool: Channels, tls: Contexts
) -> None:
    peer = await start()
    asker = Asker(pool, peer, tls[1])
    paths = [f"{300_000 + n}/{chr(97 + n)}bc" for n in range(6)]
    answers = await asyncio.gather(*(asker.get(path) for path in paths))
    assert [body[:1] for _, body in answers] == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert [len(body) for _, body in answers] == [3 * (300_000 + n) for n in range(6)]
    assert all(len(set(body)) <= 3 for _, body in answers)
    assert peer.connections == 1


async def test_a_body_that_comes_in_drops_is_put_together(
    start: Start, pool: Channels, tls: Contexts
) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = answer_bytes(body_of(await peer.request(reader)))
        for start_at in range(0, len(answer), 5):
            writer.write(answer[start_at : start_at + 5])
            await writer.drain()
            await asyncio.sleep(0)
        await peer.request(reader)

    peer = await start(drip)
    assert await Asker(pool, peer, tls[1]).get("100/xyz") == (206, b"xyz" * 100)


async def test_after_a_refusal_the_connection_goes_on(
    start: Start, pool: Channels, tls: Contexts
) -> None:
    async def refuse_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(GONE)
        writer.write(answer_bytes(body_of(await peer.request(reader))))
        await peer.request(reader)

    peer = await start(refuse_first)
    asker = Asker(pool, peer, tls[1])
    assert await asker.get("3/a") == (404, b'{"error": "gone"}')
    assert await asker.get("3/b") == (206, b"bbb")
    assert peer.connections == 1


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_one_of_two_requests_may_be_cancelled(
    start: Start, pool: Channels, tls: Contexts, cancelled: int
) -> None:
    go_on = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads = [await peer.request(reader) for _ in range(2)]
        first, second = (answer_bytes(body_of(head)) for head in heads)
        writer.write(first[:-200_000])
        await go_on.wait()
        writer.write(first[-200_000:] + second)
        writer.write(answer_bytes(body_of(await peer.request(reader))))
        await peer.request(reader)

    peer = await start(wait)
    asker = Asker(pool, peer, tls[1])
    asks = [asyncio.create_task(asker.get(path)) for path in ("400000/a", "400000/b")]
    await peer.until(lambda: len(peer.requests) == 2)
    asks[cancelled].cancel()
    with pytest.raises(asyncio.CancelledError):
        await asks[cancelled]
    kept = bytes(asker.buffers["400000/a"])
    go_on.set()
    other = 1 - cancelled
    assert await asks[other] == (206, (b"a", b"b")[other] * 400_000)
    if cancelled == 0:
        assert bytes(asker.buffers["400000/a"]) == kept, "nothing is written there any more"
    assert await asker.get("3/c") == (206, b"ccc")
    assert peer.connections == 1


async def test_p12_a_silent_peer_is_given_up(start: Start, tls: Contexts) -> None:
    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await peer.request(reader)

    peer = await start(be_silent)
    pool = Channels(connect_s=5.0, silence_max_s=0.01)
    asker = Asker(pool, peer, tls[1])
    outcomes = await asyncio.gather(asker.get("3/a"), asker.get("3/b"), return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, ChannelError)
        assert "did not answer in time" in str(outcome)
    await peer.until(lambda: peer.ended > 0)
    pool.close()


async def test_p12_a_peer_that_falls_silent_in_the_middle_is_given_up(
    start: Start, tls: Contexts
) -> None:
    async def stop_midway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer_bytes(body_of(await peer.request(reader)))[:-1])
        await peer.request(reader)

    peer = await start(stop_midway)
    pool = Channels(connect_s=5.0, silence_max_s=0.02)
    with pytest.raises(ChannelError, match="in time"):
        await Asker(pool, peer, tls[1]).get("3/a")
    pool.close()


async def test_a_connection_that_nobody_owes_anything_may_be_silent(
    start: Start, tls: Contexts
) -> None:
    peer = await start()
    pool = Channels(connect_s=5.0, silence_max_s=0.01)
    asker = Asker(pool, peer, tls[1])
    await asker.get("3/a")
    await asyncio.sleep(0.03)
    await asker.get("3/b")
    assert peer.connections == 1
    pool.close()


async def test_p12_a_rested_connection_that_the_peer_closed_is_made_anew_once(
    start: Start, pool: Channels, tls: Contexts
) -> None:
    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer_bytes(body_of(await peer.request(reader))))
        await peer.request(reader)

    peer = await start(answer_one)
    asker = Asker(pool, peer, tls[1])
    assert await asker.get("3/a") == (206, b"aaa")
    assert await asker.get("3/b") == (206, b"bbb")
    assert peer.connections == 2
    assert len(peer.requests) == 3

    async def answer_none(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)

    peer.serve = answer_none
    with pytest.raises(ChannelError):
        await asker.get("3/c")
    assert peer.connections == 3
    assert len(peer.requests) == 5, "asked twice, and no more"


async def test_a_new_connection_that_ends_at_once_is_not_made_anew(
    start: Start, pool: Channels, tls: Contexts
) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)

    peer = await start(leave)
    with pytest.raises(ChannelError):
        await Asker(pool, peer, tls[1]).get("3/a")
    assert (peer.connections, len(peer.requests)) == (1, 1)


@pytest.mark.parametrize("sent", [1, -1])
async def test_who_leaves_in_the_middle_is_not_asked_again(
    start: Start, pool: Channels, tls: Contexts, sent: int
) -> None:
    """Whether that is worth another try is for who asked to say."""

    async def leave_midway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer_bytes(body_of(await peer.request(reader))))
        writer.write(answer_bytes(body_of(await peer.request(reader)))[:sent])
        await writer.drain()

    peer = await start(leave_midway)
    asker = Asker(pool, peer, tls[1])
    assert await asker.get("3/a") == (206, b"aaa")
    with pytest.raises(ChannelError):
        await asker.get("3/b")
    assert len(peer.requests) == 2


async def test_p12_connections_that_nobody_uses_are_closed(start: Start, tls: Contexts) -> None:
    peer = await start()
    pool = Channels(connect_s=5.0, silence_max_s=5.0, idle_s=0.01)
    asker = Asker(pool, peer, tls[1])
    await asker.get("3/a")
    await peer.until(lambda: peer.ended == 1)
    await asker.get("3/b")
    assert peer.connections == 2
    pool.close()


async def test_a_connection_that_is_in_use_is_not_idle(start: Start, tls: Contexts) -> None:
    rested = asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await peer.request(reader)
        await rested.wait()
        writer.write(answer_bytes(body_of(head)))
        await peer.request(reader)

    peer = await start(answer_late)
    pool = Channels(connect_s=5.0, silence_max_s=5.0, idle_s=0.01)
    ask = asyncio.create_task(Asker(pool, peer, tls[1]).get("3/a"))
    await peer.until(lambda: len(peer.requests) == 1)
    await asyncio.sleep(0.03)
    rested.set()
    assert await ask == (206, b"aaa")
    pool.close()


async def test_p12_open_connections_are_bounded(
    start: Start, pool: Channels, tls: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "CHANNELS_MAX", 2)
    peers = [await start() for _ in range(3)]
    askers = [Asker(pool, peer, tls[1]) for peer in peers]
    for which in (0, 1, 0, 2):
        await askers[which].get("3/a")
    await peers[1].until(lambda: peers[1].ended == 1)
    assert [peer.ended for peer in peers] == [0, 1, 0], "the one that rested longest made room"


async def test_room_is_not_made_at_the_cost_of_an_answer(
    start: Start, pool: Channels, tls: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "CHANNELS_MAX", 2)
    go_on = asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await busy.request(reader)
        await go_on.wait()
        writer.write(answer_bytes(body_of(head)))
        await busy.request(reader)

    busy, idle, third = await start(answer_late), await start(), await start()
    ask = asyncio.create_task(Asker(pool, busy, tls[1]).get("3/a"))
    await busy.until(lambda: len(busy.requests) == 1)
    await Asker(pool, idle, tls[1]).get("3/b")
    await Asker(pool, third, tls[1]).get("3/c")
    go_on.set()
    assert await ask == (206, b"aaa")


async def test_many_requests_at_once_make_one_connection(
    start: Start, pool: Channels, tls: Contexts
) -> None:
    peer = await start()
    asker = Asker(pool, peer, tls[1])
    answers = await asyncio.gather(*(asker.get(f"{n}/a") for n in range(1, 20)))
    assert answers == [(206, b"a" * n) for n in range(1, 20)]
    assert peer.connections == 1


async def test_who_waits_for_a_connection_that_another_gave_up_gets_one(
    start: Start, pool: Channels, tls: Contexts
) -> None:
    peer = await start()
    asker = Asker(pool, peer, tls[1])
    first, second = (asyncio.create_task(asker.get(path)) for path in ("3/a", "3/b"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == (206, b"bbb")
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_two_who_try_again_side_by_side_share_a_connection(
    start: Start, pool: Channels, tls: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them waited for a connection that could not be made, the other came just then."""
    loop = asyncio.get_running_loop()
    connect = loop.create_connection
    turns: list[asyncio.Future[None]] = []

    async def connect_in_turn(*args: Any, **kwargs: Any) -> Any:
        turns.append(loop.create_future())
        await turns[-1]
        return await connect(*args, **kwargs)

    monkeypatch.setattr(loop, "create_connection", connect_in_turn)
    peer = await start()
    asker = Asker(pool, peer, tls[1])
    asks = [asyncio.create_task(asker.get(path)) for path in ("3/a", "3/b")]
    while not turns:
        await asyncio.sleep(0)
    turns[0].set_exception(OSError("refused"))
    with pytest.raises(ChannelError, match="refused"):
        await asks[0]
    asks.append(asyncio.create_task(asker.get("3/c")))
    while not asks[1].done() or not asks[2].done():
        for turn in turns[1:]:
            if not turn.done():
                turn.set_result(None)
        await asyncio.sleep(0)
    assert len(turns) == 3, "both were making one"
    assert [ask.result() for ask in asks[1:]] == [(206, b"bbb"), (206, b"ccc")]
    assert len(pool._open) == 1
    pool.close()
    await peer.until(lambda: peer.ended == peer.connections)


async def test_when_the_pool_closes_those_that_wait_are_told(start: Start, tls: Contexts) -> None:
    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await peer.request(reader)

    peer = await start(be_silent)
    pool = Channels(connect_s=5.0, silence_max_s=5.0)
    ask = asyncio.create_task(Asker(pool, peer, tls[1]).get("3/a"))
    await peer.until(lambda: len(peer.requests) == 1)
    pool.close()
    with pytest.raises(ChannelError, match="closed"):
        await ask


async def test_p10_another_certificate_is_told_nothing(pool: Channels) -> None:
    peer = Peer()
    await peer.start(server_context(OTHER_NODE))
    wrong = pinned_context(STRANGER.member.cert_sha256)
    with pytest.raises(ChannelError, match="another server"):
        await Asker(pool, peer, wrong).get("3/a")
    assert peer.requests == []
    await peer.stop()


async def test_who_cannot_be_reached_is_told_apart(pool: Channels) -> None:
    for url in (URL("http://127.0.0.1:1"), URL("nonsense://"), URL("http://")):
        with pytest.raises(ChannelError) as caught:
            await pool.get(url, None, REQUEST, [memoryview(bytearray(5))])
        assert str(caught.value)


async def test_p12_who_takes_no_connection_is_not_waited_for_for_ever() -> None:
    """A handshake that is never answered."""

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()

    peer = Peer(be_silent)
    await peer.start(None)
    pool = Channels(connect_s=0.02, silence_max_s=5.0)
    with pytest.raises(ChannelError, match="connected to in time"):
        await Asker(pool, peer, pinned_context("0" * 64)).get("3/a")
    pool.close()
    await peer.stop()
