"""Pages of rows: one question at a time, for what is seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from tui_rows import job

from meshtrain.core.job import JobState
from meshtrain.core.pages import Page, PageQuery
from meshtrain.errors import MeshtrainError
from meshtrain.net.base import MasterAwayError
from meshtrain_tui.pager import BUSY_SHARE_MAX, PAGES_KEPT_MAX, RETRY_S, Pager


@dataclass
class Rows:
    """A long list, and who asked for what of it."""

    count: int = 1000
    asked: list[int] = field(default_factory=list)
    most: int = 1000
    away: bool = False
    label: str = "row"
    now_s: float = 0.0
    takes_s: float = 0.0
    held: asyncio.Event | None = None

    async def fetch(self, query: PageQuery) -> Page:
        self.asked.append(query.offset)
        if self.held is not None:
            await self.held.wait()
        await asyncio.sleep(0)
        self.now_s += self.takes_s
        if self.away:
            raise MasterAwayError("no master answers")
        end = min(query.offset + min(query.limit, self.most), self.count)
        rows = tuple(
            job(f"{self.label}{query.filter}{index}", JobState.WAITING)
            for index in range(query.offset, end)
        )
        return Page(rows, self.count, self.count)


@asynccontextmanager
async def paging(rows: Rows) -> AsyncIterator[Pager]:
    pager = Pager(
        PageQuery("jobs"), rows.fetch, lambda: None, now_s=lambda: rows.now_s, page_rows=10
    )
    task = asyncio.create_task(pager.run())
    try:
        yield pager
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def settle(pager: Pager) -> None:
    while not pager.settled:
        await asyncio.sleep(0)


def name(pager: Pager, index: int) -> str:
    row = pager.row(index)
    return "" if row is None else row.job_id  # type: ignore[union-attr]


async def test_what_is_seen_is_asked_for_and_one_page_more() -> None:
    rows = Rows()
    async with paging(rows) as pager:
        assert not pager.known
        await settle(pager)
        assert rows.asked == [0, 10]
        assert (name(pager, 0), name(pager, 19), name(pager, 20)) == ("row0", "row19", "")
        assert pager.matched == 1000
        pager.want(500, 512)
        await settle(pager)
        assert rows.asked == [0, 10, 500, 510, 520, 490]
        assert name(pager, 512) == "row512"


async def test_fast_scrolling_asks_only_for_where_it_ends() -> None:
    rows = Rows()
    async with paging(rows) as pager:
        await settle(pager)
        rows.held = asyncio.Event()
        rows.asked.clear()
        for first in range(100, 900, 10):
            pager.want(first, first + 5)
            await asyncio.sleep(0)
        rows.held.set()
        await settle(pager)
        assert len(rows.asked) <= 4
        assert name(pager, 890) == "row890"


async def test_another_query_keeps_the_rows_until_the_new_ones_are_there() -> None:
    rows = Rows()
    async with paging(rows) as pager:
        await settle(pager)
        rows.held = asyncio.Event()
        pager.restart(PageQuery("jobs", filter="x"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not pager.known
        assert name(pager, 0) == "row0"
        # An answer to a question that nobody asks any more is left aside.
        pager.restart(PageQuery("jobs", filter="y"))
        rows.held.set()
        await settle(pager)
        assert name(pager, 0) == "rowy0"


async def test_news_asks_again_for_what_is_seen_but_not_too_often() -> None:
    rows = Rows()
    async with paging(rows) as pager:
        pager.tick(1)
        await settle(pager)
        rows.asked.clear()
        rows.label = "new"
        pager.tick(1)
        await settle(pager)
        assert rows.asked == [], "nothing is new"
        rows.now_s += 0.5
        pager.tick(2)
        await settle(pager)
        assert rows.asked == [], "too soon"
        rows.now_s += 0.6
        pager.tick(2)
        await settle(pager)
        assert rows.asked == [0]
        assert name(pager, 0) == "new0"
        assert name(pager, 10) == "row10", "what is not seen is asked for when it is"
        pager.want(10, 12)
        await settle(pager)
        assert name(pager, 10) == "new10"


async def test_a_slow_master_is_asked_less_often() -> None:
    rows = Rows(takes_s=1.0, count=10)
    async with paging(rows) as pager:
        await settle(pager)
        rows.now_s += 2.0
        pager.tick(1)
        await settle(pager)
        assert rows.asked == [0]
        rows.now_s += 1.0 / BUSY_SHARE_MAX
        pager.tick(1)
        await settle(pager)
        assert rows.asked == [0, 0]


async def test_one_late_answer_makes_nobody_wait() -> None:
    rows = Rows(count=10)
    async with paging(rows) as pager:
        await settle(pager)
        # As when the master is started again while somebody waits for a page.
        rows.takes_s = 4.0
        rows.now_s += 2.0
        pager.tick(1)
        await settle(pager)
        rows.takes_s = 0.0
        rows.asked.clear()
        rows.now_s += 1.0
        pager.tick(2)
        await settle(pager)
        assert rows.asked == [0]


async def test_a_master_that_is_away_is_asked_again_later() -> None:
    rows = Rows(away=True)
    async with paging(rows) as pager:
        await settle(pager)
        assert pager.error == "no master answers"
        assert rows.asked == [0]
        pager.tick(1)
        await settle(pager)
        assert rows.asked == [0]
        rows.away = False
        rows.now_s += RETRY_S
        pager.tick(1)
        await settle(pager)
        assert pager.error == ""
        assert name(pager, 0) == "row0"


async def test_an_answer_may_be_shorter_than_asked() -> None:
    rows = Rows(most=4, count=25)
    async with paging(rows) as pager:
        pager.want(0, 24)
        await settle(pager)
        assert [name(pager, index) for index in range(25)] == [f"row{i}" for i in range(25)]


async def test_pages_far_away_are_forgotten() -> None:
    rows = Rows(count=10_000)
    async with paging(rows) as pager:
        for first in range(0, 10_000, 100):
            pager.want(first, first + 9)
            await settle(pager)
        assert len(pager.rows()) <= PAGES_KEPT_MAX * 10
        assert name(pager, 9900) == "row9900"
        assert name(pager, 0) == ""


async def test_a_list_that_shrinks() -> None:
    rows = Rows(count=40)
    async with paging(rows) as pager:
        pager.want(30, 39)
        await settle(pager)
        rows.count = 5
        pager.refresh()
        await settle(pager)
        assert pager.matched == 5
        assert name(pager, 4) == "row4"
        assert name(pager, 30) == ""


async def test_what_is_no_expected_failure_is_not_hidden() -> None:
    async def broken(query: PageQuery) -> Page:
        raise ZeroDivisionError

    pager = Pager(PageQuery("jobs"), broken, lambda: None)
    with pytest.raises(ZeroDivisionError):
        await pager.run()
    assert not issubclass(ZeroDivisionError, MeshtrainError)
