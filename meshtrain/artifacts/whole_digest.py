"""The digests of whole files, reckoned while their chunks come: at the end little is left to read.

Chunks come in any order, and a digest goes from the start of a file to its end. So it
follows behind: as far as the chunks lie without a gap, it takes them from whoever wrote
them just now, or reads them back from the disk (from the page cache, as a rule), and waits
there for the one that is missing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import xxhash

from meshtrain.artifacts.disk import Bytes
from meshtrain.core.manifest import FileEntry

_READ_BYTES = 1 << 20


class WholeDigest:
    """The digest of one file that is still coming. All methods may be called from any thread.

    Args:
        path: where it lies.
        file: its entry in the manifest.
        has: says whether the chunk of an index is written and verified.
    """

    def __init__(self, path: Path, file: FileEntry, has: Callable[[int], bool]) -> None:
        self._path = path
        self._file = file
        self._has = has
        self._lock = threading.Lock()
        self._hash = xxhash.xxh3_128()
        self._next = 0
        """The first chunk that isn't in the digest yet."""

    def follow(self, at_hand: Mapping[int, Bytes] | None = None) -> None:
        """Goes on as far as chunks are here, unless another thread is at it.

        Args:
            at_hand: chunks by index that needn't be read, since they were written just now.
        """
        if self._has_next() and self._lock.acquire(blocking=False):
            try:
                self._go_on(at_hand or {})
            finally:
                self._lock.release()

    def finish(self) -> str:
        """The digest, once all chunks are here."""
        with self._lock:
            self._go_on({})
            return self._hash.hexdigest()

    def begin_again(self) -> None:
        """Forgets all that was read."""
        with self._lock:
            self._hash.reset()
            self._next = 0

    def _has_next(self) -> bool:
        return self._next < len(self._file.chunks) and self._has(self._next)

    def _go_on(self, at_hand: Mapping[int, Bytes]) -> None:
        while self._has_next():
            data = at_hand.get(self._next)
            if data is None:
                self._read_on(at_hand)
            else:
                self._hash.update(data)
                self._next += 1

    def _read_on(self, at_hand: Mapping[int, Bytes]) -> None:
        """Reads until a chunk is missing, or at hand."""
        buffer = memoryview(bytearray(_READ_BYTES))
        fd = os.open(self._path, os.O_RDONLY)
        try:
            while self._has_next() and self._next not in at_hand:
                chunk = self._file.chunks[self._next]
                offset, stop = chunk.offset, chunk.offset + chunk.size_bytes
                while offset < stop:
                    count = os.preadv(fd, [buffer[: stop - offset]], offset)
                    if not count:
                        # Shorter than it was made: the digest will tell.
                        break
                    self._hash.update(buffer[:count])
                    offset += count
                self._next += 1
        finally:
            os.close(fd)
