"""The small tables as rows: drained nodes, GPUs, streams, data sets, pins, archives, spending."""

from __future__ import annotations

from typing import Any

import msgspec

from meshtrain.core.job import attempt_id_of
from meshtrain.core.named_input import NamedInput
from meshtrain.core.node import GpuFaults
from meshtrain.core.spending import Spending
from meshtrain.store.base import ArchiveEntry, ArchiveState, StreamSize

Row = tuple[Any, ...]

SAVE_DRAINED = """
    INSERT INTO drained (node_id, due_wall_s) VALUES (?, ?)
    ON CONFLICT (node_id) DO UPDATE SET due_wall_s = excluded.due_wall_s
"""
SELECT_DRAINED = "SELECT node_id, due_wall_s FROM drained ORDER BY node_id"
DELETE_DRAINED = "DELETE FROM drained WHERE node_id = ?"
SET_STREAM_SIZE = """
    INSERT INTO streams (epoch, stream, size_bytes)
    SELECT epoch, ?, ? FROM attempts JOIN jobs ON jobs.row = job WHERE epoch = ? AND job_id = ?
    ON CONFLICT (epoch, stream) DO UPDATE SET size_bytes = excluded.size_bytes
"""
SELECT_STREAMS = """
    SELECT job_id, epoch, stream, size_bytes
    FROM streams JOIN attempts USING (epoch) JOIN jobs ON jobs.row = attempts.job
    ORDER BY epoch, stream
"""
SELECT_STREAMS_OF = """
    SELECT stream, size_bytes
    FROM streams JOIN attempts USING (epoch) JOIN jobs ON jobs.row = attempts.job
    WHERE epoch = ? AND job_id = ?
"""
SAVE_GPU_FAULTS = """
    INSERT INTO gpu_faults (faults, out_of_use, node_id, gpu) VALUES (?, ?, ?, ?)
    ON CONFLICT (node_id, gpu) DO UPDATE SET
        faults = excluded.faults, out_of_use = excluded.out_of_use
"""
DELETE_GPU_FAULTS = "DELETE FROM gpu_faults WHERE node_id = ? AND gpu = ?"
SELECT_GPU_FAULTS = """
    SELECT node_id, gpu, faults, out_of_use FROM gpu_faults ORDER BY node_id, gpu
"""
_INPUT_COLUMNS = (
    "name",
    "version",
    "artifact_id",
    "size_bytes",
    "files_count",
    "published_by",
    "published_wall_s",
)
INSERT_INPUT = f"""
    INSERT INTO named_inputs ({", ".join(_INPUT_COLUMNS)})
    VALUES ({", ".join("?" * len(_INPUT_COLUMNS))})
"""
SELECT_INPUTS = f"SELECT {', '.join(_INPUT_COLUMNS)} FROM named_inputs ORDER BY row"
INSERT_PIN = "INSERT INTO pins (recipe_hash, node_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
DELETE_PIN = "DELETE FROM pins WHERE recipe_hash = ? AND node_id = ?"
SELECT_PINS = "SELECT recipe_hash, node_id FROM pins ORDER BY recipe_hash, node_id"
MARK_ARCHIVE = "INSERT INTO archives (target, mark) VALUES (?, ?)"
SELECT_ARCHIVE_MARK = "SELECT mark FROM archives WHERE target = ?"
SAVE_ARCHIVED = """
    INSERT INTO archived (archive, place, artifact_id, subject, state, size_bytes)
    SELECT row, ?, ?, ?, ?, ? FROM archives WHERE target = ?
    ON CONFLICT (archive, place) DO UPDATE SET
        artifact_id = excluded.artifact_id, subject = excluded.subject,
        state = excluded.state, size_bytes = excluded.size_bytes
"""
SELECT_ARCHIVED = """
    SELECT place, artifact_id, subject, state, size_bytes
    FROM archived JOIN archives ON archives.row = archive
    WHERE target = ? ORDER BY archived.row
"""
BUMP_INCARNATION = "UPDATE meta SET incarnation = incarnation + ?"
SELECT_INCARNATION = "SELECT incarnation FROM meta"
SELECT_EPOCH_MAX = "SELECT max(epoch) FROM attempts"
SAVE_SPENDING = """
    INSERT INTO spending (sweep, gpu_s, money, gpu_hours_max, money_max)
    SELECT row, ?, ?, ?, ? FROM sweeps WHERE sweep_id = ?
    ON CONFLICT (sweep) DO UPDATE SET
        gpu_s = excluded.gpu_s, money = excluded.money,
        gpu_hours_max = excluded.gpu_hours_max, money_max = excluded.money_max
"""
SELECT_SPENDING = """
    SELECT sweep_id, gpu_s, money, gpu_hours_max, money_max
    FROM spending JOIN sweeps ON sweeps.row = sweep ORDER BY sweep
"""


def gpu_faults_of(row: Row) -> GpuFaults:
    node_id, gpu, faults, out_of_use = row
    return GpuFaults(node_id, gpu, faults, out_of_use == 1)


def stream_of(row: Row) -> StreamSize:
    job_id, epoch, stream, size_bytes = row
    return StreamSize(attempt_id_of(job_id, epoch), job_id, stream, size_bytes)


def input_values(named: NamedInput) -> Row:
    return msgspec.structs.astuple(named)


def input_of(row: Row) -> NamedInput:
    return NamedInput(*row)


def archived_values(target: str, entry: ArchiveEntry) -> Row:
    return (
        entry.place,
        entry.artifact_id,
        entry.subject,
        entry.state.value,
        entry.size_bytes,
        target,
    )


def archived_of(row: Row) -> ArchiveEntry:
    place, artifact_id, subject, state, size_bytes = row
    return ArchiveEntry(place, artifact_id, subject, ArchiveState(state), size_bytes)


def spending_values(spending: Spending) -> Row:
    return (
        spending.gpu_s,
        spending.money,
        spending.gpu_hours_max,
        spending.money_max,
        spending.sweep_id,
    )


def spending_of(row: Row) -> Spending:
    return Spending(*row)
