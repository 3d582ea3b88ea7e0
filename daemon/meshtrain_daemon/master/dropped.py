"""What lies in the inbox is looked at: whether it rests, and who still writes it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

LOOKED_AT_MAX = 100_000
"""Files of one folder that are looked at; a snapshot may not have more."""

Inode = tuple[int, int]
"""A file's number, and that of its device."""


class Look(msgspec.Struct, frozen=True):
    """What an entry looks like: when `shape` stays the same, it rests."""

    shape: object
    newest_s: float
    """When something of it was last changed, in seconds since 1970, as its own times say."""
    files: frozenset[Inode] = frozenset()
    """Its plain files: nobody must have one of them open for writing."""


def look_at(path: Path) -> Look | None:
    """What an entry looks like now; None when it has gone."""
    try:
        return _look_at(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        # A path that is too long, say. Reading it fails in the same way, and tells why.
        return Look(("can't be looked at", error.errno), 0.0)


def _look_at(path: Path) -> Look:
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode):
        return Look(_shape(info), max(info.st_mtime, 0.0), _inodes(info))
    parts: list[object] = []
    files: set[Inode] = set()
    newest_s = info.st_mtime
    for parent, _, names in os.walk(path):
        for name in names:
            inner_path = os.path.join(parent, name)  # noqa: PTH118
            try:
                inner = os.lstat(inner_path)
            except FileNotFoundError:
                parts.append(inner_path)
                continue
            parts.append((inner_path, _shape(inner)))
            files |= _inodes(inner)
            newest_s = max(newest_s, inner.st_mtime)
        if len(parts) > LOOKED_AT_MAX:
            break
    return Look((info.st_ino, tuple(parts)), newest_s, frozenset(files))


def _shape(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_ino, info.st_size, info.st_mtime_ns


def _inodes(info: os.stat_result) -> frozenset[Inode]:
    if stat.S_ISREG(info.st_mode):
        return frozenset({(info.st_ino, info.st_dev)})
    return frozenset()


def is_open_for_writing(files: frozenset[Inode]) -> bool:
    """Whether any process that we may look at has one of the files open for writing."""
    return bool(files) and any(_writes(pid, files) for pid in _processes())


def _writes(pid: str, files: frozenset[Inode]) -> bool:
    try:
        numbers = [path.name for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    for number in numbers:
        try:
            info = os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116
            if (info.st_ino, info.st_dev) not in files:
                continue
            with open(f"/proc/{pid}/fdinfo/{number}") as file:  # noqa: PTH123
                flags = int(file.read().split("flags:")[1].split()[0], 8)
        except (OSError, IndexError, ValueError):
            # It was closed meanwhile; the others are still to be looked at.
            continue
        if flags & os.O_ACCMODE != os.O_RDONLY:
            return True
    return False


def _processes() -> list[str]:
    """The ids of all processes; none where the system doesn't show them."""
    try:
        return [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    except OSError:
        return []
