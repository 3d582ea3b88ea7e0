"""Backups: made while the master writes, whole or refused, restored all or nothing."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import signal
import sqlite3
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshtrain.core.effects import AddAttempt, AddJobs, SaveDrained, UpdateAttempt
from meshtrain.core.job import (
    EPOCHS_PER_INCARNATION,
    Attempt,
    AttemptState,
    Job,
    JobKind,
    Placement,
    attempt_id_of,
)
from meshtrain.core.state import Loaded
from meshtrain.errors import StoreError, UserError
from meshtrain.spec.jobs import CommandWork, JobSpec
from meshtrain.store import archive, cutover
from meshtrain.store.archive import BackupError
from meshtrain.store.backup import make_backup
from meshtrain.store.failures import StoreInUseError
from meshtrain.store.restore import restore_backup
from meshtrain.store.sqlite import SqliteStore
from meshtrain_daemon.master.logbook import Logbook

EPOCH = EPOCHS_PER_INCARNATION + 1


def a_job(number: int) -> Job:
    spec = JobSpec(f"j{number}", f"job {number}", {}, CommandWork("true"))
    return Job(spec, JobKind.BASE, number)


def an_attempt(number: int) -> Attempt:
    epoch = EPOCH + number
    job_id = f"j{number}"
    return Attempt(attempt_id_of(job_id, epoch), job_id, 1, epoch, (Placement("node-1"),))


def write(home: Path, *effects: Any, **stream_bytes: int) -> None:
    store = SqliteStore(home / "state")
    store.save(effects)
    for stream, size_bytes in stream_bytes.items():
        attempt = an_attempt(1)
        store.set_stream_size(attempt.attempt_id, attempt.job_id, stream, size_bytes)
    store.commit()
    store.close()


def loaded(home: Path) -> Loaded:
    store = SqliteStore(home / "state")
    found = store.load()
    store.close()
    return found


def job_ids(home: Path) -> list[str]:
    return [job.job_id for job in loaded(home).jobs]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, but for the lock and what readers leave."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock" and not path.name.endswith(("-shm", "-wal"))
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one job whose attempt is live."""
    home = tmp_path / "home"
    write(home, AddJobs((a_job(1),)), AddAttempt(an_attempt(1)), log=100)
    return home


@pytest.fixture
def backup(home: Path, tmp_path: Path) -> Path:
    """A backup of that home, after which a second job came."""
    path = tmp_path / "monday.backup"
    make_backup(home, path)
    write(home, AddJobs((a_job(2),)))
    return path


# --- making one -----------------------------------------------------------------------------


def test_p1_a_backup_made_while_the_master_writes_is_one_moments_state(
    home: Path, tmp_path: Path
) -> None:
    store = SqliteStore(home / "state")
    stop = threading.Event()

    def commit_on() -> None:
        number = 10
        while not stop.is_set():
            store.save([AddJobs((a_job(number), a_job(number + 1)))])
            store.commit()
            number += 2

    writer = threading.Thread(target=commit_on)
    writer.start()
    try:
        counts = []
        for number in range(5):
            made = make_backup(home, tmp_path / f"{number}.backup")
            counts.append(made.manifest.jobs)
    finally:
        stop.set()
        writer.join()
        store.close()
    assert counts == sorted(counts)
    for number, count in enumerate(counts):
        other = tmp_path / f"home{number}"
        restore_backup(other, tmp_path / f"{number}.backup")
        found = job_ids(other)
        # Both jobs of a commit, or neither.
        assert len(found) == count and count % 2 == 1
        assert found == ["j1", *(f"j{n}" for n in range(10, 9 + count))]


def test_a_backup_is_for_its_owner_alone_and_leaves_nothing_beside_it(
    home: Path, tmp_path: Path
) -> None:
    before = tree(home)
    folder = tmp_path / "backups"
    folder.mkdir()
    made = make_backup(home, folder / "a")
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert (folder / "a").stat().st_mode & 0o777 == 0o600
    assert (folder / "a").stat().st_nlink == 1
    assert made.size_bytes == (folder / "a").stat().st_size
    assert tree(home) == before


