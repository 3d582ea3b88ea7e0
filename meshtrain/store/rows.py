"""Records as rows: the statements, and the way between a struct and a row's values."""

from __future__ import annotations

import gc
import sqlite3
from typing import Annotated, Any

import msgspec

from meshtrain.core.job import (
    Attempt,
    AttemptState,
    Base,
    BaseState,
    Failure,
    Job,
    JobKind,
    JobState,
    Placement,
    Sweep,
    attempt_id_of,
)
from meshtrain.spec.jobs import BaseSpec, JobSpec, Resources, ResultsSpec
from meshtrain.store.base import state_shown

Row = tuple[Any, ...]

_encode = msgspec.msgpack.Encoder().encode
_decode_job_spec = msgspec.msgpack.Decoder(JobSpec).decode
_decode_base_spec = msgspec.msgpack.Decoder(BaseSpec).decode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode
_decode_metrics = msgspec.msgpack.Decoder(dict[str, float]).decode
_decode_placements = msgspec.msgpack.Decoder(
    Annotated[tuple[Placement, ...], msgspec.Meta(min_length=1)]
).decode
_decode_results = msgspec.msgpack.Decoder(ResultsSpec).decode
_decode_asked = msgspec.msgpack.Decoder(Resources).decode
_decode_names = msgspec.msgpack.Decoder(tuple[str, ...]).decode

_JOB_STATES = {state.value: state for state in JobState}
_JOB_KINDS = {kind.value: kind for kind in JobKind}
_BASE_STATES = {state.value: state for state in BaseState}
_ATTEMPT_STATES = {state.value: state for state in AttemptState}


def _insert(table: str, *columns: str) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"


def _update(table: str, columns: tuple[str, ...], where: str) -> str:
    return f"UPDATE {table} SET {', '.join(f'{column} = ?' for column in columns)} WHERE {where}"


# --- sweeps ---------------------------------------------------------------------

_SWEEP_COLUMNS = (
    "name",
    "submitted_wall_s",
    "cancelled",
    "job_ids",
    "recipe_hashes",
    "reused",
    "results",
    "source",
)
INSERT_SWEEP = _insert("sweeps", *_SWEEP_COLUMNS, "sweep_id", "row")
UPDATE_SWEEP = _update("sweeps", _SWEEP_COLUMNS, "sweep_id = ?")
SELECT_SWEEPS = f"SELECT sweep_id, {', '.join(_SWEEP_COLUMNS)} FROM sweeps ORDER BY row"


def sweep_values(sweep: Sweep) -> Row:
    return (
        sweep.name,
        sweep.submitted_wall_s,
        int(sweep.cancelled),
        _encode(sweep.job_ids),
        _encode(sweep.recipe_hashes),
        _encode(sweep.reused),
        _encode(sweep.results),
        sweep.source,
        sweep.sweep_id,
    )


def sweep_of(row: Row) -> Sweep:
    sweep_id, name, submitted, cancelled, job_ids, recipe_hashes, reused, results, source = row
    return Sweep(
        sweep_id=sweep_id,
        name=name,
        job_ids=_decode_names(job_ids),
        recipe_hashes=_decode_names(recipe_hashes),
        results=_decode_results(results),
        source=source,
        submitted_wall_s=submitted,
        cancelled=bool(cancelled),
        reused=_decode_names(reused),
    )


# --- jobs -----------------------------------------------------------------------

_JOB_COLUMNS = (
    "place",
    "priority",
    "state",
    "generation",
    "cancelling",
    "retries_used",
    "losses",
    "gpu_memory_bytes",
    "failure",
    "metrics",
    "submitted_wall_s",
    "ended_wall_s",
    "alone",
    "checkpoint",
    "checkpoint_safe",
    "asked",
)
INSERT_JOB = _insert("jobs", *_JOB_COLUMNS, "job_id", "kind", "sweep", "row")
UPDATE_JOB = _update("jobs", _JOB_COLUMNS, "job_id = ? AND kind = ? AND sweep IS ?")
INSERT_JOB_SPEC = "INSERT INTO job_specs (row, spec) VALUES (?, ?)"
SELECT_JOBS = f"""
    SELECT jobs.row, spec, kind, sweep_id, {", ".join(f"jobs.{column}" for column in _JOB_COLUMNS)}
    FROM jobs JOIN job_specs ON job_specs.row = jobs.row LEFT JOIN sweeps ON sweeps.row = sweep
    ORDER BY jobs.row
"""


