"""An archive in a folder, such as a mounted share: needs no package."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import filterfalse
from pathlib import Path, PurePosixPath

from meshtrain.archive.failures import (
    ArchiveAwayError,
    ArchiveRefusedError,
    NotArchivedError,
)
from meshtrain.archive.target import Reader
from meshtrain.ids import digest

PART_SUFFIX = ".part"
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR}
_LINKS = {errno.ENOTDIR, errno.ELOOP}


class FolderTarget:
    """Files below a folder that is there already.

    A file has its name only when it is whole and on the disk: until then it is a
    hidden file that ends in `.part`.

    Args:
        root: the folder; it is never made, since where it isn't, its share is away.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        return str(self._root)

    def demand_root(self) -> None:
        with self._errors("looked at"):
            if not self._root.is_dir():
                raise ArchiveAwayError(
                    f"the archive {self._root} is no folder that is there. Mount its share, or "
                    "make the folder"
                )

    def write(self, path: str, blocks: Iterable[bytes], size_bytes: int) -> None:
        self.demand_root()
        # The same name at each try, so that what a crash leaves goes.
        with self._errors("written"), self._folder_of(path, make=True) as (folder, name):
            part = f".{digest(name.encode())[:16]}{PART_SUFFIX}"
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
            # A new file in any case: what lies there may be a link, or be open elsewhere.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(part, flags, 0o666, dir_fd=folder), "wb") as file:  # noqa: PTH123
                for block in blocks:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            _fsync(folder)

    def open(self, path: str) -> Reader:
        with self._errors("read"):
            try:
                with self._folder_of(path) as (folder, name):
                    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                    file = open(os.open(name, flags, dir_fd=folder), "rb")  # noqa: PTH123, SIM115
            except FileNotFoundError as error:
                raise NotArchivedError(f"the archive {self._root} has no {path}") from error
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.close()
                raise OSError(errno.ELOOP, "it is no plain file", path)
        return Reader(file, lambda: self._errors("read"))

    def read(self, path: str, size_max_bytes: int) -> bytes | None:
        try:
            file = self.open(path)
        except NotArchivedError:
            return None
        with file:
            data = file.read(size_max_bytes + 1)
        if len(data) > size_max_bytes:
            raise ArchiveRefusedError(
                f"{path} in the archive {self._root} is larger than {size_max_bytes:,} bytes: it "
                "is not meshtrain's. Name another folder, or move the file away"
            )
        return data

    def sizes(self, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        with (
            self._errors("listed"),
            suppress(FileNotFoundError),
            self._folder_of(f"{folder}/any") as (root, _),
        ):
            for where, _, names, inner in os.fwalk(".", dir_fd=root):
                for name in filterfalse(_is_part, names):
                    with suppress(FileNotFoundError):
                        info = os.stat(name, dir_fd=inner, follow_symlinks=False)
                        if stat.S_ISREG(info.st_mode):
                            found[PurePosixPath(where, name).as_posix()] = info.st_size
        return found

    def remove(self, path: str) -> None:
        with (
            self._errors("removed from"),
            suppress(FileNotFoundError),
            self._folder_of(path) as (folder, name),
        ):
            os.unlink(name, dir_fd=folder)

    @contextmanager
    def _folder_of(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder of a file, open, and the file's name in it.

        Others may write to a share: below the archive's own folder nothing is followed that
        leads elsewhere.
        """
        *folders, name = PurePosixPath(path).parts
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in folders:
                inner = _step(fd, part, make)
                os.close(fd)
                fd = inner
            yield fd, name
        finally:
            os.close(fd)

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            told = f"the archive {self._root} can't be {done}: {error.strerror or error}{where}"
            if error.errno in _LINKS:
                raise ArchiveRefusedError(
                    f"{told}. What lies there is a link, or not what belongs there; links below "
                    "the archive aren't followed. See who put it there, and move it away"
                ) from error
            if error.errno in _REFUSED:
                raise ArchiveRefusedError(
                    f"{told}. Let the master's user write there, or name another folder"
                ) from error
            raise ArchiveAwayError(f"{told}. See that its share is mounted and has room") from error


def _step(fd: int, name: str, make: bool) -> int:
    """Opens a folder in an open one; makes it first where that is asked and it isn't there."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=fd)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=fd)
    _fsync(fd)
    return os.open(name, flags, dir_fd=fd)


def _fsync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        # Some shares can't do that for folders; the file's own bytes are there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


def _is_part(name: str) -> bool:
    return name.startswith(".") and name.endswith(PART_SUFFIX)
