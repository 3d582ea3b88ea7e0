"""Who is there: nodes say hello, beat, leave, or are no longer heard."""

from __future__ import annotations

from meshtrain.core import attempts, bases, checkpoints, eviction, gpu_health, reports, shares
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core.events import LiveAttempt, NodeBeat, NodeLeft, NodeRevoked, NodeSaidHello
from meshtrain.core.job import JobState
from meshtrain.core.node import Node
from meshtrain.core.state import MeshState

RESENT_MAX = 1000
"""Commands repeated to a node at one heartbeat."""
NODES_MAX = 10_000
"""Names of nodes that are remembered."""
STALL_S_MIN = 3.0
STALL_SHARE = 1 / 3
"""A master that saw no time pass for this share of a lease has stalled: it read no heartbeats."""


def on_hello(state: MeshState, event: NodeSaidHello) -> None:
    node_id = event.spec.node_id
    known = state.nodes.get(node_id)
    if known is not None and known.asked == event.session:
        # Repeated because the welcome was late or lost. Its list may be older
        # than what was assigned since: nothing is concluded from it.
        _heard(state, known)
        state.out.append(fx.WelcomeNode(node_id, known.asked, known.session))
        return
    if known is None and len(state.nodes) >= NODES_MAX:
        state.note(
            f"node {node_id} is not taken up: {NODES_MAX} names are known; restart the master"
        )
        return
    if not state.take_session(node_id, event.session):
        return
    node = Node(event.spec, event.session, state.now_s, state.life)
    node.drained = node_id in state.drained
    node.accepting = event.accepting
    node.note = event.note
    node.grant = event.grant
    # A new daemon, and perhaps a new disk: it gets a new chance.
    suspects = state.copies.suspects
    suspects -= {suspect for suspect in suspects if suspect[0] == node_id}
    directory = state.copies.directory
    former = tuple(known.holds) if known is not None else ()
    if known is not None:
        directory.clear(known)
        eviction.void(state, node_id, f"{node_id} came back in a new session; ask again")
    directory.replace(node, event.holds, dict(zip(event.holds, event.sizes_bytes, strict=False)))
    node.inventory = event.inventory
    node.cache = event.cache
    node.lists_attempts = bool(event.attempts)
    node.gpus_busy = frozenset(event.gpus_busy)
    node.paused = node_id in state.paused_until_s
    gpu_health.show_to(state, node)
    state.nodes[node_id] = node
    shares.forget_node(state, node_id)
    state.touched_nodes[node_id] = None
    state.out.append(fx.WelcomeNode(node_id, node.asked, node.session))
    listed = {live.attempt_id for live in event.attempts}
    for job_id in [
        job_id
        for job_id in state.live.values()
        if (attempt := state.jobs[job_id].attempt) is not None and attempt.node_id == node_id
    ]:
        job = state.jobs[job_id]
        assert job.attempt is not None
        if job.attempt.attempt_id not in listed:
            attempts.lose(state, job, f"{node_id} came back without it")
    _take_list(state, node, event.attempts)
    for live in event.attempts:
        _take_up(state, node, live)
    if known is None:
        state.note(f"node {node_id} joined")
    elif not known.connected:
        state.note(f"node {node_id} is back")
    bases.on_holders_changed(state, event.holds + former)


def _take_up(state: MeshState, node: Node, live: LiveAttempt) -> None:
    """Go on with an attempt that a node brought along: its lease, its slots, its end if asked."""
    job = attempts.current(state, node.node_id, live.attempt_id, live.epoch)
    if job is None or job.attempt is None:
        return
    state.leases[live.attempt_id] = state.now_s + state.config.lease_s
    if job.cancelling:
        # The command to end it went with the former session.
        state.command(node.node_id, cmd.EndAttempt(live.attempt_id))
    elif node.node_id in state.drains_due:
        state.command(
            node.node_id, cmd.PreemptAttempt(live.attempt_id, state.config.preempt_grace_s)
        )
    if live.over or job.state is JobState.COLLECTING:
        return
    for placement in job.attempt.placements:
        if placement.node_id != node.node_id:
            continue
        if not node.has_free(placement):
            # It came back smaller, or contradicts itself about what has ended.
            state.command(node.node_id, cmd.EndAttempt(live.attempt_id))
            attempts.lose(state, job, f"{node.node_id} came back with more running than it has")
            return
        node.occupy(live.attempt_id, placement)


