"""Carries out what the agent decides: messages, fetches, processes, results.

Nothing here waits: what takes time runs beside it, and comes back to the agent
as an event.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from meshtrain import failpoints
from meshtrain.artifacts.failures import DiskFullError
from meshtrain.artifacts.fetch import Fetcher
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.commands import AssignAttempt
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.node import NodeSpec
from meshtrain.errors import ArtifactError, ProtocolError
from meshtrain.wire import messages as msg
from meshtrain_daemon.sdnotify import without_supervisor
from meshtrain_daemon.worker import outputs, translate
from meshtrain_daemon.worker.adoption import Found
from meshtrain_daemon.worker.aside import DiskWork
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, HostRules
from meshtrain_daemon.worker.checkpoints import Checkpoints
from meshtrain_daemon.worker.gpu_watch import GpuWatch
from meshtrain_daemon.worker.input_paths import ShareChecks, input_paths
from meshtrain_daemon.worker.job_users import JobUserError
from meshtrain_daemon.worker.launch import Event, Exited, Launch, LaunchFailed, Started
from meshtrain_daemon.worker.preparation import Prepared, key_of
from meshtrain_daemon.worker.runner import Runner
from meshtrain_daemon.worker.stockroom import Stockroom
from meshtrain_daemon.worker.streams import Streamer
from meshtrain_daemon.worker.use_meter import UseMeter
from meshtrain_daemon.worker.verdict import blame_gpus, failure_of, shown

WARM_MODULE = "meshtrain.training.warm"
COLD_MODULE = "meshtrain.training.child"
START_TOLD_WITHIN_S = 0.02
"""How long the word that a job started may wait for others to travel with."""


class SendsToMaster(Protocol):
    """What is needed of the worker's sockets."""

    def send(self, messages: Sequence[msg.FromNode]) -> object: ...


