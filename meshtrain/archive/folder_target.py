"""An archive in a folder, such as a mounted share: needs no package."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meshtrain.archive.failures import (
    ArchiveAwayError,
    ArchiveRefusedError,
    NotArchivedError,
)
from meshtrain.archive.target import Reader
from meshtrain.ids import digest

PART_SUFFIX = ".part"
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


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
        target = self._root / path
        # The same name at each try, so that what a crash leaves is written over.
        part = target.with_name(f".{digest(target.name.encode())[:16]}{PART_SUFFIX}")
        with self._errors("written"):
            self._make_folder(target.parent)
            with part.open("wb") as file:
                for block in blocks:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            _fsync(target.parent)

    def open(self, path: str) -> Reader:
        with self._errors("read"):
            try:
                file = (self._root / path).open("rb")
            except FileNotFoundError as error:
                raise NotArchivedError(f"the archive {self._root} has no {path}") from error
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
        root = self._root / folder
        with self._errors("listed"):
            for path in root.rglob("*"):
                if path.is_file() and not _is_part(path.name):
                    found[path.relative_to(root).as_posix()] = path.stat().st_size
        return found

    def remove(self, path: str) -> None:
        with self._errors("removed from"):
            (self._root / path).unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            _fsync(path.parent)

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            told = f"the archive {self._root} can't be {done}: {error.strerror or error}{where}"
            if error.errno in _REFUSED:
                raise ArchiveRefusedError(
                    f"{told}. Let the master's user write there, or name another folder"
                ) from error
            raise ArchiveAwayError(f"{told}. See that its share is mounted and has room") from error


def _fsync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some shares can't do that for folders; the file's own bytes are there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def _is_part(name: str) -> bool:
    return name.startswith(".") and name.endswith(PART_SUFFIX)
