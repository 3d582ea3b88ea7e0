"""The master: its parts put together, and what comes in over the wire led to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

import meshtrain
from meshtrain.artifacts.fetch import Fetcher
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.clock import lease_now_s
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core import rows
from meshtrain.core.job import Attempt, Job, Sweep
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import SchedulerConfig
from meshtrain.errors import MeshtrainError, UserError
from meshtrain.ids import short
from meshtrain.net.zmq_client import Ports
from meshtrain.net.zmq_master import MasterSockets
from meshtrain.results.folder import remove_leftovers
from meshtrain.results.metrics import Metrics
from meshtrain.spec.settings import MasterSettings
from meshtrain.store.sqlite import SqliteStore
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.apply import Hands
from meshtrain_daemon.master.inbox import Inbox, Taken
from meshtrain_daemon.master.intake import Submission, sweep_of
from meshtrain_daemon.master.logbook import STREAMS, Logbook
from meshtrain_daemon.master.loops import Decisions, Writer
from meshtrain_daemon.master.names import resolve, resolve_base
from meshtrain_daemon.master.queries import answer
from meshtrain_daemon.master.reporter import Reporter
from meshtrain_daemon.master.translate import event_of

PORTS_FILE = "master.json"
"""In the home: where the running master listens."""
FEED_BEAT_S = 1.0
BULK_WAITING_MAX = 64
"""Batches of log bytes that wait for the disk; then the sockets are read no more."""
SNAPSHOT_PART = 1000


class Master:
    """One master over one home folder.

    Args:
        settings: where it lives and listens, and its terms.
        say: shows a line to people.
    """

    def __init__(self, settings: MasterSettings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        home = settings.home
        self.store = SqliteStore(home / "state")
        loaded = self.store.load()
        config = SchedulerConfig(lease_s=settings.lease_s, base_lost_s=2 * settings.lease_s)
        self.scheduler = Scheduler(config, loaded, lease_now_s())
        self.logbook = Logbook(home / "logs", self.store.all_stream_sizes())
        self.artifacts = ArtifactStore(home / "artifacts")
        self.artifacts.recover()
        remove_leftovers(settings.results_folder)
        #: differs at every start, so that dashboards know a new count from the old one
        self._incarnation = time.time_ns()
        self._tasks: asyncio.TaskGroup | None = None
        self._bulk: asyncio.Queue[list[tuple[bytes, msg.StreamBytes]]] = asyncio.Queue()
        self._request_count = 0
        self._node_of_peer: dict[bytes, str] = {}
        self._stopped = asyncio.Event()

    async def run(self, ready: Callable[[Ports], None]) -> None:
        """Serve until `stop`; `ready` is called once all ports listen."""
        settings = self._settings
        self._sockets = MasterSockets(
            settings.host,
            settings.control_port,
            settings.bulk_port,
            settings.feed_port,
            on_control=self._on_control,
            on_bulk=self._on_bulk,
        )
        server = ArtifactServer(
            self.artifacts, settings.host, settings.http_port, accept_uploads=True
        )
        fetcher = Fetcher(self.artifacts)
        writer = Writer(self.store)
        try:
            http_url = await server.start()
            await fetcher.start()
            self.ports = Ports(
                control=self._sockets.control_port,
                bulk=self._sockets.bulk_port,
                feed=self._sockets.feed_port,
                http=int(http_url.rsplit(":", 1)[1]),
            )
            self.reporter = Reporter(
                results=settings.results_folder,
                bases=settings.home / "bases",
                state=self.scheduler.state,
                artifacts=self.artifacts,
                logbook=self.logbook,
                store=self.store,
                say=self._say,
            )
            self._hands = Hands(
                sockets=self._sockets,
                state=self.scheduler.state,
                fetcher=fetcher,
                reporter=self.reporter,
                incarnation=self._incarnation,
                lease_s=settings.lease_s,
                heartbeat_s=settings.heartbeat_s,
                bulk_port=self.ports.bulk,
                http_url=http_url,
                post=self._post,
                spawn=self._spawn,
                say=self._say,
            )
            self._decisions = Decisions(
                self.scheduler, writer, self._hands, settings.commit_batch_max
            )
            self._writer = writer
            inbox = Inbox(
                settings.inbox_folder,
                rest_s=settings.inbox_rest_s,
                scan_s=settings.inbox_scan_s,
                code_size_max_bytes=settings.code_size_max_bytes,
                artifacts=self.artifacts,
                submit=self._submit_dropped,
                say=self._say,
            )
            inbox.prepare()
            self._decisions.post(ev.ArtifactHeld(MASTER_NODE_ID, tuple(self.artifacts.ids())))
            self.reporter.catch_up()
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                loops = [
                    self._decisions.run(),
                    self._decisions.tick(settings.tick_s),
                    self._store_bytes(),
                    self._beat_feed(),
                    self.reporter.run(),
                    self.reporter.plot(),
                    inbox.watch(),
                    inbox.run(),
                ]
                running = [tasks.create_task(loop) for loop in loops]
                self._write_ports()
                ready(self.ports)
                await self._stopped.wait()
                for task in running:
                    task.cancel()
        finally:
            (settings.home / PORTS_FILE).unlink(missing_ok=True)
            self._sockets.close()
            await fetcher.close()
            await server.stop()
            writer.close()
            self.store.close()

    def stop(self) -> None:
        """End `run`; nothing acknowledged is lost by it."""
        self._stopped.set()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> object:
        assert self._tasks is not None
        return self._tasks.create_task(coroutine)

    def _post(self, event: ev.Event) -> None:
        self._decisions.post(event)

    def _write_ports(self) -> None:
        path = self._settings.home / PORTS_FILE
        written = path.with_suffix(".tmp")
        told = {"host": self._settings.host, **msgspec.structs.asdict(self.ports)}
        written.write_bytes(msgspec.json.encode(told))
        written.replace(path)

    # --- control ---------------------------------------------------------------------------

    def _on_control(self, batch: list[tuple[bytes, msg.ToMaster]]) -> None:
        for peer, message in batch:
            if isinstance(message, msg.FromNode):
                self._on_node(peer, message)
            else:
                self._on_person(peer, message)

    def _on_node(self, peer: bytes, message: msg.FromNode) -> None:
        if isinstance(message, msg.Hello):
            if message.protocol != msg.PROTOCOL_VERSION:
                newer = "master" if message.protocol > msg.PROTOCOL_VERSION else "node"
                told = (
                    f"{message.spec.node_id} speaks protocol {message.protocol}, the master "
                    f"{msg.PROTOCOL_VERSION}: upgrade meshtrain on the {newer}"
                )
                self._hands.note(told)
                self._sockets.send_control(peer, [msg.Refused(told)])
                return
            self._node_of_peer[peer] = message.spec.node_id
            self._hands.peers[message.spec.node_id] = peer
        node_id = self._node_of_peer.get(peer)
        if node_id is None:
            self._sockets.send_control(peer, [msg.SayHello()])
            return
        if isinstance(message, msg.Holds) and message.bytes_by_node:
            for artifact_id in message.added:
                self._hands.transferred(
                    artifact_id, node_id, message.bytes_by_node, message.duration_s
                )
        self._post(event_of(node_id, message))

    def _on_person(self, peer: bytes, message: msg.FromPerson) -> None:
        try:
            match message:
                case msg.Query():
                    self._decisions.afterwards(lambda: self._answer(peer, message))
                case msg.Submit():
                    self._spawn(self._submit_sent(peer, message))
                case msg.Cancel():
                    found = resolve(self.scheduler.state, message.names)
                    self._request(
                        peer,
                        message.request_id,
                        lambda r: ev.CancelRequested(r, found.job_ids, found.sweep_ids),
                    )
                case msg.Retry():
                    jobs = resolve(self.scheduler.state, message.names).all_job_ids(
                        self.scheduler.state
                    )
                    self._request(
                        peer, message.request_id, lambda r: ev.RetryRequested(r, tuple(jobs))
                    )
                case msg.Reprioritise():
                    jobs = resolve(self.scheduler.state, message.names).all_job_ids(
                        self.scheduler.state
                    )
                    priority = message.priority
                    self._request(
                        peer,
                        message.request_id,
                        lambda r: ev.PriorityRequested(r, tuple(jobs), priority),
                    )
                case msg.Drain():
                    self._request(
                        peer,
                        message.request_id,
                        lambda r: ev.DrainRequested(r, message.node_id, message.drained),
                    )
                case msg.Rebuild():
                    base = resolve_base(self.scheduler.state, message.recipe_hash)
                    self._request(
                        peer,
                        message.request_id,
                        lambda r: ev.RebuildRequested(r, base.recipe_hash),
                    )
        except MeshtrainError as error:
            self._sockets.send_control(peer, [msg.Done(message.request_id, error=str(error))])

    def _request(self, peer: bytes, request_id: str, event: Callable[[str], ev.Event]) -> None:
        """Have the scheduler act, and tell the asker what came of it."""

        def take(reply: fx.Reply) -> None:
            done = msg.Done(request_id, reply.error, reply.done, reply.notes)
            self._sockets.send_control(peer, [done])

        self._post(event(self._expect(take)))

    def _expect(self, take: Callable[[fx.Reply], None]) -> str:
        self._request_count += 1
        ours = f"request-{self._request_count}"
        self._hands.expect_reply(ours, take)
        return ours

    # --- submissions -----------------------------------------------------------------------

    async def _submit_sent(self, peer: bytes, message: msg.Submit) -> None:
        submission = Submission(
            name=message.name,
            data=message.data,
            code=message.code,
            data_digests=message.data_digests,
            bases_only=message.bases_only,
            again=message.again,
        )
        try:
            reply = await self._submit(submission, allow_pending=message.allow_pending)
            done = msg.Done(message.request_id, reply.error, reply.done, reply.notes)
        except MeshtrainError as error:
            done = msg.Done(message.request_id, error=str(error))
        self._sockets.send_control(peer, [done])

    async def _submit(self, submission: Submission, *, allow_pending: bool) -> fx.Reply:
        sweep = await asyncio.to_thread(
            sweep_of,
            submission,
            cells_max=self._settings.cells_max,
            known_sweeps=frozenset(self.scheduler.state.sweeps),
        )
        for code in submission.code.values():
            if not self.artifacts.has(code.artifact_id):
                raise UserError(
                    f"the snapshot {short(code.artifact_id)} of the code didn't arrive whole: "
                    "submit again"
                )
        self._decisions.post(
            ev.ArtifactHeld(
                MASTER_NODE_ID, tuple(code.artifact_id for code in submission.code.values())
            )
        )
        future: asyncio.Future[fx.Reply] = asyncio.get_running_loop().create_future()
        request_id = self._expect(future.set_result)
        self._post(ev.SweepSubmitted(request_id, sweep, allow_pending=allow_pending))
        return await future

    async def _submit_dropped(self, submission: Submission) -> Taken:
        reply = await self._submit(submission, allow_pending=False)
        if reply.error:
            raise UserError(
                f"{submission.name} was not accepted. Nothing was started.\n\n  {reply.error}\n\n"
                "Mend the file and drop it again."
            )
        sweep = self.scheduler.state.sweeps[reply.done[0]]
        return Taken(sweep.sweep_id, self._receipt(sweep, reply.notes))

    def _receipt(self, sweep: Sweep, notes: Sequence[str]) -> str:
        lines = [f"sweep    {sweep.sweep_id}", f"jobs     {len(sweep.job_ids)}"]
        for recipe_hash in sweep.recipe_hashes:
            base = self.scheduler.state.bases[recipe_hash]
            known = "reused" if recipe_hash in sweep.reused else "new"
            lines.append(f"base     {recipe_hash}  {base.spec.label}  {known}")
        lines.append(f"results  {self.reporter.folder(sweep)}")
        lines.extend(f"note     {note}" for note in notes)
        lines.append(f"watch    meshtrain jobs {sweep.sweep_id}")
        return "\n".join(lines)

    # --- questions --------------------------------------------------------------------------

    def _answer(self, peer: bytes, query: msg.Query) -> None:
        if query.what == "snapshot":
            self._send_snapshot(peer, query.request_id)
            return
        self._sockets.send_control(peer, [answer(self.scheduler.state, query, self)])

    def _send_snapshot(self, peer: bytes, request_id: str) -> None:
        """The whole picture, in parts that travel together: all arrive, or none."""
        history = self._hands.history
        changes = [
            *rows.snapshot(self.scheduler.state),
            *history.transfers,
            *history.notes,
            history.moved,
        ]
        starts = range(0, len(changes), SNAPSHOT_PART)
        parts = [
            msg.Snapshot(
                request_id=request_id,
                incarnation=self._incarnation,
                seq=self._hands.feed_seq,
                changes=tuple(changes[start : start + SNAPSHOT_PART]),
                last=start == starts[-1],
            )
            for start in starts
        ]
        self._sockets.send_control(peer, parts)

    @property
    def home(self) -> str:
        return str(self._settings.home)

    @property
    def inbox(self) -> str:
        return str(self._settings.inbox_folder)

    @property
    def version(self) -> str:
        return meshtrain.__version__

    def results_folder(self, sweep: Sweep) -> str:
        return str(self.reporter.folder(sweep))

    def metrics_of(self, job: Job) -> Metrics:
        return self.reporter.metrics_of(job)

    def attempts_of(self, job_id: str) -> Sequence[Attempt]:
        return self.store.attempts_of(job_id)

    def log_size(self, job_id: str, attempt_id: str, stream: str) -> int:
        return self.logbook.size_bytes(attempt_id, stream)

    def read_log(self, job_id: str, attempt_id: str, stream: str, offset: int, limit: int) -> bytes:
        return self.logbook.read(job_id, attempt_id, stream, offset, limit)

    # --- logs and metrics ----------------------------------------------------------------------

    def _on_bulk(self, batch: list[tuple[bytes, msg.StreamBytes]]) -> None:
        self._bulk.put_nowait(batch)
        if self._bulk.qsize() >= BULK_WAITING_MAX:
            self._sockets.pause_bulk()

    async def _store_bytes(self) -> None:
        """Write, fsync, count, confirm: what came meanwhile goes together."""
        while True:
            batch = await self._bulk.get()
            while not self._bulk.empty():
                batch = batch + self._bulk.get_nowait()
            self._sockets.resume_bulk()
            known = []
            state = self.scheduler.state
            for peer, message in batch:
                if self._is_of_an_attempt(message):
                    known.append((peer, message))
                else:
                    # Nobody will ever ask for it: let the node be rid of it.
                    end = message.offset + len(message.data)
                    stored = msg.StreamStored(message.attempt_id, message.stream, end)
                    self._sockets.send_bulk(peer, [stored])
            streams = [message for _, message in known]
            sizes = await self._writer.count(partial(self.logbook.write, streams))
            self.logbook.counted(sizes)
            for size in sizes:
                job = state.jobs[size.job_id]
                if job.state.is_terminal:
                    self.reporter.job_ended(job)
            answers: dict[tuple[bytes, str, str], msg.StreamStored] = {}
            for peer, message in known:
                key = (peer, message.attempt_id, message.stream)
                answers[key] = self.logbook.confirmation(message)
            for (peer, _, _), stored in answers.items():
                self._sockets.send_bulk(peer, [stored])

    def _is_of_an_attempt(self, message: msg.StreamBytes) -> bool:
        """Whether these bytes belong to an attempt that was made: its name becomes a path."""
        job = self.scheduler.state.jobs.get(message.job_id)
        if job is None or message.stream not in STREAMS:
            return False
        if job.attempt is not None and job.attempt.attempt_id == message.attempt_id:
            return True
        attempts = self.store.attempts_of(job.job_id)
        return any(attempt.attempt_id == message.attempt_id for attempt in attempts)

    async def _beat_feed(self) -> None:
        """Tell dashboards once a second that the master is there."""
        while True:
            await asyncio.sleep(FEED_BEAT_S)
            self._hands.publish(())


def home_ports(home: Path) -> dict[str, Any] | None:
    """Where the master over this home listens, or None when none does."""
    try:
        return dict(msgspec.json.decode((home / PORTS_FILE).read_bytes()))
    except (OSError, msgspec.DecodeError):
        return None