def job_values(job: Job, sweep_row: int | None) -> Row:
    # Plain ints, floats and strings are bound much faster than bools and enums.
    return (
        job.order,
        job.priority,
        job.state.value,
        job.generation,
        1 if job.cancelling else 0,
        job.retries_used,
        job.losses,
        job.gpu_memory_bytes,
        None if job.failure is None else _encode(job.failure),
        _encode(job.metrics) if job.metrics else None,
        job.submitted_wall_s,
        job.ended_wall_s,
        1 if job.alone else 0,
        job.checkpoint,
        job.checkpoint_safe,
        None if job.asked is None else _encode(job.asked),
        job.spec.job_id,
        job.kind.value,
        sweep_row,
    )


def spec_blob(spec: JobSpec) -> bytes:
    return _encode(spec)


def job_of(row: Row, last_attempts: dict[int, Row]) -> Job:
    """The job of a row of SELECT_JOBS.

    Args:
        last_attempts: row of a job → the attempt's row that belongs to it.
    """
    (
        number,
        spec_bytes,
        kind,
        sweep_id,
        order,
        priority,
        state,
        generation,
        cancelling,
        retries_used,
        losses,
        gpu_memory_bytes,
        failure,
        metrics,
        submitted_wall_s,
        ended_wall_s,
        alone,
        checkpoint,
        checkpoint_safe,
        asked,
    ) = row
    spec = _decode_job_spec(spec_bytes)
    attempt_row = last_attempts.get(number)
    attempt = None if attempt_row is None else attempt_of(attempt_row, spec.job_id)
    return Job(
        spec=spec,
        kind=_JOB_KINDS[kind],
        order=order,
        sweep_id=sweep_id,
        state=state_shown(_JOB_STATES[state], attempt),
        generation=generation,
        priority=priority,
        cancelling=cancelling == 1,
        attempt=attempt,
        retries_used=retries_used,
        losses=losses,
        gpu_memory_bytes=gpu_memory_bytes,
        failure=None if failure is None else _decode_failure(failure),
        metrics={} if metrics is None else _decode_metrics(metrics),
        submitted_wall_s=submitted_wall_s,
        ended_wall_s=ended_wall_s,
        alone=alone == 1,
        checkpoint=checkpoint,
        checkpoint_safe=checkpoint_safe,
        asked=None if asked is None else _decode_asked(asked),
    )


# --- attempts -------------------------------------------------------------------

_ATTEMPT_COLUMNS = (
    "generation",
    "placements",
    "state",
    "base_artifact",
    "assigned_wall_s",
    "started_wall_s",
    "ended_wall_s",
    "failure",
    "artifact_id",
    "resumed_from",
)
INSERT_ATTEMPT = f"""
    INSERT INTO attempts ({", ".join(_ATTEMPT_COLUMNS)}, epoch, job)
    VALUES ({", ".join("?" * len(_ATTEMPT_COLUMNS))}, ?, (SELECT row FROM jobs WHERE job_id = ?))
"""
UPDATE_ATTEMPT = _update(
    "attempts", _ATTEMPT_COLUMNS, "epoch = ? AND job = (SELECT row FROM jobs WHERE job_id = ?)"
)
_SELECT_ATTEMPTS = f"SELECT job, epoch, {', '.join(_ATTEMPT_COLUMNS)} FROM attempts"
SELECT_LAST_ATTEMPTS = f"""
    {_SELECT_ATTEMPTS} WHERE epoch IN (SELECT max(epoch) FROM attempts GROUP BY job)
"""
SELECT_LIVE_ATTEMPTS = f"{_SELECT_ATTEMPTS} WHERE state = 'live'"
SELECT_ATTEMPTS_OF = f"""
    {_SELECT_ATTEMPTS} WHERE job = (SELECT row FROM jobs WHERE job_id = ?) ORDER BY epoch
"""


