"""What dashboards hear: every change at once, or in brief what a screen needs, some times a
second.

Each of the two feeds has numbers of its own, and each snapshot is of one of
them. Both come from the row book, which answers pages too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from meshtrain.clock import lease_now_s, wall_now_s
from meshtrain.core import rows
from meshtrain.core.changes import (
    BaseRow,
    Change,
    JobRow,
    Moved,
    NodeRow,
    Note,
    TransferRow,
)
from meshtrain.core.job import BaseState, JobState
from meshtrain.core.node import HostUse
from meshtrain.core.pages import Page, PageQuery, Row
from meshtrain.core.row_book import RowBook
from meshtrain.core.state import MeshState
from meshtrain.core.view import MeshView
from meshtrain.errors import UserError
from meshtrain.net.base import MasterTransport
from meshtrain.wire import messages as msg

CHANGES_PER_FEED_MAX = 500
SNAPSHOT_PART = 1000
"""Rows in one part of a snapshot."""
BRIEF_EVERY_S = 0.2
"""What changes within it is told once."""
UNHEARD_EVERY_S = 1.0
"""The same while nobody listens; the sums are kept all the same."""
TURN_S = 0.004
"""Work that is due when somebody asks for a page is done in pieces of about this."""
ROWS_FIRST = 200
"""Rows of the first piece; the next ones are made to fit the time."""
ROWS_MIN = 1
ROWS_MAX = 5000
FILTER_S_MAX = 10.0
"""The loop's time that one question may take for its filter, in pieces."""
PAGE_BYTES_MAX = 4 << 20
"""Bytes of a page's rows; half of what a message may have."""

_encoder = msgspec.msgpack.Encoder()


