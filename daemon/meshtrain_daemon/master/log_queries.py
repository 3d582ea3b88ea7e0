"""Answers about what jobs printed and measured: their bytes, their lines, and when they came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from meshtrain.core.job import Attempt, AttemptState, Job
from meshtrain.core.rows import job_row
from meshtrain.core.state import MeshState
from meshtrain.errors import NotFoundError, UserError
from meshtrain.spec.problems import shown
from meshtrain.wire.messages import Query
from meshtrain_daemon.master.log_lines import BLOCK_BYTES, COUNTED_BYTES_MAX, count_line_ends
from meshtrain_daemon.master.log_times import read_times
from meshtrain_daemon.master.logbook import STREAMS, LogPiece
from meshtrain_daemon.master.names import resolve_job
from meshtrain_daemon.master.surroundings import Surroundings

LOG_BYTES_MAX = 1 << 20
LAST_BYTES_S = 30.0
"""How long after a job's end its last bytes are waited for."""


class _Asked(NamedTuple):
    """The stream that a query is about; `row` is what every answer tells of it."""

    key: tuple[str, str, str] | None
    """Job, attempt, stream; None where there was no attempt yet."""
    size_bytes: int
    row: dict[str, Any]


def answer_log(
    state: MeshState, query: Query, surroundings: Surroundings
) -> tuple[Iterable[Any], int]:
    """Bytes from an offset on."""
    asked = _asked(state, query, surroundings)
    piece = LogPiece(b"", query.offset, query.offset)
    if asked.key is not None:
        limit = min(query.limit, LOG_BYTES_MAX, max(asked.size_bytes - query.offset, 0))
        if limit:
            piece = surroundings.read_log(*asked.key, query.offset, limit)
    row = {
        **asked.row,
        "data": piece.data,
        "begin": piece.begin,
        "next_offset": piece.next_offset,
    }
    return [row], 1


def answer_lines(
    state: MeshState, query: Query, surroundings: Surroundings
) -> tuple[Iterable[Any], int]:
    """Line ends, counted in blocks from the one that an offset lies in."""
    asked = _asked(state, query, surroundings)
    counts: list[int] = []
    begin = query.offset // BLOCK_BYTES * BLOCK_BYTES
    end = min(asked.size_bytes, begin + min(query.limit, COUNTED_BYTES_MAX))
    if asked.key is not None:
        try:
            counts = count_line_ends(surroundings.log_file(*asked.key), begin, end)
        except OSError as error:
            raise UserError(
                f"the log of {asked.row['name']} can't be read on the master: {error.strerror}; "
                "look after its disk"
            ) from error
    next_offset = min(end, begin + len(counts) * BLOCK_BYTES) if counts else begin
    row = {
        **asked.row,
        "block_bytes": BLOCK_BYTES,
        "counts": counts,
        "begin": begin,
        "next_offset": next_offset,
    }
    return [row], 1


def answer_times(
    state: MeshState, query: Query, surroundings: Surroundings
) -> tuple[Iterable[Any], int]:
    """From which offset on bytes came when."""
    asked = _asked(state, query, surroundings)
    pairs: list[tuple[int, float]] = []
    if asked.key is not None:
        pairs = read_times(surroundings.log_file(*asked.key), query.offset, asked.size_bytes)
    row = {
        **asked.row,
        "offsets": [offset for offset, _ in pairs],
        "walls_s": [wall_s for _, wall_s in pairs],
    }
    return [row], 1


def attempts_of(state: MeshState, job: Job, surroundings: Surroundings) -> list[Attempt]:
    """The stored attempts, with what the scheduler knows of the last one since."""
    known = {attempt.attempt_id: attempt for attempt in surroundings.attempts_of(job.job_id)}
    if job.attempt is not None:
        known[job.attempt.attempt_id] = job.attempt
    return sorted(known.values(), key=lambda attempt: attempt.epoch)


def _asked(state: MeshState, query: Query, surroundings: Surroundings) -> _Asked:
    if not 1 <= len(query.names) <= 3:
        raise UserError(f"the query {query.what} takes a job, and perhaps a stream and an attempt")
    name, stream, wanted = (*query.names, "", "")[:3]
    stream = stream or STREAMS[0]
    job = state.jobs[resolve_job(state, name)]
    attempt = _attempt(state, job, wanted, surroundings)
    if stream not in STREAMS and stream not in _of_ranks(attempt):
        known = " and ".join(STREAMS)
        raise NotFoundError(f"a job has no stream {shown(stream)}: it has {known}")
    key = None if attempt is None else (job.job_id, attempt.attempt_id, stream)
    size_bytes = 0 if key is None else surroundings.log_size(*key)
    ended = job.state.is_terminal
    if wanted and attempt is not None:
        ended = attempt.state is not AttemptState.LIVE
    if ended and attempt is not None and not surroundings.log_is_whole(attempt.attempt_id, stream):
        # Its last bytes are on their way, unless their host has gone with them.
        ended = state.wall_s - (attempt.ended_wall_s or 0.0) > LAST_BYTES_S
    row = {
        "job_id": job.job_id,
        "name": job.name,
        "state": str(job.state),
        "reason": job_row(state, job).reason,
        "attempt_id": None if attempt is None else attempt.attempt_id,
        "stream": stream,
        "offset": query.offset,
        "size_bytes": size_bytes,
        "ended": ended,
    }
    return _Asked(key, size_bytes, row)


def _of_ranks(attempt: Attempt | None) -> list[str]:
    """The logs of a gang's other ranks."""
    ranks = 0 if attempt is None else len(attempt.placements)
    return [f"{STREAMS[0]}.{rank}" for rank in range(1, ranks)]


def _attempt(state: MeshState, job: Job, wanted: str, surroundings: Surroundings) -> Attempt | None:
    """The attempt of that id, or of that number counted from 1; else the last one."""
    attempts: Sequence[Attempt]
    if not wanted:
        if job.attempt is not None:
            return job.attempt
        attempts = attempts_of(state, job, surroundings)
        return attempts[-1] if attempts else None
    attempts = attempts_of(state, job, surroundings)
    for number, attempt in enumerate(attempts, start=1):
        if wanted in (attempt.attempt_id, str(number)):
            return attempt
    there = f"attempts 1 to {len(attempts)}" if attempts else "no attempt yet"
    raise NotFoundError(f"{job.name} has no attempt {shown(wanted)}: it has {there}")
