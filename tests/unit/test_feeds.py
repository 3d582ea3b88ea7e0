"""What the master publishes to dashboards, and the pages that it gives, without sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
import pytest
from master_double import MasterDouble, small_sweep

from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.changes import Change, JobRow, Lists, NodeRow, Note, SweepRow
from meshtrain.core.job import JobKind, JobState
from meshtrain.core.node import HostUse
from meshtrain.core.pages import PageQuery
from meshtrain.core.view import MeshView
from meshtrain.errors import UserError
from meshtrain.wire import messages as msg
from meshtrain_daemon.master import feeds as feeds_module
from meshtrain_daemon.master.feeds import Feeds


class Ears:
    """Sockets that only note what is published."""

    def __init__(self, subscribers: int = 1, brief_subscribers: int = 1) -> None:
        self.subscribers = subscribers
        self.brief_subscribers = brief_subscribers
        self.heard: list[msg.ToDashboard] = []

    def publish(self, feed: msg.ToDashboard) -> bool:
        self.heard.append(feed)
        return True

    @property
    def whole(self) -> list[msg.Feed]:
        return [feed for feed in self.heard if isinstance(feed, msg.Feed)]

    @property
    def brief(self) -> list[msg.Brief]:
        return [feed for feed in self.heard if isinstance(feed, msg.Brief)]


class TellingMaster(MasterDouble):
    """The real scheduler, whose changes are published."""

    publish: Callable[[Sequence[Change]], None] = staticmethod(lambda changes: None)

    def tell(self, event: ev.Event) -> list[fx.Effect]:
        effects = super().tell(event)
        for effect in effects:
            if isinstance(effect, fx.Publish):
                self.publish(effect.changes)
        return effects


def job(number: int, state: JobState = JobState.WAITING, **more: Any) -> JobRow:
    return JobRow(f"j{number}", f"s/{number}", JobKind.EXPERIMENT, state, "sweep-1", **more)


def node(node_id: str, *, connected: bool = True) -> NodeRow:
    return NodeRow(node_id, connected, False, True, 4, 1, (), (), 1 << 30, 0)


SWEEP = SweepRow("sweep-1", "s", 3, 0, 0)


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
def feeds(ears: Ears, monkeypatch: pytest.MonkeyPatch) -> Feeds:
    monkeypatch.setattr(feeds_module, "BRIEF_EVERY_S", 0.0)
    return Feeds(cast(Any, ears), MasterDouble().state, 7)


async def until_told(feeds: Feeds) -> None:
    telling = asyncio.create_task(feeds.tell_in_brief())
    while feeds.book.is_behind:
        await asyncio.sleep(0)
    telling.cancel()


def rows(feed: list[msg.Brief]) -> list[Change]:
    return [change for each in feed for change in each.changes]


async def test_jobs_that_don_t_run_are_told_in_brief_as_sums_only(feeds: Feeds, ears: Ears) -> None:
    feeds.publish((SWEEP, job(0), job(1), job(2)))
    assert [len(feed.changes) for feed in ears.whole] == [4]
    await until_told(feeds)
    told = rows(ears.brief)
    assert Lists(3) in told
    assert not any(isinstance(row, JobRow) for row in told)
    (sweep,) = [row for row in told if isinstance(row, SweepRow)]
    assert sweep.progress is not None
    assert sweep.progress.states == {"waiting": 3}


async def test_what_changes_often_is_told_in_brief_once(feeds: Feeds, ears: Ears) -> None:
    feeds.publish((SWEEP, job(0)))
    for state in (JobState.ASSIGNED, JobState.RUNNING):
        feeds.publish((job(0, state, node_id="n1"),))
    await until_told(feeds)
    assert [row.state for row in rows(ears.brief) if isinstance(row, JobRow)] == [JobState.RUNNING]
    ears.heard.clear()
    feeds.publish((job(0, JobState.SUCCEEDED, node_id="n1"),))
    feeds.publish((job(1),))
    await until_told(feeds)
    ended = [row for row in rows(ears.brief) if isinstance(row, JobRow)]
    assert [row.state for row in ended] == [JobState.SUCCEEDED], "its end is told, once"


async def test_both_feeds_beat_and_have_numbers_of_their_own(feeds: Feeds, ears: Ears) -> None:
    feeds.publish(())
    feeds.publish((job(0),))
    feeds.publish((job(1),))
    await until_told(feeds)
    feeds.publish(())
    assert [feed.seq for feed in ears.whole] == [1, 2, 3, 4]
    assert [feed.seq for feed in ears.brief] == [1, 2, 3]
    assert {feed.incarnation for feed in ears.heard} == {7}
    whole, brief = feeds.snapshot("r", brief=False), feeds.snapshot("r", brief=True)
    assert (whole[-1].seq, brief[-1].seq) == (4, 3)


async def test_nobody_is_told_what_nobody_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds_module, "UNHEARD_EVERY_S", 0.0)
    ears = Ears(0, 0)
    feeds = Feeds(cast(Any, ears), MasterDouble().state, 7)
    feeds.publish((job(0),))
    await until_told(feeds)
    feeds.note_use("n1", HostUse(0.5))
    assert ears.heard == []
    assert feeds.snapshot("r", brief=True)[-1].seq == 1, "but it is counted"


async def test_a_snapshot_in_brief_goes_on_where_the_feed_is(feeds: Feeds, ears: Ears) -> None:
    feeds.publish((SWEEP, node("n1"), job(0, JobState.RUNNING, node_id="n1"), Note(1.0, "one")))
    await until_told(feeds)
    feeds.publish((job(0, JobState.FAILED, node_id="n1"), job(1), Note(2.0, "two")))
    view = MeshView()
    parts = feeds.snapshot("r", brief=True)
    for change in parts[0].changes:
        view.apply(change)
    assert [note.text for note in view.notes] == ["one", "two"]
    ears.heard.clear()
    await until_told(feeds)
    assert ears.brief[0].seq == parts[0].seq + 1
    for change in rows(ears.brief):
        view.apply(change)
    assert [note.text for note in view.notes] == ["one", "two"], "nothing is told twice"
    assert view.jobs == {}
    assert view.jobs_total == 2
    assert view.progress("sweep-1").states == {JobState.FAILED: 1, JobState.WAITING: 1}


async def test_how_busy_a_host_is_goes_with_its_row_until_it_leaves(
    feeds: Feeds, ears: Ears
) -> None:
    feeds.publish((node("n1"),))
    feeds.note_use("n1", HostUse(0.5, 1 << 29))
    feeds.note_use("nobody", HostUse(0.5))
    feeds.publish((msgspec.structs.replace(node("n1"), cpus_used=2),))
    await until_told(feeds)
    (row,) = [row for row in rows(ears.brief) if isinstance(row, NodeRow)]
    assert (row.cpus_used, row.use) == (2, HostUse(0.5, 1 << 29))
    assert ears.whole[-1].changes == (row,)
    feeds.publish((node("n1", connected=False),))
    feeds.note_use("n1", HostUse(0.9))
    assert feeds.book.nodes["n1"].use is None
    feeds.publish((node("n1"),))
    assert feeds.book.nodes["n1"].use is None, "what it told before it left is old"


async def test_a_page_has_what_was_published_a_moment_ago(feeds: Feeds) -> None:
    feeds.publish((SWEEP, *(job(number) for number in range(30))))
    query = PageQuery("jobs", sort="name", descending=True, limit=2)
    page = await feeds.page(query)
    assert [row.name for row in page.rows if isinstance(row, JobRow)] == ["s/29", "s/28"]
    feeds.publish((job(99, JobState.RUNNING), job(29, JobState.FAILED)))
    page = await feeds.page(query)
    assert [row.name for row in page.rows if isinstance(row, JobRow)] == ["s/99", "s/29"]
    assert (page.total, page.matched) == (31, 31)
    assert (await feeds.page(PageQuery("jobs", states=("failed",)))).matched == 1
    with pytest.raises(UserError, match="not a regular expression"):
        await feeds.page(PageQuery("jobs", filter="("))


async def test_others_have_their_turn_while_a_list_is_put_together(feeds: Feeds) -> None:
    feeds.publish(tuple(job(number) for number in range(3000)))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    # Two ask for the same at once, and rows change meanwhile.
    asking = [asyncio.create_task(feeds.page(PageQuery("jobs", filter="7$"))) for _ in range(2)]
    await asyncio.sleep(0)
    feeds.publish((job(3007),))
    pages = await asyncio.gather(*asking)
    beside.cancel()
    assert turns > 2
    assert pages[0].matched in (300, 301)
    assert (await feeds.page(PageQuery("jobs", filter="7$"))).matched == 301


async def test_what_a_job_waits_for_is_found_as_it_is_shown(
    ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds_module, "BRIEF_EVERY_S", 0.0)
    master = TellingMaster()
    feeds = Feeds(cast(Any, ears), master.state, 7)
    master.publish = feeds.publish
    telling = asyncio.create_task(feeds.tell_in_brief())

    async def found(words: str) -> int:
        await until_told(feeds)
        while feeds._reasons_old or feeds.book.is_behind:
            await asyncio.sleep(0)
        return (await feeds.page(PageQuery("jobs", filter=words))).matched

    try:
        master.submit(small_sweep())
        jobs = len(master.state.jobs)
        assert await found("waits for a node: none is there") == 1, "the base's job"
        assert await found("waits for base") == jobs - 1
        master.add_node("n1", cpu_slots=1)
        assert await found("waits for a node: none is there") == 0
        master.run_once()
        assert await found("waits for base") == 0
        assert await found("waits for a free slot") == jobs - 2, "one has the slot"
    finally:
        telling.cancel()


async def test_a_page_stays_small_enough_for_a_message(
    feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds_module, "PAGE_BYTES_MAX", 600)
    feeds.publish(tuple(job(number, failure="x" * 100) for number in range(9)))
    page = await feeds.page(PageQuery("jobs"))
    assert 1 <= len(page.rows) < 4
    assert page.matched == 9


async def test_p11_a_filter_that_takes_too_long_is_ended_and_told(
    feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds.publish(tuple(job(number) for number in range(900)))
    now_s = 0.0

    def slow_clock() -> float:
        nonlocal now_s
        now_s += 6.0
        return now_s

    monkeypatch.setattr(feeds_module, "lease_now_s", slow_clock)
    with pytest.raises(UserError, match=r"'s/.x' takes the master too long .* more simply"):
        await feeds.page(PageQuery("jobs", filter="s/.x"))
    assert (await feeds.page(PageQuery("jobs", sort="name"))).matched == 900, "without a filter"


async def test_the_pace_follows_the_time_that_rows_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = time.monotonic()
    monkeypatch.setattr(feeds_module, "lease_now_s", lambda: now_s)
    pace = feeds_module._Pace()
    first = pace.rows
    now_s += 1.0
    await pace.rest()
    assert pace.rows == feeds_module.ROWS_MIN < first
    for _ in range(20):
        await pace.rest()
    assert pace.rows == feeds_module.ROWS_MAX
