"""The one writer of the job store in SQLite: write-ahead log, fsync before a commit returns."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from meshtrain import failpoints
from meshtrain.core.effects import Save
from meshtrain.core.job import Attempt, AttemptState
from meshtrain.core.state import Loaded
from meshtrain.errors import StoreError
from meshtrain.store import cutover, migrate, rows
from meshtrain.store import small_rows as small
from meshtrain.store.base import (
    ArchiveEntry,
    StreamSize,
    is_forgotten,
)
from meshtrain.store.batch import Batch
from meshtrain.store.failures import (
    StoreFullError,
    damaged,
    lacks_room,
    rule_broken,
    sqlite_failure,
)
from meshtrain.store.lock import StoreLock
from meshtrain.store.sqlite_reader import FILE_NAME, SqliteReader

LOCK_NAME = "lock"

_CACHE_KIB = 16 * 1024
_WAL_PAGES = 4_000
"""About 16 MB: after so much the log is folded into the file."""
_WAL_KEPT_BYTES = 64 << 20

_UNSTORABLE = (sqlite3.Error, msgspec.MsgspecError, OverflowError, TypeError, ValueError)
"""What sqlite3 and msgspec raise: of the database, and of values that they can't take."""


class SqliteStore:
    """The one writer of the store below a master's state folder.

    Makes the folder and the store where there is none, and brings an older one
    up to date. Raises StoreInUseError when another process has it, StoreError
    when it is damaged, newer than this program, or can't be opened.

    Args:
        folder: the master's state folder.
        migrations: the steps of the schema; those of this program if None.
    """

    def __init__(self, folder: Path, migrations: Sequence[migrate.Migration] | None = None) -> None:
        self.path = folder / FILE_NAME
        try:
            migrate.make_folder(folder)
        except OSError as error:
            raise StoreError(
                f"the state folder {folder} can't be made: {error.strerror}. "
                "Make it yourself, or name another home with MESHTRAIN_HOME"
            ) from error
        self._lock = StoreLock(folder / LOCK_NAME)
        try:
            cutover.finish(folder)
            self._connection = _open_writer(
                self.path,
                migrations or migrate.known_migrations(),
                had_store=self._lock.had_store,
            )
            self._lock.note_store()
            try:
                self._reader = SqliteReader(folder)
                self._sweep_rows: dict[str, int] = dict(
                    self._connection.execute("SELECT sweep_id, row FROM sweeps")
                )
                self._job_row_max: int = self._connection.execute(
                    "SELECT coalesce(max(row), 0) FROM jobs"
                ).fetchone()[0]
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            self._lock.release()
            raise sqlite_failure(self.path, error, "opened") from error
        except BaseException:
            self._lock.release()
            raise
        self._batch = Batch()

    def load(self) -> Loaded:
        return self._reader.load()

    def attempts_of(self, job_id: str) -> tuple[Attempt, ...]:
        return self._reader.attempts_of(job_id)

    def stream_sizes(self, attempt_id: str) -> dict[str, int]:
        return self._reader.stream_sizes(attempt_id)

    def all_stream_sizes(self) -> tuple[StreamSize, ...]:
        return self._reader.all_stream_sizes()

    def archive_mark(self, target: str) -> str | None:
        return self._reader.archive_mark(target)

    def archive_entries(self, target: str) -> tuple[ArchiveEntry, ...]:
        return self._reader.archive_entries(target)

    def save(self, effects: Sequence[Save]) -> None:
        try:
            self._batch.add_all(effects)
        except StoreError:
            self._batch = Batch()
            raise

    def set_stream_size(self, attempt_id: str, job_id: str, stream: str, size_bytes: int) -> None:
        try:
            self._batch.set_stream_size(attempt_id, job_id, stream, size_bytes)
        except StoreError:
            self._batch = Batch()
            raise

    def mark_archive(self, target: str, mark: str) -> None:
        self._batch.archives[target] = mark

    def save_archived(self, target: str, entries: Sequence[ArchiveEntry]) -> None:
        self._batch.save_archived(target, entries)

    def bump_incarnation(self, by: int = 1) -> None:
        self._batch.incarnation_bumps += by

    def lacks_room(self) -> StoreFullError | None:
        return lacks_room(self.path)

    def rollback(self) -> None:
        self._batch = Batch()

    def commit(self) -> None:
        batch = self._batch
        if not batch:
            return
        sweep_rows = {
            sweep_id: row
            for row, sweep_id in enumerate(batch.new_sweeps, start=len(self._sweep_rows) + 1)
        }
        try:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._write(batch, sweep_rows)
                failpoints.reach("store.written")
                self._connection.execute("COMMIT")
            except _UNSTORABLE as error:
                raise sqlite_failure(self.path, error, "written") from error
        except StoreFullError:
            self._undo()
            raise
        except BaseException:
            self._undo()
            self._batch = Batch()
            raise
        self._sweep_rows.update(sweep_rows)
        self._job_row_max += len(batch.new_jobs)
        self._batch = Batch()
        failpoints.reach("store.committed")

    def close(self) -> None:
        self._batch = Batch()
        try:
            self._reader.close()
            # The last connection to close folds the log into the file.
            self._connection.close()
        except sqlite3.Error as error:
            raise sqlite_failure(self.path, error, "closed") from error
        finally:
            self._lock.release()

    def _undo(self) -> None:
        try:
            # SQLite has rolled back by itself after some errors, and not after others.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise sqlite_failure(self.path, error, "rolled back") from error

    def _write(self, batch: Batch, new_sweep_rows: dict[str, int]) -> None:
        """Writes row by row what others refer to before what refers to it."""
        sweep_rows = self._sweep_rows

        def sweep_row(sweep_id: str | None) -> int | None:
            if sweep_id is None:
                return None
            row = sweep_rows.get(sweep_id) or new_sweep_rows.get(sweep_id)
            if row is None:
                raise rule_broken(f"a job's sweep {sweep_id} is not there")
            return row

        if batch.new_sweeps:
            self._many(
                rows.INSERT_SWEEP,
                [
                    (*rows.sweep_values(s), new_sweep_rows[s.sweep_id])
                    for s in batch.new_sweeps.values()
                ],
            )
        if batch.sweeps:
            self._many(rows.UPDATE_SWEEP, [rows.sweep_values(s) for s in batch.sweeps.values()])
        if batch.new_jobs:
            first = self._job_row_max + 1
            self._many(
                rows.INSERT_JOB,
                [
                    (*rows.job_values(job, sweep_row(job.sweep_id)), row)
                    for row, job in enumerate(batch.new_jobs.values(), first)
                ],
            )
            self._many(
                rows.INSERT_JOB_SPEC,
                [
                    (row, rows.spec_blob(batch.new_specs[job_id]))
                    for row, job_id in enumerate(batch.new_jobs, first)
                ],
            )
        if batch.jobs:
            self._many(
                rows.UPDATE_JOB,
                [rows.job_values(job, sweep_row(job.sweep_id)) for job in batch.jobs.values()],
            )
        if batch.attempts:
            # A job's live attempt must have ended before its next one is live.
            ended_first = sorted(
                batch.attempts.values(), key=lambda attempt: attempt.state is AttemptState.LIVE
            )
            self._many(rows.UPDATE_ATTEMPT, [rows.attempt_values(a) for a in ended_first])
        if batch.new_attempts:
            by_epoch = sorted(batch.new_attempts.values(), key=lambda attempt: attempt.epoch)
            self._many(rows.INSERT_ATTEMPT, [rows.attempt_values(a) for a in by_epoch])
        if batch.bases:
            self._many(rows.SAVE_BASE, [rows.base_values(base) for base in batch.bases.values()])
        if batch.streams:
            self._many(
                small.SET_STREAM_SIZE,
                [
                    (stream, size_bytes, epoch, job_id)
                    for (job_id, epoch, stream), size_bytes in batch.streams.items()
                ],
            )
        self._write_rare(batch)

    def _write_rare(self, batch: Batch) -> None:
        for node_id, saved in batch.drained.items():
            if saved.drained:
                self._connection.execute(small.SAVE_DRAINED, [node_id, saved.due_wall_s])
            else:
                self._connection.execute(small.DELETE_DRAINED, [node_id])
        for (node_id, gpu), known in batch.gpu_faults.items():
            if is_forgotten(known):
                self._connection.execute(small.DELETE_GPU_FAULTS, [node_id, gpu])
            else:
                values = [known.faults, int(known.out_of_use), node_id, gpu]
                self._connection.execute(small.SAVE_GPU_FAULTS, values)
        for pin, pinned in batch.pins.items():
            self._connection.execute(small.INSERT_PIN if pinned else small.DELETE_PIN, pin)
        if batch.spending:
            self._many(
                small.SAVE_SPENDING,
                [small.spending_values(one) for one in batch.spending.values()],
            )
        if batch.inputs:
            self._many(
                small.INSERT_INPUT,
                [small.input_values(one) for one in batch.inputs.values()],
            )
        if batch.archives:
            self._many(small.MARK_ARCHIVE, list(batch.archives.items()))
        if batch.archived:
            self._many(
                small.SAVE_ARCHIVED,
                [small.archived_values(target, e) for (target, _), e in batch.archived.items()],
            )
        if batch.incarnation_bumps:
            self._many(small.BUMP_INCARNATION, [(batch.incarnation_bumps,)])

    def _many(self, statement: str, values: list[rows.Row]) -> None:
        """Runs a statement that must touch one row for each of `values`."""
        touched = self._connection.executemany(statement, values).rowcount
        if touched != len(values):
            raise rule_broken(_not_there(statement, len(values) - touched))


