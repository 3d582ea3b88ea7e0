"""The bytes that jobs printed and measured, as the master keeps them.

    logs/<job id>/<attempt id>.log
    logs/<job id>/<attempt id>.metrics

Bytes are written at their offset, fsynced, and only then counted in the store
and confirmed to the node. What lies beyond the counted size after a crash was
never confirmed: it is cut off at the start, and sent again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from meshtrain.store.base import StreamSize
from meshtrain.wire.messages import StreamBytes, StreamStored

STREAMS = ("log", "metrics")
FILES_OPEN_MAX = 128
"""Files that one write keeps open; a process may have about 1,000."""


class Logbook:
    """The files of all streams, and how much of each is stored for good.

    Args:
        folder: where they lie.
        sizes: what the store has counted.
    """

    def __init__(self, folder: Path, sizes: Iterable[StreamSize]) -> None:
        self._folder = folder
        self._sizes: dict[tuple[str, str], int] = {}
        #: the whole length of streams whose last bytes are still to come
        self._expected: dict[tuple[str, str], int] = {}
        for entry in sizes:
            self._sizes[entry.attempt_id, entry.stream] = entry.size_bytes
            path = self.path(entry.job_id, entry.attempt_id, entry.stream)
            size_bytes = path.stat().st_size if path.exists() else 0
            if size_bytes > entry.size_bytes:
                os.truncate(path, entry.size_bytes)
            elif size_bytes < entry.size_bytes:
                # Somebody removed or cut it: the node sends again what it still has.
                self._sizes[entry.attempt_id, entry.stream] = size_bytes

    def path(self, job_id: str, attempt_id: str, stream: str) -> Path:
        return self._folder / job_id / f"{attempt_id}.{stream}"

    def size_bytes(self, attempt_id: str, stream: str) -> int:
        """How many bytes are stored for good."""
        return self._sizes.get((attempt_id, stream), 0)

    def expect(self, attempt_id: str, stream_bytes: Mapping[str, int]) -> None:
        """An attempt is over: its streams have these lengths."""
        for stream, size_bytes in stream_bytes.items():
            if stream in STREAMS and self.size_bytes(attempt_id, stream) < size_bytes:
                self._expected[attempt_id, stream] = size_bytes

    def is_whole(self, attempt_id: str, stream: str) -> bool:
        """Whether nothing of the stream of an attempt that is over is still to come."""
        return (attempt_id, stream) not in self._expected

    def write(self, messages: Iterable[StreamBytes]) -> list[StreamSize]:
        """Write what is new of these bytes, and fsync it; returns the new sizes, to be counted.

        Bytes that are there already are passed over; bytes after a gap are not
        taken: the node sends them again. Raises OSError when the disk refuses.
        """
        grown: dict[tuple[str, str], StreamSize] = {}
        files: dict[Path, int] = {}
        made: set[Path] = set()
        try:
            for message in messages:
                key = (message.attempt_id, message.stream)
                size = grown[key].size_bytes if key in grown else self._sizes.get(key, 0)
                skip = size - message.offset
                if skip < 0 or skip >= len(message.data):
                    continue
                path = self.path(message.job_id, message.attempt_id, message.stream)
                fd = files.get(path)
                if fd is None:
                    if len(files) >= FILES_OPEN_MAX:
                        _sync_and_close(files)
                    fd = files[path] = self._open(path, size, made)
                data = memoryview(message.data)[skip:]
                offset = size
                while data:
                    written = os.pwrite(fd, data, offset)
                    data = data[written:]
                    offset += written
                grown[key] = StreamSize(message.attempt_id, message.job_id, message.stream, offset)
            _sync_and_close(files)
            for folder in made:
                # A file is there after a crash only if its name in the folder is.
                _sync_folder(folder)
        finally:
            for fd in files.values():
                os.close(fd)
        return list(grown.values())

    def _open(self, path: Path, size: int, made: set[Path]) -> int:
        """The file, without what a write that failed left beyond its size."""
        if size == 0:
            if not path.parent.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent.parent)
            made.add(path.parent)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            if os.fstat(fd).st_size > size:
                os.ftruncate(fd, size)
        except OSError:
            os.close(fd)
            raise
        return fd

    def counted(self, sizes: Iterable[StreamSize]) -> None:
        """The store has these sizes committed."""
        for entry in sizes:
            key = (entry.attempt_id, entry.stream)
            self._sizes[key] = entry.size_bytes
            if self._expected.get(key, entry.size_bytes + 1) <= entry.size_bytes:
                del self._expected[key]

    def confirmation(self, message: StreamBytes) -> StreamStored:
        return StreamStored(
            message.attempt_id,
            message.stream,
            self.size_bytes(message.attempt_id, message.stream),
        )

    def read(self, job_id: str, attempt_id: str, stream: str, offset: int, limit: int) -> bytes:
        """Stored bytes of a stream from `offset` on, `limit` of them at most."""
        end = min(offset + limit, self.size_bytes(attempt_id, stream))
        if end <= offset:
            return b""
        try:
            with self.path(job_id, attempt_id, stream).open("rb") as file:
                file.seek(offset)
                return file.read(end - offset)
        except FileNotFoundError:
            return b""


def _sync_and_close(files: dict[Path, int]) -> None:
    while files:
        path = next(iter(files))
        os.fsync(files[path])
        os.close(files.pop(path))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
