"""The processes of attempts: from the folder that is laid out for one to the end of what ran."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from meshtrain import failpoints
from meshtrain.artifacts.failures import DiskFullError
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.commands import AssignAttempt
from meshtrain.core.job import Failure, FailureClass
from meshtrain.errors import ArtifactError, ProtocolError
from meshtrain_daemon.sdnotify import without_supervisor
from meshtrain_daemon.worker.adoption import Found
from meshtrain_daemon.worker.aside import DiskWork
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, HostRules
from meshtrain_daemon.worker.gpu_watch import GpuWatch
from meshtrain_daemon.worker.input_paths import ShareChecks, input_paths
from meshtrain_daemon.worker.job_users import JobUserError
from meshtrain_daemon.worker.launch import Event, Exited, Launch, LaunchFailed, Started
from meshtrain_daemon.worker.preparation import Prepared, key_of
from meshtrain_daemon.worker.runner import Runner
from meshtrain_daemon.worker.streams import Streamer
from meshtrain_daemon.worker.verdict import blame_gpus, failure_of, shown

WARM_MODULE = "meshtrain.training.warm"
COLD_MODULE = "meshtrain.training.child"


class AttemptProcesses:
    """What runs of the node's attempts, and the folders that it runs in.

    Args:
        attempts: the folder of attempts' folders.
        spare: gives the folder of a former attempt that is as good as a new one, or None.
        prepared: what is prepared once for many jobs.
        gpu_watch: tells when the GPUs of a job that ended are free.
        gpu_free_wait_s: how long that may take before the job is told as ended all the same.
        rules: how this host runs jobs.
        disk: does what writes much beside the event loop.
        say: shows a line to people.
        post: gives an event to the agent.
        spawn: runs something beside.
    """

    def __init__(
        self,
        *,
        node_id: str,
        attempts: Path,
        store: ArtifactStore,
        streamer: Streamer,
        spare: Callable[[], str | None],
        prepared: Prepared,
        gpu_watch: GpuWatch,
        gpu_free_wait_s: float,
        rules: HostRules,
        warm_training: bool,
        disk: DiskWork,
        say: Callable[[str], None],
        post: Callable[[io.AgentEvent], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._node_id = node_id
        self._attempts = attempts
        self._store = store
        self._streamer = streamer
        self._spare = spare
        self._prepared = prepared
        self._gpu_watch = gpu_watch
        self._gpu_free_wait_s = gpu_free_wait_s
        self._rules = rules
        self._disk = disk
        self._say = say
        self._post = post
        self._spawn = spawn
        self._shares = ShareChecks(node_id)
        environment = job_environment()
        mark_prefix = f"{node_id}/"
        self._commands = Runner(
            self._on_runner_events,
            environment=environment,
            mark_prefix=mark_prefix,
            cgroups=rules.cgroup,
        )
        self._trainings = (
            Runner(
                self._on_runner_events,
                preload=WARM_MODULE,
                environment=environment,
                mark_prefix=mark_prefix,
                cgroups=rules.cgroup,
            )
            if warm_training
            else None
        )
        #: by attempt; of what has ended too, until it is dropped
        self.folders: dict[str, AttemptFolder] = {}
        self._runner_of: dict[str, Runner] = {}
        #: attempts whose folder is being laid out; True once told to end
        self._preparing: dict[str, bool] = {}
        #: by attempt, who was on its GPUs before it, and their memory errors until then
        self._gpus_before: dict[str, tuple[frozenset[int], dict[int, int]]] = {}

    async def start(self) -> None:
        await self._commands.start()

    def adopt(self, found: Found) -> None:
        """Go on with what a former daemon launched; to be called once the agent listens."""
        outcomes: list[Event] = []
        for one in found.adopted:
            attempt_id = one.folder.assignment.attempt_id
            self.folders[attempt_id] = one.folder
            self._streamer.watch(one.folder)
            if one.outcome is not None:
                outcomes.append(one.outcome)
            elif one.started is not None:
                self._runner_of[attempt_id] = self._commands
                self._commands.adopt(attempt_id, one.folder.path, one.started)
        if outcomes:
            self._on_runner_events(outcomes)
        for folder in found.forgotten:
            self._streamer.watch(folder)
            self._streamer.ended(folder.assignment.attempt_id)
            self._streamer.drop(folder)

    async def close(self) -> None:
        """End what still runs, and stop."""
        await self._shares.close()
        for runner in self._runners:
            await runner.close()

    async def leave(self) -> None:
        """Stop, and let what runs go on, for the next daemon to adopt."""
        await self._shares.close()
        for runner in self._runners:
            await runner.leave()

    @property
    def _runners(self) -> list[Runner]:
        return [self._commands, *([self._trainings] if self._trainings is not None else [])]

    def gpus_held(self) -> set[int]:
        """The GPUs of attempts that aren't over."""
        return {gpu for folder in self.folders.values() for gpu in folder.assignment.gpus}

    def shim_pids(self) -> list[int]:
        """The shims of what runs."""
        return [pid for runner in self._runners for pid in runner.shim_pids]

    # --- beginning -------------------------------------------------------------------------

    def launch(self, assignments: list[AssignAttempt]) -> None:
        """Start attempts; of each, `post` hears that it runs, or how it ended."""
        plain: list[AttemptFolder] = []
        failpoints.reach("attempt.assigned")
        for assignment in assignments:
            try:
                folder = AttemptFolder(self._attempts, assignment)
            except ProtocolError as error:
                failure = Failure(FailureClass.USER_ERROR, str(error), self._node_id)
                self._post(io.ProcessEnded(assignment.attempt_id, failure, 0.0))
                continue
            self.folders[assignment.attempt_id] = folder
            self._preparing[assignment.attempt_id] = False
            if folder.needs_copies or folder.reads_data or assignment.user is not None:
                self._spawn(self._prepare([folder]))
            else:
                plain.append(folder)
        if plain:
            self._start_prepared(plain, self._make(plain))

    async def _prepare(self, folders: list[AttemptFolder]) -> None:
        """Lay out what jobs start from beside the event loop: it may be gigabytes.

        An account, too, may be looked up far away.
        """
        made: list[Launch | Failure] = []
        for folder in folders:
            lacking = await self._shares.why_not(folder.assignment)
            if lacking:
                made.append(Failure(FailureClass.INPUT, shown(lacking), self._node_id))
            else:
                made += await self._disk.do(lambda f=folder: self._make([f]))  # type: ignore[misc]
        self._start_prepared(folders, made)

    def _start_prepared(
        self, folders: list[AttemptFolder], prepared: list[Launch | Failure]
    ) -> None:
        ready: list[tuple[AttemptFolder, Launch]] = []
        for folder, launch in zip(folders, prepared, strict=True):
            attempt_id = folder.assignment.attempt_id
            told_to_end = self._preparing.pop(attempt_id)
            if isinstance(launch, Failure):
                self._post(io.ProcessEnded(attempt_id, launch, 0.0))
            elif told_to_end:
                failure = Failure(FailureClass.PREEMPTED, "ended before it started")
                self._post(io.ProcessEnded(attempt_id, failure, 0.0))
            else:
                ready.append((folder, launch))
        self._start(ready)

    def _make(self, folders: list[AttemptFolder]) -> list[Launch | Failure]:
        made: list[Launch | Failure] = []
        node_id = self._node_id
        for folder in folders:
            try:
                folder.make(self._spare())
                if folder.needs_copies:
                    folder.lay_out(self._store)
                inputs = input_paths(folder.assignment, self._store)
                made.append(folder.launch(self._rules, inputs, self._prepared))
            except DiskFullError as error:
                made.append(Failure(FailureClass.DISK, str(error), node_id))
            except JobUserError as error:
                made.append(Failure(FailureClass.USER_ERROR, str(error), node_id))
            except ArtifactError as error:
                made.append(Failure(FailureClass.NETWORK, str(error), node_id))
            except OSError as error:
                told = f"can't prepare the job's folder: {error.strerror}"
                made.append(Failure(FailureClass.DISK, told, node_id))
            except ValueError as error:
                # Text that no file or process can get.
                told = f"can't prepare the job: {shown(str(error))}"
                made.append(Failure(FailureClass.USER_ERROR, told, node_id))
        return made

    def _start(self, prepared: list[tuple[AttemptFolder, Launch]]) -> None:
        commands: list[Launch] = []
        trainings: list[Launch] = []
        for folder, launch in prepared:
            self._streamer.watch(folder)
            if gpus := folder.assignment.gpus:
                watch = self._gpu_watch
                self._gpus_before[launch.attempt_id] = watch.pids_on(gpus), watch.errors_of(gpus)
            if launch.call is None:
                commands.append(launch)
            elif self._trainings is not None:
                trainings.append(launch)
            else:
                argv = (sys.executable, "-m", COLD_MODULE, launch.call)
                commands.append(msgspec.structs.replace(launch, call=None, argv=argv))
        for runner, launches in ((self._commands, commands), (self._trainings, trainings)):
            if runner is not None and launches:
                for launch in launches:
                    self._runner_of[launch.attempt_id] = runner
                failpoints.reach("attempt.prepared")
                runner.launch(launches)
                failpoints.reach("attempt.launched")

    # --- ending ----------------------------------------------------------------------------

    def end(self, attempt_id: str, grace_s: float | None) -> None:
        """End what runs of an attempt, after the grace that the host gives or `grace_s`."""
        if attempt_id in self._preparing:
            self._preparing[attempt_id] = True
            return
        runner = self._runner_of.get(attempt_id)
        if runner is not None:
            runner.end(attempt_id, grace_s)

    def _on_runner_events(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Started():
                    failpoints.reach("attempt.started")
                    self._post(io.ProcessStarted(event.attempt_id))
                case Exited() | LaunchFailed():
                    failpoints.reach("attempt.exited")
                    self._runner_of.pop(event.attempt_id, None)
                    unstored = self._streamer.ended(event.attempt_id)
                    folder = self.folders[event.attempt_id]
                    failure = failure_of(folder, event, self._node_id)
                    run_s = event.duration_s if isinstance(event, Exited) else 0.0
                    ended = io.ProcessEnded(event.attempt_id, failure, run_s, unstored)
                    if folder.assignment.gpus:
                        self._spawn(self._tell_when_free(folder.assignment.gpus, ended))
                    else:
                        self._post(ended)

    async def _tell_when_free(self, gpus: tuple[int, ...], ended: io.ProcessEnded) -> None:
        """Tell of an end once the memory of its GPUs is back."""
        pids, errors = self._gpus_before.pop(ended.attempt_id, (frozenset(), {}))
        held = await self._gpu_watch.wait_free(gpus, pids, self._gpu_free_wait_s)
        if held:
            self._say(
                f"{ended.attempt_id} has ended, and GPU {', '.join(map(str, held))} still holds "
                f"memory after {self._gpu_free_wait_s:g} s: look for its processes with "
                "nvidia-smi, and reset the GPU if there are none"
            )
        failure = blame_gpus(ended.failure, self._gpu_watch.why_bad(gpus, errors))
        self._post(msgspec.structs.replace(ended, failure=failure))

    def drop(self, attempt_id: str) -> None:
        """Forget an attempt that is over, with its folder and what of its logs is sent."""
        failpoints.reach("attempt.dropped")
        folder = self.folders.pop(attempt_id, None)
        if folder is not None:
            folder.forget()
            self._streamer.drop(folder)
            if key_of(folder.assignment) is not None:
                self._spawn(self.trim_prepared())

    async def trim_prepared(self) -> None:
        """Let go of what was prepared and is too much, or was cut short."""

        def in_use() -> set[str]:
            keys = [key_of(folder.assignment) for folder in list(self.folders.values())]
            return {key for key in keys if key is not None}

        gone = await self._disk.do(lambda: self._prepared.trim(in_use))
        if gone:
            self._say(f"preparations that no job here uses were removed: {len(gone)}")


def job_environment() -> dict[str, str]:
    """What every job inherits: the daemon's environment; its virtual environment comes first."""
    environment = without_supervisor(os.environ)
    if sys.prefix != sys.base_prefix:
        programs = f"{sys.prefix}/bin"
        path = environment.get("PATH", os.defpath)
        if programs not in path.split(os.pathsep):
            environment["PATH"] = f"{programs}{os.pathsep}{path}"
        environment["VIRTUAL_ENV"] = sys.prefix
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
