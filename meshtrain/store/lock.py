"""One master per store: a lock on a file beside it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from meshtrain.errors import StoreError
from meshtrain.store.failures import StoreInUseError

_CONTENT_BYTES_MAX = 64
_MADE = b"a store was made here\n"


class StoreLock:
    """Held from creation to `release`, or to the end of the process, however it ends.

    The folder is locked as well as the file: a file can be removed by somebody
    who takes it for a leftover, and made anew by a second master.

    Args:
        path: the lock's file.
        what: is locked, in words.
        who: holds it, in a word.

    Raises StoreInUseError, naming the process, when another one holds it.
    """

    def __init__(self, path: Path, what: str = "the job store", who: str = "master") -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"{path}, the lock of {what}, can't be opened: {error.strerror}. "
                f"See that {path.parent} may be written by this user"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._folder_fd = _locked_folder(path.parent)
        except BlockingIOError:
            told = os.pread(self._fd, _CONTENT_BYTES_MAX, 0).decode("ascii", "replace")
            holder = told.partition("\n")[0]
            os.close(self._fd)
            raise StoreInUseError(
                f"{what} in {path.parent} is in use by another {who}, "
                f"process {holder or 'unknown'}. Stop that one first, or give this one "
                "a home of its own with MESHTRAIN_HOME"
            ) from None
        except OSError as error:
            os.close(self._fd)
            raise StoreError(
                f"{path} can't be locked: {error.strerror}. "
                f"Put the {who}'s home on a local file system that has flock"
            ) from error
        known = os.pread(self._fd, _CONTENT_BYTES_MAX, 0)
        #: whether a store was made here once: then it must be there
        self.had_store = _MADE in known
        self._write(_MADE if self.had_store else b"")

    def note_store(self) -> None:
        """There is a store now; should it be gone one day, none is made in its place."""
        if not self.had_store:
            self.had_store = True
            self._write(_MADE)

    def _write(self, made: bytes) -> None:
        # On a full disk the lock holds all the same; only its holder can't be told.
        with contextlib.suppress(OSError):
            content = b"%d\n%s" % (os.getpid(), made)
            os.pwrite(self._fd, content, 0)
            os.ftruncate(self._fd, len(content))

    def release(self) -> None:
        """Lets another process have it; harmless when done twice."""
        if self._fd >= 0:
            # The file stays: removing it would let two processes lock two files.
            os.close(self._fd)
            self._fd = -1
            if self._folder_fd is not None:
                os.close(self._folder_fd)


def _locked_folder(folder: Path) -> int | None:
    """A folder's descriptor, locked; None where the file system locks files alone."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    except OSError:
        os.close(fd)
        return None
    return fd
