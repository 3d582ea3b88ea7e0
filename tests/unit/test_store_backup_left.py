"""What a backup leaves that is killed, and who clears it: it holds a copy of the keys."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from meshtrain.errors import UserError
from meshtrain.store import backup as backup_module
from meshtrain.store import work_folder
from meshtrain.store.backup import make_backup
from meshtrain.store.sqlite import SqliteStore
from meshtrain.store.work_folder import LOCK_NAME, work_beside


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    SqliteStore(home / "state").close()
    (home / "keys").mkdir()
    (home / "keys" / "sign.key").write_text("the secret key")
    return home


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where backups are kept."""
    kept = tmp_path / "kept"
    kept.mkdir()
    return kept


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def backup_and_die(home: Path, target: Path) -> None:
    """In a child process, which is killed when all is copied and nothing is named."""
    child = os.fork()
    if child == 0:
        try:
            backup_module._write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            make_backup(home, target)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_p11_the_next_backup_to_a_place_clears_what_a_killed_one_left(
    home: Path, kept: Path
) -> None:
    said: list[str] = []
    backup_and_die(home, kept / "monday")
    (left,) = kept.iterdir()
    assert (left / "keys" / "sign.key").read_text() == "the secret key"
    # Another place is another's affair.
    make_backup(home, kept / "tuesday", says=said.append)
    assert names(kept) == [left.name, "tuesday"]
    make_backup(home, kept / "monday", says=said.append)
    assert names(kept) == ["monday", "tuesday"]
    assert [word for word in said if left.name in word] == [
        f"removed {left.name}, which a backup that was killed had left"
    ]


def test_a_backup_that_is_being_made_is_left_alone(kept: Path) -> None:
    with work_beside(kept / "a", pytest.fail) as first:
        (first / "copy").write_text("x")
        with work_beside(kept / "a", pytest.fail) as second:
            assert first != second
            assert (first / "copy").read_text() == "x"
        assert names(kept) == [first.name]
    assert names(kept) == []


def test_one_that_dies_while_it_clears_leaves_what_the_next_one_can_clear(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with (
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt),
        work_beside(kept / "a", pytest.fail) as work,
    ):
        (work / "copy").write_text("x")
        (work / "keys").mkdir()
        (work / "keys" / "k").write_text("secret")
        patch.setattr(work_folder.shutil, "rmtree", die)
    assert (kept / work.name / "keys" / "k").exists()
    release_locks_of(kept / work.name)
    with work_beside(kept / "a", lambda _: None):
        assert not work.exists()


def release_locks_of(work: Path) -> None:
    """As the end of its process does."""
    wanted = (work / LOCK_NAME).stat()
    for name in os.listdir("/proc/self/fd"):
        try:
            found = os.fstat(int(name))
        except OSError:
            continue
        if os.path.samestat(found, wanted):
            os.close(int(name))


def test_what_is_none_of_ours_stays(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / LOCK_NAME).write_text("")
    (kept / ".a.aaaaaaaa").symlink_to(tmp_path / "elsewhere")
    (kept / ".a.bbbbbbbb").mkdir()
    (kept / ".a.bbbbbbbb" / "somebody's").write_text("")
    (kept / ".a.cccccccc").write_text("")
    (kept / ".a.longer-than-that").mkdir()
    (kept / ".a.dddddddd").mkdir()
    os.mkfifo(kept / ".a.bbbbbbbb" / LOCK_NAME)
    (kept / ".a.eeeeeeee").mkdir()
    (kept / ".a.eeeeeeee" / LOCK_NAME).symlink_to(tmp_path / "elsewhere" / LOCK_NAME)
    before = names(kept)
    with work_beside(kept / "a", pytest.fail):
        pass
    # Empty ones go: one that was killed at its very beginning leaves that.
    assert names(kept) == [name for name in before if name != ".a.dddddddd"]
    assert names(tmp_path / "elsewhere") == [LOCK_NAME]
    assert names(kept / ".a.bbbbbbbb") == [LOCK_NAME, "somebody's"]


def test_without_locks_nothing_is_taken_for_dead(
    home: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_and_die(home, kept / "a")
    left = names(kept)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    make_backup(home, kept / "a")
    assert names(kept) == sorted([*left, "a"])


def test_a_folder_that_was_taken_for_dead_at_its_making_is_made_again(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, taken = fcntl.flock, list[str]()

    def remove_once(fd: int, kind: int) -> None:
        if not taken:
            (work,) = kept.iterdir()
            (work / LOCK_NAME).unlink()
            work.rmdir()
            taken.append(work.name)
        really(fd, kind)

    monkeypatch.setattr(fcntl, "flock", remove_once)
    with work_beside(kept / "a", pytest.fail) as work:
        assert work.is_dir() and work.name not in taken
    assert names(kept) == []


def test_a_backup_that_fails_leaves_nothing(home: Path, kept: Path) -> None:
    (kept / "a").write_text("")
    with pytest.raises(UserError):
        make_backup(home, kept / "a")
    assert names(kept) == ["a"]
