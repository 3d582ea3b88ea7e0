"""A dashboard's picture has no holes, whatever the feed does; real links on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import pytest

from meshtrain.core.changes import Note
from meshtrain.errors import SettingsError
from meshtrain.net.feed_topics import FEED_TOPIC
from meshtrain.net.zmq_feed import FeedBatch, FeedClient, FeedSettings, Order, order_of
from meshtrain.net.zmq_master import MasterSockets
from meshtrain.wire import messages as wire


class Station:
    """A master with notes for a picture, which it may forget to tell."""

    def __init__(self, ports: tuple[int, int, int] = (0, 0, 0), incarnation: int = 1) -> None:
        self.incarnation = incarnation
        self.seq = 0
        self.notes: list[Note] = []
        self.snapshots = 0
        self.before_snapshot: Callable[[], None] = lambda: None
        self.after_snapshot: Callable[[], None] = lambda: None
        self.sockets = MasterSockets(
            "127.0.0.1", *ports, on_control=self._answer, on_bulk=lambda _: None
        )
        self.ports = (
            self.sockets.control_port,
            self.sockets.bulk_port,
            self.sockets.feed_port,
        )
        self.address = f"127.0.0.1:{self.ports[0]}"

    def say(self, text: str, *, lost: bool = False) -> None:
        """A change of the picture, told on the feed, or lost on its way."""
        self.seq += 1
        self.notes.append(Note(float(self.seq), text))
        if not lost:
            self.sockets.publish(wire.Feed(self.incarnation, self.seq, (self.notes[-1],)))

    def beat(self) -> None:
        self.seq += 1
        self.sockets.publish(wire.Feed(self.incarnation, self.seq))

    @property
    def texts(self) -> list[str]:
        return [note.text for note in self.notes]

    def _answer(self, batch: list[Any]) -> None:
        control, bulk, feed = self.ports
        for peer, message in batch:
            if message.what == "ports":
                row = {"control": control, "bulk": bulk, "feed": feed, "http": None}
                self.sockets.send_control(peer, [wire.Answer(message.request_id, rows=[row])])
                continue
            self.before_snapshot()
            self.snapshots += 1
            parts = [
                wire.Snapshot(message.request_id, self.incarnation, self.seq, (note,), last=False)
                for note in self.notes
            ]
            parts.append(wire.Snapshot(message.request_id, self.incarnation, self.seq, ()))
            self.sockets.send_control(peer, parts)
            self.after_snapshot()


class Dashboard:
    """A client and what it was told, batch by batch."""

    def __init__(self, client: FeedClient) -> None:
        self.client = client
        self.batches: list[FeedBatch] = []
        self._came = asyncio.Event()
        self._task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        async for batch in self.client.batches():
            self.batches.append(batch)
            self._came.set()

    @property
    def texts(self) -> list[str]:
        return [note.text for note in self.client.view.notes]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._came.clear()
            waits = {asyncio.ensure_future(self._came.wait()), self._task}
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._task in done:
                self._task.result()
                raise AssertionError("the feed ended")

    async def close(self) -> None:
        self.client.close()
        await self._task


AT_ONCE = FeedSettings(timeout_s=20, silence_s=20, retry_s=0.001, gap_jitter_s=0.001)


@pytest.fixture
async def stations() -> AsyncIterator[Callable[..., Station]]:
    with ExitStack() as opened:

        def station(*args: Any) -> Station:
            new = Station(*args)
            opened.callback(new.sockets.close)
            return new

        yield station


@pytest.fixture
async def open_dashboard() -> AsyncIterator[Callable[..., Dashboard]]:
    opened: list[Dashboard] = []

    def dashboard(address: str, settings: FeedSettings = AT_ONCE, **more: Any) -> Dashboard:
        opened.append(Dashboard(FeedClient(address, settings=settings, **more)))
        return opened[-1]

    yield dashboard
    for each in opened:
        await each.close()


Stations = Callable[..., Station]
Dashboards = Callable[..., Dashboard]


async def test_a_snapshot_then_the_news(stations: Stations, open_dashboard: Dashboards) -> None:
    station = stations()
    station.say("before")
    dashboard = open_dashboard(station.address)
    assert dashboard.client.trouble == "connecting"
    await dashboard.until(lambda: dashboard.texts == ["before"])
    assert dashboard.batches == [FeedBatch(1, 1, tuple(station.notes), whole=True)]
    assert dashboard.client.trouble == ""
    station.say("after")
    await dashboard.until(lambda: dashboard.texts == ["before", "after"])
    assert dashboard.batches[1:] == [FeedBatch(1, 2, (station.notes[1],), whole=False)]
    assert dashboard.client.snapshots == station.snapshots == 1


async def test_what_comes_around_the_snapshot_counts_once(
    stations: Stations, open_dashboard: Dashboards
) -> None:
    station = stations()
    station.before_snapshot = lambda: station.say("in the snapshot, and on the feed")
    station.after_snapshot = lambda: station.say("on the feed alone")
    dashboard = open_dashboard(station.address)
    await dashboard.until(lambda: len(dashboard.texts) == 2)
    assert dashboard.texts == station.texts
    assert dashboard.client.snapshots == 1


async def test_a_hole_is_noticed_and_filled(stations: Stations, open_dashboard: Dashboards) -> None:
    station = stations()
    dashboard = open_dashboard(station.address)
    await dashboard.until(lambda: bool(dashboard.batches))
    first_view = dashboard.client.view
    station.say("heard")
    await dashboard.until(lambda: dashboard.texts == ["heard"])
    station.say("lost", lost=True)
    station.say("later")
    await dashboard.until(lambda: len(dashboard.texts) == 3)
    assert dashboard.texts == ["heard", "lost", "later"]
    assert dashboard.client.view is not first_view
    assert [batch.whole for batch in dashboard.batches] == [True, False, True]
    assert dashboard.client.snapshots == 2


async def test_a_lost_last_message_shows_at_the_next_beat(
    stations: Stations, open_dashboard: Dashboards
) -> None:
    station = stations()
    dashboard = open_dashboard(station.address)
    await dashboard.until(lambda: bool(dashboard.batches))
    station.say("lost", lost=True)
    station.beat()
    await dashboard.until(lambda: dashboard.texts == ["lost"])
    assert dashboard.client.snapshots == 2


async def test_what_came_before_a_hole_is_shown(
    stations: Stations, open_dashboard: Dashboards
) -> None:
    station = stations()
    dashboard = open_dashboard(station.address)
    await dashboard.until(lambda: bool(dashboard.batches))
    station.say("one")
    station.say("two")
    station.say("lost", lost=True)
    station.say("three")
    await dashboard.until(lambda: dashboard.client.snapshots == 2)
    assert dashboard.texts == ["one", "two", "lost", "three"]


async def test_beats_show_that_it_lives(stations: Stations, open_dashboard: Dashboards) -> None:
    station = stations()
    now_s = 100.0
    dashboard = open_dashboard(station.address, now_s=lambda: now_s)
    assert dashboard.client.stale_s() is None
    await dashboard.until(lambda: bool(dashboard.batches))
    assert dashboard.client.last_heard_s == 100.0
    now_s = 107.0
    assert dashboard.client.stale_s() == 7.0
    station.beat()
    station.say("news")
    await dashboard.until(lambda: dashboard.texts == ["news"])
    assert dashboard.client.stale_s() == 0.0
    assert all(batch.whole or batch.changes for batch in dashboard.batches)
    assert dashboard.client.snapshots == 1


async def test_silence_leads_to_a_new_picture(
    stations: Stations, open_dashboard: Dashboards
) -> None:
    station = stations()
    impatient = FeedSettings(timeout_s=20, silence_s=0.001, gap_jitter_s=0)
    dashboard = open_dashboard(station.address, impatient)
    await dashboard.until(lambda: dashboard.client.snapshots >= 1)
    station.say("lost", lost=True)
    await dashboard.until(lambda: dashboard.texts == ["lost"])
    assert dashboard.client.snapshots >= 2


@pytest.mark.parametrize("incarnation", [1, 2])
async def test_a_restarted_master(
    stations: Stations, open_dashboard: Dashboards, incarnation: int
) -> None:
    """On the same ports; its numbers start anew, so they may look like old ones."""
    first = stations()
    first.say("one")
    first.say("two")
    dashboard = open_dashboard(first.address)
    await dashboard.until(lambda: dashboard.texts == ["one", "two"])
    first.sockets.close()
    second = stations(first.ports, incarnation)
    second.say("new life")
    await dashboard.until(lambda: dashboard.texts == ["new life"])
    second.say("goes on")
    await dashboard.until(lambda: dashboard.texts == ["new life", "goes on"])


async def test_a_restarted_master_whose_feed_has_moved(
    stations: Stations, open_dashboard: Dashboards
) -> None:
    first = stations()
    dashboard = open_dashboard(
        first.address, FeedSettings(timeout_s=20, silence_s=0.05, gap_jitter_s=0)
    )
    await dashboard.until(lambda: bool(dashboard.batches))
    first.sockets.close()
    second = stations((first.ports[0], 0, 0), 2)
    assert second.ports[2] != first.ports[2]
    second.say("elsewhere")
    await dashboard.until(lambda: dashboard.texts == ["elsewhere"])


async def test_a_master_that_comes_later(stations: Stations, open_dashboard: Dashboards) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said: list[str] = []

    def jitter() -> float:
        said.append(dashboard.client.trouble)
        asked.set()
        return 0.0

    asked = asyncio.Event()
    impatient = FeedSettings(timeout_s=0.01, retry_s=0.001)
    dashboard = open_dashboard(f"127.0.0.1:{port}", impatient, jitter=jitter)
    await asked.wait()
    assert f"no master answers at 127.0.0.1:{port} within 0.01 s" in said[0]
    await dashboard.close()

    dashboard = open_dashboard(f"127.0.0.1:{port}")
    station = stations((port, 0, 0))
    station.say("here")
    await dashboard.until(lambda: dashboard.texts == ["here"])
    assert dashboard.client.trouble == ""


async def test_a_dashboard_too_slow_takes_a_new_snapshot(stations: Stations) -> None:
    """It is not asked for news while a hundred come; what it kept is bounded."""
    station = stations()
    client = FeedClient(
        station.address,
        settings=FeedSettings(timeout_s=20, silence_s=20, gap_jitter_s=0, buffered_max=3),
    )
    batches = client.batches()
    assert (await anext(batches)).whole
    for n in range(100):
        station.say(f"note {n}")
        while station.sockets.counts.published <= n:
            await asyncio.sleep(0)
    while not (await anext(batches)).whole:
        pass
    assert [note.text for note in client.view.notes][: len(station.texts)] == station.texts
    assert client.snapshots >= 2
    client.close()
    await batches.aclose()  # type: ignore[attr-defined]


async def test_garbage_on_the_feed_costs_one_snapshot(
    stations: Stations, open_dashboard: Dashboards
) -> None:
    station = stations()
    dashboard = open_dashboard(station.address)
    await dashboard.until(lambda: bool(dashboard.batches))
    station.sockets._feed.send(FEED_TOPIC + b"\xc1garbage")
    await dashboard.until(lambda: dashboard.client.snapshots == 2)
    station.say("fine")
    await dashboard.until(lambda: dashboard.texts == ["fine"])


async def test_dashboards_are_counted(stations: Stations, open_dashboard: Dashboards) -> None:
    station = stations()
    dashboards = [open_dashboard(station.address) for _ in range(3)]
    for each in dashboards:
        await each.until(lambda each=each: bool(each.batches))  # type: ignore[misc]
    assert station.sockets.subscribers == 3
    for left, each in enumerate(dashboards):
        await each.close()
        while station.sockets.subscribers > 2 - left:
            await asyncio.sleep(0)
    assert not station.sockets.publish(wire.Feed(1, 1))


async def test_close_ends_whatever_it_waits_for(stations: Stations) -> None:
    station = stations()
    waiting = Dashboard(FeedClient(station.address, settings=AT_ONCE))
    await waiting.until(lambda: bool(waiting.batches))
    await waiting.close()
    connecting = Dashboard(FeedClient("127.0.0.1:1", settings=AT_ONCE))
    await asyncio.sleep(0)
    await connecting.close()
    await connecting.close()


async def test_a_master_that_answers_nonsense(stations: Stations) -> None:
    station = stations()
    station.ports = (0, 0, 0)
    told = asyncio.Event()

    def jitter() -> float:
        told.set()
        return 0.0

    client = FeedClient(station.address, settings=AT_ONCE, jitter=jitter)
    dashboard = Dashboard(client)
    await told.wait()
    assert "did not tell its ports" in client.trouble
    await dashboard.close()


async def test_nothing_but_loopback() -> None:
    with pytest.raises(SettingsError, match="the dashboard refuses to connect to"):
        FeedClient("192.168.1.5:7470")


@pytest.mark.parametrize(
    ("incarnation", "seq", "order"),
    [
        (2, 10, Order.OLD),
        (2, 9, Order.OLD),
        (2, 11, Order.NEXT),
        (2, 12, Order.GAP),
        (1, 11, Order.OLD),
        (1, 99, Order.OLD),
        (3, 11, Order.GAP),
        (3, 1, Order.GAP),
    ],
)
def test_the_order_of_the_feed(incarnation: int, seq: int, order: Order) -> None:
    assert order_of(wire.Feed(incarnation, seq), 2, 10) is order


async def test_snapshots_that_follow_closely_wait_longer(stations: Stations) -> None:
    now_s = 0.0
    client = FeedClient(
        stations().address,
        settings=FeedSettings(gap_jitter_s=0.5, gap_calm_s=30.0),
        jitter=lambda: 1.0,
        now_s=lambda: now_s,
    )
    batches = client.batches()
    await anext(batches)
    assert [client._wait_for_snapshot_s() for _ in range(7)] == [1, 2, 4, 8, 16, 16, 16]
    now_s = 31.0
    assert client._wait_for_snapshot_s() == 0.5
    client.close()
    await batches.aclose()  # type: ignore[attr-defined]
