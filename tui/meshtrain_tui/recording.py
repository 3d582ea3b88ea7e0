"""A feed kept in a file, and played back: what tests and the pictures in the docs are made from."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from meshtrain.core.pages import Page, PageQuery, page_of
from meshtrain.core.view import MeshView
from meshtrain.errors import UserError
from meshtrain.net.zmq_feed import FeedBatch


class Moment(msgspec.Struct, frozen=True):
    """A batch of the feed, and when it was heard."""

    wall_s: float
    batch: FeedBatch


def write_moment(file: BinaryIO, moment: Moment) -> None:
    """Add one moment to a recording."""
    file.write(msgspec.json.encode(moment) + b"\n")
    file.flush()


_moment_decoder = msgspec.json.Decoder(Moment)


def read_recording(path: Path) -> list[Moment]:
    """The moments of a recording, in order. Raises UserError when it is none."""
    try:
        return [_moment_decoder.decode(line) for line in path.open("rb")]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{path} can't be read as a recorded feed: {error}; "
            "record one with docs/make_images.py --record HOST:PORT"
        ) from error


class Replay:
    """Plays moments on their own clock, as far as it is told to.

    Its lease clock and its wall clock are one: that of the moments.
    """

    def __init__(self, moments: Sequence[Moment]) -> None:
        self.view = MeshView()
        self.trouble = ""
        self.last_heard_s: float | None = None
        self._clock_s = moments[0].wall_s if moments else 0.0
        self._moments = deque(moments)
        self._due: asyncio.Queue[Moment | None] = asyncio.Queue()

    def now_s(self) -> float:
        """When the moment was that was played last."""
        return self._clock_s

    def play_while(self, go_on: Callable[[Moment], bool]) -> None:
        """Tell all that was heard before the first moment that `go_on` refuses."""
        while self._moments and go_on(self._moments[0]):
            self._due.put_nowait(self._moments.popleft())

    async def wait_played(self) -> None:
        """Return when all that was told has been taken in."""
        await self._due.join()

    async def batches(self) -> AsyncIterator[FeedBatch]:
        while (moment := await self._due.get()) is not None:
            self._clock_s = self.last_heard_s = moment.wall_s
            if moment.batch.whole:
                self.view = MeshView()
            for change in moment.batch.changes:
                self.view.apply(change)
            yield moment.batch
            self._due.task_done()

    async def page(self, query: PageQuery) -> Page:
        return page_of(self.view, query)

    def close(self) -> None:
        self._due.put_nowait(None)