class Feeds:
    """Publishes what changes, and answers who asks for the whole or for a page of it.

    Args:
        state: the scheduler's, only read.
        incarnation: of this start of the master.
    """

    def __init__(self, sockets: MasterTransport, state: MeshState, incarnation: int) -> None:
        self._sockets = sockets
        self._state = state
        self._incarnation = incarnation
        self._seq = 0
        self._brief_seq = 0
        self._has_news = asyncio.Event()
        self._jobs_wanted = False
        #: jobs whose rows may say that they wait for something that is there now
        self._reasons_old: dict[str, None] = {}
        self.book = RowBook(rows.snapshot(state))
        #: what happened, for those who look later: the last notes and transfers, and sums
        self._history = MeshView()
        self._history.apply(Moved(since_wall_s=wall_now_s()))

    def publish(self, changes: Sequence[Change]) -> None:
        """Tell what changed; with no changes, that the master is there."""
        self._note_reasons(changes)
        told = self.book.take(changes)
        for change in told:
            if isinstance(change, Note | TransferRow):
                self._history.apply(change)
        for part in _parts(told, CHANGES_PER_FEED_MAX):
            self._seq += 1
            if self._sockets.subscribers:
                self._sockets.publish(msg.Feed(self._incarnation, self._seq, part))
        if not changes:
            self._publish_brief((), beat=True)
        elif self.book.is_behind:
            self._has_news.set()

    def note_use(self, node_id: str, use: HostUse) -> None:
        """A node told how busy its host is."""
        row = self.book.note_use(node_id, use)
        if row is not None:
            self._seq += 1
            if self._sockets.subscribers:
                self._sockets.publish(msg.Feed(self._incarnation, self._seq, (row,)))
            self._has_news.set()

    async def tell_in_brief(self) -> None:
        """Keep the feed in brief up to date, for ever."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            await self._catch_up()
            if self._jobs_wanted:
                self._jobs_wanted = False
                await self._put_in_order(PageQuery("jobs"))
            await self._mend_reasons()
            heard = self._sockets.brief_subscribers > 0
            await asyncio.sleep(BRIEF_EVERY_S if heard else UNHEARD_EVERY_S)

    def snapshot(self, request_id: str, *, brief: bool) -> list[msg.Snapshot]:
        """The whole picture, in parts that travel together: all arrive, or none."""
        history: tuple[Change, ...]
        if brief:
            # What comes after the snapshot must not tell again what it has of the past.
            self._publish_brief(self.book.news(0))
            # Whoever opens a dashboard soon looks at the jobs.
            self._jobs_wanted = True
            self._has_news.set()
            picture: Iterable[Change] = self.book.snapshot()
            seq = self._brief_seq
        else:
            picture = map(self._with_use, rows.snapshot(self._state))
            seq = self._seq
        history = (*self._history.transfers, *self._history.notes, self._history.moved)
        parts = _parts((*picture, *history), SNAPSHOT_PART)
        return [
            msg.Snapshot(request_id, self._incarnation, seq, part, last=number == len(parts))
            for number, part in enumerate(parts, start=1)
        ]

    async def page(self, query: PageQuery) -> Page:
        """A page of a long list as it is now; nobody else waits for long meanwhile.

        Raises UserError for what no page can answer.
        """
        await self._put_in_order(query)
        page = self.book.page(query)
        fresh = _that_fit(self._fresh(row) if isinstance(row, JobRow) else row for row in page.rows)
        return msgspec.structs.replace(page, rows=fresh)

    async def _put_in_order(self, query: PageQuery) -> None:
        listing = self.book.listing(query)
        await self._catch_up()
        if listing is not None:
            pace = _Pace()
            while not listing.advance(pace.rows):
                await pace.rest()
                if query.filter and pace.worked_s > FILTER_S_MAX:
                    raise UserError(
                        f"the filter {query.filter!r} takes the master too long on the rows "
                        "that there are: write it more simply"
                    )

    async def _catch_up(self) -> None:
        pace = _Pace()
        while self.book.is_behind:
            self._publish_brief(self.book.news(pace.rows))
            if self.book.is_behind:
                await pace.rest()

    def _note_reasons(self, changes: Sequence[Change]) -> None:
        """Jobs wait for bases and nodes: when those come or go, no job has changed."""
        nobody_was_there = not any(node.connected for node in self.book.nodes.values())
        for change in changes:
            if isinstance(change, BaseRow):
                known = self.book.bases.get(change.recipe_hash)
                if known is None or _usable(known) != _usable(change):
                    waiting = self._state.waiters.get(change.recipe_hash, ())
                    self._reasons_old.update(dict.fromkeys(waiting))
            elif isinstance(change, NodeRow) and nobody_was_there and change.connected:
                self._reasons_old.update(dict.fromkeys(self._state.jobs))

    async def _mend_reasons(self) -> None:
        """Filters look at reasons too: have them as they are shown."""
        pace = _Pace()
        while self._reasons_old:
            some = list(islice(self._reasons_old, pace.rows))
            for job_id in some:
                del self._reasons_old[job_id]
            known = [row for row in map(self.book.jobs.get, some) if row is not None]
            waiting = [row for row in known if row.state is JobState.WAITING]
            self.book.take([new for row in waiting if (new := self._fresh(row)) != row])
            await pace.rest()

    def _publish_brief(self, changes: Sequence[Change], *, beat: bool = False) -> None:
        if not changes and not beat:
            return
        for part in _parts(changes, CHANGES_PER_FEED_MAX):
            self._brief_seq += 1
            if self._sockets.brief_subscribers:
                self._sockets.publish(msg.Brief(self._incarnation, self._brief_seq, part))

    def _with_use(self, change: Change) -> Change:
        return (
            self.book.nodes.get(change.node_id, change) if isinstance(change, NodeRow) else change
        )

    def _fresh(self, row: JobRow) -> JobRow:
        """Why a job waits changes with what it waits for, and not with the job."""
        job = self._state.jobs.get(row.job_id)
        return row if job is None else rows.job_row(self._state, job)


class _Pace:
    """How many rows to work on before others have their turn."""

    def __init__(self) -> None:
        self.rows = ROWS_FIRST
        self.worked_s = 0.0
        self._began_s = lease_now_s()

    async def rest(self) -> None:
        """Let others have their turn; the next piece is made to fit the time."""
        took_s = lease_now_s() - self._began_s
        self.worked_s += took_s
        took_s = max(took_s, TURN_S / 4)
        self.rows = min(max(round(self.rows * TURN_S / took_s), ROWS_MIN), ROWS_MAX)
        await asyncio.sleep(0)
        self._began_s = lease_now_s()


def _usable(base: BaseRow) -> tuple[BaseState, bool]:
    return base.state, bool(base.holders)


def _parts(changes: Sequence[Change], rows_max: int) -> list[tuple[Change, ...]]:
    starts = range(0, max(1, len(changes)), rows_max)
    return [tuple(changes[start : start + rows_max]) for start in starts]


def _that_fit(page: Iterable[Row]) -> tuple[Row, ...]:
    """The first rows that fit into one message; the first one in any case."""
    kept: list[Row] = []
    size_bytes = 0
    for row in page:
        size_bytes += len(_encoder.encode(row))
        if kept and size_bytes > PAGE_BYTES_MAX:
            break
        kept.append(row)
    return tuple(kept)
