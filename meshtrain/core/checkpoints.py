"""What a job can go on from: its last checkpoints, kept by its node and then by the master.

A node announces each checkpoint that it keeps. The master fetches one of a job
at a time: the newest when it has the one before, so that a job that makes them
faster than they travel still has one that outlives its host. The one before is
dropped when the next is held, not when there is a next.
"""

from __future__ import annotations

from meshtrain.core import collecting, publishing
from meshtrain.core import commands as cmd
from meshtrain.core.job import Job, JobState
from meshtrain.core.node import Node
from meshtrain.core.state import MeshState

RESUME_FAILURES_MAX = 12
"""After so many attempts in a row that could not fetch their checkpoint, some eight minutes of
trying, the job does without it: its holder is there, but what it holds must be damaged."""
ANNOUNCED_MAX = 8
"""Checkpoints of one job that are known at a time."""
DROPPED_MAX = 10_000
"""Dropped checkpoints that are remembered."""


def announce(state: MeshState, job: Job, artifact_id: str | None) -> None:
    """A node has kept a checkpoint of the job's live attempt: the master fetches it too.

    Who holds it is told by the inventory alone: word of a checkpoint may come late, when
    the node has let it go for a newer one.
    """
    if artifact_id is None:
        return
    job = state.jobs[job.job_id]
    if job.checkpoint == artifact_id or job.state is JobState.COLLECTING:
        return
    state.resume_failures.pop(job.job_id, None)
    known = state.announced.setdefault(job.job_id, [])
    if job.checkpoint is not None and job.checkpoint not in known:
        known.append(job.checkpoint)
    known.append(artifact_id)
    state.checkpoint_jobs[artifact_id] = job.job_id
    # It got on since the last loss: hosts that fail now and then never make it given up.
    job = state.keep_job(job, checkpoint=artifact_id, losses=0)
    if len(known) > ANNOUNCED_MAX:
        flight = state.flights.get(job.job_id)
        oldest = next(one for one in known if one != flight)
        known.remove(oldest)
        if oldest != job.checkpoint_safe:
            _drop(state, oldest)
    if artifact_id in state.held_by_master:
        secure(state, artifact_id)
    elif job.job_id not in state.flights:
        _fetch(state, job.job_id, artifact_id)


def secure(state: MeshState, artifact_id: str) -> None:
    """The master holds an artifact: if a job can go on from it, those before it may go."""
    job_id = state.checkpoint_jobs.get(artifact_id)
    if job_id is None:
        if artifact_id in state.dropped:
            _drop(state, artifact_id)
        return
    job = state.jobs[job_id]
    if state.flights.get(job_id) == artifact_id:
        del state.flights[job_id]
    known = state.announced.get(job_id, [])
    if artifact_id not in known and artifact_id != job.checkpoint:
        return
    former = job.checkpoint_safe
    if former != artifact_id:
        job = state.keep_job(job, checkpoint_safe=artifact_id)
    attempt = job.attempt
    runs_on = attempt.node_id if attempt and attempt.attempt_id in state.live else None
    for node in state.nodes.values():
        # The one that it still runs on is told at the attempt's end.
        if artifact_id in node.holds and node.connected and node.node_id != runs_on:
            state.command(node.node_id, cmd.CheckpointSafe(artifact_id))
    for older in list(known):
        # What came between it and the newest is passed over.
        if older not in (artifact_id, job.checkpoint):
            known.remove(older)
            if older != former:
                _drop(state, older)
    if former is not None and former not in (artifact_id, job.checkpoint):
        _drop(state, former)
    if job.checkpoint is not None and job.checkpoint not in state.held_by_master:
        _fetch(state, job_id, job.checkpoint)


def let_go(state: MeshState, node: Node, artifact_id: str) -> None:
    """An attempt has ended with a checkpoint: tell its node when nothing rests on it any more."""
    if artifact_id in state.held_by_master or artifact_id not in state.checkpoint_jobs:
        state.command(node.node_id, cmd.CheckpointSafe(artifact_id))


def give_up(state: MeshState, artifact_id: str) -> None:
    """The master can't fetch a checkpoint: a newer one may do."""
    job_id = state.checkpoint_jobs.get(artifact_id)
    if job_id is None or state.flights.get(job_id) != artifact_id:
        return
    del state.flights[job_id]
    newest = state.jobs[job_id].checkpoint
    if newest is not None and newest != artifact_id:
        _fetch(state, job_id, newest)


def to_resume(state: MeshState, job: Job) -> str | None:
    """The checkpoint that the job's next attempt goes on from, of those that can be fetched."""
    known = reversed(state.announced.get(job.job_id, []))
    for artifact_id in (job.checkpoint, *known, job.checkpoint_safe):
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
    known = state.announced.get(job.job_id, [])
    if resumed_from in known:
        known.remove(resumed_from)
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
    known = state.announced.pop(job.job_id, [])
    former = dict.fromkeys((*known, job.checkpoint, job.checkpoint_safe))
    state.resume_failures.pop(job.job_id, None)
    if job.checkpoint is not None or job.checkpoint_safe is not None:
        job = state.change_job(job, checkpoint=None, checkpoint_safe=None)
    for artifact_id in former:
        if artifact_id is not None:
            _drop(state, artifact_id)
    return job


def take_up(state: MeshState, job: Job) -> None:
    """After a start of the master: go on fetching what it had not got yet."""
    if job.checkpoint is not None and job.checkpoint != job.checkpoint_safe:
        state.flights[job.job_id] = job.checkpoint
        state.collect_again_s[job.checkpoint] = state.now_s + state.config.collect_retry_s


def _fetch(state: MeshState, job_id: str, artifact_id: str) -> None:
    state.flights[job_id] = artifact_id
    collecting.collect(state, artifact_id)


def _drop(state: MeshState, artifact_id: str) -> None:
    """Have everybody remove a checkpoint, unless the same bytes are something else too."""
    job_id = state.checkpoint_jobs.pop(artifact_id, None)
    on_its_way = job_id is not None and state.flights.get(job_id) == artifact_id
    if on_its_way and job_id is not None:
        del state.flights[job_id]
    state.collect_again_s.pop(artifact_id, None)
    state.collect_tries.pop(artifact_id, None)
    if _is_used(state, artifact_id):
        return
    state.dropped[artifact_id] = None
    while len(state.dropped) > DROPPED_MAX:
        del state.dropped[next(iter(state.dropped))]
    if on_its_way or artifact_id in state.held_by_master:
        collecting.drop(state, artifact_id)
    for node in state.nodes.values():
        if artifact_id in node.holds:
            state.copies.directory.remove(node, artifact_id)
            state.command(node.node_id, cmd.DropArtifact(artifact_id))


def _is_used(state: MeshState, artifact_id: str) -> bool:
    if artifact_id in state.collecting or publishing.is_named(state, artifact_id):
        return True
    if any(base.artifact_id == artifact_id for base in state.bases.values()):
        return True
    if state.is_parent(artifact_id):
        return True
    return any(
        artifact_id in (job.checkpoint, job.checkpoint_safe)
        or (job.attempt is not None and artifact_id == job.attempt.artifact_id)
        for job in state.jobs.values()
    )
