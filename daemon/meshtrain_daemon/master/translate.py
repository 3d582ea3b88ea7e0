"""Between messages on the wire and what the scheduler takes and wants."""

from __future__ import annotations

import math
from itertools import zip_longest

import msgspec

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.inventory import Holding, InventoryChange
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.manifest import is_digest
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.wire import messages as msg

METRICS_MAX = 1000
"""Metrics of one job that are kept in the store; the rest is in its result."""


def event_of(node_id: str, message: msg.FromNode) -> ev.Event:
    """The event that a node's message is; `node_id` is who its connection belongs to."""
    match message:
        case msg.Ended():
            artifact_id, failure = message.artifact_id, message.failure
            if artifact_id is not None and not is_digest(artifact_id):
                # Nobody could ever fetch it: the job would wait for its result for ever.
                failure = failure or _no_such_result(artifact_id, node_id)
                artifact_id = None
            return ev.AttemptEnded(
                node_id=node_id,
                attempt_id=message.attempt_id,
                epoch=message.epoch,
                session=message.session,
                grant=message.grant,
                seen_seq=message.seen_seq,
                failure=failure,
                cancelled=message.cancelled,
                handed_back=message.handed_back,
                artifact_id=artifact_id,
                size_bytes=message.size_bytes,
                metrics=_sane(message.metrics),
                run_s=message.run_s,
                checkpoint=_digest(message.checkpoint),
            )
        case msg.Started():
            return ev.AttemptStarted(node_id, message.attempt_id, message.epoch)
        case msg.Beat():
            return ev.NodeBeat(
                node_id=node_id,
                session=message.session,
                beat=message.beat,
                sent_s=message.sent_s,
                seen_seq=message.seen_seq,
                grant=message.grant,
                attempts=_live(message.attempts),
                accepting=message.accepting,
                note=message.note,
                fetching=message.fetching,
                gpus_busy=message.gpus_busy,
                first=message.first,
                changes=_changes(message.changes),
                cache=message.cache,
                room=message.room,
            )
        case msg.Holds():
            return ev.InventoryTold(
                node_id=node_id,
                session=message.session,
                first=message.first,
                changes=_changes(message.changes),
                bytes_by_node=message.bytes_by_node,
                duration_s=message.duration_s,
                cache=message.cache,
                room=message.room,
                banned=message.banned,
            )
        case msg.Hello():
            holds, sizes_bytes = _held(message)
            return ev.NodeSaidHello(
                spec=message.spec,
                session=message.session,
                attempts=_live(message.attempts),
                holds=holds,
                grant=message.grant,
                accepting=message.accepting,
                note=message.note,
                gpus_busy=message.gpus_busy,
                sizes_bytes=sizes_bytes,
                inventory=message.inventory,
                cache=message.cache,
            )
        case msg.Goodbye():
            return ev.NodeLeft(node_id, message.session)


def cache_event(
    message: msg.Pin | msg.Evict | msg.Warm, request_id: str, recipe_hash: str
) -> ev.PinRequested | ev.EvictRequested | ev.WarmRequested:
    """What a person asks for the copies of a base, whose hash is known in full."""
    match message:
        case msg.Pin():
            return ev.PinRequested(request_id, recipe_hash, message.node_id, message.pinned)
        case msg.Evict():
            return ev.EvictRequested(request_id, recipe_hash, message.node_id)
        case msg.Warm():
            return ev.WarmRequested(request_id, recipe_hash, message.nodes)


def _no_such_result(artifact_id: str, node_id: str) -> Failure:
    return Failure(
        FailureClass.HOST_LOST,
        f"its result was told under {artifact_id[:40]!r}, which is no artifact's id: "
        f"see that {node_id} and the master run the same version",
        node_id,
    )


def _sane(metrics: dict[str, float]) -> dict[str, float]:
    """Finite numbers only, and not too many: a merge could do nothing with others."""
    finite = [(name, value) for name, value in metrics.items() if math.isfinite(value)]
    return dict(finite[:METRICS_MAX])


def _held(hello: msg.Hello) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """What a node lists, without names that nobody could ever fetch, and the sizes of it."""
    known = zip_longest(hello.holds, hello.sizes_bytes[: len(hello.holds)], fillvalue=0)
    sane = [(str(name), int(size)) for name, size in known if is_digest(str(name))]
    return tuple(name for name, _ in sane), tuple(size for _, size in sane)


def _changes(changes: tuple[InventoryChange, ...]) -> tuple[InventoryChange, ...]:
    """A node's changes; of names that nobody could ever fetch, only the number is kept."""
    if all(is_digest(change.artifact_id) for change in changes):
        return changes
    return tuple(
        change
        if is_digest(change.artifact_id)
        else msgspec.structs.replace(change, holding=Holding.GONE)
        for change in changes
    )


def _digest(artifact_id: str | None) -> str | None:
    return artifact_id if artifact_id is not None and is_digest(artifact_id) else None


def _live(attempts: tuple[ev.LiveAttempt, ...]) -> tuple[ev.LiveAttempt, ...]:
    """A node's attempts, without checkpoints that nobody could ever fetch."""
    if all(live.checkpoint is None or is_digest(live.checkpoint) for live in attempts):
        return attempts
    return tuple(
        msgspec.structs.replace(live, checkpoint=_digest(live.checkpoint)) for live in attempts
    )


def numbered(effect: fx.SendCommand, master_url: str) -> msg.Numbered:
    """A command as it travels: the master's own address is filled in here."""
    command = effect.command
    match command:
        case cmd.AssignAttempt():
            if command.needs:
                command = msgspec.structs.replace(
                    command,
                    base=_with_url(command.base, master_url),
                    code=_with_url(command.code, master_url),
                    resume=_with_url(command.resume, master_url),
                    inputs=tuple(
                        msgspec.structs.replace(n, sources=_sources_with_url(n.sources, master_url))
                        for n in command.inputs
                    ),
                )
        case cmd.AddSources():
            command = cmd.AddSources(
                command.artifact_id, _sources_with_url(command.sources, master_url)
            )
        case cmd.PrefetchArtifact(need=need):
            sources = _sources_with_url(need.sources, master_url)
            command = cmd.PrefetchArtifact(msgspec.structs.replace(need, sources=sources))
        case _:
            pass
    return msg.Numbered(effect.session, effect.seq, command)


def _with_url(need: cmd.ArtifactNeed | None, master_url: str) -> cmd.ArtifactNeed | None:
    if need is None:
        return None
    sources = _sources_with_url(need.sources, master_url)
    return msgspec.structs.replace(need, sources=sources)


def _sources_with_url(
    sources: tuple[cmd.ArtifactSource, ...], master_url: str
) -> tuple[cmd.ArtifactSource, ...]:
    return tuple(
        cmd.ArtifactSource(MASTER_NODE_ID, master_url)
        if source.node_id == MASTER_NODE_ID
        else source
        for source in sources
    )
