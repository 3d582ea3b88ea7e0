"""The SQLite store: crashes, damage, full disks, older and newer schemas, other processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

import meshtrain
from meshtrain.core.effects import AddJobs, AddSweep, SaveDrained, UpdateJob
from meshtrain.core.job import Job, JobKind, Sweep
from meshtrain.errors import StoreError
from meshtrain.spec.jobs import CommandWork, JobSpec
from meshtrain.store import migrate
from meshtrain.store.failures import StoreFullError, StoreInUseError, StoreRuleError
from meshtrain.store.sqlite import SqliteStore
from meshtrain.store.sqlite_reader import open_readonly

IMPORTS = {**os.environ, "PYTHONPATH": str(Path(meshtrain.__file__).parent.parent)}

SAVE_IN_A_LOOP = """
import sys
from pathlib import Path
from meshtrain.core.effects import AddAttempt, AddJobs, UpdateJob
from meshtrain.core.job import Attempt, Job, JobKind, Placement, attempt_id_of
from meshtrain.spec.jobs import CommandWork, JobSpec
from meshtrain.store.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
number = len(store.load().jobs)
while True:
    group = range(number, number + 1 + number % 7)
    for n in group:
        spec = JobSpec(f"j{n}", f"job {n}", {"n": n}, CommandWork("true " + "x" * (n * 37 % 5000)))
        job = Job(spec, JobKind.BASE, n)
        attempt = Attempt(attempt_id_of(job.job_id, n + 1), job.job_id, 1, n + 1, (Placement("a"),))
        store.save([AddJobs((job,)), AddAttempt(attempt)])
        store.set_stream_size(attempt.attempt_id, job.job_id, "log", n)
    store.commit()
    print(group[0], group[-1], flush=True)
    number = group[-1] + 1
