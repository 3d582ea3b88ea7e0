"""The master's one loop of decisions: events in, effects out, in an order that keeps promises.

Events of a batch are handled one by one; then their effects are carried out:
**save, commit, send, publish**. Nothing leaves before the commit, and a commit
that fails ends the process, since memory must never be ahead of the disk.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from meshtrain import failpoints
from meshtrain.clock import lease_now_s, wall_now_s
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.scheduler import Scheduler
from meshtrain.store.base import Store, StreamSize
from meshtrain.store.failures import StoreFullError

FULL_RETRY_S = 1.0


class Outside(Protocol):
    """Carries out what is not kept in the store; must not wait."""

    def send(self, effects: Sequence[fx.Effect]) -> None: ...


class Writer:
    """The one thread that writes to the store: one commit at a time.

    A full disk delays and loses nothing: what was decided is held back until it
    is on disk, and bytes of logs are not confirmed, so that they are sent again.

    Args:
        say: shows a line to people; called in the thread.
        retry_s: between looks whether the disk has room again.
    """

    def __init__(
        self,
        store: Store,
        say: Callable[[str], None] = lambda text: None,
        retry_s: float = FULL_RETRY_S,
    ) -> None:
        self._store = store
        self._say = say
        self._retry_s = retry_s
        self._closing = threading.Event()
        self._thread = ThreadPoolExecutor(1, "store")

    async def save(self, saves: Sequence[fx.Save]) -> None:
        """Save and commit. Raises StoreError; then the process must not go on."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._save, saves)

    async def count(self, write: Callable[[], Iterable[StreamSize]]) -> list[StreamSize]:
        """Write bytes of streams, then count them in the store.

        Raises OSError or StoreFullError when the disk is full: then nothing counts.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._count, write)

    def _save(self, saves: Sequence[fx.Save]) -> None:
        self._store.save(saves)
        told = False
        while True:
            try:
                self._store.commit()
                break
            except StoreFullError as error:
                if not told:
                    self._say(f"nothing goes on until there is room: {error}")
                    told = True
                if self._closing.wait(self._retry_s):
                    raise
        if told:
            self._say("there is room again: all goes on")

    def _count(self, write: Callable[[], Iterable[StreamSize]]) -> list[StreamSize]:
        sizes = list(write())
        for size in sizes:
            self._store.set_stream_size(size.attempt_id, size.job_id, size.stream, size.size_bytes)
        if sizes:
            try:
                self._store.commit()
            except StoreFullError:
                self._store.rollback()
                raise
        return sizes

    def close(self) -> None:
        """End the thread; what waits for room is given up, as by a crash."""
        self._closing.set()
        self._thread.shutdown()


class Decisions:
    """Feeds the scheduler and carries out its effects.

    Args:
        batch_max: events that one commit may hold.
    """

    def __init__(
        self, scheduler: Scheduler, writer: Writer, outside: Outside, batch_max: int
    ) -> None:
        self._scheduler = scheduler
        self._writer = writer
        self._outside = outside
        self._batch_max = batch_max
        self._events: deque[ev.Event] = deque()
        #: The latest heartbeat of each node: older ones tell nothing new.
        self._beats: dict[str, ev.NodeBeat] = {}
        self._after: deque[Callable[[], None]] = deque()
        self._wake = asyncio.Event()

    def post(self, event: ev.Event) -> None:
        """Give an event to the scheduler; never waits."""
        if isinstance(event, ev.NodeBeat):
            self._beats[event.node_id] = event
        else:
            self._events.append(event)
        self._wake.set()

    def afterwards(self, answer: Callable[[], None]) -> None:
        """Call something when all that was posted is on disk: answers to questions."""
        self._after.append(answer)
        self._wake.set()

    async def run(self) -> None:
        """Decide for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._decide()

    async def _decide(self) -> None:
        after, self._after = self._after, deque()
        now_s = lease_now_s()
        effects: list[fx.Effect] = []
        handle = self._scheduler.handle
        # Before any tick: who was heard of in time keeps its leases.
        beats, self._beats = self._beats, {}
        for beat in beats.values():
            effects.extend(handle(beat, now_s))
        count = 0
        while self._events and count < self._batch_max:
            effects.extend(handle(self._events.popleft(), now_s))
            count += 1
        if self._events:
            self._wake.set()
            self._after.extendleft(reversed(after))
            after = deque()
        if count or beats:
            effects.extend(handle(ev.PlaceJobs(), now_s))
        saves = [effect for effect in effects if isinstance(effect, fx.Save)]
        if saves:
            await self._writer.save(saves)
        if effects:
            self._outside.send(effects)
            failpoints.reach("loop.sent")
        for answer in after:
            answer()

    async def tick(self, every_s: float) -> None:
        """Let the scheduler see that time passes, for ever."""
        while True:
            self.post(ev.Tick(wall_s=wall_now_s()))
            await asyncio.sleep(every_s)
