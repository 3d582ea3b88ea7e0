"""Brings bases to nodes before they are asked for; nothing is ever evicted for it.

Three reasons, in this order: somebody asked (`meshtrain bases warm`); a node is
busy, and what its next job starts from is not there; a popular base is on fewer
nodes than the setting `warm_copies` says. A node is told to fetch one artifact
ahead at a time, and only what its cache has room for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core.attempts import tell_source
from meshtrain.core.events import WarmRequested
from meshtrain.core.job import Base, BaseState
from meshtrain.core.node import Node
from meshtrain.core.placement import why_never
from meshtrain.core.queue import Shape
from meshtrain.core.state import MeshState
from meshtrain.core.told_sources import told_sources
from meshtrain.ids import short

SHAPES_LOOKED_AT_MAX = 16
"""Kinds of waiting jobs that are looked at for what is next."""
POPULAR_MAX = 8
"""Bases that the warm pool keeps on nodes."""
AGAIN_S = 60.0
"""After a node did not fetch something ahead, it is told so again after this time."""
ASKED_MAX = 1000


def on_warm(state: MeshState, event: WarmRequested) -> None:
    """Somebody wants a base on some nodes before it is asked for."""
    base = state.bases.get(event.recipe_hash)
    error, notes = "", []
    if base is None:
        error = f"no base has the recipe hash {event.recipe_hash}"
    elif base.state is not BaseState.COMMITTED or base.artifact_id is None:
        error = f"base {short(event.recipe_hash)} is not trained yet; see `meshtrain bases`"
    elif len(state.copies.warm_asked) >= ASKED_MAX:
        error = f"{ASKED_MAX} bases are being placed already; ask again later"
    if base is None or base.artifact_id is None or error:
        state.out.append(fx.Reply(event.request_id, error=error))
        return
    there = _places(state, base.artifact_id)
    able = [node for node in state.nodes.values() if _fits(state, node, base)]
    lacking = event.nodes - there - len(able)
    if there >= event.nodes:
        notes.append(f"it is on {_count(there)} already, or on its way there")
    elif lacking > 0:
        notes.append(
            f"{there + len(able)} of {event.nodes} nodes can have it: others are away, drained, "
            f"or have no room for {base.size_bytes / 1e6:.0f} MB in their cache"
        )
    if there < event.nodes and able:
        # As many as there can be: the rest would wait for ever.
        state.copies.warm_asked[event.recipe_hash] = there + min(event.nodes - there, len(able))
    state.out.append(fx.Reply(event.request_id, done=(event.recipe_hash,), notes=tuple(notes)))


def look(state: MeshState) -> None:
    """Have nodes fetch ahead what they will need; at each tick."""
    copies = state.copies
    for key in [k for k, at_s in copies.prefetch_again_s.items() if at_s <= state.now_s]:
        del copies.prefetch_again_s[key]
    free: dict[str, Node] = {}
    for node in state.nodes.values():
        _settle(state, node)
        if node.prefetch is None and _takes(node):
            free[node.node_id] = node
    if not free:
        return
    _place_asked(state, free)
    if state.config.prefetch and len(state.queue):
        _fetch_next(state, free)
    if state.config.warm_copies:
        for base in _popular(state):
            _place(state, base, state.config.warm_copies, free)


def _settle(state: MeshState, node: Node) -> None:
    """Note that what a node fetched ahead has come, or will not come."""
    if node.prefetch is None:
        return
    artifact_id, seq = node.prefetch
    if artifact_id in node.holds:
        node.prefetch = None
    elif node.seen_seq >= seq and not node.outbox and artifact_id not in node.fetching:
        node.prefetch = None
        state.copies.prefetch_again_s[node.node_id, artifact_id] = state.now_s + AGAIN_S


def _takes(node: Node) -> bool:
    return (
        node.connected
        and not node.left
        and not node.drained
        and node.accepting
        and not node.paused
        and node.room is None
        and node.evicting is None
    )


def _fits(state: MeshState, node: Node, base: Base) -> bool:
    """Whether a node lacks a base and has room for it."""
    artifact_id = base.artifact_id
    assert artifact_id is not None
    return (
        _takes(node)
        and artifact_id not in node.holds
        and artifact_id not in node.fetching
        and node.cache.room_bytes >= base.size_bytes
        and (node.node_id, artifact_id) not in state.copies.prefetch_again_s
    )


def _places(state: MeshState, artifact_id: str) -> int:
    """On how many nodes that are there it lies, or is coming."""
    return sum(
        node.connected and (artifact_id in node.holds or artifact_id in node.fetching)
        for node in state.nodes.values()
    )


def _place_asked(state: MeshState, free: dict[str, Node]) -> None:
    for recipe_hash, nodes_wanted in list(state.copies.warm_asked.items()):
        base = state.bases[recipe_hash]
        gone = base.state is not BaseState.COMMITTED or base.artifact_id is None
        if gone or _place(state, base, nodes_wanted, free):
            del state.copies.warm_asked[recipe_hash]


def _place(state: MeshState, base: Base, nodes_wanted: int, free: dict[str, Node]) -> bool:
    """Bring a base to that many nodes, as far as there are; True when it is done with."""
    artifact_id = base.artifact_id
    if artifact_id is None or not state.is_held(artifact_id):
        return True
    lacking = nodes_wanted - _places(state, artifact_id)
    if lacking <= 0:
        return True
    able = [node for node in free.values() if _fits(state, node, base)]
    able.sort(key=lambda node: (-state.copies.rates.of_node(node.node_id), node.node_id))
    for node in able[:lacking]:
        _fetch_ahead(state, node, artifact_id)
        del free[node.node_id]
    # Nobody could have it now or later: those that are busy with another one will be.
    busy = any(node.prefetch is not None for node in state.nodes.values())
    return len(able) >= lacking or not busy


def _fetch_next(state: MeshState, free: dict[str, Node]) -> None:
    """For each busy node: the base of the job that it will get next, unless it is there."""
    coming = list(_coming(state))
    if not coming:
        return
    planned: Counter[str] = Counter()
    for node in state.nodes.values():
        if not _takes(node) or (node.takes_jobs and node.has_room(ahead=False)):
            continue  # It gets no next job, or gets it at once.
        for shape, base, waiting in coming:
            if planned[base.recipe_hash] >= waiting or why_never(node.spec, shape.needs):
                continue
            planned[base.recipe_hash] += 1
            if node.node_id in free and _fits(state, node, base):
                assert base.artifact_id is not None
                _fetch_ahead(state, node, base.artifact_id)
                del free[node.node_id]
            break


def _coming(state: MeshState) -> Iterator[tuple[Shape, Base, int]]:
    """What waits for a place and starts from a base, most urgent first; how many jobs wait."""
    running: Counter[str] = Counter()
    for job_id in state.live.values():
        recipe_hash = state.jobs[job_id].spec.recipe_hash
        if recipe_hash is not None:
            running[recipe_hash] += 1

    def is_open(shape: Shape) -> bool:
        return shape.recipe_hash is not None and state.is_ready(shape.recipe_hash)

    for looked_at, (_, shape, _) in enumerate(state.queue.in_order(is_open)):
        if looked_at >= SHAPES_LOOKED_AT_MAX:
            return
        recipe_hash = shape.recipe_hash
        if recipe_hash is not None:
            waiting = len(state.waiters.get(recipe_hash, ())) - running[recipe_hash]
            yield shape, state.bases[recipe_hash], waiting


def _popular(state: MeshState) -> list[Base]:
    """The bases that most jobs wait for; where none does, those that were made last."""
    there = [base for base in state.bases.values() if base.state is BaseState.COMMITTED]
    there.sort(
        key=lambda base: (
            -len(state.waiters.get(base.recipe_hash, ())),
            -(base.committed_wall_s or 0.0),
            base.recipe_hash,
        )
    )
    return there[:POPULAR_MAX]


def _fetch_ahead(state: MeshState, node: Node, artifact_id: str) -> None:
    sources = told_sources(state, artifact_id, node.node_id)
    if not sources:
        return
    node.fetching.add(artifact_id)
    tell_source(state, artifact_id, node.node_id)
    need = cmd.ArtifactNeed(artifact_id, sources, state.copies.directory.size_bytes(artifact_id))
    state.command(node.node_id, cmd.PrefetchArtifact(need))
    node.prefetch = (artifact_id, node.seq)


def _count(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"
