"""The job store in one SQLite file, as last committed: read beside its writer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from meshtrain.core.copies import Pin
from meshtrain.core.job import Attempt
from meshtrain.core.state import Loaded
from meshtrain.store import migrate, rows
from meshtrain.store import small_rows as small
from meshtrain.store.base import ArchiveEntry, StreamSize, epoch_counter_of, job_and_epoch_of
from meshtrain.store.failures import damaged, sqlite_failure

FILE_NAME = "jobs.db"

_Answer = TypeVar("_Answer")


class SqliteReader:
    """The store as last committed, through a connection that can't write.

    Raises StoreError when there is no store below `folder`, or it can't be read.

    Args:
        folder: the master's state folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        migrate.demand_file(self.path)
        self._turn = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro",
                uri=True,
                timeout=migrate.BUSY_WAIT_S,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise sqlite_failure(self.path, error, "opened") from error
        try:
            version_max = migrate.known_migrations()[-1].version
            self._ask(lambda db: migrate.check_version(db, self.path, version_max, version_max))
        except BaseException:
            self._connection.close()
            raise

    def load(self) -> Loaded:
        return self._ask(_load)

    def attempts_of(self, job_id: str) -> tuple[Attempt, ...]:
        return self._ask(
            lambda db: tuple(
                rows.attempt_of(row, job_id)
                for row in db.execute(rows.SELECT_ATTEMPTS_OF, [job_id])
            )
        )

    def stream_sizes(self, attempt_id: str) -> dict[str, int]:
        key = job_and_epoch_of(attempt_id)
        if key is None:
            return {}
        job_id, epoch = key
        return self._ask(lambda db: dict(db.execute(small.SELECT_STREAMS_OF, [epoch, job_id])))

    def all_stream_sizes(self) -> tuple[StreamSize, ...]:
        return self._ask(
            lambda db: tuple(small.stream_of(row) for row in db.execute(small.SELECT_STREAMS))
        )

    def archive_mark(self, target: str) -> str | None:
        row = self._ask(lambda db: db.execute(small.SELECT_ARCHIVE_MARK, [target]).fetchone())
        return None if row is None else str(row[0])

    def archive_entries(self, target: str) -> tuple[ArchiveEntry, ...]:
        return self._ask(
            lambda db: tuple(
                small.archived_of(row) for row in db.execute(small.SELECT_ARCHIVED, [target])
            )
        )

    def close(self) -> None:
        with self._turn:
            self._connection.close()

    def _ask(self, question: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        with self._turn:
            try:
                # One transaction, so that an answer of several parts is of one moment.
                self._connection.execute("BEGIN")
                try:
                    return question(self._connection)
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise sqlite_failure(self.path, error, "read") from error
            except LookupError as error:
                raise damaged(self.path, f"rows are missing, or make no sense: {error}") from error
            except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
                raise damaged(self.path, f"a row makes no sense ({error})") from error


def open_readonly(folder: Path) -> SqliteReader:
    """Opens the store below a master's state folder for reading, beside its writer.

    Raises StoreError when there is none, or it can't be read.
    """
    return SqliteReader(folder)


def _load(connection: sqlite3.Connection) -> Loaded:
    told = connection.execute(small.SELECT_INCARNATION).fetchone()
    if told is None:
        raise LookupError("its incarnation is gone")
    incarnation: int = told[0]
    epoch_max: int | None = connection.execute(small.SELECT_EPOCH_MAX).fetchone()[0]
    drained: dict[str, float | None] = dict(connection.execute(small.SELECT_DRAINED))
    loaded = Loaded(
        incarnation=incarnation,
        epoch_counter=epoch_counter_of(incarnation, epoch_max),
        sweeps=tuple(rows.sweep_of(row) for row in connection.execute(rows.SELECT_SWEEPS)),
        jobs=rows.load_jobs(connection),
        bases=tuple(rows.base_of(row) for row in connection.execute(rows.SELECT_BASES)),
        drained=tuple(drained),
        drains_due_wall_s={n: due_s for n, due_s in drained.items() if due_s is not None},
        gpu_faults=tuple(
            small.gpu_faults_of(row) for row in connection.execute(small.SELECT_GPU_FAULTS)
        ),
        named_inputs=tuple(small.input_of(row) for row in connection.execute(small.SELECT_INPUTS)),
        pins=tuple(Pin(*row) for row in connection.execute(small.SELECT_PINS)),
        spending=tuple(small.spending_of(row) for row in connection.execute(small.SELECT_SPENDING)),
    )
    (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
    if jobs != len(loaded.jobs):
        raise LookupError(f"{jobs - len(loaded.jobs)} jobs have lost their specs")
    return loaded
