"""Carries out what the agent decides: messages, fetches, processes, results.

Nothing here waits: what takes time runs beside it, and comes back to the agent
as an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from meshtrain import failpoints
from meshtrain.artifacts.fetch import Fetcher
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.commands import AssignAttempt
from meshtrain.core.node import HostUse, NodeSpec
from meshtrain.wire import messages as msg
from meshtrain_daemon.worker import outputs, translate
from meshtrain_daemon.worker.aside import DiskWork
from meshtrain_daemon.worker.attempt_folder import AttemptFolder
from meshtrain_daemon.worker.attempt_processes import AttemptProcesses
from meshtrain_daemon.worker.checkpoints import Checkpoints
from meshtrain_daemon.worker.stockroom import Stockroom

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
        home: the folder of all that the node keeps.
        processes: what runs of its attempts.
        use: tells how busy the host is, where there is news.
        disk: does what writes much beside the event loop.
        say: shows a line to people.
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
        home: Path,
        store: ArtifactStore,
        fetcher: Fetcher,
        processes: AttemptProcesses,
        use: Callable[[], HostUse | None],
        disk: DiskWork,
        say: Callable[[str], None],
        sockets: SendsToMaster,
        post: Callable[[io.AgentEvent], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        on_leave: Callable[[], None],
        members_version: Callable[[], int] = lambda: 0,
        master_host: str = "127.0.0.1",
    ) -> None:
        self._spec = spec
        self._store = store
        self._processes = processes
        self._use = use
        self._disk = disk
        self._say = say
        self._sockets = sockets
        self._stock = Stockroom(
            node_id=spec.node_id,
            home=home,
            store=store,
            fetcher=fetcher,
            disk=disk,
            master_host=master_host,
            post=post,
            spawn=spawn,
            say=say,
        )
        self._checkpoints = Checkpoints(store, spec.node_id)
        self._post = post
        self._spawn = spawn
        self._on_leave = on_leave
        self._members_version = members_version
        self._unsent: list[msg.FromNode] = []
        self._flushing: asyncio.TimerHandle | None = None

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
                        self._processes.launch(launches)
                        launches = []
                    self._processes.end(effect.attempt_id, effect.grace_s)
                case io.SendHello():
                    outgoing.append(translate.hello(effect, self._spec, self._members_version()))
                case io.SendGoodbye():
                    outgoing.append(msg.Goodbye(effect.session))
                case io.LeaveMesh():
                    self._on_leave()
        if launches:
            self._processes.launch(launches)
        if outgoing:
            self._unsent.extend(outgoing)
            if all(isinstance(message, msg.Started) for message in outgoing):
                # Nobody waits for it, and a short job's end soon goes along.
                self._flush_soon()
            else:
                self.flush()
            if any(isinstance(message, msg.Ended) for message in outgoing):
                failpoints.reach("ended.sent")

    def _flush_soon(self) -> None:
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(START_TOLD_WITHIN_S, self.flush)

    def flush(self) -> None:
        """Send what waits to travel along with something else."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        unsent, self._unsent = self._unsent, []
        if unsent:
            self._sockets.send(unsent)

    # --- what attempts leave -----------------------------------------------------------------

    def _drop(self, attempt_id: str) -> None:
        self._processes.drop(attempt_id)
        self._checkpoints.forget(attempt_id)

    def _store_output(self, assignment: AssignAttempt) -> None:
        folder = self._processes.folders[assignment.attempt_id]
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
        folder = self._processes.folders.get(attempt_id)
        if folder is None:
            self._post(io.CheckpointStored(attempt_id, None))
        else:
            self._spawn(self._keep_checkpoint(folder))

    async def _keep_checkpoint(self, folder: AttemptFolder) -> None:
        event = await self._disk.do(lambda: self._checkpoints.keep_newest(folder))
        if isinstance(event, io.CheckpointFailed) and self._checkpoints.is_news(event):
            self._say(f"{event.attempt_id}: no checkpoint is kept: {event.failure.message}")
        self._post(event)
