"""P11 for what the master reads at its start: whatever is wrong with it is told with its mend."""

from __future__ import annotations

import gzip
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from meshtrain.core.effects import SaveDrained
from meshtrain.errors import StoreError
from meshtrain.store import failures, migrate
from meshtrain.store.base import StreamSize
from meshtrain.store.complete import demand_complete
from meshtrain.store.failures import StoreFullError, StoreInUseError
from meshtrain.store.sqlite import SqliteStore
from meshtrain_daemon.master.logbook import Logbook, LogbookError

STORES = Path(__file__).parent / "stores"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The folder of a store of today's schema, with a record in every state."""
    folder = tmp_path / "home" / "state"
    folder.mkdir(parents=True)
    (folder / "jobs.db").write_bytes(gzip.decompress((STORES / "v1.db.gz").read_bytes()))
    SqliteStore(folder).close()
    return folder


def start(state: Path) -> None:
    """What a master does first."""
    store = SqliteStore(state)
    try:
        demand_complete(store.load(), store.path)
    finally:
        store.close()


def content(state: Path) -> dict[str, bytes]:
    """What a restore, or a person, could still mend a store from."""
    kept = [state / "jobs.db", state / "jobs.db-wal"]
    # A reader leaves an empty log.
    return {p.name: p.read_bytes() for p in kept if p.is_file() and p.stat().st_size}


