"""Single flight: each base is trained once, however many jobs start from it."""

from __future__ import annotations

from meshtrain.core import attempts, collecting, restoring
from meshtrain.core import commands as cmd
from meshtrain.core.budget import REBUILD as REBUILD
from meshtrain.core.events import AttemptEnded
from meshtrain.core.job import (
    Base,
    BaseState,
    Failure,
    FailureClass,
    Job,
    JobKind,
    JobState,
)
from meshtrain.core.state import MeshState
from meshtrain.ids import short
from meshtrain.spec.jobs import BaseSpec, JobSpec


def base_job_id(recipe_hash: str) -> str:
    return f"base-{recipe_hash[:16]}"


def ensure(state: MeshState, spec: BaseSpec) -> Job | None:
    """See to it that the base is there, or on its way. Returns the job if it is a new one.

    A base that failed, or was cancelled, is tried again under a new generation.
    """
    base = state.bases.get(spec.recipe_hash)
    if base is None:
        job_id = base_job_id(spec.recipe_hash)
        job = Job(
            spec=JobSpec(
                job_id=job_id,
                name=f"base/{spec.recipe_hash[:12]}",
                cell={},
                work=spec.work,
                resources=spec.resources,
                limits=spec.limits,
            ),
            kind=JobKind.BASE,
            order=state.next_order(),
            submitted_wall_s=state.wall_s,
        )
        state.register(job)
        state.base_of_job[job_id] = spec.recipe_hash
        return job
    revive(state, base)
    return None


def revive(state: MeshState, base: Base) -> bool:
    """Open a new generation of a base that ended without a model. False if there is no need."""
    if base.state in (BaseState.NEEDED, BaseState.COMMITTED):
        return False
    job = state.jobs[base.job_id]
    if not job.state.is_terminal:
        # It is being cancelled: settle opens the new generation.
        return True
    open_generation(state, base)
    return True


def open_generation(state: MeshState, base: Base) -> None:
    job = state.reopen(state.jobs[base.job_id])
    state.keep_base(
        base,
        state=BaseState.NEEDED,
        generation=job.generation,
        artifact_id=None,
        size_bytes=0,
        durable=False,
        node_id=None,
        trained_s=None,
        committed_wall_s=None,
    )
    state.unheld_since_s.pop(base.recipe_hash, None)
    state.enqueue(job)


def commit(state: MeshState, job: Job, event: AttemptEnded) -> None:
    """The base's training ended well: its artifact is the base from now on."""
    base = state.bases[state.base_of_job[job.job_id]]
    if event.artifact_id is None:
        failure = Failure(
            FailureClass.USER_ERROR,
            "the training of the base left nothing in {output}",
            event.node_id,
        )
        attempts.reject(state, job, failure)
        return
    assert base.state is not BaseState.COMMITTED, "one artifact a generation"
    state.keep_base(
        base,
        state=BaseState.COMMITTED,
        artifact_id=event.artifact_id,
        size_bytes=event.size_bytes,
        node_id=event.node_id,
        trained_s=event.run_s,
        committed_wall_s=state.wall_s,
    )
    state.requesters.get(base.recipe_hash, set()).discard(REBUILD)
    state.note(f"base {short(base.recipe_hash)} trained on {event.node_id} in {event.run_s:.1f} s")
    attempts.succeed(state, job)
    if event.artifact_id not in state.held_by_master:
        collecting.collect(state, event.artifact_id)
    on_holders_changed(state, (event.artifact_id,))


def settle(state: MeshState) -> None:
    """Draw the consequences of jobs that ended, until there are no more."""
    while state.finished:
        job = state.jobs[state.finished.popleft()]
        if job.kind is JobKind.BASE:
            if job.state.is_terminal:
                _on_job_finished(state, job)
        elif job.spec.recipe_hash is not None:
            cancel_if_unwanted(state, job.spec.recipe_hash)


def _on_job_finished(state: MeshState, job: Job) -> None:
    """A base's job came to an end; for all but success its dependents need a word."""
    base = state.bases[state.base_of_job[job.job_id]]
    if job.state is JobState.SUCCEEDED:
        return
    if job.state is JobState.FAILED:
        state.keep_base(base, state=BaseState.FAILED)
        reason = job.failure.message if job.failure is not None else "it failed"
        failure = Failure(
            FailureClass.BASE_FAILED, f"base {short(base.recipe_hash)} ({job.name}): {reason}"
        )
        for job_id in sorted(state.waiters.get(base.recipe_hash, ())):
            dependent = state.jobs[job_id]
            if dependent.state is JobState.WAITING:
                attempts.finish(state, dependent, JobState.FAILED, failure=failure)
    elif state.is_wanted(base.recipe_hash):
        # It was wanted again while its process was being ended.
        open_generation(state, base)
    else:
        state.keep_base(base, state=BaseState.CANCELLED)


def cancel_if_unwanted(state: MeshState, recipe_hash: str) -> None:
    """End a base's training when nobody is left who waits on it."""
    base = state.bases[recipe_hash]
    if base.state is not BaseState.NEEDED or state.is_wanted(recipe_hash):
        return
    job = state.jobs[base.job_id]
    state.keep_base(base, state=BaseState.CANCELLED)
    cancel_job(state, job)


def cancel_job(state: MeshState, job: Job) -> None:
    """End a job: at once where it waits, else as soon as its node says that it is over."""
    if job.state is JobState.WAITING:
        attempts.finish(state, job, JobState.CANCELLED)
    elif job.state.is_leased and not job.cancelling:
        attempt = job.attempt
        assert attempt is not None
        job = state.keep_job(job, cancelling=True)
        if job.state is JobState.COLLECTING:
            attempts.end_cancelled(state, job)
        else:
            for placement in attempt.placements:
                state.command(placement.node_id, cmd.EndAttempt(attempt.attempt_id))


def on_holders_changed(state: MeshState, artifact_ids: tuple[str, ...]) -> None:
    """Note which bases two nodes hold by now, and show who holds them."""
    if not artifact_ids:
        return
    recipes = state.copies.base_of
    changed = {r for artifact_id in artifact_ids for r in recipes.get(artifact_id, ())}
    for recipe_hash in sorted(changed):
        base = state.bases[recipe_hash]
        state.touched_bases[recipe_hash] = None
        if not base.durable and len(state.holders(base.artifact_id or "")) >= 2:
            state.keep_base(base, durable=True)


def check_lost(state: MeshState) -> None:
    """Train anew what jobs wait for and nobody has had for too long."""
    for recipe_hash, base in list(state.bases.items()):
        waiting = state.waiters.get(recipe_hash)
        if base.state is not BaseState.COMMITTED or not waiting or state.is_held(base.artifact_id):
            state.unheld_since_s.pop(recipe_hash, None)
            continue
        since_s = state.unheld_since_s.setdefault(recipe_hash, state.now_s)
        if state.now_s - since_s >= state.config.base_lost_s:
            if restoring.may_come_back(state, base):
                continue
            state.note(f"base {short(recipe_hash)} is on no host that is there: trained anew")
            open_generation(state, base)