def _not_there(statement: str, count: int) -> str:
    return f"{count} of the rows that it is about are not there: {' '.join(statement.split())}"


def _open_writer(
    path: Path, migrations: Sequence[migrate.Migration], *, had_store: bool
) -> sqlite3.Connection:
    if not path.exists():
        if path.is_symlink():
            raise damaged(path, f"it is a link to {path.readlink()}, which is gone")
        if had_store:
            raise damaged(path, "it is gone")
        log = Path(f"{path}-wal")
        if log.exists():
            raise damaged(path, f"it is gone, but {log.name}, which belongs to it, is there")
        migrate.create(path, migrations)
    elif not path.is_file():
        raise damaged(path, "it is no plain file")
    elif path.stat().st_size == 0:
        raise damaged(path, "it is empty")
    migrate.check_whole(path, migrations[-1].version)
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=migrate.BUSY_WAIT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        migrate.migrate(connection, path, migrations)
        failpoints.reach("store.migrate.done")
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            f"cache_size = -{_CACHE_KIB}",
            f"wal_autocheckpoint = {_WAL_PAGES}",
            f"journal_size_limit = {_WAL_KEPT_BYTES}",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as error:
        connection.close()
        raise sqlite_failure(path, error, "opened") from error
    except BaseException:
        connection.close()
        raise
    return connection
