"""What can go wrong with the store, told so that a person can mend it.

StoreError
├── StoreFullError     no room on the disk; the same commit may be tried again
├── StoreInUseError    another process holds the store
└── StoreRuleError     a change that would break a rule of the rows
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from meshtrain.errors import StoreError

_FREE_BYTES_MIN = 1 << 20
"""With less free, an error in writing counts as a full disk."""
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
        f"the job store {path} is damaged: {what}. It was left as it is. "
        "Put a backup of it in its place (with the files beside it that end in -wal and -shm "
        "moved away), or move all of them away to begin with an empty store"
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
    if kind == sqlite3.SQLITE_FULL or (kind == sqlite3.SQLITE_IOERR and _disk_is_full(path)):
        return StoreFullError(
            f"the job store {path} could not be {doing}: no room on its disk ({said}). "
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


def _disk_is_full(path: Path) -> bool:
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _FREE_BYTES_MIN
