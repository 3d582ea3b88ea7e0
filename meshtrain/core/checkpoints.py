"""What a job can go on from: its last checkpoint, kept by its node and then by the master."""

from __future__ import annotations

import msgspec

from meshtrain.core import collecting
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core.job import Job, JobState
from meshtrain.core.node import Node
from meshtrain.core.state import MeshState

RESUME_FAILURES_MAX = 12
"""After so many attempts in a row that could not fetch their checkpoint, some eight minutes of
trying, the job does without it: its holder is there, but what it holds must be damaged."""
DROPPED_MAX = 10_000
"""Dropped checkpoints that are remembered."""


def announce(state: MeshState, job: Job, node: Node | None, artifact_id: str | None) -> None:
    """A node has kept a checkpoint of the job's live attempt: the master fetches it too."""
    if artifact_id is None:
        return
    if node is not None:
        node.holds.add(artifact_id)
    job = state.jobs[job.job_id]
    if job.checkpoint == artifact_id or job.state is JobState.COLLECTING:
        return
    former = job.checkpoint
    state.resume_failures.pop(job.job_id, None)
    # It got on since the last loss: hosts that fail now and then never make it given up.
    job = state.keep_job(job, checkpoint=artifact_id, losses=0)
    state.checkpoint_jobs[artifact_id] = job.job_id
    if former is not None and former != job.checkpoint_safe:
        _drop(state, former)
    if artifact_id in state.held_by_master:
        secure(state, artifact_id)
    else:
        collecting.collect(state, artifact_id)


def secure(state: MeshState, artifact_id: str) -> None:
    """The master holds an artifact: if a job can go on from it, the one before may go."""
    job_id = state.checkpoint_jobs.get(artifact_id)
    if job_id is None:
        if artifact_id in state.dropped:
            _drop(state, artifact_id)
        return
    job = state.jobs[job_id]
    if job.checkpoint != artifact_id or job.checkpoint_safe == artifact_id:
        return
    former = job.checkpoint_safe
    state.keep_job(job, checkpoint_safe=artifact_id)
    if former is not None:
        _drop(state, former)


def to_resume(state: MeshState, job: Job) -> str | None:
    """The checkpoint that the job's next attempt goes on from, of those that can be fetched."""
    for artifact_id in (job.checkpoint, job.checkpoint_safe):
        if state.is_held(artifact_id):
            return artifact_id
    return None


def on_not_fetched(state: MeshState, job: Job, resumed_from: str) -> Job:
    """An attempt could not fetch what it was to start from; a checkpoint may be damaged."""
    failures = state.resume_failures.get(job.job_id, 0) + 1
    state.resume_failures[job.job_id] = failures
    if failures < RESUME_FAILURES_MAX:
        return job
    del state.resume_failures[job.job_id]
    state.note(f"{job.name} does without a checkpoint that could not be fetched {failures} times")
    changes = {
        name: None
        for name in ("checkpoint", "checkpoint_safe")
        if getattr(job, name) == resumed_from
    }
    job = state.keep_job(job, **changes)
    _drop(state, resumed_from)
    return job


def forget(state: MeshState, job: Job) -> Job:
    """The job came to its end, or begins anew: what it could go on from may go."""
    former = {job.checkpoint, job.checkpoint_safe} - {None}
    state.resume_failures.pop(job.job_id, None)
    if not former:
        return job
    job = msgspec.structs.replace(job, checkpoint=None, checkpoint_safe=None)
    state.jobs[job.job_id] = job
    for artifact_id in former:
        assert artifact_id is not None
        _drop(state, artifact_id)
    return job


def _drop(state: MeshState, artifact_id: str) -> None:
    """Have everybody remove a checkpoint, unless the same bytes are something else too."""
    state.checkpoint_jobs.pop(artifact_id, None)
    state.collect_again_s.pop(artifact_id, None)
    state.collect_tries.pop(artifact_id, None)
    if _is_used(state, artifact_id):
        return
    state.dropped[artifact_id] = None
    while len(state.dropped) > DROPPED_MAX:
        del state.dropped[next(iter(state.dropped))]
    if artifact_id in state.held_by_master:
        state.held_by_master.discard(artifact_id)
        state.out.append(fx.DropArtifact(artifact_id))
    for node in state.nodes.values():
        if artifact_id in node.holds:
            node.holds.discard(artifact_id)
            state.command(node.node_id, cmd.DropArtifact(artifact_id))


def _is_used(state: MeshState, artifact_id: str) -> bool:
    if artifact_id in state.collecting:
        return True
    if any(base.artifact_id == artifact_id for base in state.bases.values()):
        return True
    return any(
        artifact_id in (job.checkpoint, job.checkpoint_safe)
        or (job.attempt is not None and artifact_id == job.attempt.artifact_id)
        for job in state.jobs.values()
    )