def on_beat(state: MeshState, event: NodeBeat) -> None:
    node = state.nodes.get(event.node_id)
    if node is None or node.session != event.session:
        state.out.append(fx.AskHello(event.node_id))
        return
    if event.beat <= node.beat or node.left:
        return
    node.beat = event.beat
    _heard(state, node)
    if (node.accepting, node.note) != (event.accepting, event.note):
        state.touched_nodes[node.node_id] = None
    gpus_busy = frozenset(event.gpus_busy)
    if gpus_busy != node.gpus_busy:
        node.gpus_busy = gpus_busy
        state.touched_nodes[node.node_id] = None
    node.accepting = event.accepting
    node.note = event.note
    node.grant = event.grant
    node.lists_attempts = bool(event.attempts)
    reports.take_inventory(state, node, event.first, event.changes)
    if node.cache.used_bytes != event.cache.used_bytes:
        # Of the free bytes of a disk, each heartbeat tells others: they are shown with the rest.
        state.touched_nodes[node.node_id] = None
    node.cache = event.cache
    if event.room is not None or node.room is not None:
        eviction.on_room_told(state, node, event.room)
    fetching = set(event.fetching) | {
        a for a in node.fetching if a not in node.holds and node.outbox
    }
    if fetching != node.fetching:
        state.touched_nodes[node.node_id] = None
    node.fetching = fetching
    stuck = event.seen_seq == node.seen_seq and bool(node.outbox)
    node.trim_outbox(event.seen_seq)
    for live in event.attempts:
        if attempts.current(state, node.node_id, live.attempt_id, live.epoch) is not None:
            # A node can't have sent it later than now, whatever its clock says.
            until_s = min(event.sent_s, state.now_s) + state.config.lease_s
            state.leases[live.attempt_id] = max(state.leases[live.attempt_id], until_s)
    _take_list(state, node, event.attempts)
    _find_missing(state, node, event)
    if stuck:
        for seq, command in list(node.outbox)[:RESENT_MAX]:
            state.out.append(fx.SendCommand(node.node_id, node.session, seq, command))
    if node.room is not None:
        eviction.go_on(state)
    if eviction.is_unanswered(state, node):
        # Whether it obeyed isn't known: the list in its next hello tells.
        state.out.append(fx.AskHello(node.node_id))
    state.out.append(fx.AnswerBeat(node.node_id, node.session, event.beat, node.inventory))


def _heard(state: MeshState, node: Node) -> None:
    node.heard_s = state.now_s
    if not node.connected:
        node.connected = True
        state.touched_nodes[node.node_id] = None
        state.note(f"node {node.node_id} is back")


def _take_list(state: MeshState, node: Node, listed: tuple[LiveAttempt, ...]) -> None:
    """Note what started, and have the node end what no longer counts."""
    for live in listed:
        job = attempts.current(state, node.node_id, live.attempt_id, live.epoch)
        if job is None:
            state.command(node.node_id, cmd.EndAttempt(live.attempt_id))
            continue
        if live.started:
            attempts.mark_started(state, job)
        if live.checkpoint is not None and not job.cancelling:
            checkpoints.announce(state, job, live.checkpoint)


