"""From a master's real sockets to the dashboard's messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from textual.message import Message
from tui_double import FakeSource
from typer.testing import CliRunner

from meshtrain.core.changes import Change, Lists, Note, SweepRow, TransferRow
from meshtrain.core.pages import PageQuery
from meshtrain.errors import UserError
from meshtrain.net.base import SocketLimits
from meshtrain.net.zmq_feed import FeedClient, FeedSettings
from meshtrain.net.zmq_master import MasterSockets
from meshtrain.wire import messages as msg
from meshtrain_tui.command import command
from meshtrain_tui.feed import Clocks, MeshFeed, Picture, PictureChanged, inbox_of

LIMITS = SocketLimits(reconnect_min_ms=5, reconnect_max_ms=20)
IMPATIENT = FeedSettings(retry_s=0.005, gap_jitter_s=0.001, timeout_s=0.5, silence_s=30.0)


class Master:
    """Answers what a dashboard asks, over real sockets."""

    def __init__(
        self, rows: list[Change], incarnation: int = 1, control_port: int = 0, feed_port: int = 0
    ) -> None:
        self.rows = rows
        self.incarnation = incarnation
        self.seq = 0
        self.sockets = MasterSockets(
            "127.0.0.1",
            control_port,
            0,
            feed_port,
            on_control=self._take,
            on_bulk=lambda batch: None,
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.sockets.control_port}"

    def tell(self, *changes: Change) -> None:
        self.seq += 1
        self.sockets.publish(msg.Feed(self.incarnation, self.seq, changes))

    def _take(self, batch: list[tuple[bytes, Any]]) -> None:
        for peer, query in batch:
            assert isinstance(query, msg.Query)
            answer: msg.ToPerson
            if query.what == "ports":
                row = {
                    "control": self.sockets.control_port,
                    "bulk": self.sockets.bulk_port,
                    "feed": self.sockets.feed_port,
                    "inbox": "/srv/mesh/inbox",
                }
                answer = msg.Answer(query.request_id, rows=[row], total=1)
            else:
                answer = msg.Snapshot(
                    query.request_id, self.incarnation, self.seq, tuple(self.rows)
                )
            self.sockets.send_control(peer, [answer])


class Posted:
    """The pictures that were posted, and a way to wait for one."""

    def __init__(self) -> None:
        self.count = 0
        self._last: Picture | None = None
        self._came = asyncio.Event()

    def __call__(self, message: Message) -> None:
        assert isinstance(message, PictureChanged)
        self.count += 1
        self._last = message.picture
        self._came.set()

    async def until(self, condition: Callable[[Picture], bool]) -> Picture:
        while self._last is None or not condition(self._last):
            self._came.clear()
            await self._came.wait()
        return self._last


def sweep(name: str) -> SweepRow:
    return SweepRow(name, name, 1, 1, 0)


async def test_a_master_s_news_become_pictures_also_after_its_restart() -> None:
    master = Master([sweep("first")])
    posted = Posted()
    client = FeedClient(master.address, settings=IMPATIENT, limits=LIMITS)
    feed = MeshFeed(
        client, posted, clocks=Clocks(), ask_inbox=inbox_of(master.address), redraw_min_s=0
    )
    running = asyncio.create_task(feed.run())
    try:
        picture = await posted.until(lambda p: bool(p.link.inbox))
        assert picture.link.live
        assert picture.link.inbox == "/srv/mesh/inbox"
        assert list(picture.view.sweeps) == ["first"]

        master.tell(TransferRow("a1", "gpu2", {"gpu1": 500}, 0.25), Note(0.5, "it came"))
        picture = await posted.until(lambda p: bool(p.view.notes))
        assert picture.view.notes[0].text == "it came"
        assert picture.view.moved.between_nodes_bytes == 500

        ports = master.sockets.control_port, master.sockets.feed_port
        master.sockets.close()
        master = Master([sweep("second")], 2, *ports)
        picture = await posted.until(lambda p: "second" in p.view.sweeps)
        assert list(picture.view.sweeps) == ["second"]
        # A picture is what its master tells: what happened before is the former one's.
        assert not picture.view.notes

        master.tell(Note(1.0, "all is well"))
        picture = await posted.until(lambda p: bool(p.view.notes))
        assert picture.view.notes[-1].text == "all is well"
        assert picture.link.live
    finally:
        running.cancel()
        feed.close()
        master.sockets.close()


async def test_no_master_is_told_and_tried_again() -> None:
    master = Master([])
    address = master.address
    port = master.sockets.control_port
    master.sockets.close()
    posted = Posted()
    impatient = FeedSettings(retry_s=0.005, timeout_s=0.02)
    client = FeedClient(address, settings=impatient, limits=LIMITS)
    feed = MeshFeed(client, posted, clocks=Clocks(), redraw_min_s=0)
    running = asyncio.create_task(feed.run())
    try:
        while client.trouble == "connecting":
            await asyncio.sleep(0)
        feed.look()
        picture = await posted.until(lambda p: True)
        assert not picture.link.live
        assert picture.link.heard_wall_s is None
        assert f"no master answers at {address}" in picture.link.trouble

        master = Master([sweep("late")], 1, port)
        picture = await posted.until(lambda p: bool(p.view.sweeps))
        assert picture.link.live
        assert picture.link.trouble == ""
    finally:
        running.cancel()
        feed.close()
        master.sockets.close()


async def test_an_inbox_that_nobody_tells_is_unknown() -> None:
    master = Master([])
    address = master.address
    master.sockets._on_control = lambda batch: [
        master.sockets.send_control(peer, [msg.Answer(query.request_id, error="no")])
        for peer, query in batch
    ]
    try:
        assert await inbox_of(address)() == ""
    finally:
        master.sockets.close()


def test_without_a_terminal_it_says_what_to_use_instead() -> None:
    with pytest.raises(UserError, match="meshtrain jobs"):
        command(["127.0.0.1:7470"])


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:0", "192.0.2.1:7470"])
def test_bad_addresses_are_refused_before_the_screen_is_taken(address: str) -> None:
    with pytest.raises(UserError, match=r"address|loopback"):
        command([address])


def test_the_flags_have_their_environment_variable() -> None:
    import typer

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100", "TERM": "dumb"})
    assert result.exit_code == 0
    assert "MESHTRAIN_MASTER" in result.output


async def test_a_screen_hears_which_lists_changed_and_asks_for_its_page_again() -> None:
    source = FakeSource()
    posted = Posted()
    feed = MeshFeed(source, posted, clocks=source.clocks(), redraw_min_s=0)
    running = asyncio.create_task(feed.run())
    try:
        source.tell([sweep("s"), Lists(0)], whole=True)
        first = (await posted.until(lambda p: p.view.lists is not None)).revisions
        assert first.keys() >= {"jobs", "nodes", "bases", "sweeps", "events", "transfers"}
        source.tell([Lists(1), Note(0.5, "a job came")])
        second = (await posted.until(lambda p: bool(p.view.notes))).revisions
        changed = {kind for kind in second if second[kind] != first.get(kind)}
        assert changed == {"jobs", "events"}
        page = await feed.page(PageQuery("events"))
        assert page.rows == (Note(0.5, "a job came"),)
        with pytest.raises(UserError, match="no column"):
            await feed.page(PageQuery("events", sort="colour"))
    finally:
        running.cancel()
        feed.close()