def test_a_file_is_replaced_only_when_that_is_asked_for(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("somebody's")
    with pytest.raises(UserError, match=r"is there already.*--force"):
        make_backup(home, target)
    assert target.read_text() == "somebody's"
    make_backup(home, target, force=True)
    restore_backup(tmp_path / "other", target)
    with pytest.raises(UserError, match="is a folder"):
        make_backup(home, tmp_path, force=True)


def test_without_a_store_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no job store at .*jobs\.db"):
        make_backup(tmp_path / "home", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_p11_a_damaged_store_is_not_backed_up_as_if_it_were_whole(
    home: Path, tmp_path: Path
) -> None:
    path = home / "state" / "jobs.db"
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 4] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"{path} is damaged"):
        make_backup(home, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_disk_that_refuses_a_backup_is_told(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackupError, match=r"can't be written: No such file.*See that"):
        make_backup(home, tmp_path / "nowhere" / "a")

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(BackupError, match="No space left"):
        make_backup(home, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


# --- members, tokens, keys ---------------------------------------------------------------------


KEPT_NAMES = {
    "members.json",
    "revoked_keys.json",
    "tokens.json",
    "keys/master.sign",
    "keys/master.curve",
}


def give_keys(home: Path, word: str) -> None:
    (home / "keys").mkdir()
    for name in KEPT_NAMES:
        (home / name).write_text(f"{word} {name}")
    (home / "keys" / ".hidden").write_text("no key")


def test_keys_come_back_where_the_home_has_none(home: Path, tmp_path: Path) -> None:
    give_keys(home, "first")
    made = make_backup(home, tmp_path / "a")
    names = KEPT_NAMES
    assert set(made.manifest.files) == {"jobs.db", *names}
    other = tmp_path / "other"
    assert restore_backup(other, tmp_path / "a").members_restored
    for name in names:
        assert (other / name).read_text() == f"first {name}"
        assert (other / name).stat().st_mode & 0o077 == 0
    assert (other / "keys").stat().st_mode & 0o077 == 0


def test_a_restore_brings_back_no_member_that_was_revoked_and_no_used_token(
    home: Path, tmp_path: Path
) -> None:
    give_keys(home, "first")
    make_backup(home, tmp_path / "a")
    (home / "members.json").write_text("somebody was revoked")
    (home / "tokens.json").unlink()
    assert not restore_backup(home, tmp_path / "a").members_restored
    assert (home / "members.json").read_text() == "somebody was revoked"
    assert not (home / "tokens.json").exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "large"])
