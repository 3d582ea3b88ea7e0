"""Starts and ends jobs' processes for the worker daemon, through a spawner program.

    daemon ──frames──▶ spawner ──link──▶ shim ──▶ job
       ◀──────────── one pipe of events ───┘

The daemon never forks: it writes launches to the spawner's socket, many in one
write, and reads what became of them from a pipe that all shims share.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from meshtrain.errors import MeshtrainError
from meshtrain_daemon.worker import frames
from meshtrain_daemon.worker.launch import (
    EndCause,
    Event,
    Exited,
    Launch,
    LaunchError,
    LaunchFailed,
    Started,
    encode_launch,
    read_outcome,
)
from meshtrain_daemon.worker.orphans import sweep_orphans
from meshtrain_daemon.worker.spawner_process import News, ShimLost, SpawnerProcess

_log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
"""How long a spawner may take to be ready; a cold `import torch` takes some 5 s."""
STARTS_MAX = 3
"""Spawners started one after the other before waiting launches are given up."""


class RunnerError(MeshtrainError):
    """Raised when the runner's spawner can't be started, or the runner is closed."""


class Runner:
    """Launches jobs and tells what becomes of them; each attempt gets exactly one outcome.

    Arguments: `on_events` gets the events in order, many at once, in the event
    loop; it must not raise. `preload` names a module with `preload()` and
    `run(argument) -> int`, which launches with `call` run in a forked process.
    `environment` is what jobs inherit (default: this process's own). `mark_prefix`
    is put before the attempt's id in the mark that its processes carry: give the
    node's id, so that a sweep never ends a like-named attempt of another node on
    this host.
    """

    def __init__(
        self,
        on_events: Callable[[list[Event]], None],
        *,
        preload: str | None = None,
        environment: dict[str, str] | None = None,
        mark_prefix: str = "",
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._on_events = on_events
        self._preload = preload
        self._environment = environment
        self._mark_prefix = mark_prefix
        if len(mark_prefix) > frames.MARK_LEN_MAX - frames.ATTEMPT_ID_LEN_MAX:
            raise RunnerError(f"the mark prefix {mark_prefix!r} is too long; give the node's id")
        self._start_timeout_s = start_timeout_s
        self._spawner: SpawnerProcess | None = None
        self._spawners: set[SpawnerProcess] = set()
        self._waiting: list[Launch] = []
        self._by_attempt: dict[str, SpawnerProcess | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def spawner_pid(self) -> int | None:
        """The process id of the spawner that takes launches now."""
        return self._spawner.pid if self._spawner else None

    @property
    def running(self) -> int:
        """How many attempts were launched and have no outcome yet."""
        return len(self._by_attempt)

    def mark_of(self, attempt_id: str) -> str:
        """The mark that the attempt's processes carry, as `sweep_orphans` takes it."""
        return self._mark_prefix + attempt_id

    async def start(self) -> None:
        """Starts the spawner and waits until it is ready.

        Raises RunnerError with its reason when it isn't.
        """
        self._spawner = await self._start_spawner()

    def launch(self, launches: Sequence[Launch]) -> None:
        """Starts these attempts; returns at once.

        What can't be started gets a LaunchFailed, never an exception. Raises
        RunnerError when the runner is closed, or an attempt runs already.
        """
        if self._closing:
            raise RunnerError("the runner is closed and takes no more launches")
        names = [launch.attempt_id for launch in launches]
        if len(set(names)) < len(names) or not self._by_attempt.keys().isdisjoint(names):
            doubled = next(
                name for name in names if name in self._by_attempt or names.count(name) > 1
            )
            raise RunnerError(
                f"attempt {doubled} is launched twice; each execution needs an id of its own"
            )
        messages: list[bytes] = []
        failed: list[Event] = []
        for launch in launches:
            try:
                message = encode_launch(launch, self._mark_prefix)
            except LaunchError as error:
                failed.append(LaunchFailed(launch.attempt_id, str(error)))
                continue
            self._by_attempt[launch.attempt_id] = self._spawner
            if self._spawner is None:
                self._waiting.append(launch)
            else:
                self._spawner.folders[launch.attempt_id] = launch.folder
                messages.append(frames.frame(message))
        if failed:
            asyncio.get_running_loop().call_soon(self._on_events, failed)
        if self._spawner is None:
            self._start_again()
        elif messages:
            self._spawner.write(b"".join(messages))

    def end(self, attempt_id: str, grace_s: float | None = None) -> None:
        """Ends all processes of an attempt: SIGTERM, `grace_s`, SIGKILL.

        `grace_s` None takes the grace of its launch, 0 kills at once. A second
        call can only bring the end nearer. An attempt that is over is left alone.
        """
        self._order(
            attempt_id, frames.end_message(attempt_id.encode(), grace_s, frames.CAUSE_REQUESTED)
        )

    def signal(self, attempt_id: str, signal_number: int) -> None:
        """Sends a signal to the process group of an attempt's main process."""
        self._order(attempt_id, frames.signal_message(attempt_id.encode(), signal_number))

    async def close(self) -> None:
        """Ends what still runs, waits for its outcome, and stops the spawner."""
        self._closing = True
        if self._starting:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        for attempt_id in list(self._by_attempt):
            self.end(attempt_id)
        for spawner in self._spawners:
            spawner.finish()
        await asyncio.gather(*(spawner.over.wait() for spawner in self._spawners))
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _order(self, attempt_id: str, message: bytes) -> None:
        spawner = self._by_attempt.get(attempt_id)
        if spawner is not None:
            spawner.write(frames.frame(message))
            return
        withdrawn = [launch for launch in self._waiting if launch.attempt_id == attempt_id]
        if withdrawn and message[0] == frames.END:
            # It never reached a spawner: it ends as it would have there, unrun.
            self._waiting.remove(withdrawn[0])
            self._settle(LaunchFailed(attempt_id, "ended on request before it started"))

    # Spawners

    async def _start_spawner(self) -> SpawnerProcess:
        spawner = SpawnerProcess(self)
        try:
            spawner.open(self._preload, self._environment)
            self._spawners.add(spawner)
            async with asyncio.timeout(self._start_timeout_s):
                await spawner.ready.wait()
        except TimeoutError as error:
            raise RunnerError(
                f"the spawner was not ready after {self._start_timeout_s:.0f} s; "
                "its standard error tells what it waited for"
            ) from error
        except OSError as error:
            raise RunnerError(f"can't start the spawner: {error}") from error
        finally:
            if not spawner.ready.is_set():
                spawner.kill()
        if spawner.refusal is not None:
            spawner.kill()
            raise RunnerError(f"the spawner did not start: {spawner.refusal}")
        return spawner

    def _start_again(self) -> None:
        if self._starting is None and not self._closing:
            self._starting = asyncio.get_running_loop().create_task(self._start_until_ready())

    async def _start_until_ready(self) -> None:
        reason = ""
        try:
            for _ in range(STARTS_MAX):
                try:
                    self._spawner = await self._start_spawner()
                    break
                except RunnerError as error:
                    reason = str(error)
        finally:
            self._starting = None
            waiting, self._waiting = self._waiting, []
            for launch in waiting:
                self._by_attempt.pop(launch.attempt_id)
            if self._spawner is None:
                failed: list[Event] = [
                    LaunchFailed(launch.attempt_id, reason or "the runner was closed")
                    for launch in waiting
                ]
                if failed:
                    self._on_events(failed)
            elif waiting:
                self.launch(waiting)

    def spawner_died(self, spawner: SpawnerProcess) -> None:
        """Takes note that a spawner takes no more launches; its shims still end their jobs."""
        if self._spawner is spawner:
            self._spawner = None
            self._start_again()

    def spawner_over(self, spawner: SpawnerProcess) -> None:
        """Settles what a spawner left open, once neither it nor any of its shims lives."""
        self.spawner_died(spawner)
        self._spawners.discard(spawner)
        for attempt_id, folder in list(spawner.folders.items()):
            self._settle_lost(spawner, attempt_id, folder)

    # Events

    def hear(self, spawner: SpawnerProcess, news: list[News]) -> None:
        """Hands on what a spawner's shims told, each outcome once."""
        events: list[Event] = []
        for told in news:
            folder = spawner.folders.get(told.attempt_id)
            if folder is None:
                continue
            if isinstance(told, ShimLost):
                self._settle_lost(spawner, told.attempt_id, folder)
                continue
            if not isinstance(told, Started):
                del spawner.folders[told.attempt_id]
                self._by_attempt.pop(told.attempt_id, None)
            events.append(told)
        if events:
            self._on_events(events)

    def _settle_lost(self, spawner: SpawnerProcess, attempt_id: str, folder: str) -> None:
        del spawner.folders[attempt_id]
        task = asyncio.get_running_loop().create_task(self._find_outcome(attempt_id, folder))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find_outcome(self, attempt_id: str, folder: str) -> None:
        outcome = read_outcome(folder, attempt_id)
        if outcome is None:
            await self._sweep(attempt_id)
            outcome = Exited(attempt_id, EndCause.LOST)
        self._settle(outcome)

    async def _sweep(self, attempt_id: str) -> None:
        while True:
            try:
                await asyncio.to_thread(sweep_orphans, self.mark_of(attempt_id))
                return
            except TimeoutError as error:
                # It isn't told as ended while something of it lives and may hold a GPU.
                _log.warning("%s", error)

    def _settle(self, outcome: Exited | LaunchFailed) -> None:
        self._by_attempt.pop(outcome.attempt_id, None)
        self._on_events([outcome])
