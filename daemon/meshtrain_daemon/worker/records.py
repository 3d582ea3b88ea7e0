"""The records that a shim leaves in its attempt's folder: `started.json` and `exit.json`.

A node that doesn't know whether an attempt ever started renames its folder
first (it fences it), and then looks for the record of a start. So a start must
be recorded in the folder that is still in its place, or it is none.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import errno
import os
import stat

from meshtrain_daemon.worker import frames

GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
"""What the file system says when the folder isn't in its place any more."""


def write_start(folder: bytes, line: bytes) -> None:
    """Records a start. Raises OSError, one of `GONE` when the folder was fenced before."""
    path = folder + b"/" + frames.STARTED_FILE.encode()
    written = _write(path, line)
    # Written to a folder that was renamed meanwhile: whoever did may have looked before.
    found = os.stat(path)  # noqa: PTH116
    if (found.st_dev, found.st_ino) != written:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def write_exit(folder: bytes, line: bytes) -> None:
    """Records an end. Raises OSError."""
    _write(folder + b"/" + frames.EXIT_FILE.encode(), line)


def _write(path: bytes, line: bytes) -> tuple[int, int]:
    """Writes a record, whole or not at all as far as this process can be killed.

    Records are of one size and written in one call, over what an earlier
    attempt may have left: a file system that gives out few inodes at a high
    rate is slow to give out more. Returns the device and inode of the file.
    """
    if len(line) > frames.RECORD_BYTES:
        return _write_long(path, line)
    record = line.rstrip(b"\n").ljust(frames.RECORD_BYTES - 1) + b"\n"
    # A job may have put something else there: a pipe would block, a link lead elsewhere.
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        return _write_long(path, record)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return _write_long(path, record)
        if os.pwrite(fd, record, 0) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        info = os.fstat(fd)
    finally:
        os.close(fd)
    return info.st_dev, info.st_ino


def _write_long(path: bytes, line: bytes) -> tuple[int, int]:
    try:  # noqa: SIM105
        os.unlink(path + b".tmp")  # noqa: PTH108
    except FileNotFoundError:
        pass
    fd = os.open(path + b".tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        if os.write(fd, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        info = os.fstat(fd)
    finally:
        os.close(fd)
    os.replace(path + b".tmp", path)  # noqa: PTH105
    return info.st_dev, info.st_ino
