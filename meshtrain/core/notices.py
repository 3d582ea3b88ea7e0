"""What people are told of a sweep: that it ended, that it failed, that its first job did.

A notice has an id that says what it is about and is the same however often it
is made, so that who gets one twice knows it. An end has the round of its sweep
in it: jobs that are run again end anew. A first failure is told once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from meshtrain.core.job import BaseState, Job, JobKind, JobState, Sweep
from meshtrain.core.state import MeshState
from meshtrain.spec.notify_kinds import Occasion

FAILED_SHOWN_MAX = 10
MESSAGE_CHARS_MAX = 500


class FailedJob(msgspec.Struct, frozen=True):
    """A job that failed for good."""

    job_id: str
    name: str
    failure: str
    """Its class, and what was said."""
    node_id: str | None = None


class Notice(msgspec.Struct, frozen=True):
    """What is sent."""

    id: str
    """The same each time that it is sent."""
    occasion: str
    sweep_id: str
    sweep: str
    at_wall_s: float
    """When it happened, in seconds since 1970."""
    text: str
    """All of it in a line for people."""
    jobs: int
    states: dict[str, int]
    failed: tuple[FailedJob, ...] = ()
    """The first ones."""
    results: str = ""
    """The folder on the master's host."""


def sweeps_of(state: MeshState, job: Job) -> list[Sweep]:
    """The sweeps that the end of a job may be news for."""
    if job.sweep_id is not None:
        return [state.sweeps[job.sweep_id]]
    recipe_hash = state.base_of_job.get(job.job_id)
    return [
        sweep
        for sweep in state.sweeps.values()
        if not sweep.job_ids and recipe_hash in sweep.recipe_hashes
    ]


def has_ended(state: MeshState, sweep: Sweep) -> bool:
    """Whether nothing of a sweep is left to run."""
    if sweep.job_ids:
        return state.sweep_open.get(sweep.sweep_id, 0) == 0
    return bool(sweep.recipe_hashes) and all(
        state.bases[recipe_hash].state is not BaseState.NEEDED
        for recipe_hash in sweep.recipe_hashes
    )


def end_id(state: MeshState, sweep: Sweep) -> str:
    """The id of a sweep's present end."""
    again = sum(job.generation - 1 for job in jobs_of(state, sweep))
    return f"{sweep.sweep_id}/end/{again}"


def first_failure_id(sweep: Sweep) -> str:
    """The id of a sweep's first failure."""
    return f"{sweep.sweep_id}/first_failure"


def end_of(state: MeshState, sweep: Sweep, occasions: Sequence[str], results: str) -> Notice | None:
    """What is told of a sweep that has ended; None when that is no occasion.

    One that failed is told as `failure` where that is asked for, else as `end`: an
    end is told once.
    """
    jobs = jobs_of(state, sweep)
    failed = [job for job in jobs if job.state is JobState.FAILED]
    if failed and Occasion.FAILURE in occasions:
        occasion = Occasion.FAILURE
    elif Occasion.END in occasions:
        occasion = Occasion.END
    else:
        return None
    states = Counter(str(job.state) for job in jobs)
    told = ", ".join(f"{count} {name}" for name, count in sorted(states.items()))
    text = f"sweep {sweep.name} has ended: {told}"
    if failed:
        text += f"; {failed[0].name}: {_failure(failed[0])}"
    return Notice(
        id=end_id(state, sweep),
        occasion=occasion,
        sweep_id=sweep.sweep_id,
        sweep=sweep.name,
        at_wall_s=max((job.ended_wall_s or 0.0 for job in jobs), default=0.0),
        text=text,
        jobs=len(jobs),
        states=dict(states),
        failed=_shown(failed),
        results=results,
    )


def first_failure_of(state: MeshState, sweep: Sweep, job: Job, results: str) -> Notice:
    """What is told of the first job of a sweep that failed for good."""
    jobs = jobs_of(state, sweep)
    return Notice(
        id=first_failure_id(sweep),
        occasion=Occasion.FIRST_FAILURE,
        sweep_id=sweep.sweep_id,
        sweep=sweep.name,
        at_wall_s=job.ended_wall_s or 0.0,
        text=f"the first job of sweep {sweep.name} failed: {job.name}: {_failure(job)}",
        jobs=len(jobs),
        states=dict(Counter(str(other.state) for other in jobs)),
        failed=_shown([job]),
        results=results,
    )


def jobs_of(state: MeshState, sweep: Sweep) -> list[Job]:
    """The jobs of a sweep; those of its bases where it has no others."""
    if sweep.job_ids:
        return [state.jobs[job_id] for job_id in sweep.job_ids]
    return [state.jobs[state.bases[r].job_id] for r in sweep.recipe_hashes]


def first_failed(jobs: Iterable[Job]) -> Job | None:
    """The job that failed first."""
    failed = [job for job in jobs if job.state is JobState.FAILED]
    return min(failed, key=lambda job: job.ended_wall_s or 0.0, default=None)


def _shown(failed: Sequence[Job]) -> tuple[FailedJob, ...]:
    return tuple(
        FailedJob(
            job.job_id,
            job.name,
            _failure(job),
            job.attempt.node_id if job.attempt is not None else None,
        )
        for job in failed[:FAILED_SHOWN_MAX]
    )


def _failure(job: Job) -> str:
    if job.failure is None:
        return "failed"
    kind = "base, " if job.kind is JobKind.BASE else ""
    return f"{kind}{job.failure.failure_class}: {job.failure.message}"[:MESSAGE_CHARS_MAX]
