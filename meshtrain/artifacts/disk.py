"""Files on disk: made durable, cloned, preallocated."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Bytes = bytes | bytearray | memoryview

_FICLONE = 0x40049409
"""ioctl_ficlone(2): the copy shares its blocks with the original until one is written."""
_NOT_HERE = {
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EPERM,
    errno.EBADF,
}
"""What a file system answers to a call that it doesn't have."""
_COPY_BYTES = 8 << 20
_SYNC_FILE_RANGE_WRITE = 2
"""sync_file_range(2): begins to write dirty pages, and waits for none."""


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        found = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    found.restype = ctypes.c_int
    called: Callable[[int, int, int, int], int] = found
    return called


_sync_file_range = _find_sync_file_range()


def fsync_path(path: Path) -> None:
    """Makes a file's bytes, or a folder's names, survive a loss of power."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes) -> None:
    """Writes a new file and makes its bytes durable; its name is the folder's affair."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def clone_file(
    source: Path, target: Path, mode: int, *, or_link: bool = False, real: str | None = None
) -> None:
    """Makes `target` a file of the same content that shares nothing that a write would show.

    A reflink where the file system has them, else a copy. The source must be a
    regular file; a link in its place is refused.

    Args:
        mode: the permissions of the new file.
        or_link: whether a second name of the source will do in place of a copy: it costs
            nothing, and is for those alone who can't write to it. It keeps the source's mode.
        real: where the source must really lie, links resolved: a folder above it may have
            become a link since it was listed.
    """
    source_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if real is not None and os.readlink(f"/proc/self/fd/{source_fd}") != real:  # noqa: PTH115
            raise OSError(errno.ELOOP, "a folder above it is a link", str(source))
        if not stat.S_ISREG(os.fstat(source_fd).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(source))
        target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if not _reflink(source_fd, target_fd):
                if or_link and _link(source_fd, target):
                    return
                _copy(source_fd, target_fd)
            os.fchmod(target_fd, mode)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def preallocate(path: Path, size_bytes: int) -> None:
    """Makes a new file of a size, and takes its room on the disk where that is possible."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if size_bytes == 0:
            return
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, 0, size_bytes)
                return
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
        os.ftruncate(fd, size_bytes)
    finally:
        os.close(fd)


def write_at(path: Path, pieces: Sequence[tuple[int, Bytes]], *, soon: bool = False) -> None:
    """Writes bytes into an existing file.

    Args:
        pieces: the offset of each piece, in ascending order, and its bytes.
        soon: whether the kernel should begin at once to bring them to the disk, so that a
            later fsync has little left to wait for.
    """
    fd = os.open(path, os.O_WRONLY)
    try:
        begun = stop = pieces[0][0] if pieces else 0
        for offset, data in pieces:
            if offset != stop:
                if soon:
                    _begin_to_sync(fd, begun, stop)
                begun = stop = offset
            view = memoryview(data)
            while view:
                written = os.pwrite(fd, view, stop)
                view = view[written:]
                stop += written
        if soon:
            _begin_to_sync(fd, begun, stop)
    finally:
        os.close(fd)


def _begin_to_sync(fd: int, start: int, stop: int) -> None:
    if _sync_file_range is not None:
        # Its errors are those of the disk, which the fsync tells.
        _sync_file_range(fd, start, stop - start, _SYNC_FILE_RANGE_WRITE)


def read_at(path: Path, offset: int, size_bytes: int) -> bytes:
    """Reads bytes of a file from an offset; fewer only where the file ends."""
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while size_bytes:
            piece = os.pread(fd, size_bytes, offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            size_bytes -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Removes a folder and all below it, read-only folders too; one that isn't there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=_let_go)
    else:
        path.unlink(missing_ok=True)


def _let_go(function: Callable[[str], object], path: str, error: Any) -> None:
    """Removes a name from a folder that nobody may write to: its owner may say otherwise."""
    if not isinstance(error[1], PermissionError):
        raise error[1]
    above = os.path.dirname(path)  # noqa: PTH120
    os.chmod(above, 0o700)  # noqa: PTH101
    function(path)


def _reflink(source_fd: int, target_fd: int) -> bool:
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        return False
    return True


def _link(source_fd: int, target: Path) -> bool:
    """Puts a second name of an open file in the place of `target`."""
    beside = target.with_name(f".{target.name[:200]}.link")
    try:
        # The file that was opened, whatever its name means by now. Without a folder's fd,
        # which an absolute path makes no use of, os.link takes the link itself.
        os.link(f"/proc/self/fd/{source_fd}", beside, src_dir_fd=source_fd)
    except OSError as error:
        if error.errno in _NOT_HERE or error.errno in (errno.EMLINK, errno.ENOENT):
            return False
        raise
    beside.replace(target)
    return True


def _copy(source_fd: int, target_fd: int) -> None:
    if hasattr(os, "copy_file_range"):
        try:
            while os.copy_file_range(source_fd, target_fd, _COPY_BYTES):
                pass
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
    # Goes on from where that ended: some file systems copy nothing and say so without an error.
    while piece := os.read(source_fd, _COPY_BYTES):
        view = memoryview(piece)
        while view:
            view = view[os.write(target_fd, view) :]