"""


def a_job(number: int, sweep_id: str | None = None, command: str = "true") -> Job:
    spec = JobSpec(f"j{number}", f"job {number}", {}, CommandWork(command))
    return Job(spec, JobKind.EXPERIMENT, number, sweep_id)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "state"


@pytest.fixture
def store(folder: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(folder)
    yield opened
    opened.close()


# --- crashes ------------------------------------------------------------------------


def test_p1_what_was_acknowledged_survives_kill_9(folder: Path) -> None:
    for acknowledgements in (1, 4, 23):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVE_IN_A_LOOP, str(folder)],
            stdout=subprocess.PIPE,
            env=IMPORTS,
        )
        with child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(acknowledgements)]
            child.kill()
            lines += child.stdout.readlines()
        groups = [tuple(map(int, line.split())) for line in lines if line.endswith(b"\n")]
        assert len(groups) >= acknowledgements
        acknowledged = groups[-1][1] + 1

        store = SqliteStore(folder)
        jobs = store.load().jobs
        sizes = {size.job_id: size.size_bytes for size in store.all_stream_sizes()}
        store.close()
        assert [job.job_id for job in jobs] == [f"j{n}" for n in range(len(jobs))]
        # A commit that was not acknowledged is there whole, or not at all.
        assert len(jobs) in (acknowledged, acknowledged + 1 + acknowledged % 7)
        for n, job in enumerate(jobs):
            assert job.attempt is not None and job.attempt.epoch == n + 1
            assert sizes[job.job_id] == n
            assert job.spec.work == CommandWork("true " + "x" * (n * 37 % 5000))


def test_a_commit_is_synced_to_the_disk(store: SqliteStore) -> None:
    full = 2
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (full,)
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# --- one writer ----------------------------------------------------------------------


def test_a_second_master_is_refused_by_the_first_ones_pid(store: SqliteStore, folder: Path) -> None:
    with pytest.raises(StoreInUseError, match=rf"process {os.getpid()}\b.*MESHTRAIN_HOME"):
        SqliteStore(folder)
    store.save([SaveDrained("n", True)])
    store.commit()
    store.close()
    again = SqliteStore(folder)
    assert again.load().drained == ("n",)
    again.close()


def test_the_lock_of_a_dead_master_holds_nobody_up(folder: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SAVE_IN_A_LOOP, str(folder)], stdout=subprocess.PIPE, env=IMPORTS
    )
    with child:
        assert child.stdout is not None and child.stdout.readline()
        with pytest.raises(StoreInUseError, match=rf"process {child.pid}\b"):
            SqliteStore(folder)
        child.kill()
    SqliteStore(folder).close()


def test_a_failed_start_lets_go_of_the_lock(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "jobs.db").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StoreError, match="it is empty"):
            SqliteStore(folder)


def test_another_thread_may_write_and_read(store: SqliteStore) -> None:
    def write() -> None:
        store.save([AddJobs((a_job(1),))])
        store.commit()

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert [job.job_id for job in store.load().jobs] == ["j1"]


# --- readers ---------------------------------------------------------------------------


def test_a_reader_sees_commits_and_can_write_nothing(store: SqliteStore, folder: Path) -> None:
    reader = open_readonly(folder)
    store.save([AddSweep(Sweep("s", "s", ("j1",), ())), AddJobs((a_job(1, "s"),))])
    assert reader.load().jobs == ()
    store.commit()
    assert reader.load() == store.load()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM jobs")
    reader.close()


def test_a_reader_does_not_hold_up_the_writer(store: SqliteStore, folder: Path) -> None:
    reader = open_readonly(folder)
    reader._connection.execute("BEGIN")
    assert reader._connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    store.save([AddJobs((a_job(1),))])
    store.commit()
    assert reader._connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    reader._connection.execute("ROLLBACK")
    assert len(reader.load().jobs) == 1
    reader.close()


def test_a_reader_needs_a_store(folder: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no job store at .*jobs\.db"):
        open_readonly(folder)
    assert not folder.exists()


def test_a_closed_store_says_so(folder: Path) -> None:
    store = SqliteStore(folder)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.load()
    store.save([SaveDrained("n", True)])
    with pytest.raises(StoreError, match="closed"):
        store.commit()


# --- damage ----------------------------------------------------------------------------


def damage_tells_the_mend(folder: Path, what: str) -> None:
    path = folder / "jobs.db"
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"{path} is damaged: {what}.*backup"):
        SqliteStore(folder)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "it is empty"), (b"name: not a database\n" * 99, "file is not a database")],
)
def test_a_file_that_is_no_store_is_left_alone(folder: Path, content: bytes, what: str) -> None:
    folder.mkdir(parents=True)
    (folder / "jobs.db").write_bytes(content)
    damage_tells_the_mend(folder, what)


def test_another_programs_database_is_left_alone(folder: Path) -> None:
    folder.mkdir(parents=True)
    other = sqlite3.connect(folder / "jobs.db")
    other.execute("CREATE TABLE jobs (x)")
    other.close()
    damage_tells_the_mend(folder, "it is an SQLite file, but not a job store")
    with pytest.raises(StoreError, match="not a job store"):
        open_readonly(folder)


def test_a_lost_file_with_its_log_left_is_no_new_store(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "jobs.db-wal").write_bytes(b"commits that were acknowledged")
    with pytest.raises(StoreError, match=r"it is gone, but jobs\.db-wal"):
        SqliteStore(folder)
    assert not (folder / "jobs.db").exists()


def test_a_store_half_made_by_a_crash_is_made_anew(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "jobs.db.new").write_bytes(b"half")
    (folder / "jobs.db.new-wal").write_bytes(b"half")
    SqliteStore(folder).close()
    assert sorted(path.name for path in folder.iterdir()) == ["jobs.db", "lock"]


def test_a_spoilt_page_is_found_when_read(folder: Path) -> None:
    store = SqliteStore(folder)
    store.save([AddJobs(tuple(a_job(n, command="x" * 900) for n in range(400)))])
    store.commit()
    store.close()
    path = folder / "jobs.db"
    content = bytearray(path.read_bytes())
    for page in range(20, len(content) // 4096 - 1):
        content[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged: .*backup"):
        open_readonly(folder).load()


def test_a_row_that_makes_no_sense_is_damage(store: SqliteStore) -> None:
    store.save([AddJobs((a_job(1),))])
    store.commit()
    store._connection.execute("UPDATE job_specs SET spec = x'c1'")
    with pytest.raises(StoreError, match="is damaged: a row makes no sense"):
        store.load()


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be made: Not a directory"):
        SqliteStore(tmp_path / "file" / "state")


# --- full disks and strange values --------------------------------------------------------


def test_p12_a_full_disk_delays_a_commit_and_loses_nothing(store: SqliteStore) -> None:
    store.save([AddJobs((a_job(1),))])
    store.commit()
    before = store.load()
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    store.save([AddJobs((a_job(2, command="x" * 100_000),))])
    for _ in range(2):
        with pytest.raises(StoreFullError, match=r"no room on its disk.*Free some room"):
            store.commit()
        assert store.load() == before
    store._connection.execute("PRAGMA max_page_count = 100000")
    store.save([AddJobs((a_job(3),))])
    store.commit()
    assert [job.job_id for job in store.load().jobs] == ["j1", "j2", "j3"]


def test_a_commit_given_up_on_a_full_disk_is_dropped(store: SqliteStore) -> None:
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    store.save([AddJobs((a_job(2, command="x" * 100_000),))])
    with pytest.raises(StoreFullError):
        store.commit()
    store.rollback()
    store.save([SaveDrained("n", True)])
    store.commit()
    assert store.load().jobs == ()


@pytest.mark.parametrize(
    "job",
    [
        Job(a_job(1).spec, JobKind.EXPERIMENT, 1 << 63),
        Job(JobSpec("j\ud800", "n", {}, CommandWork("true")), JobKind.EXPERIMENT, 1),
        Job(a_job(1).spec, JobKind.EXPERIMENT, 1, submitted_wall_s=float("nan")),
    ],
    ids=["a number too large", "half a character", "no time"],
)
def test_a_value_that_a_row_can_not_hold_is_refused(store: SqliteStore, job: Job) -> None:
    store.save([SaveDrained("n", True), AddJobs((job,))])
    with pytest.raises(StoreRuleError):
        store.commit()
    assert (store.load().jobs, store.load().drained) == ((), ())
    store.save([AddJobs((a_job(1),))])
    store.commit()
    assert len(store.load().jobs) == 1


def test_a_write_lock_held_by_another_program_is_told(store: SqliteStore, folder: Path) -> None:
    store._connection.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(folder / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.save([SaveDrained("n", True)])
    with pytest.raises(StoreInUseError, match="another program holds it"):
        store.commit()
    other.close()


# --- schemas -----------------------------------------------------------------------------


def objects(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return sorted((name, _plain(sql)) for name, sql in rows)


def _plain(sql: str) -> str:
    """The statement without comments and spaces: a column added later brings none."""
    return "".join(line.partition("--")[0] for line in sql.splitlines()).replace(" ", "")


def test_the_schema_for_people_is_what_the_migrations_add_up_to(tmp_path: Path) -> None:
    migrated = sqlite3.connect(tmp_path / "migrated.db", isolation_level=None)
    migrate.migrate(migrated, tmp_path / "migrated.db", migrate.known_migrations())
    told = sqlite3.connect(tmp_path / "told.db")
    told.executescript((resources.files("meshtrain.store") / "schema.sql").read_text("utf-8"))
    assert objects(migrated) == objects(told)
    migrated.close()
    told.close()


def test_migrations_are_numbered_without_a_gap() -> None:
    versions = [step.version for step in migrate.known_migrations()]
    assert versions == list(range(1, len(versions) + 1))


def next_step(sql: str) -> tuple[migrate.Migration, ...]:
    known = migrate.known_migrations()
    version = known[-1].version + 1
    return (*known, migrate.Migration(version, f"{version:04}_next.sql", sql))


def test_an_older_store_is_brought_up_to_date_once(folder: Path) -> None:
    store = SqliteStore(folder)
    store.save([AddJobs((a_job(1),))])
    store.commit()
    store.close()
    steps = next_step("CREATE TABLE more (x INTEGER) STRICT; INSERT INTO more VALUES (7);")
    connection = sqlite3.connect(folder / "jobs.db", isolation_level=None)
    for _ in range(2):
        migrate.migrate(connection, folder / "jobs.db", steps)
    assert connection.execute("SELECT x FROM more").fetchall() == [(7,)]
    assert connection.execute("PRAGMA user_version").fetchone() == (steps[-1].version,)
    assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    connection.close()


def test_a_newer_store_is_refused_untouched(folder: Path) -> None:
    SqliteStore(folder).close()
    steps = next_step("CREATE TABLE more (x INTEGER) STRICT;")
    connection = sqlite3.connect(folder / "jobs.db", isolation_level=None)
    migrate.migrate(connection, folder / "jobs.db", steps)
    connection.close()
    before = (folder / "jobs.db").read_bytes()
    for opens in (SqliteStore, open_readonly):
        with pytest.raises(StoreError, match=f"newer meshtrain.*version {steps[-1].version}"):
            opens(folder)
    assert (folder / "jobs.db").read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE more (x INTEGER) STRICT; INSERT INTO nowhere VALUES (1);",
        "CREATE TABLE more (x INTEGER) STRICT; DELETE FROM jobs;",
    ],
    ids=["a statement that fails", "rows that lose what they refer to"],
)
def test_a_migration_that_fails_changes_nothing(folder: Path, sql: str) -> None:
    store = SqliteStore(folder)
    store.save([AddJobs((a_job(1),))])
    store.commit()
    store.close()
    connection = sqlite3.connect(folder / "jobs.db", isolation_level=None)
    before = objects(connection)
    with pytest.raises(StoreError, match=r"_next\.sql.*as it was before"):
        migrate.migrate(connection, folder / "jobs.db", next_step(sql))
    assert objects(connection) == before
    connection.close()
    again = SqliteStore(folder)
    assert len(again.load().jobs) == 1
    again.save([UpdateJob(a_job(1))])
    again.commit()
    again.close()