def run_sql(*statements: str) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        with closing(sqlite3.connect(state / "jobs.db", isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for statement in statements:
                connection.execute(statement)

    return damage


def spoil(page: int, offset: int = 0, length: int = 4096) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        with (state / "jobs.db").open("r+b") as file:
            file.seek(page * 4096 + offset)
            file.write(b"\xa5" * length)

    return damage


def cut(state: Path) -> None:
    size_bytes = (state / "jobs.db").stat().st_size
    os.truncate(state / "jobs.db", size_bytes - 2 * 4096)


def make_pipe(state: Path) -> None:
    (state / "jobs.db").unlink()
    os.mkfifo(state / "jobs.db")


def make_folder(state: Path) -> None:
    (state / "jobs.db").unlink()
    (state / "jobs.db").mkdir()


def make_link(state: Path) -> None:
    (state / "jobs.db").unlink()
    (state / "jobs.db").symlink_to("nowhere")


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "gone": (lambda state: (state / "jobs.db").unlink(), "it is gone"),
    "a link to nothing": (make_link, "it is a link to nowhere, which is gone"),
    "a pipe": (make_pipe, "no plain file"),
    "a folder": (make_folder, "no plain file"),
    "no header": (spoil(0, 0, 100), "not a database"),
    "a torn page": (spoil(3), ""),
    "half a torn page": (spoil(4, 2048, 2048), ""),
    "cut off": (cut, ""),
    "another application": (run_sql("PRAGMA application_id = 7"), "not a job store"),
    "no version": (run_sql("PRAGMA user_version = 0"), "not a job store"),
    "no incarnation": (run_sql("DELETE FROM meta"), "its incarnation is gone"),
    "no specs": (run_sql("DELETE FROM job_specs WHERE row > 3"), "5 jobs have lost their specs"),
    "no bases": (run_sql("DELETE FROM bases"), "bases of the sweep s0 are gone"),
    "no sweeps": (run_sql("DELETE FROM sweeps"), "rows of jobs refer to rows of sweeps"),
    "no jobs": (run_sql("DELETE FROM jobs"), "refer to rows of jobs"),
    "a spec that is none": (run_sql("UPDATE job_specs SET spec = x'c1'"), "makes no sense"),
    "a spec without a byte": (run_sql("UPDATE job_specs SET spec = x''"), "makes no sense"),
    "an attempt nowhere": (run_sql("UPDATE attempts SET placements = x'90'"), "makes no sense"),
    "a sweep's unknown job": (
        run_sql("UPDATE sweeps SET job_ids = x'91a27a7a'"),
        "1 jobs of the sweep s0 are gone",
    ),
    "a state that is none": (run_sql("UPDATE attempts SET state = 'x'"), "make no sense: 'x'"),
    "an index that misses a row": (
        run_sql(
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master "
            "WHERE name = 'attempts_one_live') WHERE name = 'attempts_of_job'",
        ),
        "",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_p11_a_damaged_store_is_refused_and_left_as_it_is(state: Path, name: str) -> None:
    damage, what = DAMAGED[name]
    damage(state)
    before = content(state)
    with pytest.raises(StoreError) as told:
        start(state)
    assert f"the job store {state / 'jobs.db'} is damaged: " in str(told.value)
    assert what in str(told.value)
    assert "meshtrain restore FILE" in str(told.value)
    assert content(state) == before
    # And once more: it let go of all it had taken.
    with pytest.raises(StoreError, match="is damaged"):
        start(state)


def test_p1_commits_that_are_only_in_the_log_stay_there_when_the_file_is_damaged(
    state: Path,
) -> None:
    child = os.fork()
    if child == 0:
        store = SqliteStore(state)
        store.save([SaveDrained("n", True)])
        store.commit()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    before = content(state)
    assert len(before["jobs.db-wal"]) > 4096
    spoil(6)(state)
    spoilt = content(state)
    with pytest.raises(StoreError, match="is damaged"):
        start(state)
    assert content(state) == spoilt
    # Put right again, nothing of it is lost.
    (state / "jobs.db").write_bytes(before["jobs.db"])
    store = SqliteStore(state)
    assert "n" in store.load().drained
    store.close()


def test_p11_a_log_of_commits_that_is_rubbish_is_no_commit(state: Path) -> None:
    (state / "jobs.db-wal").write_bytes(b"junk" * 5000)
    start(state)


def test_a_store_that_takes_long_to_look_through_is_taken_up(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "CHECK_S_MAX", 0.0)
    monkeypatch.setattr(migrate, "_CHECK_STEPS_BETWEEN_LOOKS", 1)
    start(state)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_p11_a_store_that_may_not_be_read_is_told(state: Path) -> None:
    (state / "jobs.db").chmod(0)
    with pytest.raises(StoreError, match="may be written by this user"):
        start(state)


def test_p11_a_folder_in_the_place_of_the_lock_is_told(state: Path) -> None:
    (state / "lock").unlink()
    (state / "lock").mkdir()
    with pytest.raises(StoreError, match=r"lock .* can't be opened: Is a directory"):
        start(state)


def test_a_lock_that_somebody_removes_is_not_lost(state: Path) -> None:
    store = SqliteStore(state)
    (state / "lock").unlink()
    with pytest.raises(StoreInUseError):
        SqliteStore(state)
    store.close()
    start(state)


# --- a full disk ----------------------------------------------------------------------------------


def test_p12_a_disk_with_little_room_is_told_before_a_commit_fails(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(state)
    assert store.lacks_room() is None
    monkeypatch.setattr(failures, "free_bytes", lambda folder: 1_234_567)
    full = store.lacks_room()
    assert isinstance(full, StoreFullError)
    assert "1,234,567 bytes are free at" in str(full) and str(state) in str(full)
    assert "Free some room" in str(full)
    monkeypatch.setattr(failures, "free_bytes", lambda folder: None)
    assert store.lacks_room() is None, "a disk that can't be asked is not known to be full"
    store.close()


def test_p12_a_quota_counts_as_a_full_disk(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    told = failures.sqlite_failure(state / "jobs.db", error, "written")
    assert not isinstance(told, StoreFullError)

    def refuse(**arguments: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(failures.tempfile, "TemporaryFile", refuse)
    told = failures.sqlite_failure(state / "jobs.db", error, "written")
    assert isinstance(told, StoreFullError) and "bytes free" in str(told)


# --- logs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_p11_what_lies_in_the_place_of_a_log_is_not_touched(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("somebody's")
    log = tmp_path / "logs" / "j" / "j.1.log"
    log.parent.mkdir(parents=True)
    if kind == "folder":
        log.mkdir()
    elif kind == "link":
        log.symlink_to(victim)
    else:
        os.mkfifo(log)
    with pytest.raises(LogbookError, match=r"j\.1\.log is no plain file.*Move it away"):
        Logbook(tmp_path / "logs", [StreamSize("j.1", "j", "log", 3)])
    assert victim.read_text() == "somebody's"


def test_p11_a_file_in_the_place_of_a_folder_of_logs_is_a_log_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    book = Logbook(tmp_path / "logs", [StreamSize("j.1", "j", "log", 3)])
    assert book.size_bytes("j.1", "log") == 0
