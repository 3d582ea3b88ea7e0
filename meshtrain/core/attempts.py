"""The course of an attempt: given out, started, ended, lost; and what follows for its job."""

from __future__ import annotations

import msgspec

from meshtrain.core import budget, checkpoints, collecting, gpu_health, shares
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core.budget import price_of
from meshtrain.core.job import (
    Attempt,
    AttemptState,
    BaseState,
    Failure,
    FailureClass,
    Job,
    JobState,
    Placement,
    attempt_id_of,
)
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.placement import why_never
from meshtrain.core.retry import RULES, decide
from meshtrain.core.spread import spread
from meshtrain.core.state import MeshState
from meshtrain.core.told_sources import SOURCES_MAX, told_sources
from meshtrain.core.work_inputs import datasets_of
from meshtrain.ids import short
from meshtrain.spec.jobs import CommandWork

MORE_GPU_MEMORY = 1.25
"""After running out of memory on a GPU, a job asks for one with this much more, if there is one."""


# --- given out -------------------------------------------------------------------------


def assign(state: MeshState, job: Job, placements: tuple[Placement, ...]) -> None:
    """Give a waiting job to the nodes that the placements name, under a new epoch."""
    epoch = state.next_epoch()
    placements = tuple(_priced(state, placement) for placement in placements)
    recipe_hash = job.spec.recipe_hash
    parent = state.parent_of(job)
    base_artifact = None if parent is None else parent.artifact_id
    if recipe_hash is not None:
        base_artifact = state.bases[recipe_hash].artifact_id
    resume = checkpoints.to_resume(state, job)
    attempt = Attempt(
        attempt_id=attempt_id_of(job.job_id, epoch),
        job_id=job.job_id,
        generation=job.generation,
        epoch=epoch,
        placements=placements,
        base_artifact=base_artifact,
        assigned_wall_s=state.wall_s,
        resumed_from=resume,
    )
    state.passed_over.pop(job.job_id, None)
    state.out.append(fx.AddAttempt(attempt))
    job = state.change_job(job, JobState.ASSIGNED, attempt=attempt)
    state.live[attempt.attempt_id] = job.job_id
    state.leases[attempt.attempt_id] = state.now_s + state.config.lease_s
    group = state.group_of(job)
    for placement in placements:
        if group is not None:
            state.homes.note(group, placement.node_id)
        node = state.nodes[placement.node_id]
        node.occupy(attempt.attempt_id, placement, short=job.sweep_id in state.short_sweeps)
        node.assigned_count += 1
        state.touched_nodes[node.node_id] = None
        work = job.spec.work
        code = work.code if isinstance(work, CommandWork) else None
        state.command(
            node.node_id,
            cmd.AssignAttempt(
                attempt_id=attempt.attempt_id,
                job_id=job.job_id,
                name=job.name,
                epoch=epoch,
                work=work,
                gpus=placement.gpus,
                timeout_s=job.spec.limits.timeout_s,
                recipe_hash=recipe_hash or state.base_of_job.get(job.job_id),
                base=_need(state, base_artifact, node.node_id),
                code=_need(state, code, node.node_id),
                resume=_need(state, resume, node.node_id),
                checkpoint_every_s=job.spec.limits.checkpoint_every_s,
                user=job.spec.limits.user,
                inputs=tuple(
                    need
                    for artifact_id, _ in datasets_of(work)
                    if (need := _need(state, artifact_id, node.node_id)) is not None
                ),
            ),
        )
        node.assign_seqs[attempt.attempt_id] = node.seq


def _priced(state: MeshState, placement: Placement) -> Placement:
    if not placement.gpus:
        return placement
    price = price_of(state.nodes[placement.node_id].spec, state.config.prices)
    if not price:
        return placement
    return msgspec.structs.replace(placement, price_per_gpu_hour=price)


def _need(state: MeshState, artifact_id: str | None, node_id: str) -> cmd.ArtifactNeed | None:
    if artifact_id is None:
        return None
    node = state.nodes[node_id]
    if artifact_id not in node.holds and artifact_id not in node.fetching:
        # Those who fetch it already can take verified chunks from this one, and it from them.
        node.fetching.add(artifact_id)
        tell_source(state, artifact_id, node_id)
    size_bytes = state.copies.directory.size_bytes(artifact_id)
    return cmd.ArtifactNeed(artifact_id, told_sources(state, artifact_id, node_id), size_bytes)


def tell_source(state: MeshState, artifact_id: str, node_id: str) -> None:
    """Tell nodes that are fetching an artifact of one more source: some, where they are many."""
    if node_id == MASTER_NODE_ID:
        source = cmd.ArtifactSource(MASTER_NODE_ID, "")
    else:
        source = cmd.ArtifactSource(node_id, state.nodes[node_id].spec.http_url)
    fetching = [
        other.node_id
        for other in state.nodes.values()
        if other.node_id != node_id and artifact_id in other.fetching and other.connected
    ]
    # Each tells on what it has: of a whole swarm none needs to know all.
    for other_id in spread(fetching, node_id, SOURCES_MAX):
        state.command(other_id, cmd.AddSources(artifact_id, (source,)))


