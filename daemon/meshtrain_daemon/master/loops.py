"""The master's one loop of decisions: events in, effects out, in an order that keeps promises.

Events of a batch are handled one by one; then their effects are carried out:
**save, commit, send, publish**. Nothing leaves before the commit, and a commit
that fails ends the process, since memory must never be ahead of the disk.

A full disk ends nothing. While the store has no room the master is read-only:
nothing is decided, questions are answered, requests are refused at once, and
heartbeats go on being read, the latest of each node. That is looked after
before a batch is taken up, so that memory stays level with the disk. Only where
a quota, or others who fill the disk in that instant, let a commit itself fail
is memory ahead by the one batch that then waits: questions show it, and it is
committed first when there is room.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
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
from meshtrain.wire.exposition import SHORT_S, Histogram
from meshtrain_daemon.master.backlog import Backlog

FULL_RETRY_S = 1.0


class Outside(Protocol):
    """Carries out what is not kept in the store; must not wait."""

    def send(self, effects: Sequence[fx.Effect]) -> None: ...


class Writer:
    """The one thread that writes to the store: one commit at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "store")
        #: how long commits took
        self.times = Histogram(SHORT_S)

    def lacks_room(self) -> StoreFullError | None:
        """Why nothing may be begun now; None while the store's disk has room."""
        return self._store.lacks_room()

    async def save(self, saves: Sequence[fx.Save]) -> None:
        """Save and commit.

        Raises StoreFullError when the disk is full: then nothing of it counts, and
        it may be saved again; on any other StoreError the process must not go on.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._save, saves)

    async def count(self, write: Callable[[], Iterable[StreamSize]]) -> list[StreamSize]:
        """Write bytes of streams, then count them in the store.

        Raises OSError or StoreFullError when the disk is full: then nothing counts,
        and the bytes must not be confirmed.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._count, write)

    async def keep(self, gather: Callable[[Store], None]) -> None:
        """Have something gathered in the store and committed that no decision hangs on.

        Raises StoreFullError when the disk is full: then nothing of it counts.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._keep, gather)

    def _keep(self, gather: Callable[[Store], None]) -> None:
        if (full := self._store.lacks_room()) is not None:
            # The last room is for what decisions hang on.
            raise full
        gather(self._store)
        self._commit()

    def _save(self, saves: Sequence[fx.Save]) -> None:
        self._store.save(saves)
        self._commit()

    def _commit(self) -> None:
        began_s = time.perf_counter()
        try:
            self._store.commit()
            self.times.observe(time.perf_counter() - began_s)
        except StoreFullError:
            # Others save and count meanwhile: what waits is kept by whoever wants it saved.
            self._store.rollback()
            raise

    def _count(self, write: Callable[[], Iterable[StreamSize]]) -> list[StreamSize]:
        if (full := self._store.lacks_room()) is not None:
            # The last room is the store's own.
            raise full
        sizes = list(write())
        for size in sizes:
            self._store.set_stream_size(size.attempt_id, size.job_id, size.stream, size.size_bytes)
        if sizes:
            self._commit()
        return sizes

    def close(self) -> None:
        """End the thread once its commit is through."""
        self._thread.shutdown()


class Decisions:
    """Feeds the scheduler and carries out its effects.

    Args:
        batch_max: events that one commit may hold.
        retry_s: between looks whether a full disk has room again.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        writer: Writer,
        outside: Outside,
        batch_max: int,
        retry_s: float = FULL_RETRY_S,
    ) -> None:
        self._scheduler = scheduler
        self._writer = writer
        self._outside = outside
        self._batch_max = batch_max
        self._retry_s = retry_s
        self._backlog = Backlog()
        self._after: deque[Callable[[], None]] = deque()
        #: those of the batch that is on its way to the disk
        self._due: deque[Callable[[], None]] = deque()
        self._wake = asyncio.Event()
        #: what was taken in, by the name of its kind, and how long batches took
        self.events: Counter[str] = Counter()
        self.times = Histogram(SHORT_S)
        #: why the master is read-only; None when it isn't
        self.full: StoreFullError | None = None
        #: called when it becomes so, with the requests that were not looked at and are dropped
        self.on_full: Callable[[StoreFullError, Sequence[str]], None] = lambda full, refused: None
        self.on_room: Callable[[], None] = lambda: None

    def post(self, event: ev.Event) -> None:
        """Give an event to the scheduler; never waits."""
        self._backlog.put(event)
        self._wake.set()

    def afterwards(self, answer: Callable[[], None]) -> None:
        """Call something when all that was posted is on disk: answers to questions.

        While the disk is full that may take for ever: then it is called at once.
        """
        if self.full is not None:
            answer()
            return
        self._after.append(answer)
        self._wake.set()

    async def run(self) -> None:
        """Decide for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._decide()

    async def _decide(self) -> None:
        self._due, self._after = self._after, deque()
        while (full := self._writer.lacks_room()) is not None:
            await self._wait_for_room(full)
        self._go_on()
        now_s = lease_now_s()
        began_s = time.perf_counter()
        effects: list[fx.Effect] = []
        handle = self._scheduler.handle
        # Before any tick: who was heard of in time keeps its leases.
        beats = self._backlog.take_beats()
        for beat in beats:
            effects.extend(handle(beat, now_s))
        self.events["NodeBeat"] += len(beats)
        count = 0
        for event in self._backlog.take(self._batch_max):
            effects.extend(handle(event, now_s))
            self.events[type(event).__name__] += 1
            count += 1
        if len(self._backlog):
            self._wake.set()
            self._after.extendleft(reversed(self._due))
            self._due.clear()
        if count or beats:
            effects.extend(handle(ev.PlaceJobs(), now_s))
        saves = [effect for effect in effects if isinstance(effect, fx.Save)]
        if saves:
            await self._save(saves)
        if effects:
            self._outside.send(effects)
            failpoints.reach("loop.sent")
        if count or beats:
            self.times.observe(time.perf_counter() - began_s)
        self._answer()

    async def _save(self, saves: Sequence[fx.Save]) -> None:
        while True:
            try:
                await self._writer.save(saves)
            except StoreFullError as full:
                await self._wait_for_room(full)
            else:
                self._go_on()
                return

    # --- a full disk ---------------------------------------------------------------------------

    async def _wait_for_room(self, full: StoreFullError) -> None:
        """Be read-only for a while, then let it be tried again."""
        begins = self.full is None
        self.full = full
        if begins:
            self.on_full(full, self._backlog.hold())
            self._answer()
        await asyncio.sleep(self._retry_s)

    def _go_on(self) -> None:
        if self.full is None:
            return
        self.full = None
        self._backlog.go_on()
        self._wake.set()
        self.on_room()

    def _answer(self) -> None:
        while self._due:
            self._due.popleft()()

    async def tick(self, every_s: float) -> None:
        """Let the scheduler see that time passes, for ever."""
        while True:
            self.post(ev.Tick(wall_s=wall_now_s()))
            await asyncio.sleep(every_s)