def attempt_values(attempt: Attempt) -> Row:
    return (
        attempt.generation,
        _encode(attempt.placements),
        attempt.state.value,
        attempt.base_artifact,
        attempt.assigned_wall_s,
        attempt.started_wall_s,
        attempt.ended_wall_s,
        None if attempt.failure is None else _encode(attempt.failure),
        attempt.artifact_id,
        attempt.resumed_from,
        attempt.epoch,
        attempt.job_id,
    )


def attempt_of(row: Row, job_id: str) -> Attempt:
    (
        _,
        epoch,
        generation,
        placements,
        state,
        base_artifact,
        assigned_wall_s,
        started_wall_s,
        ended_wall_s,
        failure,
        artifact_id,
        resumed_from,
    ) = row
    return Attempt(
        attempt_id=attempt_id_of(job_id, epoch),
        job_id=job_id,
        generation=generation,
        epoch=epoch,
        placements=_decode_placements(placements),
        state=_ATTEMPT_STATES[state],
        base_artifact=base_artifact,
        assigned_wall_s=assigned_wall_s,
        started_wall_s=started_wall_s,
        ended_wall_s=ended_wall_s,
        failure=None if failure is None else _decode_failure(failure),
        artifact_id=artifact_id,
        resumed_from=resumed_from,
    )


# --- bases ----------------------------------------------------------------------

_BASE_COLUMNS = (
    "spec",
    "generation",
    "state",
    "artifact_id",
    "size_bytes",
    "durable",
    "node_id",
    "trained_s",
    "committed_wall_s",
)
SAVE_BASE = f"""
    INSERT INTO bases ({", ".join(_BASE_COLUMNS)}, recipe_hash, job)
    VALUES ({", ".join("?" * len(_BASE_COLUMNS))}, ?, (SELECT row FROM jobs WHERE job_id = ?))
    ON CONFLICT (recipe_hash) DO UPDATE SET
        {", ".join(f"{column} = excluded.{column}" for column in (*_BASE_COLUMNS, "job"))}
"""
SELECT_BASES = f"""
    SELECT job_id, {", ".join(f"bases.{column}" for column in _BASE_COLUMNS)}
    FROM bases JOIN jobs ON jobs.row = bases.job ORDER BY bases.rowid
"""


def base_values(base: Base) -> Row:
    return (
        _encode(base.spec),
        base.generation,
        base.state.value,
        base.artifact_id,
        base.size_bytes,
        int(base.durable),
        base.node_id,
        base.trained_s,
        base.committed_wall_s,
        base.recipe_hash,
        base.job_id,
    )


def base_of(row: Row) -> Base:
    job_id, spec, generation, state, artifact_id, size_bytes, durable, node_id, trained_s, at = row
    return Base(
        spec=_decode_base_spec(spec),
        job_id=job_id,
        generation=generation,
        state=_BASE_STATES[state],
        artifact_id=artifact_id,
        size_bytes=size_bytes,
        durable=bool(durable),
        node_id=node_id,
        trained_s=trained_s,
        committed_wall_s=at,
    )


def load_jobs(connection: sqlite3.Connection) -> tuple[Job, ...]:
    """All jobs, by `order`, and by age where that is the same."""
    collecting = gc.isenabled()
    # Nothing of this is garbage, and looking for some would take as long as all the rest.
    gc.disable()
    try:
        attempts: dict[int, Row] = {row[0]: row for row in connection.execute(SELECT_LAST_ATTEMPTS)}
        attempts.update({row[0]: row for row in connection.execute(SELECT_LIVE_ATTEMPTS)})
        jobs = [job_of(row, attempts) for row in connection.execute(SELECT_JOBS)]
    finally:
        if collecting:
            gc.enable()
    jobs.sort(key=lambda job: job.order)
    return tuple(jobs)
