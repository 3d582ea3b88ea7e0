"""What may go from a node's cache: the master grants it, one artifact at a time.

    node over its budget ─► RoomWanted: candidates, in its order ─► the first that may go
    node: moves it out by one rename, or keeps it ─► GONE or KEPT ─► the next

From the grant on the node no longer counts as a holder, whatever it said before.
A grant belongs to the node's session: in a new one it is void, and the list in
the hello tells what is there. So messages that are lost, doubled or late, and
crashes in between, cost nothing but time.

May go: what no attempt there needs, is not pinned, and outlives its going: the
master has it, or two other nodes that are there (that is what makes a base
durable). What nobody knows (a superseded base, the result of a lost attempt)
may go from a node that runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import publishing
from meshtrain.core.copies import Eviction, EvictionAsked, given_with
from meshtrain.core.events import EvictRequested
from meshtrain.core.inventory import RoomWanted
from meshtrain.core.job import Attempt, BaseState, Job
from meshtrain.core.node import Node
from meshtrain.core.state import MeshState
from meshtrain.ids import short

COPIES_LEFT_MIN = 2
"""So many other nodes must hold what the master doesn't."""
EVICTION_S_MAX = 30.0
"""A node that doesn't answer for so long keeps others waiting no longer."""
REPLY_S = 3.0
"""A person who asked for an eviction is told within this time how it stands."""
ASKED_MAX = 1000


# --- may it go? ----------------------------------------------------------------------


def why_kept(state: MeshState, node: Node, artifact_id: str) -> str:
    """Why an artifact must stay on a node; empty where it may go."""
    if artifact_id == node.evicting:
        return "it is on its way out already"
    if artifact_id not in node.holds:
        return f"{node.node_id} doesn't hold it"
    if not node.connected:
        return f"{node.node_id} is away"
    if state.copies.is_pinned(artifact_id, node.node_id):
        return "it is pinned"
    for job in _jobs_at(state, node):
        if artifact_id in artifacts_of(job):
            return f"{job.name} needs it there"
    if artifact_id in state.held_by_master:
        return ""
    holders = state.copies.directory.holders(artifact_id)
    others = sum(name != node.node_id and state.nodes[name].connected for name in holders)
    if others >= COPIES_LEFT_MIN:
        return ""
    known = state.copies
    is_known = (
        artifact_id in known.base_of
        or artifact_id in known.needed
        or artifact_id in state.collecting
        or artifact_id in state.checkpoint_jobs
        or state.is_parent(artifact_id)
        or publishing.is_named(state, artifact_id)
    )
    if not is_known and not node.live and not node.lists_attempts:
        return ""
    on_others = f"{others} other nodes" if others != 1 else "one other node"
    return f"the master doesn't hold it, and only {on_others} would" if others else "it is the last"


def _jobs_at(state: MeshState, node: Node) -> Iterator[Job]:
    for attempt_id in node.live:
        job_id = state.live.get(attempt_id)
        if job_id is not None:
            yield state.jobs[job_id]


def artifacts_of(job: Job) -> set[str]:
    """What the job's attempt needs on its node, and what it has kept there."""
    found = {job.checkpoint, job.checkpoint_safe, *given_with(job.spec.work)}
    attempt: Attempt | None = job.attempt
    if attempt is not None:
        found |= {attempt.base_artifact, attempt.resumed_from, attempt.artifact_id}
    return {artifact_id for artifact_id in found if artifact_id is not None}


# --- the one that is under way ---------------------------------------------------------


def on_room_told(state: MeshState, node: Node, room: RoomWanted | None) -> None:
    """A node says what it wants room for, or that it has room."""
    node.room = room
    if room is None:
        state.copies.want_room.pop(node.node_id, None)
    else:
        state.copies.want_room.setdefault(node.node_id, None)


def go_on(state: MeshState) -> None:
    """Grant the next eviction, unless one is under way."""
    copies = state.copies
    if copies.eviction is not None:
        return
    while copies.evictions_asked:
        asked = copies.evictions_asked.popleft()
        base, node = state.bases.get(asked.recipe_hash), state.nodes.get(asked.node_id)
        artifact_id = base.artifact_id if base is not None else None
        if node is None or artifact_id is None:
            _refuse(state, asked, "it is gone meanwhile")
        elif why := why_kept(state, node, artifact_id) or _why_not_now(node):
            _refuse(state, asked, why)
        else:
            _grant(state, node, artifact_id, asked)
            return
    for node_id in list(copies.want_room):
        node = state.nodes.get(node_id)
        del copies.want_room[node_id]
        if node is None or node.room is None or _why_not_now(node):
            continue
        # It names others, or the same again, with its next heartbeat.
        room, node.room = node.room, None
        for artifact_id in room.candidates:
            if not why_kept(state, node, artifact_id):
                _grant(state, node, artifact_id)
                return


