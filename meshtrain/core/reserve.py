"""Keeps a node free for a job that needs much of it, so that small ones don't overtake for ever."""

from __future__ import annotations

from collections.abc import Set

from meshtrain.core.job import Job
from meshtrain.core.node import Node
from meshtrain.core.placement import load, why_never
from meshtrain.core.state import MeshState
from meshtrain.spec.jobs import Resources


def is_wide(needs: Resources) -> bool:
    """Whether a job needs more of a node than others that may run beside it."""
    return needs.alone or (needs.gpus or 0) > 1 or needs.cpus > 1 or needs.memory_bytes > 0


def node_for(state: MeshState, job: Job, needs: Resources, kept: Set[str]) -> str | None:
    """The node that takes nothing else until this job, which found no place, can start there.

    None while the job has not been passed over for long, or where no node could take it.

    Args:
        kept: nodes that are kept free for jobs before this one.
    """
    since_s, node_id = state.passed_over.get(job.job_id, (state.now_s, None))
    state.passed_over[job.job_id] = (since_s, node_id)
    if state.now_s - since_s < state.config.reserve_after_s:
        return None
    known = state.nodes.get(node_id) if node_id is not None else None
    if known is None or not _could(known, needs) or known.node_id in kept:
        able = [n for n in state.nodes.values() if n.node_id not in kept and _could(n, needs)]
        known = min(able, key=lambda n: (load(n), len(n.live), n.node_id), default=None)
        state.passed_over[job.job_id] = (since_s, known.node_id if known is not None else None)
    return known.node_id if known is not None else None


def _could(node: Node, needs: Resources) -> bool:
    if not node.connected or node.drained or not node.accepting or node.paused:
        return False
    usable = [g for g in node.spec.gpus if g.index not in node.gpus_out | node.gpus_busy]
    if needs.gpus and sum(g.memory_bytes >= needs.gpu_memory_bytes for g in usable) < needs.gpus:
        return False
    return why_never(node.spec, needs) is None