# --- its course -----------------------------------------------------------------------


def current(state: MeshState, node_id: str, attempt_id: str, epoch: int) -> Job | None:
    """The job whose live attempt this is; None when it no longer counts, or isn't the node's."""
    job_id = state.live.get(attempt_id)
    if job_id is None:
        return None
    job = state.jobs[job_id]
    attempt = job.attempt
    if attempt is None or attempt.attempt_id != attempt_id or attempt.epoch != epoch:
        return None
    if all(placement.node_id != node_id for placement in attempt.placements):
        return None
    return job


def mark_started(state: MeshState, job: Job) -> None:
    if job.state is not JobState.ASSIGNED or job.attempt is None:
        return
    attempt = msgspec.structs.replace(job.attempt, started_wall_s=state.wall_s)
    state.change_job(job, JobState.RUNNING, attempt=attempt)


def succeed(state: MeshState, job: Job) -> None:
    for placement in job.attempt.placements if job.attempt is not None else ():
        gpu_health.on_success(state, placement.node_id, placement.gpus)
    end_attempt(state, job, AttemptState.SUCCEEDED)
    finish(state, state.jobs[job.job_id], JobState.SUCCEEDED)


def reject(state: MeshState, job: Job, failure: Failure) -> None:
    """An attempt ended by itself, but what it left can't be taken."""
    end_attempt(state, job, AttemptState.FAILED)
    requeue(state, job, failure)


def end_cancelled(state: MeshState, job: Job) -> None:
    """End a job that is to be cancelled and of which nothing runs any more."""
    end_attempt(state, job, AttemptState.CANCELLED)
    finish(state, state.jobs[job.job_id], JobState.CANCELLED)


def lose(state: MeshState, job: Job, message: str) -> None:
    """The lease is over, or the node doesn't know of the attempt: nobody runs the job any more."""
    attempt = job.attempt
    assert attempt is not None
    release_slots(state, attempt)
    attempt = msgspec.structs.replace(attempt, ended_wall_s=state.wall_s)
    job = state.change_job(job, attempt=attempt)
    end_attempt(state, job, AttemptState.LOST)
    if job.cancelling:
        finish(state, state.jobs[job.job_id], JobState.CANCELLED)
    else:
        requeue(state, job, Failure(FailureClass.HOST_LOST, message, attempt.node_id))


def release_slots(state: MeshState, attempt: Attempt) -> None:
    for placement in attempt.placements:
        node = state.nodes.get(placement.node_id)
        if node is not None:
            node.release(attempt.attempt_id, placement)
            state.touched_nodes[node.node_id] = None


def end_attempt(state: MeshState, job: Job, outcome: AttemptState) -> None:
    """Close the job's attempt: it holds no lease, and its node may forget it."""
    attempt = job.attempt
    assert attempt is not None
    attempt = msgspec.structs.replace(attempt, state=outcome)
    state.change_job(job, attempt=attempt)
    state.keep_attempt(attempt)
    state.live.pop(attempt.attempt_id, None)
    state.leases.pop(attempt.attempt_id, None)
    budget.charge(state, job, attempt)
    if attempt.artifact_id is not None:
        waiting = state.collecting.get(attempt.artifact_id)
        if waiting is not None:
            waiting.discard(job.job_id)
            if not waiting:
                del state.collecting[attempt.artifact_id]
                if attempt.artifact_id not in state.held_by_master:
                    # Nobody waits for it any more: what has come of it so far may go.
                    collecting.drop(state, attempt.artifact_id)
    for placement in attempt.placements:
        node = state.nodes.get(placement.node_id)
        if node is not None:
            node.assign_seqs.pop(attempt.attempt_id, None)
        if outcome is not AttemptState.LOST:
            state.command(placement.node_id, cmd.ForgetAttempt(attempt.attempt_id))


# --- what follows for the job ----------------------------------------------------------------


