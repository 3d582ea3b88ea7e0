"""The bytes that jobs printed and measured, as the master keeps them.

    logs/<job id>/<attempt id>.log
    logs/<job id>/<attempt id>.metrics

Bytes are written at their offset, fsynced, and only then counted in the store
and confirmed to the node. What lies beyond the counted size after a crash was
never confirmed: it is cut off at the start, and sent again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from meshtrain.store.base import StreamSize
from meshtrain.wire.messages import StreamBytes, StreamStored

STREAMS = ("log", "metrics")


class Logbook:
    """The files of all streams, and how much of each is stored for good.

    Args:
        folder: where they lie.
        sizes: what the store has counted.
    """

    def __init__(self, folder: Path, sizes: Iterable[StreamSize]) -> None:
        self._folder = folder
        self._sizes: dict[tuple[str, str], int] = {}
        for entry in sizes:
            self._sizes[entry.attempt_id, entry.stream] = entry.size_bytes
            path = self.path(entry.job_id, entry.attempt_id, entry.stream)
            if path.exists() and path.stat().st_size > entry.size_bytes:
                os.truncate(path, entry.size_bytes)

    def path(self, job_id: str, attempt_id: str, stream: str) -> Path:
        return self._folder / job_id / f"{attempt_id}.{stream}"

    def size_bytes(self, attempt_id: str, stream: str) -> int:
        """How many bytes are stored for good."""
        return self._sizes.get((attempt_id, stream), 0)

    def write(self, messages: Iterable[StreamBytes]) -> list[StreamSize]:
        """Write what is new of these bytes, and fsync it; returns the new sizes, to be counted.

        Bytes that are there already are passed over; bytes after a gap are not
        taken: the node sends them again. Raises OSError when the disk refuses.
        """
        grown: dict[tuple[str, str], StreamSize] = {}
        files: dict[Path, int] = {}
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
                    path.parent.mkdir(parents=True, exist_ok=True)
                    fd = files[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
                data = memoryview(message.data)[skip:]
                offset = size
                while data:
                    written = os.pwrite(fd, data, offset)
                    data = data[written:]
                    offset += written
                grown[key] = StreamSize(message.attempt_id, message.job_id, message.stream, offset)
            for fd in files.values():
                os.fsync(fd)
        finally:
            for fd in files.values():
                os.close(fd)
        return list(grown.values())

    def counted(self, sizes: Iterable[StreamSize]) -> None:
        """The store has these sizes committed."""
        for entry in sizes:
            self._sizes[entry.attempt_id, entry.stream] = entry.size_bytes

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
        with self.path(job_id, attempt_id, stream).open("rb") as file:
            file.seek(offset)
            return file.read(end - offset)