class Hands:
    """The node's disk, processes and links, as far as the agent moves them.

    Args:
        spec: what the node says it is.
        attempts: the folder of attempts' folders.
        spare: gives the folder of a former attempt that is as good as a new one, or None.
        prepared: what is prepared once for many jobs.
        gpu_watch: tells when the GPUs of a job that ended are free.
        gpu_free_wait_s: how long that may take before the job is told as ended all the same.
        say: shows a line to people.
        rules: how this host runs jobs.
        post: gives an event to the agent.
        spawn: runs something beside.
        on_leave: called when the agent has nothing left.
        members_version: of the list of members that this node has.
        master_host: where this node reaches the master.
    """

    def __init__(
        self,
        *,
        spec: NodeSpec,
        attempts: Path,
        store: ArtifactStore,
        fetcher: Fetcher,
        streamer: Streamer,
        spare: Callable[[], str | None],
        prepared: Prepared,
        gpu_watch: GpuWatch,
        gpu_free_wait_s: float,
        say: Callable[[str], None],
        sockets: SendsToMaster,
        rules: HostRules,
        warm_training: bool,
        post: Callable[[io.AgentEvent], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        on_leave: Callable[[], None],
        members_version: Callable[[], int] = lambda: 0,
        master_host: str = "127.0.0.1",
    ) -> None:
        self._spec = spec
        self._attempts = attempts
        self._store = store
        self._streamer = streamer
        self._spare = spare
        self._gpu_watch = gpu_watch
        self._gpu_free_wait_s = gpu_free_wait_s
        self._use = UseMeter(gpu_watch.use).news
        self._say = say
        #: by attempt, who was on its GPUs before it, and their memory errors until then
        self._gpus_before: dict[str, tuple[frozenset[int], dict[int, int]]] = {}
        self._sockets = sockets
        self._rules = rules
        self._disk = DiskWork()
        self._stock = Stockroom(
            node_id=spec.node_id,
            home=attempts.parent,
            store=store,
            fetcher=fetcher,
            disk=self._disk,
            master_host=master_host,
            post=post,
            spawn=spawn,
            say=say,
        )
        self._checkpoints = Checkpoints(store, spec.node_id)
        self._shares = ShareChecks(spec.node_id)
        self._prepared = prepared
        self._post = post
        self._spawn = spawn
        self._on_leave = on_leave
        self._members_version = members_version
        environment = job_environment()
        mark_prefix = f"{spec.node_id}/"
        self._commands = Runner(
            self._on_runner_events, environment=environment, mark_prefix=mark_prefix
        )
        self._trainings = (
            Runner(
                self._on_runner_events,
                preload=WARM_MODULE,
                environment=environment,
                mark_prefix=mark_prefix,
            )
            if warm_training
            else None
        )
        self._folders: dict[str, AttemptFolder] = {}
        self._runner_of: dict[str, Runner] = {}
        self._unsent: list[msg.FromNode] = []
        self._flushing: asyncio.TimerHandle | None = None
        #: attempts whose folder is being laid out; True once told to end
        self._preparing: dict[str, bool] = {}

    async def start(self) -> None:
        await self._commands.start()

    def adopt(self, found: Found) -> None:
        """Go on with what a former daemon launched; to be called once the agent listens."""
        outcomes: list[Event] = []
        for one in found.adopted:
            attempt_id = one.folder.assignment.attempt_id
            self._folders[attempt_id] = one.folder
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
        self._flush()
        await self._shares.close()
        for runner in self._runners:
            await runner.close()

    async def leave(self) -> None:
        """Stop, and let what runs go on, for the next daemon to adopt."""
        self._flush()
        await self._shares.close()
        for runner in self._runners:
            await runner.leave()

    @property
    def _runners(self) -> list[Runner]:
        return [self._commands, *([self._trainings] if self._trainings is not None else [])]

    def apply(self, effects: Sequence[io.AgentEffect]) -> None:
        """Carry out a batch of effects; its messages travel together."""
        outgoing: list[msg.FromNode] = []
        launches: list[AssignAttempt] = []
        for effect in effects:
            match effect:
                case io.SendEnded():
                    outgoing.append(translate.ended(effect))
                case io.LaunchProcess():
                    launches.append(effect.assignment)
                case io.StoreOutput():
                    self._store_output(effect.assignment)
                case io.StoreCheckpoint():
                    self._store_checkpoint(effect.assignment.attempt_id)
                case io.RemoveArtifact():
                    self._stock.remove(effect.artifact_id)
                case io.NoteUse():
                    self._stock.note_use(effect.artifact_id)
                case io.KeepSources():
                    self._stock.keep_sources(effect.known)
                case io.DropAttempt():
                    self._drop(effect.attempt_id)
                case io.SendStarted():
                    outgoing.append(msg.Started(effect.session, effect.attempt_id, effect.epoch))
                case io.SendBeat():
                    outgoing.append(translate.beat(effect, self._members_version(), self._use()))
                case io.FetchArtifact():
                    self._stock.fetch(effect.artifact_id, effect.sources)
                case io.AddFetchSources():
                    self._stock.add_sources(effect.artifact_id, effect.sources)
                case io.SendHolds():
                    outgoing.append(translate.holds(effect))
                case io.EndProcess():
                    if launches:
                        # One of them may be what is to end.
                        self._launch(launches)
                        launches = []
                    self._end(effect.attempt_id, effect.grace_s)
                case io.SendHello():
                    outgoing.append(translate.hello(effect, self._spec, self._members_version()))
                case io.SendGoodbye():
                    outgoing.append(msg.Goodbye(effect.session))
                case io.LeaveMesh():
                    self._on_leave()
        if launches:
            self._launch(launches)
        if outgoing:
            self._unsent.extend(outgoing)
            if all(isinstance(message, msg.Started) for message in outgoing):
                # Nobody waits for it, and a short job's end soon goes along.
                self._flush_soon()
            else:
                self._flush()
            if any(isinstance(message, msg.Ended) for message in outgoing):
                failpoints.reach("ended.sent")

    def _flush_soon(self) -> None:
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(START_TOLD_WITHIN_S, self._flush)

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        unsent, self._unsent = self._unsent, []
        if unsent:
            self._sockets.send(unsent)

    # --- processes ---------------------------------------------------------------------

    def _launch(self, assignments: list[AssignAttempt]) -> None:
        plain: list[AttemptFolder] = []
        failpoints.reach("attempt.assigned")
        for assignment in assignments:
            try:
                folder = AttemptFolder(self._attempts, assignment)
            except ProtocolError as error:
                failure = Failure(FailureClass.USER_ERROR, str(error), self._spec.node_id)
                self._post(io.ProcessEnded(assignment.attempt_id, failure, 0.0))
                continue
            self._folders[assignment.attempt_id] = folder
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
                made.append(Failure(FailureClass.INPUT, shown(lacking), self._spec.node_id))
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
        node_id = self._spec.node_id
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

    def _end(self, attempt_id: str, grace_s: float | None) -> None:
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
                    folder = self._folders[event.attempt_id]
                    failure = failure_of(folder, event, self._spec.node_id)
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

    @property
    def at_work(self) -> bool:
        """Whether a thread may still write to the disk, though nobody waits for it any more."""
        return self._disk.at_work > 0

    def gpus_held(self) -> set[int]:
        """The GPUs of attempts that aren't over."""
        return {gpu for folder in self._folders.values() for gpu in folder.assignment.gpus}

    def shim_pids(self) -> list[int]:
        """The shims of what runs."""
        return [pid for runner in self._runners for pid in runner.shim_pids]

    def _drop(self, attempt_id: str) -> None:
        failpoints.reach("attempt.dropped")
        folder = self._folders.pop(attempt_id, None)
        if folder is not None:
            folder.forget()
            self._checkpoints.forget(attempt_id)
            self._streamer.drop(folder)
            if key_of(folder.assignment) is not None:
                self._spawn(self.trim_prepared())

    async def trim_prepared(self) -> None:
        """Let go of what was prepared and is too much, or was cut short."""
        keys = [key_of(folder.assignment) for folder in self._folders.values()]
        in_use = {key for key in keys if key is not None}
        gone = await self._disk.do(lambda: self._prepared.trim(in_use))
        if gone:
            self._say(f"preparations that no job here uses were removed: {len(gone)}")

    # --- artifacts ---------------------------------------------------------------------

    def _store_output(self, assignment: AssignAttempt) -> None:
        folder = self._folders[assignment.attempt_id]
        if outputs.is_empty(folder):
            self._post(io.OutputStored(assignment.attempt_id, None))
        else:
            self._spawn(self._store_in_thread(folder))

    async def _store_in_thread(self, folder: AttemptFolder) -> None:
        node_id = self._spec.node_id
        event = await self._disk.do(lambda: outputs.store_output(folder, self._store, node_id))
        failpoints.reach("output.stored")
        self._post(event)

    def _store_checkpoint(self, attempt_id: str) -> None:
        folder = self._folders.get(attempt_id)
        if folder is None:
            self._post(io.CheckpointStored(attempt_id, None))
        else:
            self._spawn(self._keep_checkpoint(folder))

    async def _keep_checkpoint(self, folder: AttemptFolder) -> None:
        event = await self._disk.do(lambda: self._checkpoints.keep_newest(folder))
        if isinstance(event, io.CheckpointFailed) and self._checkpoints.is_news(event):
            self._say(f"{event.attempt_id}: no checkpoint is kept: {event.failure.message}")
        self._post(event)


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
