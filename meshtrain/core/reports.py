"""What nodes and the master's own fetcher report of attempts and artifacts."""

from __future__ import annotations

import msgspec

from meshtrain.core import attempts, bases, checkpoints, collecting, eviction
from meshtrain.core import commands as cmd
from meshtrain.core.events import (
    ArtifactDropped,
    ArtifactHeld,
    AttemptEnded,
    AttemptStarted,
    CollectFailed,
    InventoryTold,
)
from meshtrain.core.inventory import Holding, InventoryChange
from meshtrain.core.job import AttemptState, Failure, FailureClass, JobKind, JobState
from meshtrain.core.node import MASTER_NODE_ID, Node
from meshtrain.core.state import MeshState
from meshtrain.ids import short

COLLECT_TRIES_MAX = 10
"""After so many failures to fetch a result, from a node that is there, its job runs again."""


def on_started(state: MeshState, event: AttemptStarted) -> None:
    job = attempts.current(state, event.node_id, event.attempt_id, event.epoch)
    if job is not None:
        attempts.mark_started(state, job)


def on_ended(state: MeshState, event: AttemptEnded) -> None:
    node = state.nodes.get(event.node_id)
    if node is not None and node.session == event.session:
        node.grant = max(node.grant, event.grant)
        node.trim_outbox(event.seen_seq)
    job = attempts.current(state, event.node_id, event.attempt_id, event.epoch)
    if job is None or job.attempt is None:
        # A result counts only with the current epoch; the node may drop it.
        state.command(event.node_id, cmd.ForgetAttempt(event.attempt_id))
        if node is not None and event.checkpoint is not None:
            checkpoints.let_go(state, node, event.checkpoint)
        return
    if job.state is JobState.COLLECTING and event.failure is None and not event.handed_back:
        if node is not None and event.artifact_id is not None:
            # A hello that was made before the result, and came after it, didn't list it.
            state.copies.directory.add(node, event.artifact_id, event.size_bytes)
        return
    attempts.release_slots(state, job.attempt)
    wall_s = state.wall_s
    # A master that came up since knows of its start only that it was before. What is told
    # late ended before now: then the start as it was told is the earlier one.
    started_s = wall_s - event.run_s
    if job.attempt.started_wall_s is not None:
        started_s = min(started_s, job.attempt.started_wall_s)
    attempt = msgspec.structs.replace(
        job.attempt, started_wall_s=started_s, ended_wall_s=wall_s, failure=event.failure
    )
    if event.artifact_id is not None and event.failure is None:
        attempt = msgspec.structs.replace(attempt, artifact_id=event.artifact_id)
        state.copies.needed.add(event.artifact_id)
        if node is not None:
            state.copies.directory.add(node, event.artifact_id, event.size_bytes)
    job = state.change_job(job, attempt=attempt, metrics=event.metrics)
    if not (job.cancelling or event.cancelled):
        if node is not None and event.checkpoint is not None:
            # It stays there until the master has taken this in.
            state.copies.directory.add(node, event.checkpoint)
        checkpoints.announce(state, job, event.checkpoint)
        job = state.jobs[job.job_id]
    if node is not None and event.checkpoint is not None:
        checkpoints.let_go(state, node, event.checkpoint)
    if event.failure is None and not (event.cancelled or event.handed_back):
        state.learn_run_time(job, event.run_s)
    if job.cancelling:
        attempts.end_cancelled(state, job)
    elif event.handed_back or event.cancelled:
        attempts.end_attempt(state, job, AttemptState.HANDED_BACK)
        attempts.requeue(state, job, Failure(FailureClass.PREEMPTED, "handed back", event.node_id))
    elif event.failure is not None:
        attempts.end_attempt(state, job, AttemptState.FAILED)
        attempts.requeue(state, job, event.failure)
    elif job.kind is JobKind.BASE:
        bases.commit(state, job, event)
    elif event.artifact_id is None or event.artifact_id in state.held_by_master:
        attempts.succeed(state, job)
    else:
        state.change_job(job, JobState.COLLECTING)
        collecting.collect(state, event.artifact_id)
        state.collecting.setdefault(event.artifact_id, set()).add(job.job_id)


