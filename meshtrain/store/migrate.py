"""The store's schema: made, recognised, and brought up to date."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec

from meshtrain import failpoints
from meshtrain.errors import StoreError
from meshtrain.store.failures import StoreFullError, StoreInUseError, damaged, sqlite_failure

APPLICATION_ID = 0x6D657368
"""Marks the file as meshtrain's, in SQLite's header: the letters "mesh"."""


BUSY_WAIT_S = 5.0
CHECK_S_MAX = 10.0
"""Looking through a store of 100,000 jobs takes about 0.3 s, a sixth of loading it."""
_CHECK_STEPS_BETWEEN_LOOKS = 100_000
"""Steps of SQLite's machine between looks at the clock: some milliseconds."""


class Migration(msgspec.Struct, frozen=True):
    """One step of the schema; step n leads from version n - 1 to version n."""

    version: int
    name: str
    sql: str


def known_migrations() -> tuple[Migration, ...]:
    """All steps that this program knows, in order."""
    folder = resources.files("meshtrain.store") / "migrations"
    steps = []
    for file in folder.iterdir():
        number, _, rest = file.name.partition("_")
        if rest.endswith(".sql"):
            steps.append(Migration(int(number), file.name, file.read_text(encoding="utf-8")))
    return tuple(sorted(steps, key=lambda step: step.version))


def create(path: Path, migrations: Sequence[Migration]) -> None:
    """Makes an empty store at `path`, whole or not at all.

    Because a new store gets its name only when it is complete, an empty or
    half-written file under that name is always damage, and never taken for new.
    """
    fresh = path.with_name(f"{path.name}.new")
    for leftover in (fresh, Path(f"{fresh}-wal"), Path(f"{fresh}-shm"), Path(f"{fresh}-journal")):
        leftover.unlink(missing_ok=True)
    try:
        connection = sqlite3.connect(fresh, isolation_level=None)
        try:
            # It has no name yet: one fsync below serves for all of SQLite's.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = MEMORY")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            migrate(connection, path, migrations)
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        fsync(fresh)
        failpoints.reach("store.create.made")
        fresh.rename(path)
        fsync(path.parent)
    except sqlite3.Error as error:
        raise sqlite_failure(path, error, "made") from error
    except OSError as error:
        raise StoreError(
            f"the job store {path} could not be made: {error.strerror}. "
            f"See that {path.parent} has room and may be written by this user"
        ) from error


def check_version(
    connection: sqlite3.Connection, path: Path, version_max: int, version_min: int = 1
) -> int:
    """The schema's version, between `version_min` and `version_max`.

    Raises StoreError when the file is another program's, of a newer meshtrain, or
    older than whoever can't update it can read.
    """
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if application_id != APPLICATION_ID or version < 1:
        raise damaged(path, "it is an SQLite file, but not a job store of meshtrain")
    if version > version_max:
        raise StoreError(
            f"the job store {path} was written by a newer meshtrain: its schema is version "
            f"{version}, and this one knows versions up to {version_max}. "
            "Upgrade meshtrain on this host; nothing was changed"
        )
    if version < version_min:
        raise StoreError(
            f"the job store {path} was written by an older meshtrain: its schema is version "
            f"{version}, and it is read from version {version_min} on. "
            "To bring it up to date, start a master of this version on it once"
        )
    return version


def demand_file(path: Path) -> None:
    """Raises StoreError when there is no store file at `path`."""
    if not path.is_file():
        raise StoreError(
            f"there is no job store at {path}. "
            "Start a master there first, or name its home with MESHTRAIN_HOME"
        )


def check_whole(path: Path, version_max: int, told_as: Path | None = None) -> None:
    """Looks through a store before anything is written to it.

    The connection can't write: what is found damaged stays as it is, and so does
    its log of commits that are not yet in the file. A store that takes longer
    than CHECK_S_MAX to look through passes: what is wrong with the rest is found
    where it is read.

    Args:
        told_as: what errors name, where `path` is a copy.

    Raises StoreError when the store is damaged, another program's, or newer.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_WAIT_S, isolation_level=None
    )
    path = told_as or path
    with contextlib.closing(connection):
        try:
            check_version(connection, path, version_max)
            until_s = time.monotonic() + CHECK_S_MAX
            connection.set_progress_handler(
                lambda: time.monotonic() > until_s, _CHECK_STEPS_BETWEEN_LOOKS
            )
            try:
                (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
                if found != "ok":
                    raise damaged(path, found.rpartition("\n")[2])
                missing = connection.execute("PRAGMA foreign_key_check").fetchone()
                if missing is not None:
                    raise damaged(
                        path, f"rows of {missing[0]} refer to rows of {missing[2]} that are gone"
                    )
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                    raise
        except sqlite3.Error as error:
            raise sqlite_failure(path, error, "read") from error


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    """Runs the steps that the store hasn't had yet, each in a transaction of its own.

    A step that fails leaves the store as the step before it did. Raises
    StoreError, naming the step.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    # A step may rebuild a table that others refer to; what it leaves is checked below.
    connection.execute("PRAGMA foreign_keys = OFF")
    for step in migrations:
        if step.version <= version:
            continue
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{step.sql}\n;PRAGMA user_version = {step.version};"
            )
            if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
                raise sqlite3.IntegrityError("rows refer to rows that are not there")
            failpoints.reach("store.migrate.step")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            told = sqlite_failure(path, error, f"brought up to date by {step.name}")
            if isinstance(told, StoreFullError | StoreInUseError):
                raise told from error
            raise StoreError(
                f"the job store {path} could not be brought up to date by {step.name}: {error}. "
                "It is as it was before that step: go back to the meshtrain that last ran "
                "on it, and report this message"
            ) from error


def make_folder(folder: Path) -> None:
    """Makes a folder, and makes its name, and those of the folders above it, durable."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        fsync(path.parent)


def fsync(path: Path) -> None:
    """Makes a file's bytes, or a folder's names, survive a loss of power."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
