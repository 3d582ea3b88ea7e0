"""A dashboard whose feed, clocks and master are played by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from meshtrain.core.changes import Change
from meshtrain.core.pages import Page, PageQuery, page_of
from meshtrain.core.view import MeshView
from meshtrain.errors import UserError
from meshtrain.net.base import MasterAwayError
from meshtrain.net.zmq_feed import FeedBatch
from meshtrain.wire.messages import Answer, Done, FromPerson, Query
from meshtrain_tui.app import Top
from meshtrain_tui.feed import Clocks
from meshtrain_tui.settings import TopSettings
from meshtrain_tui.steering.submission import Receipt
from meshtrain_tui.widgets.table import PageTable

WALL_S = 1_700_000_000.0
ADDRESS = "127.0.0.1:7470"
UNTIL_S = 20.0


@dataclass
class FakeSource:
    """Tells what it is given; is silent when it is given nothing."""

    view: MeshView = field(default_factory=MeshView)
    trouble: str = "connecting"
    last_heard_s: float | None = None
    now_s: float = 100.0
    closed: bool = False
    away: bool = False
    """Whether nobody answers."""
    asked: list[PageQuery] = field(default_factory=list)
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

    async def page(self, query: PageQuery) -> Page:
        self.asked.append(query)
        await asyncio.sleep(0)
        if self.away:
            raise MasterAwayError("no master answers at 127.0.0.1:7470 within 5 s")
        return page_of(self.view, query)

    async def wait_taken(self) -> None:
        await self._given.join()

    def close(self) -> None:
        self.closed = True
        self._given.put_nowait(None)


@dataclass
class FakeMaster:
    """Notes what it is asked to do, and says that it was done."""

    source: FakeSource
    asked: list[FromPerson] = field(default_factory=list)
    refuses: str = ""
    away: bool = False
    rows: list[Any] = field(default_factory=list)
    submitted: list[Path] = field(default_factory=list)

    async def ask(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        self.asked.append(message)
        await asyncio.sleep(0)
        if self.away:
            raise MasterAwayError("no master answers at 127.0.0.1:7470 within 5 s")
        if self.refuses:
            raise UserError(self.refuses)
        if isinstance(message, Query):
            return Answer(message.request_id, rows=self.rows, total=len(self.rows))
        names = getattr(message, "names", None) or (
            getattr(message, "node_id", "") or getattr(message, "recipe_hash", ""),
        )
        return Done(message.request_id, done=tuple(names))

    async def submit(self, file: Path) -> Receipt:
        self.submitted.append(file)
        await asyncio.sleep(0)
        if self.refuses:
            raise UserError(self.refuses)
        return Receipt("sweep-00000001", "sweep", 4)

    def acts(self) -> list[FromPerson]:
        """What would have changed the mesh."""
        return [message for message in self.asked if not isinstance(message, Query)]


class Dashboard:
    """The app under test, and what is on its screen."""

    def __init__(
        self, app: Top, pilot: Pilot[None], source: FakeSource, master: FakeMaster
    ) -> None:
        self.source = source
        self.master = master
        self.app = app
        self.pilot = pilot

    async def settle(self) -> None:
        """Until all that was told is drawn."""
        await self.source.wait_taken()
        self.app.look()
        await self.until_drawn()

    async def until_drawn(self) -> None:
        """Until what the screens have asked for is drawn."""
        await self.pilot.pause()
        for table in self.app.screen.query(PageTable):
            await self.until(lambda table=table: table.pager.settled)
        await self.pilot.pause()

    async def until(self, condition: Callable[[], object]) -> None:
        """Until it holds; what was on the screen is told when it never does."""
        deadline_s = time.monotonic() + UNTIL_S
        while not condition():
            await self.pilot.pause()
            if time.monotonic() > deadline_s:
                raise AssertionError(f"it never came to pass; on the screen:\n{self.text}")

    async def press(self, *keys: str) -> None:
        """Press keys, and wait until all that follows is drawn."""
        await self.pilot.press(*keys)
        await self.until_drawn()

    @property
    def said(self) -> str:
        """What was told in passing, the last line last."""
        return "\n".join(note.message for note in self.app._notifications)

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
    source: FakeSource,
    size: tuple[int, int] = (80, 24),
    inbox: str = "",
    settings: TopSettings | None = None,
    keys: dict[str, str] | None = None,
) -> AsyncIterator[Dashboard]:
    async def ask_inbox() -> str:
        return inbox

    master = FakeMaster(source)
    app = Top(
        ADDRESS,
        lambda: source,
        clocks=source.clocks(),
        ask_inbox=ask_inbox,
        redraw_min_s=0,
        ask=master.ask,
        submit=master.submit,
        settings=settings,
        keys=keys,
    )
    async with app.run_test(size=size) as pilot:
        shown = Dashboard(app, pilot, source, master)
        await shown.settle()
        yield shown