def on_collect_failed(state: MeshState, event: CollectFailed) -> None:
    if event.artifact_id in state.held_by_master:
        return
    if collecting.is_wanted_by_master(state, event.artifact_id):
        state.note(f"artifact {short(event.artifact_id)} not collected yet: {event.reason}")
        state.collect_again_s[event.artifact_id] = state.now_s + state.config.collect_retry_s
        if event.no_room:
            return
        tries = state.collect_tries.get(event.artifact_id, 0) + 1
        state.collect_tries[event.artifact_id] = tries
        if tries >= COLLECT_TRIES_MAX:
            # Its holder is there, but what it holds is damaged or gone.
            del state.collect_tries[event.artifact_id]
            checkpoints.give_up(state, event.artifact_id)
            for job_id in sorted(state.collecting.get(event.artifact_id, ())):
                attempts.lose(state, state.jobs[job_id], f"its result is lost: {event.reason}")


def on_held(state: MeshState, event: ArtifactHeld) -> None:
    """The master's own disk holds more, or less."""
    state.copies.rates.learn(MASTER_NODE_ID, event.bytes_by_node, event.duration_s)
    state.held_by_master.difference_update(event.removed)
    added = tuple(one for one in event.added if one not in state.dropping)
    for artifact_id in added:
        state.held_by_master.add(artifact_id)
        state.collect_again_s.pop(artifact_id, None)
        state.collect_tries.pop(artifact_id, None)
        state.restoring.discard(artifact_id)
        checkpoints.secure(state, artifact_id)
        for job_id in sorted(state.collecting.get(artifact_id, ())):
            attempts.succeed(state, state.jobs[job_id])
    for artifact_id in added:
        attempts.tell_source(state, artifact_id, event.node_id)
    bases.on_holders_changed(state, added + event.removed)


def on_dropped(state: MeshState, event: ArtifactDropped) -> None:
    """The master's disk holds an artifact no more that it was to remove."""
    collecting.dropped(state, event.artifact_id)


BANNED_MAX = 16
"""Bad sources of one fetch that people are told of."""
SUSPECTS_MAX = 1000
"""Above that all are forgotten: they only rank below others."""


def on_inventory(state: MeshState, event: InventoryTold) -> None:
    """A node's disk holds more, or less."""
    node = state.nodes.get(event.node_id)
    if node is None or node.session != event.session or node.left:
        return
    state.copies.rates.learn(event.node_id, event.bytes_by_node, event.duration_s)
    take_inventory(state, node, event.first, event.changes)
    _suspect(state, event)
    if event.cache is not None:
        node.cache = event.cache
        eviction.on_room_told(state, node, event.room)
    eviction.go_on(state)


def _suspect(state: MeshState, event: InventoryTold) -> None:
    """A node was sent something corrupt: people are told, and others ask that one last."""
    came = [change.artifact_id for change in event.changes if change.holding is Holding.HELD]
    known = [name for name in event.banned if name in state.nodes or name == MASTER_NODE_ID]
    for artifact_id in came[:1]:
        for name in known[:BANNED_MAX]:
            if len(state.copies.suspects) >= SUSPECTS_MAX:
                state.copies.suspects.clear()
            state.copies.suspects.add((name, artifact_id))
            state.note(
                f"{name} sent {event.node_id} corrupt bytes of artifact {short(artifact_id)}: "
                f"see to the disk and the memory of {name}"
            )


def take_inventory(
    state: MeshState, node: Node, first: int, changes: tuple[InventoryChange, ...]
) -> None:
    """Take in the changes that are new, in order; after a gap, none: they come again."""
    if first > node.inventory + 1 or first + len(changes) - 1 <= node.inventory:
        return
    directory = state.copies.directory
    touched = []
    for number, change in enumerate(changes, first):
        if number <= node.inventory:
            continue
        node.inventory = number
        artifact_id = change.artifact_id
        touched.append(artifact_id)
        match change.holding:
            case Holding.HELD:
                node.fetching.discard(artifact_id)
                if directory.add(node, artifact_id, change.size_bytes):
                    attempts.tell_source(state, artifact_id, node.node_id)
            case Holding.GONE:
                directory.remove(node, artifact_id)
                eviction.on_gone(state, node, artifact_id)
            case Holding.KEPT:
                eviction.on_kept(state, node, artifact_id, change.why)
    state.touched_nodes[node.node_id] = None
    bases.on_holders_changed(state, tuple(touched))
