"""Files that only their owner may read: read with that checked, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from meshtrain.errors import SettingsError

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_OTHERS = 0o077
_READ_BYTES = 1 << 20


def read_private(path: Path, size_bytes_max: int) -> bytes:
    """The bytes of a file that nobody but this process's user can read or change.

    Raises FileNotFoundError when there is none, and SettingsError, which names the
    file and the mend, when others may touch it, somebody else owns it, it is a
    link or no regular file, it has a second name, or it is larger than
    `size_bytes_max`.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            raise SettingsError(
                f"{path} is a link: keys and lists of members must be plain files; "
                "put the file itself there"
            ) from error
        raise SettingsError(f"{path} can't be read: {error.strerror or error}") from error
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise SettingsError(f"{path} is no regular file; put the file itself there")
        require_owned(path, info, FILE_MODE)
        if info.st_nlink != 1:
            raise SettingsError(
                f"{path} has {info.st_nlink} names (hard links), so others may reach it "
                "elsewhere; copy it to a file of its own and put that in its place"
            )
        pieces: list[bytes] = []
        size_bytes = 0
        while piece := os.read(fd, _READ_BYTES):
            size_bytes += len(piece)
            if size_bytes > size_bytes_max:
                raise SettingsError(
                    f"{path} has more than {size_bytes_max} bytes, so it can't be what belongs "
                    "there; restore it from a backup"
                )
            pieces.append(piece)
    finally:
        os.close(fd)
    return b"".join(pieces)


def require_owned(path: Path, info: os.stat_result, mode: int) -> None:
    """Raises SettingsError unless this user alone owns it and may touch it.

    `mode` is what it should have, for the mend.
    """
    user = os.geteuid()
    if info.st_uid != user:
        raise SettingsError(
            f"{path} belongs to user {info.st_uid}, but this process runs as user {user}: "
            f"run it as its owner, or `chown {user} {path}`"
        )
    if info.st_mode & _OTHERS:
        raise SettingsError(
            f"{path} can be reached by others (mode {stat.S_IMODE(info.st_mode):04o}): "
            f"`chmod {mode:o} {path}`, and take keys that others may have read for known to "
            "them: revoke and renew them"
        )


def require_private_folder(path: Path) -> None:
    """Raises SettingsError unless it is a folder of this user's that nobody else can enter."""
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode):
        raise SettingsError(f"{path} is no folder: move it away, or name another folder for keys")
    require_owned(path, info, FOLDER_MODE)


def make_private_home(home: Path) -> None:
    """Makes a home for its owner alone; one that is there must be unshared.

    Raises SettingsError as `require_unshared` does, and when it can't be made.
    """
    try:
        if not home.exists():
            home.parent.mkdir(parents=True, exist_ok=True)
            home.mkdir(FOLDER_MODE, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"{home} can't be made: {error.strerror or error}; mend the permissions of the "
            "folder above it, or name another home"
        ) from error
    require_unshared(home)


def require_unshared(home: Path) -> None:
    """Raises SettingsError when anybody else owns a home, or may write there.

    Who can write there can put other keys, jobs and lists in the place of these, also
    where each file is private. Reading is the owner's to allow.
    """
    _require_writer_alone(home, others=stat.S_IWGRP | stat.S_IWOTH)


def require_unshared_inbox(inbox: Path) -> None:
    """Raises SettingsError when everybody on this host may drop job files into a folder.

    A group may: that is how people of a host are let in.
    """
    if inbox.exists():
        _require_writer_alone(inbox, others=stat.S_IWOTH)


def _require_writer_alone(folder: Path, others: int) -> None:
    info = folder.stat()
    user = os.geteuid()
    if info.st_uid != user:
        raise SettingsError(
            f"{folder} belongs to user {info.st_uid}, but this process runs as user {user}: "
            f"run it as its owner, or `chown {user} {folder}`"
        )
    if info.st_mode & others:
        who = "everybody on this host" if info.st_mode & others & stat.S_IWOTH else "others"
        mend = "go-w" if others & stat.S_IWGRP else "o-w"
        raise SettingsError(
            f"{who} may write to {folder} (mode {stat.S_IMODE(info.st_mode):04o}), and so give "
            f"orders to this mesh: `chmod {mend} {folder}`, and look through what lies there"
        )


def write_private(path: Path, data: bytes) -> None:
    """Puts `data` at `path`, durably, by a temporary file and a rename.

    Raises SettingsError when it can't be written; the former file stands then.
    """
    temporary = path.parent / f".{path.name}.{os.urandom(4).hex()}.tmp"
    try:
        write_new(temporary, data)
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise SettingsError(
            f"{path} can't be written: {error.strerror or error}; "
            "free disk space, or mend the folder's permissions"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_new(path: Path, data: bytes) -> None:
    """Writes a new private file, durably but for its name."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        os.fchmod(fd, FILE_MODE)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_leftovers(path: Path) -> None:
    """Removes temporary files that a crash left beside `path`.

    For its only writer: another one may just be writing.
    """
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def fsync_folder(path: Path) -> None:
    """Makes the names in a folder survive a loss of power."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
