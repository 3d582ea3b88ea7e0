"""The bytes that jobs printed and measured, as the master keeps them.

    logs/<job id>/<attempt id>.log
    logs/<job id>/<attempt id>.log.holes    where bytes are missing, see the holes module
    logs/<job id>/<attempt id>.log.times    when bytes came, see the log_times module
    logs/<job id>/<attempt id>.metrics

Bytes are written at their offset, fsynced, and only then counted in the store
and confirmed to the node. What lies beyond the counted size after a crash was
never confirmed: it is cut off at the start, and sent again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from meshtrain import failpoints
from meshtrain.clock import wall_now_s
from meshtrain.errors import MeshtrainError
from meshtrain.store.base import StreamSize
from meshtrain.wire.messages import BulkToMaster, StreamHole, StreamStored
from meshtrain_daemon.master.holes import HOLES_MAX, Hole, cut_holes, read_holes, write_holes
from meshtrain_daemon.master.log_times import LogTimes

LOG = "log"
STREAMS = (LOG, "metrics")
SIZE_MAX_BYTES = 1 << 40
"""No hole makes a log longer than that: a number that is wrong must not fill a file system."""
FILES_OPEN_MAX = 128
"""Files that one write keeps open; a process may have about 1,000."""


class LogPiece(NamedTuple):
    """Stored bytes, and the offset to go on reading from: behind them, and behind a hole."""

    data: bytes
    next_offset: int
    begin: int
    """The offset of the first of them: behind the hole that was asked for."""


class LogbookError(MeshtrainError):
    """Raised when the files of logs can't be taken up."""


class Logbook:
    """The files of all streams, and how much of each is stored for good.

    Args:
        folder: where they lie.
        sizes: what the store has counted.
        wall_now_s: the time that bytes come at.

    Raises LogbookError when something that is no log lies in the place of one, or the
    disk refuses.
    """

    def __init__(
        self,
        folder: Path,
        sizes: Iterable[StreamSize],
        wall_now_s: Callable[[], float] = wall_now_s,
    ) -> None:
        self._folder = folder
        self._wall_now_s = wall_now_s
        self._times = LogTimes()
        self._sizes: dict[tuple[str, str], int] = {}
        #: the whole length of streams whose last bytes are still to come
        self._expected: dict[tuple[str, str], int] = {}
        for entry in sizes:
            self._sizes[entry.attempt_id, entry.stream] = entry.size_bytes
            path = self.path(entry.job_id, entry.attempt_id, entry.stream)
            size_bytes = _cut(path, entry.size_bytes)
            if size_bytes < entry.size_bytes:
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

    def write(self, messages: Iterable[BulkToMaster]) -> list[StreamSize]:
        """Write what is new of these bytes, and fsync it; returns the new sizes, to be counted.

        Bytes that are there already are passed over; bytes after a gap are not
        taken: the node sends them again. A hole makes the file longer without
        taking room. Raises OSError when the disk refuses.
        """
        grown: dict[tuple[str, str], StreamSize] = {}
        files: dict[Path, int] = {}
        made: set[Path] = set()
        try:
            for message in messages:
                key = (message.attempt_id, message.stream)
                size = grown[key].size_bytes if key in grown else self._sizes.get(key, 0)
                end = end_of(message)
                if message.offset > size or end <= size:
                    continue
                path = self.path(message.job_id, *key)
                if isinstance(message, StreamHole) and not _may_be_a_hole(message):
                    continue
                fd = files.get(path)
                if fd is None:
                    if len(files) >= FILES_OPEN_MAX:
                        _sync_and_close(files)
                    fd = files[path] = self._open(path, size, made)
                if isinstance(message, StreamHole):
                    # Never one with the hole before it: that one is counted already.
                    holes = [*read_holes(path, size), Hole(size, end)]
                    write_holes(path, holes[:HOLES_MAX])
                    os.ftruncate(fd, end)
                else:
                    _write_all(fd, memoryview(message.data)[size - message.offset :], size)
                if key not in grown and message.stream == LOG:
                    self._times.note(path, size, self._wall_now_s())
                grown[key] = StreamSize(message.attempt_id, message.job_id, message.stream, end)
            failpoints.reach("log.written")
            _sync_and_close(files)
            for folder in made:
                # A file is there after a crash only if its name in the folder is.
                _sync_folder(folder)
            failpoints.reach("log.fsynced")
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
        cut_holes(path, size)
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

    def confirmation(self, message: BulkToMaster) -> StreamStored:
        return StreamStored(
            message.attempt_id,
            message.stream,
            self.size_bytes(message.attempt_id, message.stream),
        )

    def read(self, job_id: str, attempt_id: str, stream: str, offset: int, limit: int) -> LogPiece:
        """Stored bytes of a stream from `offset` on, `limit` of them at most; none of a hole."""
        size = self.size_bytes(attempt_id, stream)
        if offset >= size or limit <= 0:
            return LogPiece(b"", offset, offset)
        path = self.path(job_id, attempt_id, stream)
        try:
            holes = read_holes(path, size) if stream == LOG else []
            offset = _after_hole(holes, offset)
            end = min(
                [size, offset + limit, *(hole.begin for hole in holes if hole.begin > offset)]
            )
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(end - offset)
        except FileNotFoundError:
            return LogPiece(b"", offset, offset)
        return LogPiece(data, _after_hole(holes, offset + len(data)), offset)


def end_of(message: BulkToMaster) -> int:
    """The offset of the first byte after those that a message tells of."""
    if isinstance(message, StreamHole):
        return message.offset + message.size_bytes
    return message.offset + len(message.data)


def _may_be_a_hole(message: StreamHole) -> bool:
    """Metrics never lose anything, whatever a node says."""
    return message.stream == LOG and end_of(message) <= SIZE_MAX_BYTES


def _after_hole(holes: Iterable[Hole], offset: int) -> int:
    for hole in holes:
        if hole.begin <= offset < hole.end:
            offset = hole.end
    return offset


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written


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


def _cut(path: Path, size_bytes: int) -> int:
    """Cuts off what was never counted; how many bytes the file then has, 0 where there is none."""
    try:
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise LogbookError(
                f"{path} is no plain file, but the log of a job belongs there. "
                "Move it away: what its node still has is sent again"
            )
        if info.st_size > size_bytes:
            os.truncate(path, size_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise LogbookError(
            f"the log {path} can't be taken up: {error.strerror}. "
            "See that it may be written by this user, and that its disk is healthy"
        ) from error
    return min(info.st_size, size_bytes)
