"""What lies in the inbox: whether it rests, who still writes it, and what of it is read."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import msgspec

from meshtrain.errors import UserError
from meshtrain.spec.reader import FILE_SIZE_MAX_BYTES, SUFFIXES

JOB_FILE_STEMS = ("sweep", "meshtrain", "job", "jobs")
"""What a dropped folder's job file may be called, where it has several candidates."""
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


def read_job_file(path: Path) -> bytes:
    """The bytes of a job file.

    Raises UserError for what isn't a plain file of a sane size, FileNotFoundError
    when it has gone.
    """
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        raise UserError(
            f"{path.name} is a link to {path.readlink()}. Nothing was started. "
            "Drop the file itself: cp -L"
        )
    _demand_plain(path, info)
    # It may be another by now: a link is not followed, and a pipe must not block.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:  # noqa: PTH123
        _demand_plain(path, os.fstat(fd))
        return file.read(FILE_SIZE_MAX_BYTES + 1)


def _demand_plain(path: Path, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise UserError(f"{path.name} is no plain file. Nothing was started. Drop a job file")
    if info.st_size > FILE_SIZE_MAX_BYTES:
        raise UserError(
            f"{path.name} has {info.st_size / 1e6:.1f} MB, a job file has at most "
            f"{FILE_SIZE_MAX_BYTES / 1e6:.1f} MB. Nothing was started. Is it a job file?"
        )


def copy_inside(folder: Path, relpath: str, target: Path) -> None:
    """Copies a file of a dropped folder, or what a link in it points at inside of the folder.

    Raises UserError for what is no plain file of the folder: its owner may have put a link
    there since it was looked at. FileNotFoundError when it has gone.
    """
    fd = os.open(folder / relpath, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as source:  # noqa: PTH123
        info = os.fstat(fd)
        # Of what was opened, whatever its name means by now.
        real = Path(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115
        if not stat.S_ISREG(info.st_mode) or not real.is_relative_to(folder.resolve()):
            raise UserError(
                f"{relpath} is no plain file of {folder.name}, or changed while it was read. "
                "Nothing was started. Drop the folder again when nothing writes to it"
            )
        with target.open("xb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        target.chmod(0o700 if info.st_mode & stat.S_IXUSR else 0o600)


def find_job_file(folder: Path) -> Path:
    """The job file of a dropped folder: the only one there, or the one called sweep.

    Raises UserError when there is none, or when it can't be told.
    """
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in SUFFIXES and path.is_file() and not path.is_symlink()
    )
    if len(found) == 1:
        return found[0]
    named = [path for path in found if path.stem in JOB_FILE_STEMS]
    if len(named) == 1:
        return named[0]
    seen = ", ".join(path.name for path in found[:5]) or "none"
    raise UserError(
        f"the folder {folder.name} has no job file that can be told from others (found: {seen}). "
        "Nothing was started. Call it sweep.yaml and drop the folder again"
    )