def _find_missing(state: MeshState, node: Node, event: NodeBeat) -> None:
    """Attempts whose assignment the node has seen, and which it doesn't have."""
    listed = {live.attempt_id for live in event.attempts}
    for attempt_id, seq in list(node.assign_seqs.items()):
        if seq > event.seen_seq or attempt_id in listed:
            continue
        job_id = state.live.get(attempt_id)
        if job_id is not None:
            attempts.lose(state, state.jobs[job_id], f"{node.node_id} doesn't have it")
        node.assign_seqs.pop(attempt_id, None)


def on_left(state: MeshState, event: NodeLeft) -> None:
    node = state.nodes.get(event.node_id)
    # It may leave before it hears that it is welcome.
    if node is None or event.session not in (node.session, node.asked):
        return
    node.left = True
    node.connected = False
    state.touched_nodes[node.node_id] = None
    state.note(f"node {node.node_id} left")


def on_revoked(state: MeshState, event: NodeRevoked) -> None:
    """What it runs is given to others at once, and what it holds is fetched from nobody."""
    node = state.nodes.get(event.node_id)
    held: tuple[str, ...] = ()
    if node is not None:
        node.left = True
        node.connected = False
        held = tuple(node.holds)
        state.copies.directory.clear(node)
        eviction.void(state, event.node_id, f"{event.node_id} is no member any more")
        node.fetching.clear()
        state.touched_nodes[node.node_id] = None
    state.copies.rates.forget(event.node_id)
    state.note(f"node {event.node_id} is no member any more")
    for attempt_id in sorted(state.live):
        job = state.jobs[state.live[attempt_id]]
        if job.attempt is not None and job.attempt.node_id == event.node_id:
            attempts.lose(state, job, f"{event.node_id} is no member any more")
    bases.on_holders_changed(state, held)


def check_silent(state: MeshState) -> None:
    """Nodes not heard of for a lease are away; leases that ran out are given up.

    Time in which the master itself stood still counts against nobody: what was
    sent meanwhile is not read yet.
    """
    stood_still_s = state.now_s - state.ticked_s
    state.ticked_s = state.now_s
    if stood_still_s > max(STALL_S_MIN, STALL_SHARE * state.config.lease_s):
        until_s = state.now_s + state.config.lease_s
        for attempt_id, known_s in state.leases.items():
            state.leases[attempt_id] = max(known_s, until_s)
        for node in state.nodes.values():
            node.heard_s = state.now_s
        state.note(f"the master stood still for {stood_still_s:.0f} s: leases get a full term")
        return
    for node in state.nodes.values():
        if node.connected and state.now_s - node.heard_s > state.config.lease_s:
            node.connected = False
            state.touched_nodes[node.node_id] = None
            state.note(f"node {node.node_id} is away: not heard for {state.config.lease_s:g} s")
    for attempt_id, until_s in list(state.leases.items()):
        if until_s < state.now_s:
            job = state.jobs[state.live[attempt_id]]
            attempt = job.attempt
            assert attempt is not None
            attempts.lose(state, job, f"{attempt.node_id} was silent for its whole lease")


def check_deadlines(state: MeshState) -> None:
    """Move elsewhere what runs on nodes whose drain is due; end the pauses that are over."""
    for node_id, until_s in list(state.paused_until_s.items()):
        if until_s <= state.now_s:
            del state.paused_until_s[node_id]
            node = state.nodes.get(node_id)
            if node is not None:
                node.paused = False
                state.touched_nodes[node_id] = None
    for node_id, at_wall_s in state.drains_due_wall_s.items():
        state.drain_at_s[node_id] = state.now_s + max(0.0, at_wall_s - state.wall_s)
    state.drains_due_wall_s.clear()
    for node_id, at_s in list(state.drain_at_s.items()):
        if at_s > state.now_s:
            continue
        del state.drain_at_s[node_id]
        state.drains_due.add(node_id)
        node = state.nodes.get(node_id)
        for attempt_id in sorted(node.live) if node is not None else ():
            state.command(node_id, cmd.PreemptAttempt(attempt_id, state.config.preempt_grace_s))
