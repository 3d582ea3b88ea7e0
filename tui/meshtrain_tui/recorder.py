"""Records a mesh: its feed as it comes, and what the screens would ask about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

import meshtrain
from meshtrain.clock import wall_now_s
from meshtrain.core.view import MeshView
from meshtrain.errors import MeshtrainError
from meshtrain.net.zmq_feed import FeedBatch
from meshtrain_tui.pace import Pace
from meshtrain_tui.questions import Ask, whole_answer
from meshtrain_tui.recording import (
    RECORDING_VERSION,
    Beginning,
    Moment,
    RecordingFile,
    picture_of,
)

PICTURE_CHANGES_MIN = 5_000
PICTURE_SHARE = 2
"""A whole picture stands after so many times as many changes as it has rows: a third at most of
what is written."""
LOOK_EVERY_S = 1.0
"""Between looks at whether the master is still heard; what is written is on the disk by then."""
ASK_EVERY_S = 10.0
ASK_SHARE_MAX = 0.05
"""Questions may take this share of the time: the master has other things to do."""


class Recorded(Protocol):
    """What is recorded: a feed that tells of all jobs; a FeedClient is one."""

    @property
    def view(self) -> MeshView: ...

    @property
    def trouble(self) -> str: ...

    def batches(self) -> AsyncIterator[FeedBatch]: ...

    def close(self) -> None: ...


class Recorder:
    """Writes what a source tells into a file, until the source ends or the file is large enough.

    Args:
        source: the mesh's feed; closed at the end.
        address: the master's, as it is shown.
        ask: answers what the screens ask beside the feed; None records the feed alone.
        bytes_max: size at which it ends by itself.
    """

    def __init__(
        self,
        source: Recorded,
        file: RecordingFile,
        *,
        address: str,
        ask: Ask | None = None,
        bytes_max: int,
        now_wall_s: Callable[[], float] = wall_now_s,
    ) -> None:
        self._source = source
        self._file = file
        self._address = address
        self._ask = ask
        self._bytes_max = bytes_max
        self._now_wall_s = now_wall_s
        self._since_picture = 0
        self._trouble = ""
        self._asked: dict[tuple[str, tuple[str, ...]], bytes] = {}
        self.moments = 0
        """How many batches of news were written."""
        self.is_full = False
        """It ended because the file is as large as it may be."""

    async def run(self) -> None:
        """Record. Raises UserError when the disk takes no more."""
        self._file.write(
            Beginning(RECORDING_VERSION, self._address, meshtrain.__version__, self._now_wall_s())
        )
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._look_on())]
        if self._ask is not None:
            tasks.append(asyncio.create_task(self._ask_on(self._ask)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._source.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._file.sync()

    async def _follow(self) -> None:
        async for batch in self._source.batches():
            self._look()
            self._take(batch)
            if self._file.size_bytes >= self._bytes_max:
                self.is_full = True
                return

    def _take(self, batch: FeedBatch) -> None:
        wall_s = self._now_wall_s()
        self._file.write(Moment(wall_s, batch))
        self.moments += 1
        if batch.whole:
            self._since_picture = 0
            return
        self._since_picture += len(batch.changes)
        view = self._source.view
        rows = len(view.jobs) + len(view.nodes) + len(view.bases) + len(view.transfers)
        if self._since_picture >= max(PICTURE_CHANGES_MIN, PICTURE_SHARE * rows):
            whole = msgspec.structs.replace(batch, changes=picture_of(view), whole=True)
            self._file.write(Moment(wall_s, whole))
            self._since_picture = 0

    # --- the link -------------------------------------------------------------------------

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._look()
            await asyncio.to_thread(self._file.sync)

    def _look(self) -> None:
        self._note_trouble(self._source.trouble)

    def _note_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._file.write(Moment(self._now_wall_s(), trouble=trouble))

    # --- questions ------------------------------------------------------------------------

    async def _ask_on(self, ask: Ask) -> None:
        pace = Pace(ASK_EVERY_S, ASK_SHARE_MAX)
        while True:
            began_s = time.monotonic()
            await self.ask_again(ask)
            pace.answered(time.monotonic() - began_s)
            await asyncio.sleep(pace.pause_s)

    async def ask_again(self, ask: Ask) -> None:
        """Ask what may have another answer than last time."""
        for what, names, stand in self._questions():
            if self._asked.get((what, names)) == stand:
                continue
            try:
                answered = await whole_answer(ask, what, names)
            except MeshtrainError:
                # The feed tells that the master is away; what can't be asked isn't there later.
                continue
            self._asked[what, names] = stand
            self._file.write(Moment(self._now_wall_s(), answered=answered))

    def _questions(self) -> list[tuple[str, tuple[str, ...], bytes]]:
        """Each question with the stand of things that its answer depends on."""
        view = self._source.view
        encode = msgspec.msgpack.encode
        questions = [("sweeps", (), encode(list(view.sweeps)))] if view.sweeps else []
        asked: list[tuple[str, tuple[str, ...], bytes]] = [*questions]
        for sweep_id, sweep in view.sweeps.items():
            states = sorted(view.progress(sweep_id).states.items())
            asked.append(("results", (sweep_id,), encode((sweep, states))))
        asked.extend(
            ("base", (recipe_hash,), encode(base)) for recipe_hash, base in view.bases.items()
        )
        return asked
