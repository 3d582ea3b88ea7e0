"""Starts and ends jobs' processes for the worker daemon, through a spawner program.

    daemon ──frames──▶ spawner ──link──▶ shim ──▶ job
       ◀──────────── one pipe of events ───┘

The daemon never forks: it writes launches to the spawner's socket, many in one
write, and reads what became of them from a pipe that all shims share. Jobs
outlive their spawner, and their daemon: then each shim is watched and told by
itself (kept_shim.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from meshtrain.errors import MeshtrainError
from meshtrain_daemon.worker import cgroup, frames
from meshtrain_daemon.worker.aside import aside
from meshtrain_daemon.worker.fence import give_up
from meshtrain_daemon.worker.kept_shim import KeptShim, open_shim
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
    read_started,
)
from meshtrain_daemon.worker.orphans import sweep_orphans
from meshtrain_daemon.worker.spawner_process import News, ShimLost, SpawnerProcess

_log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
"""How long a spawner may take to be ready; a cold `import torch` takes some 5 s."""
STARTS_MAX = 3
"""Spawners started one after the other before waiting launches are given up."""
UNSTARTED_AFTER_S = 0.3
"""How long after a spawner's death its shims may still tell of starts."""
NEVER_STARTED = "the spawner was killed before it had started the job"
LEFT_WITHIN_S = 5.0
"""How long a spawner that is to leave its shims alone may take to end."""


