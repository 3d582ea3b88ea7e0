"""The feed in brief, and pages beside it; real links on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from meshtrain.core.changes import Change, JobRow, Lists, Note
from meshtrain.core.job import JobKind, JobState
from meshtrain.core.pages import Page, PageQuery
from meshtrain.errors import ProtocolError, UserError
from meshtrain.net.base import MasterAwayError
from meshtrain.net.feed_topics import BRIEF_TOPIC, FEED_TOPIC, GREETING_TOPIC
from meshtrain.net.zmq_client import MasterClient
from meshtrain.net.zmq_feed import FeedClient, FeedSettings
from meshtrain.net.zmq_master import MasterSockets
from meshtrain.wire import messages as wire
from meshtrain.wire.codec import encode

PATIENT = FeedSettings(timeout_s=20, silence_s=20, retry_s=0.001, gap_jitter_s=0.001)
ROW = JobRow("j1", "s/1", JobKind.EXPERIMENT, JobState.SUCCEEDED)
PAGE = Page((ROW,), total=100_000, matched=1)


class Desk:
    """A master with two feeds, which answers for pages as it is told to."""

    def __init__(self) -> None:
        self.seq = 0
        self.asked: list[Any] = []
        self.answers: Callable[[wire.AskPage], list[Any]] = lambda asked: [
            wire.PageGiven(asked.request_id, page=PAGE)
        ]
        self.sockets = MasterSockets(
            "127.0.0.1", 0, 0, 0, on_control=self._answer, on_bulk=lambda _: None
        )
        self.address = f"127.0.0.1:{self.sockets.control_port}"

    def tell(self, *changes: Change) -> tuple[bool, bool]:
        """Whether the whole feed, and the one in brief, had somebody who listens."""
        self.seq += 1
        whole = self.sockets.publish(wire.Feed(1, self.seq, (*changes, Note(0.0, "whole"))))
        return whole, self.sockets.publish(wire.Brief(1, self.seq, changes))

    def _answer(self, batch: list[Any]) -> None:
        for peer, message in batch:
            self.asked.append(message)
            answers: list[Any]
            if isinstance(message, wire.AskPage):
                answers = self.answers(message)
            elif message.what == "ports":
                sockets = self.sockets
                row = {
                    "control": sockets.control_port,
                    "bulk": sockets.bulk_port,
                    "feed": sockets.feed_port,
                }
                answers = [wire.Answer(message.request_id, rows=[row])]
            else:
                changes: tuple[Change, ...] = (Lists(0),) if "brief" in message.names else ()
                answers = [wire.Snapshot(message.request_id, 1, self.seq, changes)]
            self.sockets.send_control(peer, answers)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    desk.sockets.close()


@pytest.fixture
async def clients() -> AsyncIterator[Callable[..., FeedClient]]:
    opened: list[FeedClient] = []

    def client(desk: Desk, settings: FeedSettings = PATIENT, **more: Any) -> FeedClient:
        opened.append(FeedClient(desk.address, settings=settings, **more))
        return opened[-1]

    yield client
    for each in opened:
        each.close()


Clients = Callable[..., FeedClient]


def test_the_topics_are_how_the_messages_begin() -> None:
    assert encode(wire.Feed(1, 2, (Lists(3),))).startswith(FEED_TOPIC)
    assert encode(wire.Brief(1, 2, (Lists(3),))).startswith(BRIEF_TOPIC)
    assert not FEED_TOPIC.startswith(BRIEF_TOPIC)
    assert not BRIEF_TOPIC.startswith(FEED_TOPIC)
    assert not encode(wire.Feed(1, 0)).startswith(GREETING_TOPIC)
    assert not encode(wire.Feed(1 << 60, 1)).startswith(GREETING_TOPIC)


async def test_each_hears_the_feed_that_it_asked_for(desk: Desk, clients: Clients) -> None:
    brief, whole = clients(desk, brief=True), clients(desk)
    of_brief, of_whole = brief.batches(), whole.batches()
    assert (await anext(of_brief)).whole
    assert not desk.sockets.publish(wire.Feed(1, 99)), "nobody listens to the whole feed"
    assert (desk.sockets.subscribers, desk.sockets.brief_subscribers) == (0, 1)
    assert brief.view.lists == Lists(0)
    assert (await anext(of_whole)).whole
    assert desk.tell(Lists(1)) == (True, True)
    assert (await anext(of_brief)).changes == (Lists(1),)
    assert (await anext(of_whole)).changes == (Lists(1), Note(0.0, "whole"))
    brief.close()
    while desk.sockets.brief_subscribers:
        desk.tell()
        await asyncio.sleep(0)
    assert desk.sockets.subscribers == 1


async def test_pages_are_asked_for_beside_the_feed(desk: Desk, clients: Clients) -> None:
    client = clients(desk, brief=True)
    batches = client.batches()
    await anext(batches)
    query = PageQuery("jobs", "fold", "name", limit=5)
    pages = await asyncio.gather(*(client.page(query) for _ in range(5)))
    assert pages == [PAGE] * 5
    assert desk.asked[-1].query == query
    desk.tell(Lists(2))
    assert (await anext(batches)).changes == (Lists(2),)
    assert client.snapshots == 1


async def test_a_question_that_can_t_be_answered_is_told(desk: Desk, clients: Clients) -> None:
    client = clients(desk)
    desk.answers = lambda asked: [wire.PageGiven(asked.request_id, error="no column 'x'")]
    with pytest.raises(UserError, match="no column 'x'"):
        await client.page(PageQuery("jobs", sort="x"))
    desk.answers = lambda asked: [wire.PageGiven(asked.request_id)]
    with pytest.raises(ProtocolError, match="gave no page"):
        await client.page(PageQuery("jobs"))
    desk.answers = lambda asked: [wire.Refused("what is a page?")]
    with pytest.raises(ProtocolError, match=r"what is a page\?"):
        await client.page(PageQuery("jobs"))


async def test_no_answer_and_no_master_are_told_in_time(desk: Desk, clients: Clients) -> None:
    impatient = FeedSettings(timeout_s=0.02)
    desk.answers = lambda asked: [wire.PageGiven("another", page=PAGE)]
    with pytest.raises(MasterAwayError):
        await clients(desk, impatient).page(PageQuery("jobs"))
    client = clients(desk)
    desk.answers = lambda asked: []
    asking = asyncio.create_task(client.page(PageQuery("nodes")))
    while not any(asked.query.kind == "nodes" for asked in desk.asked):
        await asyncio.sleep(0)
    client.close()
    with pytest.raises(MasterAwayError, match="closed"):
        await asking


async def test_commands_ask_for_pages_too(desk: Desk) -> None:
    def ask() -> Page:
        with MasterClient(desk.address, 20) as client:
            return client.page(PageQuery("jobs"))

    assert await asyncio.to_thread(ask) == PAGE
    desk.answers = lambda asked: [wire.Done(asked.request_id)]
    with pytest.raises(ProtocolError, match="gave no page"):
        await asyncio.to_thread(ask)
