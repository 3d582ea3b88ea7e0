"""From the scheduler's records to the rows that people see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshtrain.core.changes import BaseRow, Change, JobRow, NodeRow, SweepRow, TransferRow
from meshtrain.core.job import BaseState, Job, JobState
from meshtrain.core.node import MASTER_NODE_ID, Node
from meshtrain.core.spending import Spending
from meshtrain.core.state import MeshState
from meshtrain.ids import short


def job_row(state: MeshState, job: Job) -> JobRow:
    attempt = job.attempt
    failure = ""
    if job.failure is not None and job.state is not JobState.SUCCEEDED:
        failure = f"{job.failure.failure_class}: {job.failure.message}"
    return JobRow(
        job_id=job.job_id,
        name=job.name,
        kind=job.kind,
        state=job.state,
        sweep_id=job.sweep_id,
        node_id=None if attempt is None or job.state is JobState.WAITING else attempt.node_id,
        recipe_hash=job.spec.recipe_hash or state.base_of_job.get(job.job_id),
        generation=job.generation,
        retries=job.retries_used + job.losses,
        failure=failure,
        reason=waiting_reason(state, job),
        submitted_wall_s=job.submitted_wall_s,
        started_wall_s=None if attempt is None else attempt.started_wall_s,
        ended_wall_s=job.ended_wall_s,
        metrics=job.metrics,
        priority=job.priority,
    )


def waiting_reason(state: MeshState, job: Job) -> str:
    """What a waiting job waits for, as far as that costs nothing to tell."""
    if job.cancelling:
        return "is being cancelled"
    if job.state is not JobState.WAITING:
        return ""
    if job.spec.recipe_hash is not None and not state.is_ready(job.spec.recipe_hash):
        if job.spec.recipe_hash in state.unpaid:
            return "the budget of every sweep that waits on its base is spent"
        base = state.bases[job.spec.recipe_hash]
        if base.state is BaseState.COMMITTED:
            return f"waits for a host that holds base {short(base.recipe_hash)}"
        return f"waits for base {short(base.recipe_hash)}"
    parent = state.parent_of(job)
    if parent is not None and not state.is_held(parent.artifact_id):
        return (
            f"waits for a host that holds {short(parent.artifact_id)}, the model of base "
            f"{short(parent.recipe_hash)} that it continues from"
        )
    if job.sweep_id in state.spent:
        return "the budget of its sweep is spent: see meshtrain budget"
    if state.base_of_job.get(job.job_id) in state.unpaid:
        return "the budget of every sweep that waits on it is spent"
    if job.job_id not in state.queue:
        return "waits a moment before it runs again"
    if not any(node.connected for node in state.nodes.values()):
        return "waits for a node: none is there"
    return "waits for a free slot"


def sweep_row(state: MeshState, sweep_id: str) -> SweepRow:
    sweep = state.sweeps[sweep_id]
    spending = state.spending.get(sweep_id) or Spending(sweep_id)
    ends = state.sweep_ends.get(sweep_id) if state.sweep_open.get(sweep_id) else None
    return SweepRow(
        sweep_id=sweep.sweep_id,
        name=sweep.name,
        jobs=len(sweep.job_ids),
        bases=len(sweep.recipe_hashes),
        reused=len(sweep.reused),
        submitted_wall_s=sweep.submitted_wall_s,
        cancelled=sweep.cancelled,
        gpu_hours=spending.gpu_s / 3600,
        money=spending.money,
        gpu_hours_max=spending.gpu_hours_max,
        money_max=spending.money_max,
        budget_spent=sweep_id in state.spent,
        ends_wall_s=None if ends is None else ends.mid_s,
        ends_low_wall_s=None if ends is None else ends.low_s,
        ends_high_wall_s=None if ends is None else ends.high_s,
    )


def base_row(state: MeshState, recipe_hash: str) -> BaseRow:
    base = state.bases[recipe_hash]
    return BaseRow(
        recipe_hash=recipe_hash,
        label=base.spec.label,
        state=base.state,
        generation=base.generation,
        artifact_id=base.artifact_id,
        size_bytes=base.size_bytes,
        durable=base.durable,
        node_id=base.node_id,
        trained_s=base.trained_s,
        holders=tuple(state.holders(base.artifact_id)) if base.artifact_id else (),
        waiting=len(state.waiters.get(recipe_hash, ())),
        pinned=state.copies.pinned_at(recipe_hash),
        parent=None if base.spec.parent is None else base.spec.parent.recipe_hash,
    )


def node_row(state: MeshState, node_id: str) -> NodeRow:
    node = state.nodes[node_id]
    return NodeRow(
        node_id=node_id,
        connected=node.connected,
        drained=node.drained,
        accepting=node.accepting,
        cpu_slots=node.spec.cpu_slots,
        cpus_used=min(node.cpus_used, node.spec.cpu_slots),
        gpus=tuple(gpu.model for gpu in node.spec.gpus),
        gpus_used=tuple(sorted(node.gpus_used)),
        memory_bytes=node.spec.memory_bytes,
        holds=len(node.holds),
        http_url=node.spec.http_url,
        version=node.spec.version,
        note=node.note or _note_on(node),
        cache_used_bytes=node.cache.used_bytes,
        cache_budget_bytes=node.cache.budget_bytes,
        disk_free_bytes=node.cache.free_bytes,
        fetching=tuple(sorted(node.fetching)),
    )


def _note_on(node: Node) -> str:
    """What the master knows of a node that keeps jobs from it."""
    if node.paused:
        return "its disk was full a moment ago"
    told = []
    if node.gpus_out:
        told.append(f"GPU {_listed(node.gpus_out)} out of use after faults")
    if foreign := node.gpus_busy - node.gpus_used - node.gpus_out:
        told.append(f"GPU {_listed(foreign)} used by somebody else")
    return "; ".join(told)


def _listed(gpus: Iterable[int]) -> str:
    return ", ".join(str(gpu) for gpu in sorted(gpus))


def snapshot(state: MeshState) -> Iterator[Change]:
    """The whole picture, as changes to an empty one."""
    for sweep_id in state.sweeps:
        yield sweep_row(state, sweep_id)
    for recipe_hash in state.bases:
        yield base_row(state, recipe_hash)
    for node_id in state.nodes:
        yield node_row(state, node_id)
    for job in state.jobs.values():
        yield job_row(state, job)


def take_changes(state: MeshState) -> tuple[Change, ...]:
    """The rows touched since the last call, each once."""
    changes: list[Change] = []
    changes.extend(sweep_row(state, sweep_id) for sweep_id in state.touched_sweeps)
    changes.extend(base_row(state, r) for r in state.touched_bases if r in state.bases)
    changes.extend(node_row(state, n) for n in state.touched_nodes if n in state.nodes)
    changes.extend(job_row(state, state.jobs[job_id]) for job_id in state.touched_jobs)
    changes.extend(state.notes)
    state.touched_sweeps.clear()
    state.touched_bases.clear()
    state.touched_nodes.clear()
    state.touched_jobs.clear()
    state.notes.clear()
    return tuple(changes)


def base_arrival(state: MeshState, transfer: TransferRow) -> str:
    """A transfer in words, when it brought a base to a node; else ""."""
    if transfer.to_node == MASTER_NODE_ID:
        return ""
    for base in state.bases.values():
        if base.artifact_id == transfer.artifact_id:
            sources = " and ".join(sorted(transfer.bytes_by_node))
            if transfer.bytes_reused:
                sources += " and what it had" if sources else "what it had"
            if not sources:
                return ""
            return (
                f"base {short(base.recipe_hash)} came to {transfer.to_node} "
                f"from {sources} in {transfer.duration_s:.1f} s"
            )
    return ""
