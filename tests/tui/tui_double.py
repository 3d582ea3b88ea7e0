"""A dashboard whose feed and clocks are played by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from textual.pilot import Pilot

from meshtrain.core.changes import Change
from meshtrain.core.pages import Page, PageQuery, page_of
from meshtrain.core.view import MeshView
from meshtrain.net.zmq_feed import FeedBatch
from meshtrain_tui.app import Top
from meshtrain_tui.feed import Clocks

WALL_S = 1_700_000_000.0
ADDRESS = "127.0.0.1:7470"


@dataclass
class FakeSource:
    """Tells what it is given; is silent when it is given nothing."""

    view: MeshView = field(default_factory=MeshView)
    trouble: str = "connecting"
    last_heard_s: float | None = None
    now_s: float = 100.0
    closed: bool = False
    _given: asyncio.Queue[FeedBatch | None] = field(default_factory=asyncio.Queue)

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now_s, lambda: WALL_S + self.now_s)

    def tell(self, changes: Sequence[Change], *, whole: bool = False) -> None:
        self.trouble = ""
        self.last_heard_s = self.now_s
        self._given.put_nowait(FeedBatch(1, 1, tuple(changes), whole=whole))

    def beat(self) -> None:
        self.last_heard_s = self.now_s

    async def batches(self) -> AsyncIterator[FeedBatch]:
        while (batch := await self._given.get()) is not None:
            if batch.whole:
                self.view = MeshView()
            for change in batch.changes:
                self.view.apply(change)
            yield batch
            self._given.task_done()

    async def wait_taken(self) -> None:
        await self._given.join()

    async def page(self, query: PageQuery) -> Page:
        return page_of(self.view, query)

    def close(self) -> None:
        self.closed = True
        self._given.put_nowait(None)


class Dashboard:
    """The app under test, and what is on its screen."""

    def __init__(self, app: Top, pilot: Pilot[None], source: FakeSource) -> None:
        self.source = source
        self.app = app
        self.pilot = pilot

    async def settle(self) -> None:
        """Until all that was told is drawn."""
        await self.source.wait_taken()
        self.app.look()
        await self.pilot.pause()

    @property
    def rows(self) -> list[str]:
        strips = self.app.screen._compositor.render_strips()
        return [strip.text.rstrip() for strip in strips]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    def row(self, part: str) -> str:
        """The one line that holds `part`."""
        (found,) = [row for row in self.rows if part in row]
        return found


@asynccontextmanager
async def dashboard(
    source: FakeSource, size: tuple[int, int] = (80, 24), inbox: str = ""
) -> AsyncIterator[Dashboard]:
    async def ask_inbox() -> str:
        return inbox

    app = Top(ADDRESS, lambda: source, clocks=source.clocks(), ask_inbox=ask_inbox, redraw_min_s=0)
    async with app.run_test(size=size) as pilot:
        shown = Dashboard(app, pilot, source)
        await shown.settle()
        yield shown
