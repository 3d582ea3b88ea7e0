"""What people ask of the master: to act, to take a job file, to answer a question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import meshtrain
from meshtrain import failpoints
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.job import Attempt, Job, Sweep
from meshtrain.core.member import Member
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.state import MeshState
from meshtrain.errors import MeshtrainError, UserError
from meshtrain.ids import short
from meshtrain.net.base import MasterTransport
from meshtrain.net.curve import person_of
from meshtrain.net.zmq_client import BRIEF_SNAPSHOT, SNAPSHOT_QUERY, Ports
from meshtrain.results.metrics import Metrics
from meshtrain.security.read_tokens import Reader
from meshtrain.spec.expand import needed
from meshtrain.spec.jobfile import parse_job_file
from meshtrain.spec.lineage import ResolvedParent
from meshtrain.spec.settings import MasterSettings
from meshtrain.store.base import ReadableStore
from meshtrain.store.failures import StoreFullError
from meshtrain.wire import messages as msg
from meshtrain_daemon.master import steering
from meshtrain_daemon.master.apply import Hands
from meshtrain_daemon.master.archiving import Archiving
from meshtrain_daemon.master.defects import told_defect
from meshtrain_daemon.master.estimator import Estimator
from meshtrain_daemon.master.feeds import Feeds
from meshtrain_daemon.master.inbox import Taken
from meshtrain_daemon.master.inputs import (
    checked_name,
    demand_held,
    find_inputs,
    published_manifest,
)
from meshtrain_daemon.master.intake import Submission, sweep_of
from meshtrain_daemon.master.kept_metrics import metrics_in
from meshtrain_daemon.master.lineage import resolve_parent
from meshtrain_daemon.master.logbook import Logbook, LogPiece
from meshtrain_daemon.master.loops import Decisions
from meshtrain_daemon.master.member_changes import MemberRequest, change_members
from meshtrain_daemon.master.membership import Membership
from meshtrain_daemon.master.names import resolve_base
from meshtrain_daemon.master.notifier import demand_sendable
from meshtrain_daemon.master.queries import answer
from meshtrain_daemon.master.result_folders import ResultFolders
from meshtrain_daemon.master.translate import cache_event

_Message = TypeVar("_Message", bound=msg.FromPerson)


class _Open(NamedTuple):
    """A request that the scheduler has not replied to."""

    reply: Callable[[fx.Reply], None]
    refuse: Callable[[MeshtrainError], None]
    waits: bool = False
    """Whether its asker rather waits for a full disk to have room than be sent away."""


class People:
    """Serves commands, dashboards and the inbox.

    Args:
        spawn: runs something beside.
        membership: who belongs to the mesh; None where anybody on this host may ask.
        enrol_port: the port that new members join at.
    """

    def __init__(
        self,
        *,
        settings: MasterSettings,
        state: MeshState,
        sockets: MasterTransport,
        ports: Ports,
        decisions: Decisions,
        hands: Hands,
        feeds: Feeds,
        folders: ResultFolders,
        artifacts: ArtifactStore,
        logbook: Logbook,
        store: ReadableStore,
        archiving: Archiving,
        estimator: Estimator,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        membership: Membership | None,
        enrol_port: int,
    ) -> None:
        self._membership = membership
        self._enrol_port = enrol_port
        self.ports = ports
        self._settings = settings
        self._state = state
        self._sockets = sockets
        self._decisions = decisions
        self._hands = hands
        self._feeds = feeds
        self._folders = folders
        self._artifacts = artifacts
        self._logbook = logbook
        self._store = store
        self.archiving = archiving
        self._estimator = estimator
        self._spawn = spawn
        self._request_count = 0
        #: our id of each request that waits for the scheduler's reply
        self._open: dict[str, _Open] = {}
        decisions.on_full = self._on_full
        decisions.on_room = lambda: hands.note("the master's disk has room again: all goes on")

    def take(self, peer: bytes, message: msg.FromPerson) -> None:
        """Take a message of a command or a dashboard; its answer follows."""
        with self._answering(peer, message):
            match message:
                case msg.Query():
                    self._decisions.afterwards(lambda: self._answer(peer, message))
                case msg.AskPage():
                    self._decisions.afterwards(lambda: self._serve(self._give_page, peer, message))
                case msg.Submit():
                    self._serve(self._submit_sent, peer, message)
                case msg.PublishInput():
                    self._serve(self._publish, peer, message)
                case msg.Cancel() | msg.Retry() | msg.Reprioritise() | msg.SetBudget():
                    event = steering.event_of(self._state, message)
                    self._request(peer, message.request_id, event)
                case msg.Drain():
                    self._request(
                        peer,
                        message.request_id,
                        lambda r: ev.DrainRequested(
                            r, message.node_id, message.drained, message.within_s
                        ),
                    )
                case msg.Release():
                    self._request(
                        peer,
                        message.request_id,
                        lambda r: ev.ReleaseRequested(r, message.node_id),
                    )
                case msg.IssueToken() | msg.Revoke() | msg.IssueReader() | msg.RevokeReader():
                    self._serve(self._change_members, peer, message)
                case msg.Pin() | msg.Evict() | msg.Warm():
                    recipe_hash = resolve_base(self._state, message.recipe_hash).recipe_hash
                    self._request(
                        peer,
                        message.request_id,
                        lambda r: cache_event(message, r, recipe_hash),
                    )
                case msg.RestoreBase():
                    base = resolve_base(self._state, message.recipe_hash)
                    self.archiving.restore(base)
                    done = msg.Done(message.request_id, done=(base.recipe_hash,))
                    self._sockets.send_control(peer, [done])
                case msg.Rebuild():
                    base = resolve_base(self._state, message.recipe_hash)
                    self._request(
                        peer,
                        message.request_id,
                        lambda r: ev.RebuildRequested(r, base.recipe_hash),
                    )

    @contextmanager
    def _answering(self, peer: bytes, message: msg.FromPerson) -> Iterator[None]:
        """Whatever goes wrong within is told to the asker, and ends nothing else."""
        try:
            yield
        except MeshtrainError as error:
            told = str(error)
        except Exception as error:
            told = told_defect(f"the request {type(message).__name__}", error)
        else:
            return
        error_to = {msg.Query: msg.Answer, msg.AskPage: msg.PageGiven}.get(type(message), msg.Done)
        self._sockets.send_control(peer, [error_to(message.request_id, error=told)])

    def _serve(
        self,
        work: Callable[[bytes, _Message], Coroutine[Any, Any, None]],
        peer: bytes,
        message: _Message,
    ) -> None:
        """Answer a message beside the loop."""

        async def serve() -> None:
            with self._answering(peer, message):
                await work(peer, message)

        self._spawn(serve())

    def _request(self, peer: bytes, request_id: str, event: Callable[[str], ev.Event]) -> None:
        """Have the scheduler act, and tell the asker what came of it."""
        self._demand_room()

        def reply(reply: fx.Reply) -> None:
            done = msg.Done(request_id, reply.error, reply.done, reply.notes)
            self._sockets.send_control(peer, [done])

        def refuse(error: MeshtrainError) -> None:
            self._sockets.send_control(peer, [msg.Done(request_id, error=str(error))])

        self._decisions.post(event(self._expect(_Open(reply, refuse))))

    async def _change_members(self, peer: bytes, message: MemberRequest) -> None:
        done = await change_members(
            self._membership,
            message,
            asker=person_of(peer),
            control_port=self.ports.control,
            enrol_port=self._enrol_port,
        )
        self._sockets.send_control(peer, [done])

    async def _publish(self, peer: bytes, message: msg.PublishInput) -> None:
        """Give a name to what was uploaded."""
        artifact_id = message.artifact_id
        name = checked_name(message.name)
        manifest = await asyncio.to_thread(published_manifest, self._artifacts, artifact_id)
        self._decisions.post(ev.ArtifactHeld(MASTER_NODE_ID, (artifact_id,)))
        self._request(
            peer,
            message.request_id,
            lambda r: ev.InputPublished(
                r,
                name,
                artifact_id,
                manifest.size_bytes,
                len(manifest.files),
                person_of(peer),
            ),
        )

    def _expect(self, request: _Open) -> str:
        self._request_count += 1
        ours = f"request-{self._request_count}"
        self._open[ours] = request

        def take(reply: fx.Reply) -> None:
            # It may have been refused meanwhile.
            asked = self._open.pop(ours, None)
            if asked is not None:
                asked.reply(reply)

        self._hands.expect_reply(ours, take)
        return ours

    # --- a full disk -------------------------------------------------------------------------

    def _demand_room(self) -> None:
        """Raises StoreFullError while nothing can be changed."""
        if self._decisions.full is not None:
            raise _nothing_done(self._decisions.full)

    def _on_full(self, full: StoreFullError, refused: Sequence[str]) -> None:
        """Nobody who asked for something is left waiting for room that may take days."""
        self._hands.note(f"the master is read-only: {full}")
        for ours in refused:
            asked = self._open.pop(ours, None)
            if asked is not None:
                asked.refuse(_nothing_done(full))
            # Nobody waits for this reply any more.
            self._hands.send([fx.Reply(ours)])
        for ours, asked in list(self._open.items()):
            if asked.waits:
                continue
            del self._open[ours]
            asked.refuse(
                StoreFullError(
                    f"the master is read-only, and what you asked for is not on its disk yet: "
                    f"{full}. It is done when there is room, unless the master is stopped before "
                    "that: see `meshtrain jobs` then, or ask again"
                )
            )

    # --- submissions -----------------------------------------------------------------------

    async def _submit_sent(self, peer: bytes, message: msg.Submit) -> None:
        submission = Submission(
            name=message.name,
            data=message.data,
            code=message.code,
            data_digests=message.data_digests,
            bases_only=message.bases_only,
            again=message.again,
            inputs=message.inputs,
        )
        try:
            reply = await self._submit(submission, allow_pending=message.allow_pending, waits=False)
            done = msg.Done(message.request_id, reply.error, reply.done, reply.notes)
        except MeshtrainError as error:
            done = msg.Done(message.request_id, error=str(error))
        failpoints.reach("receipt.before")
        self._sockets.send_control(peer, [done])
        failpoints.reach("receipt.after")

    async def _submit(
        self, submission: Submission, *, allow_pending: bool, waits: bool
    ) -> fx.Reply:
        self._demand_room()
        cells_max = self._settings.cells_max
        job_file = await asyncio.to_thread(
            parse_job_file, submission.data, submission.name, cells_max=cells_max
        )
        wanted = await asyncio.to_thread(needed, job_file)
        inputs = await asyncio.to_thread(
            find_inputs, wanted.inputs, dict(self._state.named_inputs), submission.inputs
        )
        demand_held(self._state, inputs)
        parent = wanted.parent
        sweep = await asyncio.to_thread(
            sweep_of,
            submission,
            cells_max=cells_max,
            known_sweeps=frozenset(self._state.sweeps),
            job_file=job_file,
            parents={} if parent is None else {parent: self._parent(parent)},
            inputs=inputs,
        )
        notify = sweep.results.notify
        await asyncio.to_thread(demand_sendable, notify, self._settings, self._settings.home)
        for code in submission.code.values():
            if not self._artifacts.has(code.artifact_id):
                raise UserError(
                    f"the snapshot {short(code.artifact_id)} of the code didn't arrive whole: "
                    "submit again"
                )
        self._demand_room()
        self._decisions.post(
            ev.ArtifactHeld(
                MASTER_NODE_ID, tuple(code.artifact_id for code in submission.code.values())
            )
        )
        future: asyncio.Future[fx.Reply] = asyncio.get_running_loop().create_future()
        request_id = self._expect(_Open(future.set_result, future.set_exception, waits))
        self._decisions.post(ev.SweepSubmitted(request_id, sweep, allow_pending=allow_pending))
        return await future

    def _parent(self, name: str) -> ResolvedParent:
        return resolve_parent(self._state, name, self.attempts_of)

    async def submit_dropped(self, submission: Submission) -> Taken:
        """Submit what lay in the inbox.

        Raises UserError when it can't be accepted, StoreFullError when it can be
        later.
        """
        reply = await self._submit(submission, allow_pending=False, waits=True)
        if reply.error:
            raise UserError(
                f"{submission.name} was not accepted. Nothing was started.\n\n  {reply.error}\n\n"
                "Mend the file and drop it again."
            )
        sweep = self._state.sweeps[reply.done[0]]
        return Taken(sweep.sweep_id, self._receipt(sweep, reply.notes))

    def _receipt(self, sweep: Sweep, notes: Sequence[str]) -> str:
        lines = [f"sweep    {sweep.sweep_id}", f"jobs     {len(sweep.job_ids)}"]
        for recipe_hash in sweep.recipe_hashes:
            base = self._state.bases[recipe_hash]
            known = "reused" if recipe_hash in sweep.reused else "new"
            lines.append(f"base     {recipe_hash}  {base.spec.label}  {known}")
        lines.append(f"results  {self._folders.folder(sweep)}")
        lines.extend(f"note     {note}" for note in notes)
        lines.append(f"watch    meshtrain jobs {sweep.sweep_id}")
        return "\n".join(lines)

    # --- questions --------------------------------------------------------------------------

    def _answer(self, peer: bytes, query: msg.Query) -> None:
        with self._answering(peer, query):
            if query.what == SNAPSHOT_QUERY:
                brief = BRIEF_SNAPSHOT in query.names
                told = self._feeds.snapshot(query.request_id, brief=brief)
                self._sockets.send_control(peer, told)
            elif query.what == "why":
                self._serve(self._explain, peer, query)
            else:
                self._sockets.send_control(peer, [answer(self._state, query, self)])

    async def _explain(self, peer: bytes, query: msg.Query) -> None:
        self._sockets.send_control(peer, [await self._estimator.why(query)])

    async def _give_page(self, peer: bytes, asked: msg.AskPage) -> None:
        given = msg.PageGiven(asked.request_id, page=await self._feeds.page(asked.query))
        self._sockets.send_control(peer, [given])

    @property
    def https(self) -> bool:
        return self._membership is not None and self._settings.encrypt_artifacts

    @property
    def home(self) -> str:
        return str(self._settings.home)

    @property
    def inbox(self) -> str:
        return str(self._settings.inbox_folder)

    @property
    def version(self) -> str:
        return meshtrain.__version__

    @property
    def members(self) -> Sequence[Member]:
        return self._membership.members.members if self._membership is not None else ()

    @property
    def readers(self) -> Sequence[Reader]:
        return self._membership.readers.readers if self._membership is not None else ()

    def results_folder(self, sweep: Sweep) -> str:
        return str(self._folders.folder(sweep))

    def metrics_of(self, job: Job) -> Metrics:
        return self._folders.metrics_of(job)

    def metrics_in(self, artifact_id: str) -> dict[str, float]:
        return metrics_in(self._artifacts, artifact_id)

    def attempts_of(self, job_id: str) -> Sequence[Attempt]:
        return self._store.attempts_of(job_id)

    def log_is_whole(self, attempt_id: str, stream: str) -> bool:
        return self._logbook.is_whole(attempt_id, stream)

    def log_size(self, job_id: str, attempt_id: str, stream: str) -> int:
        return self._logbook.size_bytes(attempt_id, stream)

    def read_log(
        self, job_id: str, attempt_id: str, stream: str, offset: int, limit: int
    ) -> LogPiece:
        return self._logbook.read(job_id, attempt_id, stream, offset, limit)

    def log_file(self, job_id: str, attempt_id: str, stream: str) -> Path:
        return self._logbook.path(job_id, attempt_id, stream)


def _nothing_done(full: StoreFullError) -> StoreFullError:
    return StoreFullError(f"the master is read-only, nothing was done: {full}")
