"""Stores of earlier versions, as the code of those versions left them, under today's code.

stores/vN.db.gz is a store file of schema N, stores/vN.json what its own code
read from it. stores/make_store.py makes both, of the schema of the code it runs
with: it says how, for when the next migration comes.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import runpy
import signal
import sqlite3
from pathlib import Path

import msgspec
import pytest

from meshtrain.core.effects import AddAttempt, UpdateAttempt, UpdateJob
from meshtrain.core.job import (
    EPOCHS_PER_INCARNATION,
    Attempt,
    AttemptState,
    JobState,
    Placement,
    attempt_id_of,
)
from meshtrain.core.state import Loaded
from meshtrain.errors import StoreError
from meshtrain.store import migrate
from meshtrain.store.base import StreamSize
from meshtrain.store.sqlite import SqliteStore
from meshtrain.store.sqlite_reader import open_readonly

STORES = Path(__file__).parent / "stores"
TODAY = migrate.known_migrations()[-1].version
EARLIER = range(1, TODAY)


class Told(msgspec.Struct, frozen=True):
    """What the code of a version read from its own store; later fields have their defaults."""

    loaded: Loaded
    attempts: tuple[Attempt, ...]
    streams: tuple[StreamSize, ...]


def told_by(version: int, stores: Path = STORES) -> Told:
    return msgspec.json.decode((stores / f"v{version}.json").read_bytes(), type=Told)


def put_store(folder: Path, version: int, stores: Path = STORES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "jobs.db"
    path.write_bytes(gzip.decompress((stores / f"v{version}.db.gz").read_bytes()))
    return path


def dump(path: Path) -> list[str]:
    """All that a store has, schema and version included, whatever that schema is."""
    connection = sqlite3.connect(path)
    with contextlib.closing(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return [f"version {version}", *connection.iterdump()]


@pytest.mark.parametrize("version", EARLIER)
def test_p1_all_that_an_earlier_version_stored_is_there(tmp_path: Path, version: int) -> None:
    path = put_store(tmp_path, version)
    told = told_by(version)
    assert {job.state for job in told.loaded.jobs} == set(JobState), "one in every state"
    for _ in range(2):
        store = SqliteStore(tmp_path)
        assert store.load() == told.loaded
        assert store.all_stream_sizes() == told.streams
        found = [a for job in told.loaded.jobs for a in store.attempts_of(job.job_id)]
        assert sorted(found, key=lambda a: a.epoch) == sorted(told.attempts, key=lambda a: a.epoch)
        store.close()
    assert dump(path)[0] == f"version {TODAY}"


@pytest.mark.parametrize("version", EARLIER)
def test_work_goes_on_in_a_store_of_an_earlier_version(tmp_path: Path, version: int) -> None:
    put_store(tmp_path, version)
    store = SqliteStore(tmp_path)
    running = next(job for job in store.load().jobs if job.state is JobState.RUNNING)
    assert running.attempt is not None
    ended = msgspec.structs.replace(running.attempt, state=AttemptState.LOST, ended_wall_s=2e9)
    epoch = EPOCHS_PER_INCARNATION + store.load().epoch_counter + 1
    new = Attempt(
        attempt_id_of(running.job_id, epoch),
        running.job_id,
        running.generation,
        epoch,
        (Placement("node-2"),),
        resumed_from="c" * 32,
    )
    job = msgspec.structs.replace(running, alone=True, checkpoint="c" * 32, attempt=new)
    store.save([UpdateAttempt(ended), AddAttempt(new), UpdateJob(job)])
    store.commit()
    store.close()
    again = SqliteStore(tmp_path)
    assert job in again.load().jobs
    again.close()


@pytest.mark.parametrize("version", EARLIER)
def test_a_reader_asks_for_an_update_and_makes_none(tmp_path: Path, version: int) -> None:
    path = put_store(tmp_path, version)
    before = dump(path)
    with pytest.raises(StoreError, match=rf"schema is version {version}.*start a master"):
        open_readonly(tmp_path)
    assert dump(path) == before


# --- a migration that ends half way -----------------------------------------------------------


def statements_of(path: Path, version: int = TODAY) -> int:
    """How many statements the update of this store to a version runs."""
    count = 0

    def note(statement: str) -> None:
        nonlocal count
        count += 1

    connection = sqlite3.connect(path, isolation_level=None)
    with contextlib.closing(connection):
        connection.set_trace_callback(note)
        migrate.migrate(connection, path, migrate.known_migrations()[:version])
    return count


def update_and_die(path: Path, at_statement: int) -> None:
    """In a child process: begin the update, and be killed as this statement begins."""
    count = 0

    def note(statement: str) -> None:
        nonlocal count
        count += 1
        if count == at_statement:
            os.kill(os.getpid(), signal.SIGKILL)

    connection = sqlite3.connect(path, isolation_level=None)
    connection.set_trace_callback(note)
    migrate.migrate(connection, path, migrate.known_migrations())
    # A migration that outlived its last statement was not killed.
    os._exit(7)


@pytest.mark.parametrize("version", EARLIER)
def test_p1_a_kill_at_any_statement_of_an_update_leaves_a_whole_store(
    tmp_path: Path, version: int
) -> None:
    statements = statements_of(put_store(tmp_path / "count", version))
    first_step = statements_of(put_store(tmp_path / "first", version), version + 1)
    assert statements >= first_step > 3
    path = put_store(tmp_path / "state", version)
    before = dump(path)
    told = told_by(version)
    half_way = 0
    for number in range(1, statements + 1):
        put_store(tmp_path / "state", version)
        for left in ("-wal", "-shm"):
            Path(f"{path}{left}").unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            update_and_die(path, number)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        after = dump(path)
        # Each step is one transaction: with steps to come, some may be through.
        assert after == before or after[0] > before[0]
        half_way += after == before
        store = SqliteStore(tmp_path / "state")
        assert store.load() == told.loaded
        store.close()
    assert half_way >= first_step - 1, "each of the first step's, but perhaps the commit itself"


@pytest.mark.parametrize("version", EARLIER)
def test_a_statement_that_fails_leaves_the_earlier_version(tmp_path: Path, version: int) -> None:
    path = put_store(tmp_path, version)
    before = dump(path)
    known = migrate.known_migrations()
    step = known[version]
    plain = "\n".join(line.partition("--")[0] for line in step.sql.splitlines())
    statements = [part for part in plain.split(";") if part.strip()]
    for number in range(len(statements) + 1):
        sql = ";".join([*statements[:number], "INSERT INTO nowhere VALUES (1)"])
        failing = msgspec.structs.replace(step, sql=sql)
        with pytest.raises(StoreError, match=rf"{step.name}.*as it was before that step"):
            SqliteStore(tmp_path, (*known[:version], failing))
        assert dump(path) == before


def test_a_full_disk_in_an_update_is_told_as_such(tmp_path: Path) -> None:
    path = put_store(tmp_path, 1)
    before = dump(path)
    connection = sqlite3.connect(path, isolation_level=None)
    with contextlib.closing(connection):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        step = migrate.Migration(
            2, "0002_big.sql", "CREATE TABLE big (x); INSERT INTO big VALUES (zeroblob(1000000))"
        )
        with pytest.raises(StoreError, match="no room on its disk"):
            migrate.migrate(connection, path, (migrate.known_migrations()[0], step))
    assert dump(path) == before


def test_each_earlier_version_has_its_store() -> None:
    kept = {path.name for path in STORES.iterdir()}
    for version in EARLIER:
        assert {f"v{version}.db.gz", f"v{version}.json"} <= kept


def test_the_store_of_today_can_be_made_for_the_next_migration(tmp_path: Path) -> None:
    runpy.run_path(str(STORES / "make_store.py"))["main"](tmp_path)
    path = put_store(tmp_path / "state", TODAY, tmp_path)
    told = told_by(TODAY, tmp_path)
    assert {job.state for job in told.loaded.jobs} == set(JobState), "one in every state"
    assert dump(path)[0] == f"version {TODAY}"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        for (table,) in tables.fetchall():
            row = connection.execute(f"SELECT 1 FROM {table}").fetchone()
            assert row is not None, f"make_store.py saves nothing in {table}"
    store = SqliteStore(path.parent)
    assert store.load() == told.loaded
    assert store.all_stream_sizes() == told.streams
    store.close()
