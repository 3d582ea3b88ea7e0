"""Which nodes don't have the shares that jobs read, as those jobs found out.

A path on a share is looked at by the node that is to run the job. One without
the mount, or with other files there, is not tried again for a while; when no
node that is there and could run the job has it, the job fails and says so.
"""

from __future__ import annotations

from meshtrain.core.job import Failure, FailureClass, Job, JobState
from meshtrain.core.node import Node
from meshtrain.core.placement import why_never
from meshtrain.core.state import MeshState
from meshtrain.core.work_inputs import shares_of

LACKS_S = 300.0
"""How long a node that lacked a share gets no jobs that read it."""
NODES_TOLD_MAX = 5


def note_lack(state: MeshState, job: Job, failure: Failure) -> None:
    """A node found that it lacks a share of the job."""
    if failure.node_id is None:
        return
    for share in shares_of(job.spec.work):
        lacking = state.lacking_shares.setdefault(share, {})
        lacking[failure.node_id] = (state.now_s + LACKS_S, failure.message)


def has_all(state: MeshState, node: Node, shares: tuple[str, ...]) -> bool:
    """Whether no share is known to be missing on a node."""
    return not lack_of(state, node, shares)


def lack_of(state: MeshState, node: Node, shares: tuple[str, ...]) -> str:
    """How a node said that it lacks one of the shares; empty where it is not known to."""
    for share in shares:
        known = state.lacking_shares.get(share, {}).get(node.node_id)
        if known is not None and known[0] > state.now_s:
            return known[1] or share
    return ""


def nobody_has(state: MeshState, job: Job, failure: Failure) -> Failure | None:
    """How the job fails when no node that is there could run it; None while one could."""
    if failure.failure_class is not FailureClass.INPUT:
        return None
    shares = shares_of(job.spec.work)
    needs = state.needs(job)
    told = []
    for node in state.nodes.values():
        if not node.connected or why_never(node.spec, needs) is not None:
            continue
        if has_all(state, node, shares):
            return None
        for share in shares:
            known = state.lacking_shares.get(share, {}).get(node.node_id)
            if known is not None and known[1] not in told:
                told.append(known[1])
    if not told:
        return None
    more = f"; and on {len(told) - NODES_TOLD_MAX} more" if len(told) > NODES_TOLD_MAX else ""
    message = (
        f"no node has what the sweep was submitted with: {'; '.join(told[:NODES_TOLD_MAX])}{more}. "
        "Mount it, or submit again if its files were changed on purpose; then: meshtrain retry"
    )
    return Failure(FailureClass.INPUT, message, failure.node_id)


def stranded(state: MeshState, failure: Failure) -> list[tuple[Job, Failure]]:
    """The waiting jobs that no node could run either, and how each fails."""
    found = []
    for job in state.jobs.values():
        if job.state is JobState.WAITING and shares_of(job.spec.work):
            told = nobody_has(state, job, failure)
            if told is not None:
                found.append((job, told))
    return found


def forget(state: MeshState, job: Job) -> None:
    """Somebody says to try again: every node may have it by now."""
    for share in shares_of(job.spec.work):
        state.lacking_shares.pop(share, None)


def forget_node(state: MeshState, node_id: str) -> None:
    """A node's daemon came up: somebody may have mounted on its host what was missing."""
    for lacking in state.lacking_shares.values():
        lacking.pop(node_id, None)


def clear(state: MeshState) -> None:
    """Let go of what was known for too long."""
    for share, lacking in list(state.lacking_shares.items()):
        for node_id, (until_s, _) in list(lacking.items()):
            if until_s <= state.now_s:
                del lacking[node_id]
        if not lacking:
            del state.lacking_shares[share]
