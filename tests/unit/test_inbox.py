"""The watched folder: when a file is taken, what becomes of it, and what a crash leaves."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.snapshot import file_digests
from meshtrain.errors import StoreError, UserError
from meshtrain.spec.reader import FILE_SIZE_MAX_BYTES
from meshtrain_daemon.master import dropped_files
from meshtrain_daemon.master import inbox as inbox_module
from meshtrain_daemon.master.dropped import is_open_for_writing, look_at
from meshtrain_daemon.master.dropped_files import DroppedFolder, read_job_file
from meshtrain_daemon.master.inbox import ACCEPTED, REJECTED, RETRY_S_MAX, Inbox, Taken
from meshtrain_daemon.master.intake import Submission

OLD_S = 1_000_000.0


class Clock:
    """Stands in for the time module: both clocks move when the test says so."""

    def __init__(self) -> None:
        self.now_s = OLD_S + 1000

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s - OLD_S


class Dropped:
    """An inbox whose submissions come to a list."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.folder = root / "inbox"
        self.clock = clock
        self.artifacts = ArtifactStore(root / "artifacts")
        self.submitted: list[Submission] = []
        self.said: list[str] = []
        self.refuse: Callable[[Submission], None] = lambda submission: None
        self.inbox = Inbox(
            self.folder,
            rest_s=2.0,
            scan_s=10.0,
            code_size_max_bytes=1 << 20,
            artifacts=self.artifacts,
            submit=self.submit,
            say=self.said.append,
        )
        self.inbox.prepare()

    async def submit(self, submission: Submission) -> Taken:
        self.refuse(submission)
        self.submitted.append(submission)
        return Taken("sweep-1", "sweep sweep-1")

    async def scan(self, after_s: float = 0.0) -> bool:
        """Whether something is still waited for."""
        self.clock.now_s += after_s
        return await self.inbox._scan()

    def drop(self, name: str, text: str = "name: x\n", *, age_s: float = 100.0) -> Path:
        path = self.folder / name
        path.write_text(text)
        self.age(path, age_s)
        return path

    def age(self, path: Path, age_s: float) -> None:
        then_s = self.clock.now_s - age_s
        os.utime(path, (then_s, then_s), follow_symlinks=False)

    def listed(self, kind: str = "") -> list[str]:
        names = sorted(path.name for path in (self.folder / kind).iterdir())
        return [name for name in names if name not in (ACCEPTED, REJECTED)]

    def told(self, name: str) -> str:
        return (self.folder / REJECTED / f"{name}.error.txt").read_text()


@pytest.fixture
def dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dropped:
    clock = Clock()
    monkeypatch.setattr(inbox_module, "time", clock)
    return Dropped(tmp_path, clock)


# --- when --------------------------------------------------------------------------------


async def test_a_file_that_has_rested_by_its_own_times_is_taken_at_once(dropped: Dropped) -> None:
    dropped.drop("a.yaml", "name: a\n")
    assert not await dropped.scan()
    assert [s.name for s in dropped.submitted] == ["a.yaml"]
    assert dropped.submitted[0].data == b"name: a\n"
    assert dropped.listed() == []
    assert dropped.listed(ACCEPTED) == ["a.yaml", "a.yaml.receipt.txt"]
    assert (dropped.folder / ACCEPTED / "a.yaml.receipt.txt").read_text() == "sweep sweep-1\n"


async def test_a_fresh_file_must_rest(dropped: Dropped) -> None:
    path = dropped.drop("a.yaml", age_s=0)
    assert await dropped.scan()
    assert await dropped.scan(1.9)
    path.write_text("name: longer\n")
    dropped.age(path, 0)
    assert await dropped.scan(0.2)
    assert await dropped.scan(1.5)
    assert not dropped.submitted
    assert not await dropped.scan(0.6)
    assert dropped.submitted[0].data == b"name: longer\n"


@pytest.mark.parametrize("age_s", [-10_000.0, 0.0])
async def test_a_file_from_the_future_rests_like_any_other(dropped: Dropped, age_s: float) -> None:
    dropped.drop("a.yaml", age_s=age_s)
    assert await dropped.scan()
    assert not await dropped.scan(2.1)
    assert dropped.submitted


async def test_what_is_open_for_writing_is_not_taken(dropped: Dropped) -> None:
    path = dropped.drop("a.yaml")
    with path.open("a"):
        assert await dropped.scan(100)
        assert not dropped.submitted
    with path.open():
        assert not await dropped.scan(0.5)
    assert dropped.submitted


