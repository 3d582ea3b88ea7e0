"""What a sweep's records tell of its bases and jobs."""

from __future__ import annotations

from collections.abc import Sequence

from meshtrain.core.job import Attempt, Base, BaseState, Job, JobState, Sweep
from meshtrain.results.records import AttemptRecord, BaseRecord, ExperimentRecord
from meshtrain.spec.jobs import TrainingWork


def base_record(base: Base, job: Job, sweep: Sweep, jobs: Sequence[Job]) -> BaseRecord:
    """A base as a sweep's records tell of it.

    Args:
        job: the one that trains the base.
        jobs: the sweep's.
    """
    ended_s = base.committed_wall_s
    started_s = None
    if ended_s is not None and base.trained_s is not None:
        started_s = ended_s - base.trained_s
    reason = ""
    if base.state is not BaseState.COMMITTED:
        reason = job.failure.message if job.failure is not None else str(base.state)
    return BaseRecord(
        recipe_hash=base.recipe_hash,
        label=base.spec.label,
        recipe=base.spec.recipe,
        state=str(base.state),
        reused=base.recipe_hash in sweep.reused,
        jobs=sum(1 for job in jobs if job.spec.recipe_hash == base.recipe_hash),
        artifact_id=base.artifact_id,
        generation=base.generation,
        node=base.node_id,
        started_s=started_s,
        ended_s=ended_s,
        reason=reason,
    )


def experiment_record(job: Job, attempts: Sequence[Attempt]) -> ExperimentRecord:
    """A job as its sweep's records tell of it, with all its attempts."""
    attempt = job.attempt
    work = job.spec.work
    mode = str(work.config["mode"]) if isinstance(work, TrainingWork) else "command"
    return ExperimentRecord(
        job_id=job.job_id,
        name=job.name,
        cell=job.spec.cell,
        work=mode,
        state=str(job.state),
        group=job.spec.group,
        base_recipe_hash=job.spec.recipe_hash,
        base_artifact_id=attempt.base_artifact if attempt is not None else None,
        started_s=attempt.started_wall_s if attempt is not None else None,
        ended_s=job.ended_wall_s,
        attempts=tuple(
            AttemptRecord(
                epoch=past.epoch,
                outcome=str(past.state),
                nodes=tuple(p.node_id for p in past.placements),
                started_s=past.started_wall_s,
                ended_s=past.ended_wall_s,
                failure_class=(
                    str(past.failure.failure_class) if past.failure is not None else None
                ),
                reason=past.failure.message if past.failure is not None else "",
            )
            for past in attempts
        ),
        result_artifact_id=attempt.artifact_id if attempt is not None else None,
        metrics=job.metrics,
        reason=job.failure.message
        if job.failure is not None and job.state is JobState.FAILED
        else "",
    )
