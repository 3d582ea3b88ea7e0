"""Who is there: nodes say hello, beat, leave, or are no longer heard."""

from __future__ import annotations

from meshtrain.core import attempts
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core.events import LiveAttempt, NodeBeat, NodeLeft, NodeSaidHello
from meshtrain.core.node import Node
from meshtrain.core.state import MeshState

RESENT_MAX = 1000
"""Commands repeated to a node at one heartbeat."""


def on_hello(state: MeshState, event: NodeSaidHello) -> None:
    node_id = event.spec.node_id
    known = state.nodes.get(node_id)
    if known is not None and known.session == event.session:
        # Repeated because the welcome was late or lost. Its list may be older
        # than what was assigned since: nothing is concluded from it.
        _heard(state, known)
        state.out.append(fx.WelcomeNode(node_id, event.session))
        return
    if not state.take_session(node_id, event.session):
        return
    node = Node(event.spec, event.session, state.now_s)
    node.drained = node_id in state.drained
    node.accepting = event.accepting
    node.note = event.note
    node.grant = event.grant
    node.holds = set(event.holds)
    state.nodes[node_id] = node
    state.touched_nodes[node_id] = None
    state.out.append(fx.WelcomeNode(node_id, event.session))
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
        job_or_none = attempts.current(state, live.attempt_id, live.epoch)
        if job_or_none is None:
            continue
        state.leases[live.attempt_id] = state.now_s + state.config.lease_s
        attempt = job_or_none.attempt
        if attempt is not None and not live.over:
            for placement in attempt.placements:
                if placement.node_id == node_id:
                    node.occupy(attempt.attempt_id, placement)
    if known is None:
        state.note(f"node {node_id} joined")
    for artifact_id in event.holds:
        state.touch_bases(r for r, base in state.bases.items() if base.artifact_id == artifact_id)


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
    node.accepting = event.accepting
    node.note = event.note
    node.grant = event.grant
    node.fetching = set(event.fetching) | {
        a for a in node.fetching if a not in node.holds and node.outbox
    }
    stuck = event.seen_seq == node.seen_seq and bool(node.outbox)
    node.trim_outbox(event.seen_seq)
    for live in event.attempts:
        if attempts.current(state, live.attempt_id, live.epoch) is not None:
            until_s = event.sent_s + state.config.lease_s
            state.leases[live.attempt_id] = max(state.leases[live.attempt_id], until_s)
    _take_list(state, node, event.attempts)
    _find_missing(state, node, event)
    if stuck:
        for seq, command in list(node.outbox)[:RESENT_MAX]:
            state.out.append(fx.SendCommand(node.node_id, node.session, seq, command))
    state.out.append(fx.AnswerBeat(node.node_id, node.session, event.beat))


def _heard(state: MeshState, node: Node) -> None:
    node.heard_s = state.now_s
    if not node.connected:
        node.connected = True
        state.touched_nodes[node.node_id] = None
        state.note(f"node {node.node_id} is back")


def _take_list(state: MeshState, node: Node, listed: tuple[LiveAttempt, ...]) -> None:
    """Note what started, and have the node end what no longer counts."""
    for live in listed:
        job = attempts.current(state, live.attempt_id, live.epoch)
        if job is None:
            state.command(node.node_id, cmd.EndAttempt(live.attempt_id))
        elif live.started:
            attempts.mark_started(state, job)


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
    if node is None or node.session != event.session:
        return
    node.left = True
    node.connected = False
    state.touched_nodes[node.node_id] = None
    state.note(f"node {node.node_id} left")


def check_silent(state: MeshState) -> None:
    """Nodes not heard of for a lease are away; leases that ran out are given up."""
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
