"""The master: its parts put together, and what nodes say led to the scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from meshtrain.artifacts.fetch import Fetcher
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.clock import lease_now_s, wall_now_s
from meshtrain.core import events as ev
from meshtrain.core.inventory import Holding
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import SchedulerConfig
from meshtrain.net.base import BulkBatch
from meshtrain.net.zmq_client import Ports
from meshtrain.net.zmq_master import MasterSockets
from meshtrain.results.folder import remove_leftovers
from meshtrain.security.loopback import permitted_address
from meshtrain.security.way import PORTS_FILE
from meshtrain.spec.settings import MasterSettings
from meshtrain.store.complete import demand_complete
from meshtrain.store.sqlite import SqliteStore
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.api import Api
from meshtrain_daemon.master.apply import Hands
from meshtrain_daemon.master.archiving import Archiving
from meshtrain_daemon.master.bulk import BulkIntake
from meshtrain_daemon.master.estimator import Estimator
from meshtrain_daemon.master.feeds import Feeds
from meshtrain_daemon.master.inbox import Inbox
from meshtrain_daemon.master.logbook import Logbook
from meshtrain_daemon.master.loops import Decisions, Writer
from meshtrain_daemon.master.member_news import MemberNews
from meshtrain_daemon.master.membership import membership_of
from meshtrain_daemon.master.metrics import MasterMetrics, watch_lag
from meshtrain_daemon.master.node_metrics import NodeMetrics
from meshtrain_daemon.master.notifier import Notifier
from meshtrain_daemon.master.people import People
from meshtrain_daemon.master.plotter import Plotter
from meshtrain_daemon.master.published_counts import PublishedCounts
from meshtrain_daemon.master.reporter import Reporter
from meshtrain_daemon.master.result_folders import ResultFolders
from meshtrain_daemon.master.service import READ_PATHS, Service
from meshtrain_daemon.master.translate import event_of

FEED_BEAT_S = 1.0
EARLY_MAX = 1000
"""Messages that are kept while the master comes up; nodes send the others again."""


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
        self._membership = membership_of(settings)
        # Before anything is made: off loopback without keys nothing begins.
        permitted_address(settings.host, "the master", with_keys=self._membership is not None)
        self.store = SqliteStore(home / "state")
        loaded = demand_complete(self.store.load(), self.store.path)
        config = SchedulerConfig(
            lease_s=settings.lease_s,
            base_lost_s=2 * settings.lease_s,
            warm_copies=settings.warm_copies,
            prefetch=settings.prefetch,
            prices=settings.price_per_gpu_hour,
        )
        #: differs at every start, so that nodes and dashboards know a new count from the old one
        self._incarnation = time.time_ns()
        self.scheduler = Scheduler(config, loaded, lease_now_s(), life=str(self._incarnation))
        self.logbook = Logbook(home / "logs", self.store.all_stream_sizes())
        self.artifacts = ArtifactStore(home / "artifacts")
        self.artifacts.recover()
        remove_leftovers(settings.results_folder)
        self._news: MemberNews | None = None
        self._tasks: asyncio.TaskGroup | None = None
        #: what runs beside the loops, each until it is done
        self._beside: set[asyncio.Task[None]] = set()
        self._node_of_peer: dict[bytes, str] = {}
        self._stopped = asyncio.Event()
        self._serving = False
        self._early_control: list[tuple[bytes, msg.ToMaster]] = []
        self._early_bulk: BulkBatch = []

    async def run(self, ready: Callable[[Ports], None]) -> None:
        """Serve until `stop`; `ready` is called once all ports listen."""
        settings = self._settings
        membership = self._membership
        http_security = membership.http if membership is not None else None
        sockets: MasterSockets | None = None
        notifier: Notifier | None = None
        server = ArtifactServer(
            self.artifacts,
            settings.host,
            settings.http_port,
            accept_uploads=True,
            security=http_security,
            enrolment=membership.enrolment if membership is not None else None,
            enrol_port=settings.enrol_port,
            readers=membership.readers if membership is not None else None,
            read_paths=READ_PATHS,
            sent_bytes_per_s_max=settings.upload_limit,
        )
        service = Service()
        service.add_to(server.app)
        node_metrics = NodeMetrics(self.scheduler.state.nodes, http_security)
        fetcher = Fetcher(self.artifacts, security=http_security)
        archiving = Archiving(settings)
        writer = Writer(self.store)
        try:
            await archiving.open(self.store, self._say)
            http_url = await server.start()
            await fetcher.start()
            await node_metrics.start()
            # Nothing is waited for from here until all is there that takes messages.
            self._sockets = sockets = MasterSockets(
                settings.host,
                settings.control_port,
                settings.bulk_port,
                settings.feed_port,
                on_control=self._on_control,
                on_bulk=self._on_bulk,
                security=membership.net if membership is not None else None,
            )
            self.ports = Ports(
                control=self._sockets.control_port,
                bulk=self._sockets.bulk_port,
                feed=self._sockets.feed_port,
                http=int(http_url.rsplit(":", 1)[1]),
            )
            if membership is not None:
                membership.open_to_admin(self.ports.control, self._say)
            folders = ResultFolders(
                results=settings.results_folder,
                bases=settings.home / "bases",
                state=self.scheduler.state,
                artifacts=self.artifacts,
                logbook=self.logbook,
            )
            self.plotter = Plotter(self._say)
            self.reporter = Reporter(
                folders=folders,
                plotter=self.plotter,
                state=self.scheduler.state,
                store=self.store,
                say=self._say,
            )
            self._feeds = Feeds(self._sockets, self.scheduler.state, self._incarnation)
            self._hands = Hands(
                sockets=self._sockets,
                state=self.scheduler.state,
                artifacts=self.artifacts,
                fetcher=fetcher,
                reporter=self.reporter,
                feeds=self._feeds,
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
            archiving.begin(
                state=self.scheduler.state,
                artifacts=self.artifacts,
                reporter=self.reporter,
                store=self.store,
                writer=writer,
                post=self._post,
                spawn=self._spawn,
                note=self._hands.note,
            )
            self._hands.restore = archiving.restore_lost
            self._bulk = BulkIntake(
                state=self.scheduler.state,
                sockets=self._sockets,
                logbook=self.logbook,
                store=self.store,
                writer=writer,
                reporter=self.reporter,
                say=self._say,
                with_keys=membership is not None,
            )
            if membership is not None:
                self._news = MemberNews(
                    membership,
                    self._sockets,
                    self._hands.peers,
                    end=self._end_membership,
                    spawn=self._spawn,
                    note=self._hands.note,
                )
                # A master that died just after it revoked them has given nobody their jobs yet.
                for node_id in sorted(self._news.revoked_nodes & self._nodes_with_jobs()):
                    self._post(ev.NodeRevoked(node_id))
            estimator = Estimator(self.scheduler.state, self._hands.note)
            self._people = People(
                settings=settings,
                state=self.scheduler.state,
                sockets=self._sockets,
                ports=self.ports,
                decisions=self._decisions,
                hands=self._hands,
                feeds=self._feeds,
                folders=folders,
                artifacts=self.artifacts,
                logbook=self.logbook,
                store=self.store,
                archiving=archiving,
                estimator=estimator,
                spawn=self._spawn,
                membership=membership,
                enrol_port=int((server.enrol_url or http_url).rsplit(":", 1)[1]),
            )
            inbox = Inbox(
                settings.inbox_folder,
                rest_s=settings.inbox_rest_s,
                scan_s=settings.inbox_scan_s,
                code_size_max_bytes=settings.code_size_max_bytes,
                artifacts=self.artifacts,
                submit=self._people.submit_dropped,
                say=self._say,
            )
            inbox.prepare()
            notifier = Notifier(
                settings,
                settings.home,
                self.scheduler.state,
                results_folder=self._people.results_folder,
                note=self._hands.note,
            )
            feed = PublishedCounts()
            self._hands.on_finished = notifier.take
            self._hands.on_published = feed.take
            self._hands.on_publish_took = feed.publish_s.observe
            metrics = MasterMetrics(
                state=self.scheduler.state,
                decisions=self._decisions,
                writer=writer,
                feed=feed,
                sockets=self._sockets,
                stream_bytes=self._bulk.stream_bytes,
                notified=notifier.outcomes,
                notices_waiting=lambda: notifier.waiting,
                home=settings.home,
                started_wall_s=wall_now_s(),
            )
            api = Api(
                state=self.scheduler.state,
                surroundings=self._people,
                afterwards=self._decisions.afterwards,
                notes=lambda: feed.notes,
            )
            self._decisions.post(ev.ArtifactHeld(MASTER_NODE_ID, tuple(self.artifacts.ids())))
            self.reporter.catch_up()
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                loops = [
                    self._decisions.run(),
                    self._decisions.tick(settings.tick_s),
                    self._bulk.run(),
                    self._beat_feed(),
                    self._feeds.tell_in_brief(),
                    self.reporter.run(),
                    self.plotter.run(),
                    archiving.run(),
                    estimator.run(),
                    inbox.watch(),
                    inbox.run(),
                    notifier.run(),
                    watch_lag(metrics, FEED_BEAT_S),
                ]
                running = [tasks.create_task(loop) for loop in loops]
                self._serve_the_early()
                self._write_ports()
                service.open(metrics, self._decisions, api, node_metrics)
                ready(self.ports)
                await self._stopped.wait()
                # What comes from here on would wait for what has ended: the next master's.
                self._serving = False
                service.close()
                # A submission or a fetch under way may wait for ever; it can be done again.
                for task in (*running, *self._beside):
                    task.cancel()
        finally:
            with contextlib.suppress(OSError):
                (settings.home / PORTS_FILE).unlink()
            if self._news is not None:
                self._news.close()
            if sockets is not None:
                sockets.close()
            await fetcher.close()
            await node_metrics.close()
            if notifier is not None:
                await notifier.close()
            await server.stop()
            await archiving.close()
            writer.close()
            self.store.close()

    def status(self) -> str:
        """How it goes, in a line."""
        state = self.scheduler.state
        nodes = sum(node.connected for node in state.nodes.values())
        return f"{nodes} of {len(state.nodes)} nodes are there, {len(state.live)} attempts run"

    def stop(self) -> None:
        """End `run`; nothing acknowledged is lost by it."""
        self._stopped.set()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> object:
        assert self._tasks is not None
        task = self._tasks.create_task(coroutine)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        if self._stopped.is_set():
            task.cancel()
        return task

    def _post(self, event: ev.Event) -> None:
        self._decisions.post(event)

    def _write_ports(self) -> None:
        path = self._settings.home / PORTS_FILE
        written = path.with_suffix(".tmp")
        told = {
            "host": self._settings.host,
            "secure": self._membership is not None,
            **msgspec.structs.asdict(self.ports),
        }
        try:
            written.write_bytes(msgspec.json.encode(told))
            written.replace(path)
        except OSError as error:
            # On a full disk, say. Commands find it all the same where they are told its address.
            self._say(
                f"{path} can't be written: {error.strerror}. Commands on this host don't find "
                f"the master by its home: give them --master "
                f"{self._settings.host}:{self.ports.control}"
            )

    # --- control ---------------------------------------------------------------------------

    def _serve_the_early(self) -> None:
        """Take what came since the ports listen, before the parts that serve it were there."""
        self._serving = True
        early_control, self._early_control = self._early_control, []
        early_bulk, self._early_bulk = self._early_bulk, []
        self._on_control(early_control)
        if early_bulk:
            self._on_bulk(early_bulk)

    def _on_bulk(self, batch: BulkBatch) -> None:
        if self._serving:
            self._bulk.take(batch)
        elif len(self._early_bulk) < EARLY_MAX:
            self._early_bulk.extend(batch)

    def _on_control(self, batch: list[tuple[bytes, msg.ToMaster]]) -> None:
        if not self._serving:
            if len(self._early_control) < EARLY_MAX:
                self._early_control.extend(batch)
            return
        for peer, message in batch:
            if isinstance(message, msg.FromNode):
                self._on_node(peer, message)
            else:
                self._people.take(peer, message)

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
            former = self._hands.peers.get(message.spec.node_id)
            if former is not None:
                self._node_of_peer.pop(former, None)
            self._node_of_peer[peer] = message.spec.node_id
            self._hands.peers[message.spec.node_id] = peer
        node_id = self._node_of_peer.get(peer)
        if node_id is None:
            self._sockets.send_control(peer, [msg.SayHello()])
            return
        if isinstance(message, msg.Holds) and (message.bytes_by_node or message.bytes_reused):
            for change in message.changes:
                if change.holding is Holding.HELD:
                    self._hands.transferred(
                        change.artifact_id,
                        node_id,
                        message.bytes_by_node,
                        message.duration_s,
                        message.bytes_reused,
                    )
        if isinstance(message, msg.Ended) and self._runs(node_id, message.attempt_id):
            self.logbook.expect(message.attempt_id, message.stream_bytes)
        if isinstance(message, msg.Hello | msg.Beat) and self._news is not None:
            self._news.heard(node_id, peer, message.members_version)
        if isinstance(message, msg.Beat) and message.use is not None:
            self._feeds.note_use(node_id, message.use)
        self._post(event_of(node_id, message))

    def _runs(self, node_id: str, attempt_id: str) -> bool:
        """Whether an attempt is live, and that node's."""
        job_id = self.scheduler.state.live.get(attempt_id)
        attempt = self.scheduler.state.jobs[job_id].attempt if job_id is not None else None
        return attempt is not None and attempt.node_id == node_id

    def _nodes_with_jobs(self) -> set[str]:
        state = self.scheduler.state
        attempts = [state.jobs[job_id].attempt for job_id in state.live.values()]
        return {attempt.node_id for attempt in attempts if attempt is not None}

    def _end_membership(self, node_id: str) -> None:
        """What a node that was revoked runs is run elsewhere, and it hears nothing more."""
        peer = self._hands.peers.pop(node_id, None)
        if peer is not None:
            self._node_of_peer.pop(peer, None)
        self._post(ev.NodeRevoked(node_id))

    async def _beat_feed(self) -> None:
        """Tell dashboards once a second that the master is there."""
        while True:
            await asyncio.sleep(FEED_BEAT_S)
            self._hands.publish(())
