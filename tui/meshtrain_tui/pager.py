"""Keeps the pages of a long list that are seen, and asks for them: one question at a time.

    pager = Pager(PageQuery("jobs"), desk.page, changed=table.refresh)
    asking = asyncio.create_task(pager.run())
    pager.want(first, last)          the rows that are seen now
    pager.row(17)                    the row, or None while it is on its way
    pager.restart(other_query)       another filter, order or sweep
    pager.tick(news)                 each time when the picture may have changed

However fast somebody scrolls, one question is open, and the next is for what is seen
then. Rows that are there stay until newer ones have come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from meshtrain.clock import lease_now_s
from meshtrain.core.pages import Page, PageQuery, Row
from meshtrain.errors import MeshtrainError
from meshtrain_tui.pace import Pace

PAGE_ROWS = 100
PAGES_KEPT_MAX = 32
REFRESH_MIN_S = 1.0
"""Between two questions for rows that may have changed."""
BUSY_SHARE_MAX = 0.1
"""Of the time, that the master may spend on one list: a slow answer is asked for less often."""
RETRY_S = 2.0


class Pager:
    """The rows of one list.

    Args:
        query: what is wanted; its offset and limit are not looked at.
        fetch: gives a page; raises MeshtrainError when it can't be had.
        changed: called when there is something new to draw.
        now_s: a clock.
        page_rows: rows that are asked for at once.
    """

    def __init__(
        self,
        query: PageQuery,
        fetch: Callable[[PageQuery], Awaitable[Page]],
        changed: Callable[[], object],
        *,
        now_s: Callable[[], float] = lease_now_s,
        page_rows: int = PAGE_ROWS,
    ) -> None:
        self._fetch = fetch
        self._changed = changed
        self._now_s = now_s
        self._page_rows = page_rows
        self._query = query
        self._pages: dict[int, tuple[Row, ...]] = {}
        self._old: set[int] = set()
        """Pages that may have changed since they came."""
        self._restarted = True
        self._seen = (0, 0)
        self._wake = asyncio.Event()
        self._open = False
        self._news: int | None = None
        self._refreshed_s = now_s()
        self._pace = Pace(REFRESH_MIN_S, BUSY_SHARE_MAX)
        self._failed_s: float | None = None
        self.total = 0
        """All rows of the kind; as of the last answer."""
        self.matched = 0
        """Those that the query lets through."""
        self.error = ""
        """Why the last question was not answered."""

    @property
    def query(self) -> PageQuery:
        """What is wanted."""
        return self._query

    @property
    def known(self) -> bool:
        """Whether this query was answered at least once."""
        return not self._restarted

    @property
    def settled(self) -> bool:
        """Whether nothing is asked for, nor is to be."""
        return not self._open and self._next() is None

    def row(self, index: int) -> Row | None:
        """A row by its place in the list; None while it isn't here."""
        number, place = divmod(index, self._page_rows)
        page = self._pages.get(number, ())
        return page[place] if place < len(page) else None

    def rows(self) -> list[tuple[int, Row]]:
        """All rows that are here, with their places."""
        return [
            (number * self._page_rows + place, row)
            for number, page in sorted(self._pages.items())
            for place, row in enumerate(page)
        ]

    def restart(self, query: PageQuery) -> None:
        """Ask something else from now on."""
        self._query = query
        self._restarted = True
        self._failed_s = None
        self._wake.set()

    def want(self, first: int, last: int) -> None:
        """The rows from `first` to `last` are seen."""
        self._seen = (max(0, first), max(0, last))
        self._wake.set()

    def tick(self, news: int) -> None:
        """Ask again for what is seen, when `news` is another number than before."""
        now_s = self._now_s()
        if self._failed_s is not None and now_s - self._failed_s >= RETRY_S:
            self._failed_s = None
            self._wake.set()
        if news == self._news or now_s - self._refreshed_s < self._pace.pause_s:
            return
        self._news = news
        self._refreshed_s = now_s
        self.refresh()

    def refresh(self) -> None:
        """Ask again for what is seen, at once."""
        self._old.update(self._pages)
        self._wake.set()

    async def run(self) -> None:
        """Answer to what is wanted, for ever."""
        while True:
            number = self._next()
            if number is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._take(number)

    def _next(self) -> int | None:
        """The page to ask for now, if any."""
        if self._failed_s is not None:
            return None
        first, last = (row // self._page_rows for row in self._seen)
        if self._restarted:
            return first
        end = (max(self.matched, 1) - 1) // self._page_rows
        seen = range(min(first, end), min(last, end) + 1)
        for number in seen:
            if number not in self._pages or number in self._old:
                return number
        # One page ahead both ways, so that scrolling finds its rows there.
        for number in (seen[-1] + 1, seen[0] - 1):
            if 0 <= number <= end and number not in self._pages:
                return number
        return None

    async def _take(self, number: int) -> None:
        query = self._query
        began_s = self._now_s()
        self._open = True
        try:
            page = await self._whole(query, number * self._page_rows)
        except MeshtrainError as error:
            self.error = str(error)
            self._failed_s = self._now_s()
            self._changed()
            return
        finally:
            self._open = False
        self._pace.answered(self._now_s() - began_s)
        if query is not self._query:
            return
        if self._restarted:
            self._restarted = False
            self._pages.clear()
            self._old.clear()
        self.error = ""
        self.total, self.matched = page.total, page.matched
        self._keep(number, page.rows)
        self._changed()

    async def _whole(self, query: PageQuery, offset: int) -> Page:
        """A page of ours; an answer may have fewer rows than were asked for, to stay small."""
        replaced = msgspec.structs.replace
        page = await self._fetch(replaced(query, offset=offset, limit=self._page_rows))
        rows = page.rows
        while page.rows and len(rows) < self._page_rows and offset + len(rows) < page.matched:
            left = self._page_rows - len(rows)
            page = await self._fetch(replaced(query, offset=offset + len(rows), limit=left))
            rows += page.rows
        return Page(rows[: self._page_rows], page.total, page.matched)

    def _keep(self, number: int, rows: tuple[Row, ...]) -> None:
        self._old.discard(number)
        self._pages.pop(number, None)
        self._pages[number] = rows
        end = (max(self.matched, 1) - 1) // self._page_rows
        for other in [other for other in self._pages if other > end]:
            del self._pages[other]
        first, last = (row // self._page_rows for row in self._seen)
        while len(self._pages) > PAGES_KEPT_MAX:
            far = max(self._pages, key=lambda other: max(first - other, other - last))
            del self._pages[far]
            self._old.discard(far)
