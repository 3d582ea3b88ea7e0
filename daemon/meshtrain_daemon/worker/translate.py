"""What the agent decides to say, as messages to the master."""

from __future__ import annotations

from urllib.parse import urlsplit

from meshtrain.artifacts.fetch import Source
from meshtrain.core import agent_io as io
from meshtrain.core.commands import ArtifactSource
from meshtrain.core.node import MASTER_NODE_ID, HostUse, NodeSpec
from meshtrain.security.loopback import is_any_address
from meshtrain.wire import messages as msg


def hello(effect: io.SendHello, spec: NodeSpec, members_version: int) -> msg.Hello:
    """The first message of a session."""
    return msg.Hello(
        protocol=msg.PROTOCOL_VERSION,
        spec=spec,
        session=effect.session,
        attempts=effect.attempts,
        holds=effect.holds,
        grant=effect.grant,
        accepting=effect.accepting,
        note=effect.note,
        gpus_busy=effect.gpus_busy,
        members_version=members_version,
        sizes_bytes=effect.sizes_bytes,
        inventory=effect.inventory,
        cache=effect.cache,
    )


def source_of(source: ArtifactSource, master_host: str) -> Source:
    """A holder, as the fetcher takes it.

    A master that listens on all its addresses can't know which of them leads
    there from here: `master_host` is the one that this node reaches it at.
    """
    url = source.http_url
    parts = urlsplit(url)
    if source.node_id == MASTER_NODE_ID and is_any_address(parts.hostname or ""):
        host = f"[{master_host}]" if ":" in master_host else master_host
        url = f"{parts.scheme}://{host}:{parts.port}"
    return Source(
        node_id=source.node_id,
        url=url,
        last_resort=source.node_id == MASTER_NODE_ID,
    )


def ended(effect: io.SendEnded) -> msg.Ended:
    """How an attempt ended."""
    report = effect.report
    return msg.Ended(
        session=effect.session,
        attempt_id=report.attempt_id,
        epoch=report.epoch,
        failure=report.failure,
        cancelled=report.cancelled,
        handed_back=report.handed_back,
        artifact_id=report.artifact_id,
        size_bytes=report.size_bytes,
        metrics=report.metrics,
        run_s=report.run_s,
        stream_bytes=report.stream_bytes,
        checkpoint=report.checkpoint,
        grant=effect.grant,
        seen_seq=effect.seen_seq,
    )


def beat(effect: io.SendBeat, members_version: int, use: HostUse | None) -> msg.Beat:
    """A heartbeat."""
    return msg.Beat(
        session=effect.session,
        beat=effect.beat,
        sent_s=effect.sent_s,
        seen_seq=effect.seen_seq,
        grant=effect.grant,
        attempts=effect.attempts,
        accepting=effect.accepting,
        note=effect.note,
        fetching=effect.fetching,
        members_version=members_version,
        gpus_busy=effect.gpus_busy,
        first=effect.first,
        changes=effect.changes,
        cache=effect.cache,
        room=effect.room,
        use=use,
    )


def holds(effect: io.SendHolds) -> msg.Holds:
    """What the node has more, or less, than the master knows."""
    return msg.Holds(
        effect.session,
        effect.first,
        effect.changes,
        bytes_by_node=effect.bytes_by_node,
        duration_s=effect.duration_s,
        cache=effect.cache,
        room=effect.room,
        bytes_reused=effect.bytes_reused,
        banned=effect.banned,
    )
