"""Requests for chunks over sockets, with TLS and without: in order, whole, or told why not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from channel_double import GONE, REQUEST, answer_bytes
from channel_peer import Asker, Peer, Sockets, body_of
from member_keys import OTHER_NODE, STRANGER
from yarl import URL

from meshtrain.artifacts.channel import ChannelError, Channels
from meshtrain.security.tls import pinned_context, server_context


async def test_ranges_come_over_one_connection(sockets: Sockets) -> None:
    peer = await sockets.start()
    asker = sockets.asker(peer)
    for word in ("a", "b", "c"):
        assert await asker.get(f"7/{word}") == (206, word.encode() * 7)
    assert peer.connections == 1


async def test_the_second_request_is_sent_before_the_first_is_answered(sockets: Sockets) -> None:
    async def answer_both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads = [await peer.request(reader) for _ in range(2)]
        for head in heads:
            writer.write(answer_bytes(body_of(head)))
        await peer.request(reader)

    peer = await sockets.start(answer_both)
    asker = sockets.asker(peer)
    answers = await asyncio.gather(asker.get("3/a"), asker.get("4/b"))
    assert list(answers) == [(206, b"aaa"), (206, b"bbbb")]
    assert peer.connections == 1


async def test_large_bodies_come_whole_and_in_their_order(sockets: Sockets) -> None:
    peer = await sockets.start()
    asker = sockets.asker(peer)
    paths = [f"{300_000 + n}/{chr(97 + n)}bc" for n in range(6)]
    answers = await asyncio.gather(*(asker.get(path) for path in paths))
    assert [body[:1] for _, body in answers] == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert [len(body) for _, body in answers] == [3 * (300_000 + n) for n in range(6)]
    assert all(len(set(body)) <= 3 for _, body in answers)
    assert peer.connections == 1


async def test_a_body_that_comes_in_drops_is_put_together(sockets: Sockets) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = answer_bytes(body_of(await peer.request(reader)))
        for start_at in range(0, len(answer), 5):
            writer.write(answer[start_at : start_at + 5])
            await writer.drain()
            await asyncio.sleep(0)
        await peer.request(reader)

    peer = await sockets.start(drip)
    assert await sockets.asker(peer).get("100/xyz") == (206, b"xyz" * 100)


async def test_after_a_refusal_the_connection_goes_on(sockets: Sockets) -> None:
    async def refuse_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(GONE)
        writer.write(answer_bytes(body_of(await peer.request(reader))))
        await peer.request(reader)

    peer = await sockets.start(refuse_first)
    asker = sockets.asker(peer)
    assert await asker.get("3/a") == (404, b'{"error": "gone"}')
    assert await asker.get("3/b") == (206, b"bbb")
    assert peer.connections == 1


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_one_of_two_requests_may_be_cancelled(sockets: Sockets, cancelled: int) -> None:
    go_on = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads = [await peer.request(reader) for _ in range(2)]
        first, second = (answer_bytes(body_of(head)) for head in heads)
        writer.write(first[:-200_000])
        await go_on.wait()
        writer.write(first[-200_000:] + second)
        writer.write(answer_bytes(body_of(await peer.request(reader))))
        await peer.request(reader)

    peer = await sockets.start(wait)
    asker = sockets.asker(peer)
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


async def test_p12_a_silent_peer_is_given_up(sockets: Sockets) -> None:
    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await peer.request(reader)

    peer = await sockets.start(be_silent)
    pool = Channels(connect_s=5.0, silence_max_s=0.01)
    asker = sockets.asker(peer, pool)
    outcomes = await asyncio.gather(asker.get("3/a"), asker.get("3/b"), return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, ChannelError)
        assert "did not answer in time" in str(outcome)
    await peer.until(lambda: peer.ended > 0)
    pool.close()


async def test_p12_a_peer_that_falls_silent_in_the_middle_is_given_up(sockets: Sockets) -> None:
    async def stop_midway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer_bytes(body_of(await peer.request(reader)))[:-1])
        await peer.request(reader)

    peer = await sockets.start(stop_midway)
    pool = Channels(connect_s=5.0, silence_max_s=0.02)
    with pytest.raises(ChannelError, match="in time"):
        await sockets.asker(peer, pool).get("3/a")
    pool.close()


async def test_a_new_connection_that_ends_at_once_is_not_made_anew(sockets: Sockets) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)

    peer = await sockets.start(leave)
    with pytest.raises(ChannelError):
        await sockets.asker(peer).get("3/a")
    assert (peer.connections, len(peer.requests)) == (1, 1)


@pytest.mark.parametrize("sent", [1, -1])
async def test_who_leaves_in_the_middle_is_not_asked_again(sockets: Sockets, sent: int) -> None:
    """Whether that is worth another try is for who asked to say."""

    async def leave_midway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer_bytes(body_of(await peer.request(reader))))
        writer.write(answer_bytes(body_of(await peer.request(reader)))[:sent])
        await writer.drain()

    peer = await sockets.start(leave_midway)
    asker = sockets.asker(peer)
    assert await asker.get("3/a") == (206, b"aaa")
    with pytest.raises(ChannelError):
        await asker.get("3/b")
    assert len(peer.requests) == 2


# --- peers that can't be asked --------------------------------------------------------


@pytest.fixture
async def pool() -> AsyncIterator[Channels]:
    made = Channels(connect_s=5.0, silence_max_s=5.0)
    yield made
    made.close()


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
