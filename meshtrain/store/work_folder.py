"""The folder that a backup is made in, beside where it comes to lie.

It holds a copy of the keys. A backup that is killed can't remove it, so the next
one to the same place does: a lock in the folder tells who is alive, since the
kernel takes it from a process that ends, however it does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

LOCK_NAME = "meshtrain-backup.lock"
TRIES_MAX = 10
"""Folders that are made before it is given up: each may be taken for a dead one's at once."""
_DRAWN = re.compile(r"[a-z0-9_]{8}")
"""What `tempfile` puts behind the prefix."""


@contextlib.contextmanager
def work_beside(target: Path, says: Callable[[str], None]) -> Iterator[Path]:
    """A folder on the disk of a backup, for its owner alone, removed in the end.

    What a dead process left of an earlier backup to `target` is removed first.

    Args:
        says: told of what is removed.

    Raises OSError when the folder can't be made.
    """
    prefix = f".{target.name[:100]}."
    _clear(target.parent, prefix, says)
    work, lock = _made(target.parent, prefix)
    try:
        yield work
    finally:
        _remove(work)
        os.close(lock)


def _made(folder: Path, prefix: str) -> tuple[Path, int]:
    for _ in range(TRIES_MAX):
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        try:
            lock = os.open(work / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            # It was without a lock for a moment, and taken for a dead one's.
            continue
        except BaseException:
            _remove(work)
            raise
        # Where the file system has no locks, nobody can take it for a dead one's either.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_named(lock, work / LOCK_NAME):
            return work, lock
        os.close(lock)
    raise OSError(errno.EAGAIN, "others remove each folder that is made there", str(folder))


def _clear(folder: Path, prefix: str, says: Callable[[str], None]) -> None:
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(prefix)]
    for left in found:
        if _DRAWN.fullmatch(left.name.removeprefix(prefix)) and _remove_dead(left):
            says(f"removed {left.name}, which a backup that was killed had left")


def _remove_dead(left: Path) -> bool:
    """Removes a folder that nobody holds; says whether it held something and is gone."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        info = left.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            return False
        lock = os.open(left / LOCK_NAME, flags)
    except FileNotFoundError:
        # Killed before it had a lock, or not ours: gone if there is nothing in it.
        with contextlib.suppress(OSError):
            left.rmdir()
        return False
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not stat.S_ISREG(os.fstat(lock).st_mode) or not _is_named(lock, left / LOCK_NAME):
            return False
        _remove(left)
        return not left.exists()
    except OSError:
        # Held: its backup is being made.
        return False
    finally:
        os.close(lock)


def _remove(work: Path) -> None:
    """Removes a folder that is locked, the lock last: who dies over it leaves it to be removed."""
    with contextlib.suppress(OSError):
        for inner in work.iterdir():
            if inner.name == LOCK_NAME:
                continue
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner, ignore_errors=True)
            else:
                inner.unlink(missing_ok=True)
        if [inner.name for inner in work.iterdir()] in ([], [LOCK_NAME]):
            (work / LOCK_NAME).unlink(missing_ok=True)
            work.rmdir()


def _is_named(fd: int, path: Path) -> bool:
    """Whether what is open still has its name."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False