async def test_a_folder_is_not_taken_while_one_of_its_files_is_written(dropped: Dropped) -> None:
    folder = job_folder(dropped)
    with (folder / "src" / "train.py").open("a"):
        assert await dropped.scan(100)
        assert not dropped.submitted
    assert not await dropped.scan(0.5)
    assert dropped.submitted


async def test_files_on_their_way_by_name_are_left_alone(dropped: Dropped) -> None:
    for name in (".a.yaml.swp", "a.yaml~", "a.yaml.part", "a.tmp", ".hidden"):
        dropped.drop(name)
    assert not await dropped.scan(100)
    assert not dropped.submitted and len(dropped.listed()) == 5


async def test_entries_are_taken_by_name_and_forgotten_when_they_go(dropped: Dropped) -> None:
    for name in ("b.yaml", "a.yaml", "c.yaml"):
        dropped.drop(name)
    dropped.drop("d.yaml", age_s=0)
    assert await dropped.scan()
    assert [s.name for s in dropped.submitted] == ["a.yaml", "b.yaml", "c.yaml"]
    (dropped.folder / "d.yaml").unlink()
    assert not await dropped.scan()
    assert dropped.inbox._resting == {} and dropped.inbox._delays == {}


# --- what is refused -----------------------------------------------------------------------


def as_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def as_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (as_link, "cp -L"),
        (as_pipe, "no plain file"),
        (as_device, "cp -L"),
        (as_socket, "no plain file"),
    ],
)
async def test_what_is_no_plain_file_is_rejected(
    dropped: Dropped, make: Callable[[Path], None], words: str
) -> None:
    path = dropped.folder / "a.yaml"
    make(path)
    dropped.age(path, 100)
    assert not await dropped.scan(100)
    assert words in dropped.told("a.yaml")
    assert "Nothing was started" in dropped.told("a.yaml")
    assert dropped.listed() == []
    assert dropped.listed(REJECTED) == ["a.yaml", "a.yaml.error.txt"]


async def test_a_huge_file_is_rejected_unread(dropped: Dropped) -> None:
    path = dropped.drop("a.yaml")
    os.truncate(path, 100 * FILE_SIZE_MAX_BYTES)
    dropped.age(path, 100)
    assert not await dropped.scan()
    assert "Is it a job file?" in dropped.told("a.yaml")


async def test_the_errors_of_a_submission_lie_beside_the_file(dropped: Dropped) -> None:
    def refuse(submission: Submission) -> None:
        raise UserError("3 problems. Mend the file")

    dropped.refuse = refuse
    dropped.drop("a.yaml")
    assert not await dropped.scan()
    assert dropped.told("a.yaml") == "3 problems. Mend the file\n"
    assert dropped.said == ["inbox: a.yaml was rejected, see rejected/a.yaml.error.txt"]