def test_p11_a_key_that_is_no_plain_file_is_not_followed(
    home: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = home / "keys" / "k"
    key.parent.mkdir()
    if kind == "link":
        key.symlink_to("/etc/hostname")
    elif kind == "pipe":
        os.mkfifo(key)
    else:
        monkeypatch.setattr("meshtrain.store.backup.SMALL_BYTES_MAX", 10)
        key.write_bytes(bytes(11))
    with pytest.raises(BackupError, match=str(key) if kind != "link" else "symbolic links"):
        make_backup(home, tmp_path / "a")
    assert not (tmp_path / "a").exists()


# --- restoring one ---------------------------------------------------------------------------


def test_what_was_there_is_put_aside_whole(home: Path, backup: Path) -> None:
    before = (home / "state" / "jobs.db").read_bytes()
    done = restore_backup(home, backup)
    assert job_ids(home) == ["j1"]
    assert done.manifest.jobs == 1
    assert (done.aside / "jobs.db").read_bytes() == before
    assert done.aside.parent == home and done.aside.name.startswith("before-restore-")
    assert {path.name for path in (home / "state").iterdir()} == {"jobs.db", "lock"}


def test_commits_in_the_log_of_the_old_store_never_meet_the_new_one(
    home: Path, backup: Path
) -> None:
    child = os.fork()
    if child == 0:
        store = SqliteStore(home / "state")
        store.save([AddJobs((a_job(3),))])
        store.commit()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (home / "state" / "jobs.db-wal").stat().st_size > 0
    done = restore_backup(home, backup)
    assert job_ids(home) == ["j1"]
    # The commits are still there, with the store that they belong to.
    connection = sqlite3.connect(done.aside / "jobs.db")
    assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (3,)
    connection.close()


def test_a_restore_is_refused_while_a_master_runs(home: Path, backup: Path) -> None:
    store = SqliteStore(home / "state")
    with pytest.raises(StoreInUseError, match=f"process {os.getpid()}"):
        restore_backup(home, backup)
    (home / "state" / "lock").unlink()
    with pytest.raises(StoreInUseError, match="in use by another master"):
        restore_backup(home, backup)
    store.close()
    restore_backup(home, backup)


def test_p2_no_epoch_is_given_twice_however_often_a_backup_is_restored(
    home: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that stands still, or was wrong, must not be what this hangs on.
    monkeypatch.setattr("meshtrain.store.restore.wall_now_s", lambda: 0.0)
    given = {1}
    for turn in range(4):
        if turn == 2:
            # Only what was put aside before tells what this store had.
            (home / "state" / "jobs.db").write_bytes(b"torn")
        done = restore_backup(home, backup)
        found = loaded(home)
        assert found.incarnation == done.incarnation
        assert (found.epoch_counter, found.jobs[0].attempt) == (0, an_attempt(1))
        if turn != 2:
            assert done.incarnation not in given
        given.add(done.incarnation)


def test_p2_restores_on_other_hosts_give_other_epochs(tmp_path: Path, backup: Path) -> None:
    first = restore_backup(tmp_path / "host1", backup)
    assert first.incarnation > 1000, "counted from the clock"


@pytest.mark.parametrize("schema", [1])
def test_a_backup_of_an_earlier_schema_is_brought_up_to_date(tmp_path: Path, schema: int) -> None:
    kept = Path(__file__).parent / "stores" / f"v{schema}.db.gz"
    home = tmp_path / "home"
    (home / "state").mkdir(parents=True)
    (home / "state" / "jobs.db").write_bytes(gzip.decompress(kept.read_bytes()))
    made = make_backup(home, tmp_path / "a")
    assert made.manifest.schema == schema
    restore_backup(tmp_path / "other", tmp_path / "a")
    assert len(loaded(tmp_path / "other").jobs) == made.manifest.jobs > 1


# --- logs -------------------------------------------------------------------------------------


def test_p6_bytes_that_nodes_were_told_to_be_stored_stay(home: Path, backup: Path) -> None:
    attempt = an_attempt(1)
    log = home / "logs" / "j1" / f"{attempt.attempt_id}.log"
    log.parent.mkdir(parents=True)
    # 100 bytes at the backup, 300 told since, 20 written and not told.
    log.write_bytes(bytes(320))
    stray = home / "logs" / "j1" / "notes.txt"
    stray.write_text("somebody's")
    write(home, log=300, metrics=7)
    restore_backup(home, backup)
    store = SqliteStore(home / "state")
    assert store.stream_sizes(attempt.attempt_id) == {"log": 300}
    book = Logbook(home / "logs", store.all_stream_sizes())
    assert book.size_bytes(attempt.attempt_id, "log") == 300
    assert log.stat().st_size == 300
    store.close()


def test_p6_with_the_old_store_lost_what_lies_on_the_disk_counts(home: Path, backup: Path) -> None:
    attempt = an_attempt(1)
    log = home / "logs" / "j1" / f"{attempt.attempt_id}.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(bytes(320))
    (home / "state" / "jobs.db").write_bytes(b"torn")
    restore_backup(home, backup)
    store = SqliteStore(home / "state")
    assert store.stream_sizes(attempt.attempt_id) == {"log": 320}
    store.close()


def test_p6_logs_that_are_gone_are_asked_for_again(backup: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    restore_backup(other, backup)
    store = SqliteStore(other / "state")
    book = Logbook(other / "logs", store.all_stream_sizes())
    assert book.size_bytes(an_attempt(1).attempt_id, "log") == 0
    store.close()


# --- files that are no backup -------------------------------------------------------------------


def refused(home: Path, path: Path, what: str) -> None:
    """The file is refused by name, and nothing of the home has changed."""
    before = tree(home)
    with pytest.raises(BackupError, match=what) as told:
        restore_backup(home, path)
    assert str(path) in str(told.value) and "othing was changed" in str(told.value)
    assert tree(home) == before
    assert not (home / "state" / cutover.NEW).exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"name: not a backup\n" * 99, bytes(10_240), gzip.compress(bytes(9999))],
    ids=["empty", "text", "zeros", "gzip"],
)
def test_p11_a_foreign_file_is_refused(home: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    refused(home, path, "is no whole backup")


def test_p11_what_can_not_be_opened_is_refused(home: Path, tmp_path: Path) -> None:
    refused(home, tmp_path / "missing", "can't be read: No such file")
    refused(home, tmp_path, "is no plain file")
    os.mkfifo(tmp_path / "pipe")
    refused(home, tmp_path / "pipe", "is no plain file")


def test_p11_a_backup_that_was_cut_off_is_refused_wherever_it_was_cut(
    home: Path, backup: Path
) -> None:
    content = backup.read_bytes()
    ends = (len(content) - 10_240) // 512 * 512
    for size_bytes in range(0, ends, ends // 40):
        backup.write_bytes(content[:size_bytes])
        refused(home, backup, "no whole backup")


def test_p11_a_backup_with_one_wrong_byte_is_refused(home: Path, backup: Path) -> None:
    content = backup.read_bytes()
    with tarfile.open(backup) as tar:
        members = tar.getmembers()
    for member in members:
        for place in range(member.offset_data, member.offset_data + member.size, 4001):
            wrong = bytearray(content)
            wrong[place] ^= 0x40
            backup.write_bytes(wrong)
            refused(home, backup, "no whole backup")


Entry = tuple[str, bytes] | tarfile.TarInfo


def pack(path: Path, *entries: Entry) -> None:
    with tarfile.open(path, "w") as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            name, data = entry
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


def parts(backup: Path) -> tuple[dict[str, Any], bytes]:
    with tarfile.open(backup) as tar:
        found = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        data = {name: file.read() for name, file in found.items() if file is not None}
    return msgspec.json.decode(data["manifest.json"]), data["jobs.db"]


def with_files(manifest: dict[str, Any], **files: Any) -> bytes:
    listed = {name.replace("__", "/"): kept for name, kept in files.items()}
    return msgspec.json.encode({**manifest, "files": {**manifest["files"], **listed}})


EMPTY = {
    "size_bytes": 0,
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
}


def test_p11_nothing_but_the_promised_plain_files_is_taken(home: Path, backup: Path) -> None:
    manifest, store = parts(backup)
    plain = ("manifest.json", msgspec.json.encode(manifest))
    rest = ("jobs.db", store)
    evil = home.parent / "evil"

    def listing(name: str, kept: Any = EMPTY) -> tuple[str, bytes]:
        files = {**manifest["files"], name: kept}
        return ("manifest.json", msgspec.json.encode({**manifest, "files": files}))

    cases: list[tuple[str, list[Entry]]] = [
        ("doesn't begin with a manifest", [rest, plain]),
        ("doesn't begin with a manifest", [special("manifest.json", tarfile.SYMTYPE, "/x")]),
        ("is not in its manifest", [plain, rest, ("../evil", b"")]),
        ("is not in its manifest", [plain, rest, (str(evil), b"")]),
        ("is not in its manifest", [plain, rest, rest]),
        ("is not in its manifest", [plain, rest, special("keys", tarfile.DIRTYPE)]),
        ("is no part of a backup", [listing("../evil"), rest, ("../evil", b"")]),
        ("is no part of a backup", [listing(str(evil)), rest, (str(evil), b"")]),
        ("is no part of a backup", [listing("keys/../../evil"), rest]),
        ("is no part of a backup", [listing("keys/.x"), rest]),
        ("is no part of a backup", [listing("keys/a\n"), rest]),
        ("is no part of a backup", [listing("lock"), rest]),
        ("no plain file", [plain, special("jobs.db", tarfile.SYMTYPE, "/etc/hostname")]),
        ("no plain file", [plain, special("jobs.db", tarfile.LNKTYPE, "manifest.json")]),
        ("no plain file", [plain, special("jobs.db", tarfile.CHRTYPE)]),
        ("no plain file", [plain, special("jobs.db", tarfile.FIFOTYPE)]),
        ("another size", [plain, ("jobs.db", store[:-1])]),
        ("is missing", [plain]),
        ("is missing", [listing("keys/k"), rest]),
        ("bytes", [listing("keys/k", {**EMPTY, "size_bytes": 1 << 40}), rest]),
        ("makes no sense", [listing("keys/k", {**EMPTY, "sha256": "x"}), rest]),
        ("makes no sense", [listing("keys/k", {**EMPTY, "size_bytes": -1}), rest]),
        ("makes no sense", [("manifest.json", b"{}"), rest]),
        ("holds no jobs.db", [("manifest.json", msgspec.json.encode({**manifest, "files": {}}))]),
        (
            "names 1.* files",
            [
                (
                    "manifest.json",
                    with_files(
                        manifest, **{f"keys__k{n}": EMPTY for n in range(archive.KEYS_MAX + 9)}
                    ),
                ),
                rest,
            ],
        ),
    ]
    for what, entries in cases:
        pack(backup, *entries)
        refused(home, backup, what)
    assert not evil.exists()
    huge = tarfile.TarInfo("manifest.json")
    huge.size = archive.SMALL_BYTES_MAX + 1
    backup.write_bytes(huge.tobuf() + bytes(10_240))
    refused(home, backup, "its manifest has")


def test_a_backup_of_a_newer_meshtrain_is_refused(home: Path, backup: Path) -> None:
    manifest, store = parts(backup)
    newer = msgspec.json.encode({**manifest, "format": 2, "meshtrain": "9.1", "more": {}})
    pack(backup, ("manifest.json", newer), ("jobs.db", store))
    refused(home, backup, r"newer meshtrain, 9\.1.*Upgrade")


def test_a_whole_backup_of_a_store_that_is_none_is_refused(
    home: Path, tmp_path: Path, backup: Path
) -> None:
    manifest, _ = parts(backup)
    store = b"name: no database\n" * 99
    (tmp_path / "f").write_bytes(store)
    kept = msgspec.to_builtins(archive.measure(tmp_path / "f"))
    pack(backup, ("manifest.json", with_files(manifest, **{"jobs.db": kept})), ("jobs.db", store))
    before = tree(home)
    with pytest.raises(StoreError, match="is damaged: file is not a database"):
        restore_backup(home, backup)
    assert tree(home) == before


def test_p12_a_restore_that_finds_no_room_changes_nothing(
    home: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(home)

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(BackupError, match=r"No space left.*Nothing was changed"):
            restore_backup(home, backup)
    assert tree(home) == before
    restore_backup(home, backup)


# --- crashes -----------------------------------------------------------------------------------

STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "sqlite3.connect"}
"""What changes something on the disk, besides files that are made; and databases opened."""


def die_at(step: int) -> Iterator[None]:
    """Has this process be killed as it begins its nth step on the disk."""
    count = 0

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if writes or event in STEPS:
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)
    yield


def restore_and_die(home: Path, backup: Path, step: int) -> bool:
    """In a child process; whether it was killed, and not done before."""
    child = os.fork()
    if child == 0:
        try:
            next(die_at(step))
            restore_backup(home, backup)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("next_is", "stride"), [("a restore", 7), ("a master", 1)])
def test_p1_a_restore_killed_at_any_step_leaves_the_old_store_or_ends_as_the_new(
    tmp_path: Path, backup: Path, home: Path, next_is: str, stride: int
) -> None:
    give_keys(home, "kept")
    make_backup(home, backup, force=True)
    outcomes = {"old": 0, "new": 0}
    write(tmp_path / "before", AddJobs((a_job(7), a_job(8))))
    old = (tmp_path / "before" / "state" / "jobs.db").read_bytes()
    for step in range(1, 1000, stride):
        here = tmp_path / f"{next_is}-{step}"
        shutil.copytree(tmp_path / "before", here)
        if not restore_and_die(here, backup, step):
            break
        if next_is == "a restore":
            restore_backup(here, backup)
        found = job_ids(here)
        kept = [path.read_bytes() for path in here.glob("before-restore-*/jobs.db*")]
        if found == ["j7", "j8"]:
            outcomes["old"] += 1
            assert next_is == "a master" and not kept
            assert not (here / "keys").exists()
        else:
            outcomes["new"] += 1
            assert found == ["j1", "j2"]
            assert old in kept
            assert (here / "members.json").read_text() == "kept members.json"
            assert (here / "keys" / "master.sign").read_text() == "kept keys/master.sign"
        left = {path.name for path in (here / "state").iterdir()}
        assert left == {"jobs.db", "lock"}
    assert outcomes["new"] > 5
    assert outcomes["old"] > 10 or next_is == "a restore"


def test_p11_a_plan_that_makes_no_sense_holds_the_master_up_with_its_name(home: Path) -> None:
    ready = home / "state" / cutover.READY
    ready.mkdir()
    (ready / "jobs.db").write_bytes(b"whatever")
    for plan in (b"", b"{}", b'{"aside": "../elsewhere"}'):
        (ready / cutover.PLAN_NAME).write_bytes(plan)
        with pytest.raises(StoreError, match=f"can't be finished.*{ready}"):
            SqliteStore(home / "state")
    assert (ready / "jobs.db").exists()


def test_what_a_sweeping_up_left_is_swept_up(home: Path) -> None:
    (home / "state" / cutover.READY / "keys").mkdir(parents=True)
    (home / "state" / cutover.NEW).mkdir()
    write(home, SaveDrained("n", True))
    assert {path.name for path in (home / "state").iterdir()} == {"jobs.db", "lock"}


def test_a_job_of_the_restored_store_goes_on_under_a_new_epoch(home: Path, backup: Path) -> None:
    done = restore_backup(home, backup)
    lost = msgspec.structs.replace(an_attempt(1), state=AttemptState.LOST, ended_wall_s=1.0)
    epoch = done.incarnation * EPOCHS_PER_INCARNATION + 1
    new = msgspec.structs.replace(an_attempt(1), attempt_id=attempt_id_of("j1", epoch), epoch=epoch)
    write(home, UpdateAttempt(lost), AddAttempt(new))
    assert loaded(home).jobs[0].attempt == new
