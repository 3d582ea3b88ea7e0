"""What can go wrong with the store, told so that a person can mend it.

StoreError
├── StoreFullError     no room on the disk; the same commit may be tried again
├── StoreInUseError    another process holds the store
└── StoreRuleError     a change that would break a rule of the rows
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from pathlib import Path

from meshtrain.errors import StoreError

_FREE_BYTES_MIN = 1 << 20
"""With less free, an error in writing counts as a full disk."""
ROOM_BYTES_MIN = 8 << 20
"""With less free, a master decides nothing: most commits are smaller by far, and its log of
commits has room to be folded into its file."""
_PROBE_BYTES = 64 << 10
_PRIMARY_CODE = 0xFF
"""The low byte of an SQLite result code is its kind; the rest refines it."""


class StoreFullError(StoreError):
    """Raised when the disk has no room for a commit; what was saved waits for another try."""


class StoreInUseError(StoreError):
    """Raised when another process has the store open for writing."""


class StoreRuleError(StoreError):
    """Raised when a change breaks a rule that the rows keep; nothing of it was stored."""


def rule_broken(what: str) -> StoreRuleError:
    return StoreRuleError(
        f"the job store refused a change: {what}. Nothing of it was stored. "
        "That is a fault of meshtrain, not of a job: report it with this message; "
        "a restart goes on from the last state stored"
    )


def damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"the job store {path} is damaged: {what}. It was left as it is. Put back a backup "
        "with `meshtrain restore FILE`, which keeps what is there beside it; or move the "
        f"folder {path.parent} away, to begin with an empty store"
    )


def sqlite_failure(path: Path, error: Exception, doing: str) -> StoreError:
    """The StoreError that tells what SQLite, or a value that it can't take, said.

    Args:
        doing: what was tried, as in "the job store PATH could not be DOING".
    """
    said = str(error).rstrip(".")
    if not isinstance(error, sqlite3.Error):
        return rule_broken(f"a value that can't be stored ({said})")
    code = getattr(error, "sqlite_errorcode", None)
    kind = None if code is None else code & _PRIMARY_CODE
    wrote = kind in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    if kind == sqlite3.SQLITE_FULL or (wrote and _disk_is_full(path)):
        return StoreFullError(
            f"the job store {path} could not be {doing}: no room on its disk, "
            f"{room_told(path.parent)} ({said}). "
            f"Free some room below {path.parent}; nothing that was acknowledged is lost"
        )
    if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, said)
    if kind == sqlite3.SQLITE_CONSTRAINT or isinstance(error, sqlite3.DataError):
        return rule_broken(said)
    if kind == sqlite3.SQLITE_BUSY:
        return StoreInUseError(
            f"the job store {path} could not be {doing}: another program holds it ({said}). "
            "Close whatever else has the file open"
        )
    return StoreError(
        f"the job store {path} could not be {doing}: {said}. "
        f"See that {path.parent} is there, is on a healthy disk and may be written by this user"
    )


def free_bytes(folder: Path) -> int | None:
    """What is free for us on the disk of a folder; None where that can't be told."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def room_told(folder: Path) -> str:
    """The free bytes of a folder's disk, in words."""
    free = free_bytes(folder)
    return "its free bytes unknown" if free is None else f"{free:,} bytes free"


def lacks_room(path: Path) -> StoreFullError | None:
    """The error that a store will soon meet on its disk; None while that has room."""
    free = free_bytes(path.parent)
    if free is None or free >= ROOM_BYTES_MIN:
        return None
    return StoreFullError(
        f"the master's disk is full: {free:,} bytes are free at {path.parent}, and its job store "
        f"needs {ROOM_BYTES_MIN:,}. Free some room there. Until then nothing new is taken and "
        "nothing is given out; what runs goes on, and nothing that was acknowledged is lost"
    )


def _disk_is_full(path: Path) -> bool:
    free = free_bytes(path.parent)
    if free is None:
        return False
    if free < _FREE_BYTES_MIN:
        return True
    # A quota leaves the disk free and refuses all the same.
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False