async def test_p11_a_file_that_meets_a_bug_is_rejected_and_the_next_one_is_taken(
    dropped: Dropped, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended the master, and again at each start, since the file stayed where it was."""

    def trip(submission: Submission) -> None:
        if submission.name == "a.yaml":
            raise ValueError("nobody thought of this")

    dropped.refuse = trip
    dropped.drop("a.yaml")
    dropped.drop("b.yaml")
    assert not await dropped.scan()
    assert "taking a.yaml failed. This is a bug of meshtrain: ValueError(" in dropped.told("a.yaml")
    assert dropped.listed(ACCEPTED) == ["b.yaml", "b.yaml.receipt.txt"]
    assert dropped.listed() == []
    (record,) = caplog.records
    assert record.exc_info is not None and record.exc_info[0] is ValueError


async def test_a_name_that_is_not_utf_8_is_rejected_and_can_be_told(dropped: Dropped) -> None:
    path = dropped.folder / os.fsdecode(b"caf\xe9.yaml")
    path.write_text("name: x\n")
    dropped.age(path, 100)
    assert not await dropped.scan()
    assert not dropped.submitted
    (told,) = [p for p in (dropped.folder / REJECTED).iterdir() if p.suffix == ".txt"]
    assert "not UTF-8" in told.read_text()
    assert all(line.isprintable() for line in dropped.said)


@pytest.mark.parametrize("letter", ["a", "é", "語"])
async def test_a_name_as_long_as_can_be_gets_its_verdict_too(dropped: Dropped, letter: str) -> None:
    name = letter * (250 // len(letter.encode())) + ".yaml"
    for _ in range(2):
        dropped.drop(name)
        assert not await dropped.scan()
    assert len(dropped.submitted) == 2
    assert dropped.listed() == []
    kept = dropped.listed(ACCEPTED)
    assert len(kept) == 4 and sum(each.endswith(".yaml") for each in kept) == 2


async def test_what_can_not_be_read_for_good_is_rejected(
    dropped: Dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped.drop("a.yaml")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(inbox_module, "read_job_file", refuse)
    assert not await dropped.scan()
    assert "Permission denied" in dropped.told("a.yaml")
    assert "Mend its permissions" in dropped.told("a.yaml")


async def test_a_folder_deeper_than_a_path_can_be_is_rejected(dropped: Dropped) -> None:
    folder = job_folder(dropped)
    here = Path.cwd()
    os.chdir(folder)
    try:
        for _ in range(25):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        Path("file").write_text("x")
    finally:
        os.chdir(here)
    assert await dropped.scan()
    assert not await dropped.scan(3)
    assert not dropped.submitted
    assert "can't be read" in dropped.told(folder.name)
    assert dropped.listed() == []


# --- folders --------------------------------------------------------------------------------


def job_folder(dropped: Dropped, name: str = "study") -> Path:
    folder = dropped.folder / name
    (folder / "src").mkdir(parents=True)
    (folder / "sweep.yaml").write_text("name: study\ncode: .\n")
    (folder / "src" / "train.py").write_text("print(1)\n")
    for path in (folder / "sweep.yaml", folder / "src" / "train.py", folder / "src", folder):
        dropped.age(path, 100)
    return folder


async def test_a_folder_travels_with_its_code(dropped: Dropped) -> None:
    folder = job_folder(dropped)
    expected = file_digests(folder, ["src/train.py", "sweep.yaml"])
    assert not await dropped.scan()
    (submission,) = dropped.submitted
    assert submission.name == "sweep.yaml"
    code = submission.code["."]
    assert dict(code.files) == expected
    assert dropped.artifacts.has(code.artifact_id)
    assert dropped.listed() == []
    assert dropped.listed(ACCEPTED) == ["study", "study.receipt.txt"]


def secrets_beside(tmp_path: Path) -> Path:
    """What the master may read, and who drops something may not."""
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "train.py").write_text("the master's secret key")
    return keys


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe", "growth"])
async def test_p11_what_is_swapped_between_the_look_and_the_copy_is_not_taken(
    dropped: Dropped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    keys = secrets_beside(tmp_path)
    folder = job_folder(dropped)
    code = folder / "src" / "train.py"
    looked_at = inbox_module.snapshot_files

    def look_then_swap(*args: Any, **kwargs: Any) -> list[str]:
        found = looked_at(*args, **kwargs)
        if kind == "growth":
            os.truncate(code, (1 << 20) + 1)
            return found
        code.unlink()
        if kind == "link":
            code.symlink_to(keys / "train.py")
        elif kind == "pipe":
            os.mkfifo(code)
        else:
            code.parent.rmdir()
            code.parent.symlink_to(keys)
        return found

    monkeypatch.setattr(inbox_module, "snapshot_files", look_then_swap)
    assert not await dropped.scan()
    assert not dropped.submitted and not dropped.artifacts.ids()
    assert [name for name in dropped.listed() if name.startswith(".")] == []
    (told,) = (dropped.folder / REJECTED).glob("*.txt")
    assert "changed while it was read" in told.read_text()


def swapped_by_name(folder: Path, relpath: str, keys: Path) -> Callable[..., Path]:
    """A look that finds a plain file, behind which the file becomes a link."""
    resolve = Path.resolve

    def look_then_swap(path: Path, *args: Any, **kwargs: Any) -> Path:
        found = resolve(path, *args, **kwargs)
        if path == folder / relpath:
            path.unlink(missing_ok=True)
            path.symlink_to(keys / "train.py")
        return found

    return look_then_swap


def test_p11_a_link_that_comes_behind_the_last_look_is_not_followed(
    dropped: Dropped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = secrets_beside(tmp_path)
    folder = job_folder(dropped)
    target = tmp_path / "copy"
    with DroppedFolder(folder) as opened:
        monkeypatch.setattr(Path, "resolve", swapped_by_name(folder, "src/train.py", keys))
        with pytest.raises(UserError, match="changed while it was read"):
            opened.copy("src/train.py", target, 1 << 20)
    assert not target.exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "growth"])
async def test_p11_a_job_file_that_is_swapped_after_it_was_found_is_not_read(
    dropped: Dropped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    keys = secrets_beside(tmp_path)
    job_folder(dropped)
    find = inbox_module.find_job_file

    def find_then_swap(folder: Path) -> Path:
        found = find(folder)
        if kind == "growth":
            os.truncate(found, FILE_SIZE_MAX_BYTES + 1)
            return found
        found.unlink()
        if kind == "link":
            found.symlink_to(keys / "train.py")
        else:
            os.mkfifo(found)
        return found

    monkeypatch.setattr(inbox_module, "find_job_file", find_then_swap)
    await dropped.scan()
    assert not dropped.submitted and not dropped.artifacts.ids()
    (told,) = (dropped.folder / REJECTED).glob("*.txt")
    assert "Nothing was started" in told.read_text()


@pytest.mark.parametrize("way", ["the folder", "a folder in it"])
def test_p11_a_folder_that_is_replaced_while_it_is_read_changes_nothing(
    dropped: Dropped, tmp_path: Path, way: str
) -> None:
    keys = secrets_beside(tmp_path)
    folder = job_folder(dropped)
    with DroppedFolder(folder) as opened:
        if way == "the folder":
            folder.rename(dropped.folder / "away")
            folder.symlink_to(keys)
            assert opened.read_job_file("sweep.yaml") == b"name: study\ncode: .\n"
            with pytest.raises(FileNotFoundError):
                opened.copy("train.py", tmp_path / "copy", 1 << 20)
        else:
            (folder / "src").rename(tmp_path / "away")
            (folder / "src").symlink_to(keys)
            with pytest.raises(UserError, match="changed while it was read"):
                opened.copy("src/train.py", tmp_path / "copy", 1 << 20)
    assert not (tmp_path / "copy").exists()
    if way == "the folder":
        with pytest.raises(NotADirectoryError):
            DroppedFolder(folder)


def test_p11_a_job_file_that_grows_while_it_is_read_passes_no_limit(
    dropped: Dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dropped.drop("a.yaml")
    look = dropped_files._demand_job_file

    def look_then_grow(name: str, info: os.stat_result) -> None:
        look(name, info)
        os.truncate(path, FILE_SIZE_MAX_BYTES + 1)
        # As it was at that look: the size is told again of what is open.
        monkeypatch.setattr(dropped_files, "_demand_job_file", lambda name, info: None)

    monkeypatch.setattr(dropped_files, "_demand_job_file", look_then_grow)
    with pytest.raises(UserError, match="changed while it was read"):
        read_job_file(path)


def test_a_link_inside_of_a_dropped_folder_is_copied_as_what_it_points_at(
    dropped: Dropped, tmp_path: Path
) -> None:
    folder = job_folder(dropped)
    (folder / "src" / "train.py").chmod(0o755)
    (folder / "again.py").symlink_to("src/train.py")
    (folder / "whole.py").symlink_to(folder / "src" / "train.py")
    (folder / "code").symlink_to("src")
    with DroppedFolder(folder) as opened:
        for name in ("again.py", "whole.py", "code/train.py"):
            target = tmp_path / name.replace("/", "-")
            assert opened.copy(name, target, 9) == 9
            assert target.read_text() == "print(1)\n"
            assert target.stat().st_mode & 0o777 == 0o700
        with pytest.raises(FileNotFoundError):
            opened.copy("gone.py", tmp_path / "other", 9)


async def test_p11_a_verdict_is_written_through_no_link(dropped: Dropped, tmp_path: Path) -> None:
    keys = secrets_beside(tmp_path)
    planted = dropped.folder / ACCEPTED / ".a.yaml.receipt.txt.tmp"
    planted.symlink_to(keys / "train.py")
    dropped.drop("a.yaml")
    assert not await dropped.scan()
    assert (keys / "train.py").read_text() == "the master's secret key"
    assert dropped.listed(ACCEPTED) == ["a.yaml", "a.yaml.receipt.txt"]


async def test_a_folder_that_can_not_be_moved_is_taken_once(
    dropped: Dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner alone may write to it, and it was moved here with its mode."""
    folder = job_folder(dropped)
    really_rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == folder:
            raise PermissionError(13, "Permission denied")
        return really_rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    for _ in range(3):
        assert not await dropped.scan(after_s=100.0)
    assert len(dropped.submitted) == 1
    assert dropped.listed(ACCEPTED) == ["study.receipt.txt"]
    told = [line for line in dropped.said if "study can't be moved to accepted/" in line]
    assert len(told) == 1
    # What is changed there is dropped anew.
    (folder / "sweep.yaml").write_text("name: study2\ncode: .\n")
    for path in (folder / "sweep.yaml", folder):
        dropped.age(path, 50)
    assert not await dropped.scan(after_s=100.0)
    assert len(dropped.submitted) == 2


async def test_a_folder_without_a_job_file_is_rejected(dropped: Dropped) -> None:
    folder = job_folder(dropped)
    (folder / "sweep.yaml").rename(folder / "notes.txt")
    dropped.age(folder, 100)
    assert not await dropped.scan()
    assert "Call it sweep.yaml" in dropped.told("study")


async def test_half_copied_snapshots_of_a_killed_master_go(dropped: Dropped) -> None:
    left = dropped.folder / ".snapshot-abc"
    left.mkdir()
    (left / "file").write_text("x")
    dropped.inbox.prepare()
    assert dropped.listed() == []


# --- verdicts --------------------------------------------------------------------------------


async def test_no_former_file_is_overwritten(dropped: Dropped) -> None:
    for text in ("one", "two", "three"):
        dropped.drop("a.yaml", text)
        await dropped.scan()
    assert [s.data for s in dropped.submitted] == [b"one", b"two", b"three"]
    assert dropped.listed(ACCEPTED) == [
        "a.2.yaml",
        "a.2.yaml.receipt.txt",
        "a.3.yaml",
        "a.3.yaml.receipt.txt",
        "a.yaml",
        "a.yaml.receipt.txt",
    ]
    assert (dropped.folder / ACCEPTED / "a.2.yaml").read_text() == "two"


async def test_a_file_saved_over_while_it_was_taken_is_taken_too(dropped: Dropped) -> None:
    path = dropped.drop("a.yaml", "first")

    def save_over(submission: Submission) -> None:
        if submission.data == b"first":
            dropped.drop("a.yaml", "second one")

    dropped.refuse = save_over
    await dropped.scan()
    assert path.read_text() == "second one"
    assert not await dropped.scan(5)
    assert [s.data for s in dropped.submitted] == [b"first", b"second one"]
    assert not path.exists()


async def test_a_crash_between_verdict_and_move_leaves_the_file_to_be_taken_again(
    dropped: Dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dropped.drop("a.yaml")

    def crash(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            dropped.inbox._verdict(path, look_of(path), ACCEPTED, ".receipt.txt", "sweep")
    assert path.exists()
    assert dropped.listed(ACCEPTED) == ["a.yaml.receipt.txt"]
    again = Dropped(dropped.folder.parent, dropped.clock)
    assert not await again.scan()
    assert len(again.submitted) == 1
    assert again.listed() == []
    assert again.listed(ACCEPTED) == ["a.yaml", "a.yaml.receipt.txt"]


def look_of(path: Path) -> inbox_module.Look:
    look = look_at(path)
    assert look is not None
    return look


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), StoreError("busy")])
async def test_what_passes_is_tried_again_ever_less_often_and_told_once(
    dropped: Dropped, error: Exception
) -> None:
    tries = 0

    def refuse(submission: Submission) -> None:
        nonlocal tries
        tries += 1
        raise error

    dropped.refuse = refuse
    dropped.drop("a.yaml")
    for _ in range(3000):
        assert await dropped.scan(0.5)
    assert dropped.listed() == ["a.yaml"]
    assert len(dropped.said) == 1 and str(error) in dropped.said[0]
    assert 1500 / RETRY_S_MAX <= tries <= 1500 / RETRY_S_MAX + 10
    dropped.refuse = lambda submission: None
    assert not await dropped.scan(RETRY_S_MAX)
    assert dropped.listed(ACCEPTED) == ["a.yaml", "a.yaml.receipt.txt"]