def _why_not_now(node: Node) -> str:
    if not node.connected:
        return f"{node.node_id} is away"
    return "" if node.evicting is None else f"{node.node_id} has not ended the one before"


def _grant(
    state: MeshState, node: Node, artifact_id: str, asked: EvictionAsked | None = None
) -> None:
    state.copies.directory.remove(node, artifact_id)
    node.evicting = artifact_id
    state.copies.eviction = Eviction(
        node_id=node.node_id,
        session=node.session,
        artifact_id=artifact_id,
        asked=asked,
        since_s=state.now_s,
    )
    state.touched_nodes[node.node_id] = None
    state.touch_bases(state.copies.base_of.get(artifact_id, ()))
    state.command(node.node_id, cmd.EvictArtifact(artifact_id))


def on_gone(state: MeshState, node: Node, artifact_id: str) -> None:
    """A node has removed an artifact: if it was granted, the next may be."""
    if node.evicting != artifact_id:
        return
    node.evicting = None
    _end(state, node.node_id, "")


def on_kept(state: MeshState, node: Node, artifact_id: str, why: str) -> None:
    """A node has kept what it was to remove: something there needs it, or the disk refused."""
    is_granted = node.evicting == artifact_id
    if is_granted:
        node.evicting = None
    # Also what was to be dropped: what lies there and isn't listed could never go.
    state.copies.directory.add(node, artifact_id)
    if is_granted:
        _end(state, node.node_id, why or "something there needs it")


def void(state: MeshState, node_id: str, why: str) -> None:
    """A node's session is over: what it was granted counts no more."""
    _end(state, node_id, why)


def is_unanswered(state: MeshState, node: Node) -> bool:
    """Whether a node was granted an eviction, and has not answered for too long."""
    under_way = state.copies.eviction
    is_waited_for = under_way is not None and under_way.node_id == node.node_id
    return node.evicting is not None and not is_waited_for


def check(state: MeshState) -> None:
    """Time passed: answer those who wait, and wait for nobody for ever."""
    copies = state.copies
    eviction = copies.eviction
    if eviction is not None:
        age_s = state.now_s - eviction.since_s
        node = state.nodes.get(eviction.node_id)
        if node is None or not node.connected or age_s >= EVICTION_S_MAX:
            # It may be gone or not: the node counts as no holder until it says so.
            _end(state, eviction.node_id, f"{eviction.node_id} doesn't answer; ask again later")
        elif eviction.asked is not None and age_s >= REPLY_S:
            _agree(state, eviction.asked, f"{eviction.node_id} has not said yet that it is gone")
            copies.eviction = msgspec.structs.replace(eviction, asked=None)
    go_on(state)


def _end(state: MeshState, node_id: str, why: str) -> None:
    eviction = state.copies.eviction
    if eviction is None or eviction.node_id != node_id:
        return
    state.copies.eviction = None
    if eviction.asked is not None and why:
        _refuse(state, eviction.asked, why)
    elif eviction.asked is not None:
        _agree(state, eviction.asked)
    if not why:
        for recipe_hash in sorted(state.copies.base_of.get(eviction.artifact_id, ())):
            state.note(f"base {short(recipe_hash)} was evicted from {node_id}")


# --- what people ask --------------------------------------------------------------------


def on_evict(state: MeshState, event: EvictRequested) -> None:
    """Somebody wants a base off a node."""
    asked = EvictionAsked(event.request_id, event.recipe_hash, event.node_id)
    base, node = state.bases.get(event.recipe_hash), state.nodes.get(event.node_id)
    if base is None or node is None:
        _refuse(
            state, asked, "no such base" if base is None else no_such_node(state, asked.node_id)
        )
    elif base.state is not BaseState.COMMITTED or base.artifact_id is None:
        _refuse(state, asked, "it is not trained yet")
    elif why := why_kept(state, node, base.artifact_id):
        _refuse(state, asked, why)
    elif len(state.copies.evictions_asked) >= ASKED_MAX:
        _refuse(state, asked, f"{ASKED_MAX} evictions wait already")
    else:
        state.copies.evictions_asked.append(asked)
        go_on(state)


def _refuse(state: MeshState, asked: EvictionAsked, why: str) -> None:
    told = f"base {short(asked.recipe_hash)} stays on {asked.node_id}: {why}"
    state.out.append(fx.Reply(asked.request_id, error=told))


def _agree(state: MeshState, asked: EvictionAsked, note: str = "") -> None:
    notes = (note,) if note else ()
    state.out.append(fx.Reply(asked.request_id, done=(asked.recipe_hash,), notes=notes))


def no_such_node(state: MeshState, node_id: str) -> str:
    """What to tell somebody who names a node that isn't known."""
    known = ", ".join(sorted(state.nodes)) or "none yet"
    return f"no node is called {node_id}; known: {known}"
