"""What an archive has to be able to do: keep files by their paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import BinaryIO, Protocol


class Reader:
    """A file of an archive that is being read; a context manager.

    Args:
        file: what the archive's library gave.
        errors: turns what the library raises into our words.
    """

    def __init__(self, file: BinaryIO, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._file = file
        self._errors = errors

    def read(self, size_bytes: int) -> bytes:
        """The next bytes; fewer than asked for only at the end.

        Raises ArchiveAwayError or ArchiveRefusedError as the target does.
        """
        with self._errors():
            return self._file.read(size_bytes)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._errors():
            self._file.close()


class Target(Protocol):
    """Files by relative paths, parts separated by `/`.

    All methods block, and may be called from any thread. Each raises
    ArchiveAwayError when the same may work later, ArchiveRefusedError when
    somebody has to mend something first.
    """

    @property
    def url(self) -> str:
        """Where it is, as people wrote it; holds no secret."""
        ...

    def demand_root(self) -> None:
        """See that it is there, as far as that can be seen without writing."""
        ...

    def write(self, path: str, blocks: Iterable[bytes], size_bytes: int) -> None:
        """Write a file, in place of a former one; when this returns, it is there for good.

        What `blocks` raises is raised, and then the file is not there: where the
        target can do so, not even in part.

        Args:
            size_bytes: how many bytes the blocks come to.
        """
        ...

    def open(self, path: str) -> Reader:
        """A file, to be read from its start.

        Raises NotArchivedError when there is none.
        """
        ...

    def read(self, path: str, size_max_bytes: int) -> bytes | None:
        """A small file's bytes; None when there is none.

        Raises ArchiveRefusedError when it is larger than it may be.
        """
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """The files in a folder and below: path within it → size in bytes."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file: only the one that the check at the start has written."""
        ...
