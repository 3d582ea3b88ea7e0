"""What must be true of the scheduler after every event; checked by tests and simulations."""

from __future__ import annotations

from collections import Counter

from meshtrain.core.job import BaseState, JobKind, JobState
from meshtrain.core.state import MeshState


class InvariantError(AssertionError):
    """Raised when the state of the scheduler contradicts itself or a promise."""


def check(state: MeshState) -> None:
    """Check the whole state.

    Raises InvariantError that names the job, base or node where it fails.
    """
    _check_jobs(state)
    _check_bases(state)
    _check_nodes(state)
    _check_counts(state)


def _check_jobs(state: MeshState) -> None:
    open_jobs: dict[str, int] = dict.fromkeys(state.sweeps, 0)
    for job in state.jobs.values():
        attempt = job.attempt
        leased = job.state.is_leased
        if leased:
            if attempt is None or state.live.get(attempt.attempt_id) != job.job_id:
                raise InvariantError(f"{job.name} is {job.state} without a live attempt")
            if attempt.attempt_id not in state.leases:
                raise InvariantError(f"{job.name} runs without a lease")
            if attempt.generation != job.generation:
                raise InvariantError(f"{job.name} runs an attempt of a former generation")
        if leased and job.job_id in state.queue:
            raise InvariantError(f"{job.name} waits in the queue while it is {job.state}")
        if job.state.is_terminal:
            if job.job_id in state.queue:
                raise InvariantError(f"{job.name} waits in the queue after its end")
            if job.ended_wall_s is None:
                raise InvariantError(f"{job.name} ended at no time")
        elif job.sweep_id is not None:
            open_jobs[job.sweep_id] += 1
        if job.state is JobState.WAITING and job.job_id not in state.queue:
            delayed = any(entry[1] == job.job_id for entry in state.delayed)
            if not delayed:
                raise InvariantError(f"{job.name} waits, but nothing will ever start it")
        recipe_hash = job.spec.recipe_hash
        if recipe_hash is not None:
            waits = job.job_id in state.waiters.get(recipe_hash, ())
            if waits == job.state.is_terminal:
                raise InvariantError(f"{job.name} is {job.state}, waits on its base: {waits}")
    for attempt_id, job_id in state.live.items():
        job = state.jobs[job_id]
        if job.attempt is None or job.attempt.attempt_id != attempt_id:
            raise InvariantError(f"{attempt_id} is live, but not the attempt of {job.name}")
    if state.live.keys() != state.leases.keys():
        raise InvariantError("an attempt without a lease, or a lease without an attempt")
    for sweep_id, count in open_jobs.items():
        if state.sweep_open[sweep_id] != count:
            raise InvariantError(f"sweep {sweep_id} counts {state.sweep_open[sweep_id]} open jobs")


def _check_bases(state: MeshState) -> None:
    for base in state.bases.values():
        job = state.jobs[base.job_id]
        if job.kind is not JobKind.BASE:
            raise InvariantError(f"{job.name} trains a base, but is no base job")
        if (base.state is BaseState.COMMITTED) != (base.artifact_id is not None):
            raise InvariantError(f"base {base.recipe_hash} is {base.state}: {base.artifact_id}")
        if base.state is BaseState.COMMITTED and job.state is not JobState.SUCCEEDED:
            raise InvariantError(f"base {base.recipe_hash} is committed, its job {job.state}")
        if base.state is BaseState.NEEDED:
            if job.state.is_terminal:
                raise InvariantError(f"base {base.recipe_hash} is needed, its job {job.state}")
            if job.generation != base.generation:
                raise InvariantError(f"base {base.recipe_hash} and its job differ in generation")
            if not state.is_wanted(base.recipe_hash):
                raise InvariantError(f"base {base.recipe_hash} is trained for nobody")


def _check_nodes(state: MeshState) -> None:
    if told := state.copies.directory.contradiction(state.nodes):
        raise InvariantError(told)
    for node in state.nodes.values():
        if node.evicting is not None and node.evicting in node.holds:
            raise InvariantError(f"{node.node_id} counts as a holder of what it was to remove")
        gpus: list[int] = []
        cpus = 0
        for attempt_id in node.live:
            job_id = state.live.get(attempt_id)
            if job_id is None:
                raise InvariantError(f"{node.node_id} is held by {attempt_id}, which is over")
            attempt = state.jobs[job_id].attempt
            for placement in attempt.placements if attempt is not None else ():
                if placement.node_id == node.node_id:
                    gpus.extend(placement.gpus)
                    cpus += placement.cpus
        if len(gpus) != len(set(gpus)):
            raise InvariantError(f"a GPU of {node.node_id} is given out twice: {sorted(gpus)}")
        if set(gpus) != node.gpus_used or cpus != node.cpus_used:
            raise InvariantError(f"{node.node_id} miscounts what of it is taken")
        if cpus > node.cpus_most:
            raise InvariantError(f"{node.node_id} has more taken than it has")


def _check_counts(state: MeshState) -> None:
    """The sums that are kept are what a count of everything comes to."""
    counts = state.counts
    if +counts.jobs != Counter((job.kind, job.state) for job in state.jobs.values()):
        raise InvariantError(f"jobs are miscounted: {counts.jobs}")
    for sweep in state.sweeps.values():
        there = Counter(state.jobs[job_id].state for job_id in sweep.job_ids)
        if +counts.of_sweep.get(sweep.sweep_id, Counter()) != there:
            raise InvariantError(f"jobs of sweep {sweep.sweep_id} are miscounted")
    if +counts.bases != Counter(base.state for base in state.bases.values()):
        raise InvariantError(f"bases are miscounted: {counts.bases}")
    started = Counter(
        job.spec.recipe_hash
        for job in state.jobs.values()
        if job.kind is JobKind.EXPERIMENT
        and job.attempt is not None
        and job.attempt.started_wall_s is not None
    )
    avoided = 0
    for base in state.bases.values():
        trained = base.generation - (base.artifact_id is None)
        avoided += max(0, started[base.recipe_hash] - trained)
    if counts.trainings_avoided != avoided:
        raise InvariantError(f"{counts.trainings_avoided} avoided trainings, not {avoided}")