def requeue(state: MeshState, job: Job, failure: Failure) -> None:
    """After an attempt that did not count: run the job again, or end it as failed."""
    job = _learn(state, state.jobs[job.job_id], failure)
    decision = decide(
        failure.failure_class,
        retries_used=job.retries_used,
        retries_max=job.spec.limits.retries_max,
        losses=job.losses,
    )
    more_memory = 0
    alone = job.alone
    if decision.wants_more_memory:
        more_memory = _more_gpu_memory(state, job)
        # Nobody has a larger GPU, or it was main memory: then without others beside it.
        alone = alone or not more_memory
    recipe_hash = job.spec.recipe_hash
    if recipe_hash is not None and state.bases[recipe_hash].state is BaseState.FAILED:
        # It started from a base that was to be made anew since, and could not be.
        failure = Failure(
            FailureClass.BASE_FAILED,
            f"it has to run again ({failure.message}), "
            f"and base {short(recipe_hash)} failed meanwhile",
            failure.node_id,
        )
        finish(state, job, JobState.FAILED, failure=failure)
        return
    nowhere = shares.nobody_has(state, job, failure)
    if nowhere is not None:
        finish(state, job, JobState.FAILED, failure=nowhere)
        # Those that wait for a place would wait for nothing.
        for other, told in shares.stranded(state, failure):
            finish(state, other, JobState.FAILED, failure=told)
        return
    if not decision.rerun:
        if not RULES[failure.failure_class].blames_job and job.losses:
            failure = msgspec.structs.replace(
                failure,
                message=f"{failure.message} (given up after {job.losses + 1} lost attempts; "
                "when the hosts are well again: meshtrain retry)",
            )
        finish(state, job, JobState.FAILED, failure=failure)
        return
    job = state.keep_job(
        job,
        JobState.WAITING,
        failure=failure,
        retries_used=job.retries_used + (1 if decision.blames_job else 0),
        losses=job.losses + (1 if decision.counts and not decision.blames_job else 0),
        gpu_memory_bytes=max(job.gpu_memory_bytes, more_memory),
        alone=alone,
    )
    how = "goes on from its checkpoint" if job.checkpoint is not None else "runs again"
    state.note(f"{job.name} {how}: {failure.failure_class}, {failure.message}")
    state.enqueue(job, decision.delay_s)


def _learn(state: MeshState, job: Job, failure: Failure) -> Job:
    """Draw from a failure what is to be known of its node, its GPUs, and its checkpoint."""
    attempt = job.attempt
    if attempt is None:
        return job
    if failure.failure_class is FailureClass.BAD_GPU:
        for placement in attempt.placements:
            gpu_health.on_fault(state, placement.node_id, placement.gpus)
    elif failure.failure_class is FailureClass.INPUT:
        shares.note_lack(state, job, failure)
    elif failure.failure_class is FailureClass.DISK:
        for placement in attempt.placements:
            node = state.nodes.get(placement.node_id)
            if node is not None:
                node.paused = True
                state.paused_until_s[node.node_id] = state.now_s + state.config.pause_s
                state.touched_nodes[node.node_id] = None
    elif (
        failure.failure_class is FailureClass.NETWORK
        and attempt.resumed_from is not None
        and attempt.started_wall_s is None
    ):
        return checkpoints.on_not_fetched(state, job, attempt.resumed_from)
    return job


def _more_gpu_memory(state: MeshState, job: Job) -> int:
    """The GPU memory to ask for next, or 0 where no node has more than it had."""
    attempt = job.attempt
    assert attempt is not None
    node = state.nodes.get(attempt.node_id)
    if node is None or not attempt.placements[0].gpus:
        return 0
    # A node that came back may have other GPUs than it had.
    held = [g.memory_bytes for g in node.spec.gpus if g.index in attempt.placements[0].gpus]
    if not held:
        return 0
    had = max(held)
    wanted = int(had * MORE_GPU_MEMORY)
    needs = msgspec.structs.replace(state.needs(job), gpu_memory_bytes=wanted)
    if any(why_never(other.spec, needs) is None for other in state.nodes.values()):
        return wanted
    return 0


def finish(state: MeshState, job: Job, outcome: JobState, failure: Failure | None = None) -> None:
    """Bring a job to its terminal state, once."""
    state.queue.discard(job.job_id)
    state.passed_over.pop(job.job_id, None)
    job = checkpoints.forget(state, job)
    job = state.keep_job(
        job,
        outcome,
        failure=failure if failure is not None else job.failure,
        ended_wall_s=state.wall_s,
        cancelling=False,
    )
    if outcome is JobState.FAILED and job.failure is not None:
        state.note(f"{job.name} failed: {job.failure.failure_class}, {job.failure.message}")
    state.out.append(fx.JobFinished(job))
    if job.sweep_id is not None:
        state.sweep_open[job.sweep_id] -= 1
        state.touched_sweeps[job.sweep_id] = None
        if state.sweep_open[job.sweep_id] == 0:
            state.homes.forget(job.sweep_id)
            state.run_s_mean.pop(job.sweep_id, None)
            state.short_sweeps.discard(job.sweep_id)
            state.note(f"sweep {state.sweeps[job.sweep_id].name} is done")
    if job.spec.recipe_hash is not None:
        state.waiters[job.spec.recipe_hash].discard(job.job_id)
    state.finished.append(job.job_id)
