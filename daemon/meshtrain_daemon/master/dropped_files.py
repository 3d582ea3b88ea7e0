"""What was dropped is read: the job file, and the files of a folder.

Who dropped it may write to it still, and is another user than the master. Between
a look and a read any name there may become a link to what only the master may
read, a pipe that nobody writes to, or a file without an end. So all is opened from
the folder's own descriptor on, name by name, no link is followed on the way, and
what comes is counted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from meshtrain.errors import UserError
from meshtrain.spec.reader import FILE_SIZE_MAX_BYTES, SUFFIXES

JOB_FILE_STEMS = ("sweep", "meshtrain", "job", "jobs")
"""What a dropped folder's job file may be called, where it has several candidates."""
_READ_BYTES = 1 << 20
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A pipe that was put there must not block."""
_SWAPPED = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO)
"""What is told of a link, of a file where a folder was, and of a socket."""


def read_job_file(path: Path) -> bytes:
    """The bytes of a job file that was dropped by itself.

    Raises UserError for what isn't a plain file of a sane size, FileNotFoundError
    when it has gone.
    """
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        raise UserError(
            f"{path.name} is a link to {path.readlink()}. Nothing was started. "
            "Drop the file itself: cp -L"
        )
    _demand_job_file(path.name, info)
    # The folder of what lies there by itself is the master's own, and may be named by a link.
    with DroppedFolder(path.parent.resolve()) as folder:
        return folder.read_job_file(path.name)


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


class DroppedFolder:
    """A dropped folder, open from its making until `close`; whatever its name means by then.

    Its methods raise UserError for what is no plain file of the folder, or no longer the
    one that was looked at, and FileNotFoundError for what has gone.

    Raises:
        OSError: when it isn't there, or is a link.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, _FLAGS | os.O_DIRECTORY)

    def __enter__(self) -> DroppedFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def read_job_file(self, name: str) -> bytes:
        """The bytes of a job file in it; UserError also where its size isn't sane."""
        with open_below(self._fd, name) as file:
            return _job_file(name, file)

    def copy(self, relpath: str, target: Path, size_max_bytes: int) -> int:
        """Copies a file of it to a new one of ours, a link inside it as what it points at.

        Raises UserError also when there are more bytes than may come.

        Returns how many bytes came.
        """
        with open_below(self._fd, self._place_of(relpath)) as source, target.open("xb") as copy:
            executable = os.fstat(source.fileno()).st_mode & stat.S_IXUSR
            os.fchmod(copy.fileno(), 0o700 if executable else 0o600)
            size_bytes = 0
            while piece := source.read(_READ_BYTES):
                size_bytes += len(piece)
                if size_bytes > size_max_bytes:
                    raise _changed(relpath)
                copy.write(piece)
        return size_bytes

    def _place_of(self, relpath: str) -> str:
        """Where a file's content lies in the folder, as far as names tell just now."""
        try:
            real = (self._path / relpath).resolve(strict=True)
            return str(real.relative_to(self._path.resolve()))
        except (ValueError, RuntimeError) as error:
            raise _changed(relpath) from error
        except OSError as error:
            if error.errno not in _SWAPPED:
                raise
            raise _changed(relpath) from error


@contextmanager
def open_below(root: int, relpath: str) -> Iterator[BinaryIO]:
    """A plain file below an open folder; UserError where anything else is there or on the way."""
    *folders, name = Path(relpath).parts or ("",)
    fd = os.dup(root)
    try:
        for part in folders:
            fd = _step(fd, part, os.O_DIRECTORY)
        fd = _step(fd, name, 0)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _changed(relpath)
        file = open(fd, "rb", closefd=False)  # noqa: SIM115
    except OSError as error:
        os.close(fd)
        if error.errno not in _SWAPPED:
            raise
        raise _changed(relpath) from error
    except BaseException:
        os.close(fd)
        raise
    try:
        with file:
            yield file
    finally:
        os.close(fd)


def _step(fd: int, name: str, kind: int) -> int:
    """Opens a name in an open folder, and closes the folder."""
    inner = os.open(name, _FLAGS | kind, dir_fd=fd)
    os.close(fd)
    return inner


def _job_file(name: str, file: BinaryIO) -> bytes:
    _demand_job_file(name, os.fstat(file.fileno()))
    data = file.read(FILE_SIZE_MAX_BYTES + 1)
    if len(data) > FILE_SIZE_MAX_BYTES:
        raise _changed(name)
    return data


def _demand_job_file(name: str, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise UserError(f"{name} is no plain file. Nothing was started. Drop a job file")
    if info.st_size > FILE_SIZE_MAX_BYTES:
        raise UserError(
            f"{name} has {info.st_size / 1e6:.1f} MB, a job file has at most "
            f"{FILE_SIZE_MAX_BYTES / 1e6:.1f} MB. Nothing was started. Is it a job file?"
        )


def _changed(relpath: str) -> UserError:
    return UserError(
        f"{relpath} is no plain file of what was dropped, or changed while it was read. Nothing "
        "was started. Drop it again when nothing writes to it"
    )
