"""Which connections to peers are opened, shared, kept, made anew and closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channel_double import answer_bytes
from channel_peer import Sockets, body_of

from meshtrain.artifacts import channel as channels
from meshtrain.artifacts.channel import ChannelError, Channels


async def test_many_requests_at_once_make_one_connection(sockets: Sockets) -> None:
    peer = await sockets.start()
    asker = sockets.asker(peer)
    answers = await asyncio.gather(*(asker.get(f"{n}/a") for n in range(1, 20)))
    assert answers == [(206, b"a" * n) for n in range(1, 20)]
    assert peer.connections == 1


async def test_who_waits_for_a_connection_that_another_gave_up_gets_one(sockets: Sockets) -> None:
    peer = await sockets.start()
    asker = sockets.asker(peer)
    first, second = (asyncio.create_task(asker.get(path)) for path in ("3/a", "3/b"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == (206, b"bbb")
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_two_who_try_again_side_by_side_share_a_connection(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
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
    peer = await sockets.start()
    asker = sockets.asker(peer)
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
    assert len(sockets.pool._open) == 1
    sockets.pool.close()
    await peer.until(lambda: peer.ended == peer.connections)


async def test_p12_a_rested_connection_that_the_peer_closed_is_made_anew_once(
    sockets: Sockets,
) -> None:
    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer_bytes(body_of(await peer.request(reader))))
        await peer.request(reader)

    peer = await sockets.start(answer_one)
    asker = sockets.asker(peer)
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


async def test_a_connection_that_nobody_owes_anything_may_be_silent(sockets: Sockets) -> None:
    peer = await sockets.start()
    pool = Channels(connect_s=5.0, silence_max_s=0.01)
    asker = sockets.asker(peer, pool)
    await asker.get("3/a")
    await asyncio.sleep(0.03)
    await asker.get("3/b")
    assert peer.connections == 1
    pool.close()


async def test_p12_connections_that_nobody_uses_are_closed(sockets: Sockets) -> None:
    peer = await sockets.start()
    pool = Channels(connect_s=5.0, silence_max_s=5.0, idle_s=0.01)
    asker = sockets.asker(peer, pool)
    await asker.get("3/a")
    await peer.until(lambda: peer.ended == 1)
    await asker.get("3/b")
    assert peer.connections == 2
    pool.close()


async def test_a_connection_that_is_in_use_is_not_idle(sockets: Sockets) -> None:
    rested = asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await peer.request(reader)
        await rested.wait()
        writer.write(answer_bytes(body_of(head)))
        await peer.request(reader)

    peer = await sockets.start(answer_late)
    pool = Channels(connect_s=5.0, silence_max_s=5.0, idle_s=0.01)
    ask = asyncio.create_task(sockets.asker(peer, pool).get("3/a"))
    await peer.until(lambda: len(peer.requests) == 1)
    await asyncio.sleep(0.03)
    rested.set()
    assert await ask == (206, b"aaa")
    pool.close()


async def test_p12_open_connections_are_bounded(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "CHANNELS_MAX", 2)
    peers = [await sockets.start() for _ in range(3)]
    askers = [sockets.asker(peer) for peer in peers]
    for which in (0, 1, 0, 2):
        await askers[which].get("3/a")
    await peers[1].until(lambda: peers[1].ended == 1)
    assert [peer.ended for peer in peers] == [0, 1, 0], "the one that rested longest made room"


async def test_room_is_not_made_at_the_cost_of_an_answer(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "CHANNELS_MAX", 2)
    go_on = asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await busy.request(reader)
        await go_on.wait()
        writer.write(answer_bytes(body_of(head)))
        await busy.request(reader)

    busy = await sockets.start(answer_late)
    idle, third = await sockets.start(), await sockets.start()
    ask = asyncio.create_task(sockets.asker(busy).get("3/a"))
    await busy.until(lambda: len(busy.requests) == 1)
    await sockets.asker(idle).get("3/b")
    await sockets.asker(third).get("3/c")
    go_on.set()
    assert await ask == (206, b"aaa")


async def test_when_the_pool_closes_those_that_wait_are_told(sockets: Sockets) -> None:
    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await peer.request(reader)

    peer = await sockets.start(be_silent)
    pool = Channels(connect_s=5.0, silence_max_s=5.0)
    ask = asyncio.create_task(sockets.asker(peer, pool).get("3/a"))
    await peer.until(lambda: len(peer.requests) == 1)
    pool.close()
    with pytest.raises(ChannelError, match="closed"):
        await ask
