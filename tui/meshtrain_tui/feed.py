"""Turns news of the mesh into messages of the dashboard: the only place that hears the network."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Protocol

import msgspec
from textual.message import Message

from meshtrain.clock import lease_now_s, wall_now_s
from meshtrain.core.changes import (
    BaseRow,
    Change,
    JobRow,
    Lists,
    NodeRow,
    Note,
    SweepRow,
    TransferRow,
)
from meshtrain.core.pages import Page, PageQuery
from meshtrain.core.view import MeshView
from meshtrain.errors import MeshtrainError
from meshtrain.ids import new_id
from meshtrain.net.curve import ClientSecurity
from meshtrain.net.zmq_client import PORTS_QUERY, MasterClient
from meshtrain.net.zmq_feed import FeedBatch
from meshtrain.wire.messages import Answer, Query

STALE_AFTER_S = 3.0
"""The master's feed beats each second: after three missed beats the picture may be old."""
REDRAW_MIN_S = 0.1
"""Between two pictures: what comes within it is drawn in one."""


class Source(Protocol):
    """Where a picture comes from: a FeedClient, or a recording."""

    @property
    def view(self) -> MeshView:
        """The picture; another object after a whole batch."""

    @property
    def trouble(self) -> str:
        """Why the picture isn't live; "" when it is."""

    @property
    def last_heard_s(self) -> float | None:
        """When the master was last heard, on the lease clock; None: never."""

    def batches(self) -> AsyncIterator[FeedBatch]:
        """The news, already applied to `view`."""

    def page(self, query: PageQuery) -> Awaitable[Page]:
        """A page of a long list; raises MeshtrainError when there is none to be had."""

    def close(self) -> None:
        """End `batches`."""


class Clocks(msgspec.Struct, frozen=True):
    """The two clocks of a process, as functions, so that a test can turn them."""

    now_s: Callable[[], float] = lease_now_s
    wall_now_s: Callable[[], float] = wall_now_s


class Link(msgspec.Struct, frozen=True):
    """How well the master is heard. Times are wall times of this host."""

    live: bool
    heard_wall_s: float | None
    """When it was last heard; None: never."""
    since_wall_s: float | None
    """From when on this dashboard has listened."""
    trouble: str
    inbox: str = ""
    """The master's watched folder, where it is known."""


KIND_OF: Mapping[type[Change], str] = MappingProxyType(
    {
        JobRow: "jobs",
        Lists: "jobs",
        SweepRow: "sweeps",
        BaseRow: "bases",
        NodeRow: "nodes",
        Note: "events",
        TransferRow: "transfers",
    }
)
"""Which list a change is of, as pages are asked for."""
KINDS = tuple(dict.fromkeys(KIND_OF.values()))


class Picture(msgspec.Struct, frozen=True):
    """All that a screen draws from. `view` changes in place; a screen never keeps rows of it."""

    view: MeshView
    link: Link
    wall_s: float
    """The moment that it shows: now, or when the master was last heard."""
    revisions: Mapping[str, int] = {}
    """Kind of row → a number that grows when such rows have changed: a screen that shows a page
    asks for it again when its number is another than at its last asking."""


class PictureChanged(Message):
    """There is something new to show; only the last one of a burst is handled."""

    def __init__(self, picture: Picture) -> None:
        super().__init__()
        self.picture = picture

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, PictureChanged)


async def no_inbox() -> str:
    return ""


def inbox_of(address: str, security: ClientSecurity | None = None) -> Callable[[], Awaitable[str]]:
    """Asks the master at `address` for its inbox; "" when it doesn't tell."""
    return partial(asyncio.to_thread, _ask_inbox, address, security)


def _ask_inbox(address: str, security: ClientSecurity | None) -> str:
    try:
        with MasterClient(address, security=security) as client:
            answer = client.request(Query(new_id("request"), PORTS_QUERY))
    except MeshtrainError:
        # Only a hint on an empty screen; the feed tells what is wrong with the link.
        return ""
    row = answer.rows[0] if isinstance(answer, Answer) and answer.rows else None
    inbox = row.get("inbox") if isinstance(row, dict) else None
    return inbox if isinstance(inbox, str) else ""


class MeshFeed:
    """Follows a source, and posts a PictureChanged when there is something new.

    Args:
        source: where the picture comes from.
        post: takes the messages; it is the app's `post_message`.
        clocks: of this process.
        ask_inbox: finds out the master's watched folder.
        redraw_min_s: seconds between two pictures.
    """

    def __init__(
        self,
        source: Source,
        post: Callable[[Message], object],
        *,
        clocks: Clocks,
        ask_inbox: Callable[[], Awaitable[str]] = no_inbox,
        redraw_min_s: float = REDRAW_MIN_S,
    ) -> None:
        self._source = source
        self._post = post
        self._clocks = clocks
        self._ask_inbox = ask_inbox
        self._redraw_min_s = redraw_min_s
        self._view = source.view
        self._since_wall_s: float | None = None
        self._inbox = ""
        self._revisions: Counter[str] = Counter()

    async def run(self) -> None:
        """Follow the source until it is closed."""
        async for batch in self._source.batches():
            if batch.whole:
                if self._since_wall_s is None:
                    self._since_wall_s = self._clocks.wall_now_s()
                self._view = self._source.view
            kinds = KINDS if batch.whole else {KIND_OF.get(type(c), "") for c in batch.changes}
            self._revisions.update(kinds)
            self.look()
            if batch.whole and not self._inbox:
                self._inbox = await self._ask_inbox()
                self.look()
            # What comes in the meantime waits in the source, and is one batch then.
            await asyncio.sleep(self._redraw_min_s)

    def look(self) -> None:
        """Post the picture as it is now: also when nothing is heard, time goes on."""
        link = self._link()
        wall_s = self._clocks.wall_now_s()
        if not link.live and link.heard_wall_s is not None:
            wall_s = link.heard_wall_s
        revisions = dict(self._revisions)
        self._post(PictureChanged(Picture(self._view, link, wall_s, revisions)))

    async def page(self, query: PageQuery) -> Page:
        """A page of a long list; raises MeshtrainError when there is none to be had."""
        return await self._source.page(query)

    def close(self) -> None:
        """Let go of the source; `run` ends."""
        self._source.close()

    def _link(self) -> Link:
        heard_s = self._source.last_heard_s
        silent_s = None if heard_s is None else self._clocks.now_s() - heard_s
        return Link(
            live=(
                silent_s is not None
                and silent_s <= STALE_AFTER_S
                and self._since_wall_s is not None
            ),
            heard_wall_s=(
                None
                if silent_s is None or self._since_wall_s is None
                else self._clocks.wall_now_s() - silent_s
            ),
            since_wall_s=self._since_wall_s,
            trouble=self._source.trouble,
            inbox=self._inbox,
        )
