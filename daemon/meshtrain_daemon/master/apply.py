"""Carries out what the scheduler decides: sends, collects, lays out, publishes."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from meshtrain.artifacts.fetch import Fetcher, FetchReport
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.clock import lease_now_s, wall_now_s
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.changes import Change, Note, TransferRow
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.rows import base_arrival
from meshtrain.core.state import MeshState
from meshtrain.net.base import MasterTransport
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.collector import Collector
from meshtrain_daemon.master.feeds import Feeds
from meshtrain_daemon.master.reporter import Reporter
from meshtrain_daemon.master.translate import numbered


class Hands:
    """Everything but the store that effects reach.

    Args:
        post: gives an event to the scheduler.
        spawn: runs something beside.
        say: shows a line to people.
    """

    def __init__(
        self,
        *,
        sockets: MasterTransport,
        state: MeshState,
        artifacts: ArtifactStore,
        fetcher: Fetcher,
        reporter: Reporter,
        feeds: Feeds,
        incarnation: int,
        lease_s: float,
        heartbeat_s: float,
        bulk_port: int,
        http_url: str,
        post: Callable[[ev.Event], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        say: Callable[[str], None],
    ) -> None:
        self._sockets = sockets
        self._state = state
        self._collector = Collector(
            artifacts,
            fetcher,
            fetched=self._on_fetched,
            post=post,
            spawn=spawn,
            note=self.note,
        )
        self._reporter = reporter
        self._feeds = feeds
        self._incarnation = incarnation
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self._bulk_port = bulk_port
        self._http_url = http_url
        self._say = say
        #: called with each job that came to its end, and with all that is published
        self.on_finished: Callable[[fx.JobFinished], None] = lambda finished: None
        self.on_published: Callable[[Sequence[Change]], None] = lambda changes: None
        #: how long it took, in seconds, to hand what the scheduler decided to the feed
        self.on_publish_took: Callable[[float], None] = lambda seconds: None
        #: node id → the connection of its present life
        self.peers: dict[str, bytes] = {}
        #: request → what to do with its reply
        self._waiting: dict[str, Callable[[fx.Reply], None]] = {}
        #: brings a lost base back from the archive
        self.restore: Callable[[str], None] = lambda artifact_id: None

    def expect_reply(self, request_id: str, take: Callable[[fx.Reply], None]) -> None:
        """Have `take` called with the scheduler's reply to a request."""
        self._waiting[request_id] = take

    def send(self, effects: Sequence[fx.Effect]) -> None:
        """Carry out all but the saves; what goes to one node travels together."""
        outgoing: dict[bytes, list[msg.ToNode]] = {}
        for effect in effects:
            match effect:
                case fx.SendCommand():
                    self._add(outgoing, effect.node_id, numbered(effect, self._http_url))
                case fx.AnswerBeat():
                    answer = msg.BeatAnswer(
                        effect.session, effect.beat, lease_now_s(), effect.inventory
                    )
                    self._add(outgoing, effect.node_id, answer)
                case fx.WelcomeNode():
                    self._add(outgoing, effect.node_id, self._welcome(effect))
                case fx.AskHello():
                    self._add(outgoing, effect.node_id, msg.SayHello())
                case fx.Reply():
                    take = self._waiting.pop(effect.request_id, None)
                    if take is not None:
                        take(effect)
                case fx.CollectArtifact():
                    self._collector.collect(effect)
                case fx.RestoreArtifact():
                    self.restore(effect.artifact_id)
                case fx.DropArtifact():
                    self._collector.drop(effect.artifact_id)
                case fx.JobFinished():
                    self._reporter.job_ended(effect.job)
                    self.on_finished(effect)
                case fx.Publish():
                    began_s = time.perf_counter()
                    self.publish(effect.changes)
                    self.on_publish_took(time.perf_counter() - began_s)
                case _:
                    pass
        for peer, messages in outgoing.items():
            self._sockets.send_control(peer, messages)

    def publish(self, changes: Sequence[Change]) -> None:
        """Tell dashboards what changed; with no changes, that the master is there."""
        self.on_published(changes)
        for change in changes:
            if isinstance(change, Note):
                self._say(change.text)
        self._feeds.publish(changes)

    def note(self, text: str) -> None:
        """Show a line to everybody who looks."""
        self.publish((Note(wall_now_s(), text),))

    def _add(
        self, outgoing: dict[bytes, list[msg.ToNode]], node_id: str, message: msg.ToNode
    ) -> None:
        peer = self.peers.get(node_id)
        if peer is not None:
            outgoing.setdefault(peer, []).append(message)

    def _welcome(self, effect: fx.WelcomeNode) -> msg.Welcome:
        return msg.Welcome(
            asked=effect.asked,
            session=effect.session,
            incarnation=self._incarnation,
            lease_s=self._lease_s,
            heartbeat_s=self._heartbeat_s,
            now_s=lease_now_s(),
            bulk_port=self._bulk_port,
        )

    # --- the master as a holder -----------------------------------------------------------

    def _on_fetched(self, artifact_id: str, report: FetchReport) -> None:
        self.transferred(artifact_id, MASTER_NODE_ID, report.bytes_by_node, report.duration_s)
        self._reporter.base_held(artifact_id)

    def transferred(
        self,
        artifact_id: str,
        to_node: str,
        bytes_by_node: dict[str, int],
        duration_s: float,
        bytes_reused: int = 0,
    ) -> None:
        """Show a transfer that arrived."""
        transfer = TransferRow(
            artifact_id=artifact_id,
            to_node=to_node,
            bytes_by_node=bytes_by_node,
            duration_s=duration_s,
            bytes_reused=bytes_reused,
            wall_s=wall_now_s(),
        )
        told = base_arrival(self._state, transfer)
        notes = (Note(wall_now_s(), told),) if told else ()
        self.publish((transfer, *notes))