class RunnerError(MeshtrainError):
    """Raised when the runner's spawner can't be started, or the runner is closed."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """An attempt that has no outcome yet."""

    folder: str
    #: which spawner it was given to; None while none is ready, and for an adopted one
    spawner: SpawnerProcess | None = None
    started: Started | None = None
    #: its shim, once it has no spawner
    shim: KeptShim | None = None
    #: the grace it was told to end with last, for a spawner that may have lost the word
    told_to_end: bool = False
    grace_s: float | None = None
    #: its outcome is being looked for
    settling: bool = False


class Runner:
    """Launches jobs and tells what becomes of them; each attempt gets exactly one outcome.

    Arguments: `on_events` gets the events in order, many at once, in the event
    loop; it must not raise. `preload` names a module with `preload()` and
    `run(argument) -> int`, which launches with `call` run in a forked process.
    `environment` is what jobs inherit (default: this process's own). `mark_prefix`
    is put before the attempt's id in the mark that its processes carry: give the
    node's id, so that a sweep never ends a like-named attempt of another node on
    this host. `cgroups` is the folder of the attempts' cgroups, where they have some:
    that of a killed shim is ended and removed with its processes.
    """

    def __init__(
        self,
        on_events: Callable[[list[Event]], None],
        *,
        preload: str | None = None,
        environment: dict[str, str] | None = None,
        mark_prefix: str = "",
        cgroups: str | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._on_events = on_events
        self._preload = preload
        self._environment = environment
        self._mark_prefix = mark_prefix
        self._cgroups = cgroups
        if len(mark_prefix) > frames.MARK_LEN_MAX - frames.ATTEMPT_ID_LEN_MAX:
            raise RunnerError(f"the mark prefix {mark_prefix!r} is too long; give the node's id")
        self._start_timeout_s = start_timeout_s
        self._spawner: SpawnerProcess | None = None
        self._spawners: set[SpawnerProcess] = set()
        self._waiting: list[Launch] = []
        self._by_attempt: dict[str, _Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._closing = False
        self._leaving = False
        self._idle = asyncio.Event()

    @property
    def spawner_pid(self) -> int | None:
        """The process id of the spawner that takes launches now."""
        return self._spawner.pid if self._spawner else None

    @property
    def running(self) -> int:
        """How many attempts were launched and have no outcome yet."""
        return len(self._by_attempt)

    @property
    def shim_pids(self) -> list[int]:
        """The shims of what runs."""
        return [a.started.shim_pid for a in self._by_attempt.values() if a.started is not None]

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
            self._by_attempt[launch.attempt_id] = _Attempt(launch.folder, self._spawner)
            if self._spawner is None:
                self._waiting.append(launch)
            else:
                messages.append(frames.frame(message))
        if failed:
            asyncio.get_running_loop().call_soon(self._on_events, failed)
        if self._spawner is None:
            self._start_again()
        elif messages:
            self._spawner.write(b"".join(messages))

    def adopt(self, attempt_id: str, folder: str, started: Started) -> None:
        """Takes over an attempt that an earlier daemon launched; it may have ended meanwhile."""
        attempt = _Attempt(folder, started=started)
        self._by_attempt[attempt_id] = attempt
        self._keep(attempt_id, attempt)

    def end(self, attempt_id: str, grace_s: float | None = None) -> None:
        """Ends all processes of an attempt: SIGTERM, `grace_s`, SIGKILL.

        `grace_s` None takes the grace of its launch, 0 kills at once. A second
        call can only bring the end nearer. An attempt that is over is left alone.
        """
        attempt = self._by_attempt.get(attempt_id)
        if attempt is None:
            return
        attempt.told_to_end, attempt.grace_s = True, grace_s
        if attempt.shim is not None:
            attempt.shim.end(grace_s)
        elif attempt.spawner is not None:
            name = attempt_id.encode()
            attempt.spawner.write(
                frames.frame(frames.end_message(name, grace_s, frames.CAUSE_REQUESTED))
            )
        else:
            self._withdraw(attempt_id)

    def signal(self, attempt_id: str, signal_number: int) -> None:
        """Sends a signal to the process group of an attempt's main process."""
        attempt = self._by_attempt.get(attempt_id)
        if attempt is None:
            return
        if attempt.shim is not None:
            attempt.shim.pass_on(signal_number)
        elif attempt.spawner is not None:
            message = frames.signal_message(attempt_id.encode(), signal_number)
            attempt.spawner.write(frames.frame(message))

    async def close(self) -> None:
        """Ends what still runs, waits for its outcome, and stops the spawner."""
        await self._stop_starting()
        for attempt_id in list(self._by_attempt):
            self.end(attempt_id)
        for spawner in self._spawners:
            spawner.finish()
        await asyncio.gather(*(spawner.over.wait() for spawner in list(self._spawners)))
        while self._tasks:
            await asyncio.gather(*self._tasks)
        if self._by_attempt:
            await self._idle.wait()

    async def leave(self) -> None:
        """Stops the spawner, and lets all that runs go on under its shims."""
        self._leaving = True
        await self._stop_starting()
        for attempt in self._by_attempt.values():
            if attempt.shim is not None:
                attempt.shim.close()
                attempt.shim = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEFT_WITHIN_S):
                await asyncio.gather(*(spawner.leave() for spawner in self._spawners))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._by_attempt.clear()
        self._spawners.clear()

    async def _stop_starting(self) -> None:
        self._closing = True
        if self._starting:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)

    def _withdraw(self, attempt_id: str) -> None:
        withdrawn = [launch for launch in self._waiting if launch.attempt_id == attempt_id]
        if withdrawn:
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
        if spawner.lost:
            # Both came in one turn of the loop: whoever told of its death was not heard, since
            # nobody knew of it yet.
            raise RunnerError("the spawner was killed as soon as it was ready")
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

    # What became of them

    def spawner_died(self, spawner: SpawnerProcess) -> None:
        """Takes note that a spawner takes no more launches; its shims go on with their jobs."""
        if self._leaving:
            return
        if self._spawner is spawner:
            self._spawner = None
            self._start_again()
        unstarted = False
        for attempt_id, attempt in list(self._by_attempt.items()):
            if attempt.spawner is not spawner or attempt.settling or attempt.shim is not None:
                continue
            if attempt.started is not None:
                self._keep(attempt_id, attempt)
            else:
                unstarted = True
        if unstarted:
            self._run(self._settle_unstarted(spawner))

    def spawner_over(self, spawner: SpawnerProcess) -> None:
        """Settles what a spawner left open, once neither it nor any of its shims lives."""
        self.spawner_died(spawner)
        self._spawners.discard(spawner)
        for attempt_id, attempt in list(self._by_attempt.items()):
            if attempt.spawner is spawner and attempt.shim is None:
                self._look_for_outcome(attempt_id, attempt, shim_lost=False)

    def hear(self, spawner: SpawnerProcess, news: list[News]) -> None:
        """Hands on what a spawner's shims told, each outcome once."""
        if self._leaving:
            return  # It is on disk, for the next daemon.
        events: list[Event] = []
        for told in news:
            attempt = self._by_attempt.get(told.attempt_id)
            if attempt is None or attempt.spawner is not spawner:
                continue
            if isinstance(told, ShimLost):
                self._look_for_outcome(told.attempt_id, attempt)
                continue
            if isinstance(told, Started):
                attempt.started = told
                if spawner.lost and not attempt.settling:
                    self._keep(told.attempt_id, attempt)
            else:
                self._forget(told.attempt_id)
            events.append(told)
        if events:
            self._on_events(events)

    def _keep(self, attempt_id: str, attempt: _Attempt) -> None:
        """Watch an attempt's shim itself, for it has no spawner any more."""
        assert attempt.started is not None
        pidfd = open_shim(attempt.started)
        if pidfd is None:
            self._look_for_outcome(attempt_id, attempt)
            return
        attempt.shim = KeptShim(pidfd, partial(self._shim_over, attempt_id, attempt))
        if attempt.told_to_end:
            attempt.shim.end(attempt.grace_s)

    def _shim_over(self, attempt_id: str, attempt: _Attempt) -> None:
        attempt.shim = None
        if attempt.spawner is not None:
            attempt.spawner.read_what_is_told()
        if attempt_id in self._by_attempt:
            self._look_for_outcome(attempt_id, attempt)

    async def _settle_unstarted(self, spawner: SpawnerProcess) -> None:
        """Tell which launches a dead spawner never carried out, and see that nobody does."""
        await asyncio.sleep(UNSTARTED_AFTER_S)
        for attempt_id, attempt in list(self._by_attempt.items()):
            if attempt.spawner is not spawner or attempt.settling or attempt.started is not None:
                continue
            attempt.started = read_started(attempt.folder, attempt_id)
            if attempt.started is not None:
                self._keep(attempt_id, attempt)
                continue
            attempt.settling = True
            outcome = read_outcome(attempt.folder, attempt_id)
            if outcome is None:
                await self._in_thread(give_up, Path(attempt.folder), self.mark_of(attempt_id))
                await self._end_cgroup(attempt_id)
                outcome = LaunchFailed(attempt_id, NEVER_STARTED)
            self._settle(outcome)

    def _look_for_outcome(
        self, attempt_id: str, attempt: _Attempt, *, shim_lost: bool = True
    ) -> None:
        if not attempt.settling:
            attempt.settling = True
            self._run(self._find_outcome(attempt_id, attempt, shim_lost))

    async def _find_outcome(self, attempt_id: str, attempt: _Attempt, shim_lost: bool) -> None:
        outcome = read_outcome(attempt.folder, attempt_id)
        if outcome is None:
            started = attempt.started or read_started(attempt.folder, attempt_id)
            await self._end_cgroup(attempt_id)
            await self._in_thread(sweep_orphans, self.mark_of(attempt_id))
            outcome = (
                Exited(attempt_id, EndCause.LOST)
                if shim_lost or started is not None
                else LaunchFailed(attempt_id, NEVER_STARTED)
            )
        self._settle(outcome)

    async def _end_cgroup(self, attempt_id: str) -> None:
        if self._cgroups is not None:
            folder = os.fsencode(cgroup.path_for(self._cgroups, attempt_id))
            await self._in_thread(cgroup.remove, folder)

    async def _in_thread(self, work: Callable[..., object], *arguments: object) -> None:
        while True:
            try:
                await aside(partial(work, *arguments))
                return
            except TimeoutError as error:
                # It isn't told as ended while something of it lives and may hold a GPU.
                _log.warning("%s", error)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _settle(self, outcome: Exited | LaunchFailed) -> None:
        if outcome.attempt_id in self._by_attempt:
            self._forget(outcome.attempt_id)
            self._on_events([outcome])

    def _forget(self, attempt_id: str) -> None:
        attempt = self._by_attempt.pop(attempt_id)
        if attempt.shim is not None:
            attempt.shim.close()
        if self._closing and not self._by_attempt:
            self._idle.set()
