"""The proxy that cuts, slows and breaks links."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from meshtrain.chaos.link import BUFFER_BYTES_MAX, Link, Way
from meshtrain.errors import UserError

HOST = "127.0.0.1"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Sends back what it gets, and keeps it."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.came = asyncio.Event()
        self.answers = True
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while data := await reader.read(1 << 16):
                self.got += data
                self.came.set()
                if self.answers:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, Echo, Callable[[], Awaitable[Stream]]]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, HOST, 0)
    link = Link((HOST, 0), server.sockets[0].getsockname(), seed=1)
    await link.start()
    opened: list[asyncio.StreamWriter] = []

    async def connect() -> Stream:
        reader, writer = await asyncio.open_connection(*link.address)
        opened.append(writer)
        return reader, writer

    try:
        yield link, echo, connect
    finally:
        for writer in opened:
            writer.close()
        await link.close()
        server.close()


async def test_a_whole_link_passes_all_bytes_both_ways_and_the_end() -> None:
    async with linked() as (link, _, connect):
        reader, writer = await connect()
        sent = bytes(range(256)) * 20_000

        async def send() -> None:
            writer.write(sent)
            writer.write_eof()
            await writer.drain()

        sending = asyncio.create_task(send())
        got = await reader.read(-1)
        await sending
        assert got == sent
        assert link.is_healthy
        assert link.counts.passed_bytes == 2 * len(sent)
        assert link.counts.swallowed_bytes == 0


async def test_a_cut_swallows_both_ways_and_healing_resets_what_has_a_hole() -> None:
    async with linked() as (link, echo, connect):
        reader, writer = await connect()
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        link.cut()
        assert not link.is_healthy
        writer.write(b"lost")
        await _until(lambda: link.counts.swallowed_bytes == 4)
        late_reader, late_writer = await connect()
        late_writer.write(b"late")
        await _until(lambda: link.counts.swallowed_bytes == 8)
        link.heal()
        for broken in (reader, late_reader):
            with pytest.raises(ConnectionResetError):
                await broken.readexactly(1)
        assert bytes(echo.got) == b"before"
        again_reader, again_writer = await connect()
        again_writer.write(b"again")
        assert await again_reader.readexactly(5) == b"again"
        assert link.counts.resets == 2


async def test_a_one_way_cut_lets_the_other_way_through() -> None:
    async with linked() as (link, echo, connect):
        reader, writer = await connect()
        writer.write(b"x")
        await reader.readexactly(1)
        echo.answers = False
        link.cut(Way.BACK)
        writer.write(b"heard")
        await _until(lambda: bytes(echo.got) == b"xheard")
        echo.writers[0].write(b"never")
        await _until(lambda: link.counts.swallowed_bytes == 5)

        link.heal()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)

        echo.answers, echo.got = True, bytearray()
        reader, writer = await connect()
        await _until(lambda: len(echo.writers) == 2)
        link.cut(Way.OUT)
        writer.write(b"deaf")
        await _until(lambda: link.counts.swallowed_bytes == 9)
        echo.writers[-1].write(b"told")
        assert await reader.readexactly(4) == b"told"
        assert not echo.got


async def test_a_connection_that_was_silent_during_a_cut_lives_on() -> None:
    async with linked() as (link, _, connect):
        reader, writer = await connect()
        writer.write(b"1")
        await reader.readexactly(1)
        link.cut()
        link.heal()
        writer.write(b"2")
        assert await reader.readexactly(1) == b"2"
        assert link.counts.resets == 0


async def test_a_reset_breaks_open_connections_and_takes_new_ones() -> None:
    async with linked() as (link, _, connect):
        reader, writer = await connect()
        writer.write(b"1")
        await reader.readexactly(1)
        assert link.reset() == 1
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        reader, writer = await connect()
        writer.write(b"2")
        assert await reader.readexactly(1) == b"2"


async def test_delay_jitter_pauses_and_bandwidth_keep_bytes_and_their_order() -> None:
    async with linked() as (link, _, connect):
        link.delay(0.001, 0.004)
        link.lose(0.3, 0.003)
        link.limit(50e6)
        reader, writer = await connect()
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        sent = b"".join(b"%06d" % number for number in range(20_000))
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        # Not how long it takes, only that it can't have come at once: two delays.
        assert loop.time() - begun_s >= 0.002
        assert not link.is_healthy
        link.heal()
        assert link.is_healthy


async def test_a_link_holds_a_bounded_number_of_bytes() -> None:
    async with linked() as (link, echo, connect):
        link.limit(1.0)
        _, writer = await connect()
        writer.write(bytes(BUFFER_BYTES_MAX * 16))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await writer.drain()
        assert not echo.got


async def test_a_target_that_is_away_ends_the_connection() -> None:
    server = await asyncio.start_server(lambda r, w: None, HOST, 0)
    target = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    link = Link((HOST, 0), target)
    await link.start()
    try:
        reader, writer = await asyncio.open_connection(*link.address)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        await _until(lambda: link.counts.refused == 1)
    finally:
        await link.close()
        await link.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda link: link.delay(-1.0),
        lambda link: link.delay(0.0, float("nan")),
        lambda link: link.lose(1.5),
        lambda link: link.lose(0.5, -1.0),
        lambda link: link.limit(0.0),
    ],
)
def test_nonsense_is_refused(spoil: Callable[[Link], None]) -> None:
    link = Link((HOST, 0), (HOST, 1))
    with pytest.raises(UserError):
        spoil(link)
    assert link.is_healthy


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