async def test_a_verdict_that_finds_no_room_is_given_later(
    dropped: Dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped.drop("a.yaml")

    def refuse(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(inbox_module.os, "fsync", refuse)
        assert await dropped.scan()
    assert dropped.listed() == ["a.yaml"]
    assert not await dropped.scan(RETRY_S_MAX)
    assert len(dropped.submitted) == 2
    assert dropped.listed(ACCEPTED) == ["a.yaml", "a.yaml.receipt.txt"]


async def test_an_inbox_that_somebody_removed_is_made_again(dropped: Dropped) -> None:
    shutil.rmtree(dropped.folder)
    assert not await dropped.scan()
    dropped.drop("a.yaml")
    shutil.rmtree(dropped.folder / ACCEPTED)
    assert not await dropped.scan()
    assert dropped.listed(ACCEPTED) == ["a.yaml", "a.yaml.receipt.txt"]


async def test_a_folder_that_can_not_be_watched_is_scanned_all_the_same(
    dropped: Dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(28, "OS file watch limit reached")

    monkeypatch.setattr(inbox_module.watchfiles, "awatch", refuse)
    await dropped.inbox.watch()
    assert "scanned every 10 s" in dropped.said[0]


def test_a_file_that_a_process_closes_meanwhile_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("w"):
        look = look_at(path)
        assert look is not None and is_open_for_writing(look.files)
    assert not is_open_for_writing(look.files)
    assert not is_open_for_writing(frozenset())
