"""Ships what jobs print and measure to the master: bytes by offset, until they are stored there.

Jobs write to files, never to a pipe of the daemon. A stream's bytes go out in
order from the offset that the master has confirmed, with a bounded window on
their way; after a broken link sending goes on from the last confirmed offset,
and the master drops what it has already.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from meshtrain.wire.messages import StreamBytes, StreamStored
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, open_plain

CHUNK_BYTES = 64 * 1024
"""Bytes in one message."""
WINDOW_BYTES = 1024 * 1024
"""Bytes of one stream that may be on their way."""
REPEAT_AFTER_S = 5.0
"""Bytes that were not confirmed for so long are sent again."""
LOG = "log"
METRICS = "metrics"


@dataclass(slots=True)
class _Stream:
    attempt_id: str
    job_id: str
    name: str
    path: str
    sent: int = 0
    stored: int = 0
    #: when the confirmed offset last moved, or bytes were first sent after it
    moved_s: float = 0.0
    #: the whole length, once the job has ended
    final: int | None = None


class Streamer:
    """The streams of a node's attempts.

    Args:
        send: hands one message to the bulk socket; False when it can't take any now.
        remove: removes an attempt's folder; may do so later.
    """

    def __init__(
        self,
        send: Callable[[StreamBytes], bool],
        remove: Callable[[AttemptFolder], object] = AttemptFolder.remove,
    ) -> None:
        self._send = send
        self._remove = remove
        self._streams: dict[tuple[str, str], _Stream] = {}
        #: attempts whose folder may go as soon as their bytes are stored
        self._dropped: dict[str, AttemptFolder] = {}

    @property
    def waiting(self) -> bool:
        """Whether bytes of ended attempts are not stored yet."""
        return bool(self._dropped)

    def watch(self, folder: AttemptFolder) -> None:
        """A job starts: what it writes is to be shipped."""
        assignment = folder.assignment
        for name, path in ((LOG, folder.log), (METRICS, folder.metrics)):
            self._streams[assignment.attempt_id, name] = _Stream(
                assignment.attempt_id, assignment.job_id, name, path
            )

    def ended(self, attempt_id: str) -> dict[str, int]:
        """Nothing of the job runs any more: its files have their final length.

        Returns that length, in bytes, for each stream that isn't stored whole yet.
        """
        unstored = {}
        for name in (LOG, METRICS):
            stream = self._streams.get((attempt_id, name))
            if stream is None:
                continue
            stream.final = _size(stream.path)
            # Less than was stored: the job itself cut its file.
            if stream.final <= stream.stored:
                del self._streams[attempt_id, name]
            else:
                unstored[name] = stream.final
        return unstored

    def drop(self, folder: AttemptFolder) -> None:
        """Remove the attempt's folder as soon as all its bytes are stored."""
        attempt_id = folder.assignment.attempt_id
        if self._has_unstored(attempt_id):
            self._dropped[attempt_id] = folder
        else:
            self._remove(folder)

    def stored(self, message: StreamStored) -> None:
        """The master has all bytes below an offset on its disk."""
        key = (message.attempt_id, message.stream)
        stream = self._streams.get(key)
        if stream is None:
            return
        if message.offset != stream.stored:
            # Only then: the same offset again tells that bytes in between were lost, and
            # a job that goes on printing must not put off that they are sent once more.
            stream.moved_s = 0.0
        stream.stored = message.offset
        stream.sent = max(stream.sent, stream.stored)
        if stream.final is not None and stream.stored >= stream.final:
            self._close(stream)

    def _close(self, stream: _Stream) -> None:
        del self._streams[stream.attempt_id, stream.name]
        folder = self._dropped.get(stream.attempt_id)
        if folder is not None and not self._has_unstored(stream.attempt_id):
            del self._dropped[stream.attempt_id]
            self._remove(folder)

    def rewind(self) -> None:
        """The link is a new one: all that isn't confirmed is sent again."""
        for stream in self._streams.values():
            stream.sent = stream.stored
            stream.moved_s = 0.0

    def ship(self, now_s: float) -> None:
        """Send what there is to send and what the window allows; `now_s` is any steady clock."""
        for stream in list(self._streams.values()):
            if stream.sent > stream.stored:
                if stream.moved_s == 0.0:
                    stream.moved_s = now_s
                elif now_s - stream.moved_s > REPEAT_AFTER_S:
                    stream.sent = stream.stored
                    stream.moved_s = now_s
            size = stream.final if stream.final is not None else _size(stream.path)
            if size > stream.sent and not self._ship_stream(stream, size):
                return

    def _ship_stream(self, stream: _Stream, size: int) -> bool:
        limit = min(size, stream.stored + WINDOW_BYTES)
        if stream.sent >= limit:
            return True
        try:
            file = open_plain(stream.path)
        except OSError:
            # The job took its own file away: what isn't stored of it is lost with it.
            if stream.final is not None:
                self._close(stream)
            return True
        with file:
            file.seek(stream.sent)
            while stream.sent < limit:
                data = file.read(min(CHUNK_BYTES, limit - stream.sent))
                if not data:
                    if stream.final is not None:
                        # Cut after the job's end, by somebody: no more will come.
                        stream.final = stream.sent
                        if stream.stored >= stream.final:
                            self._close(stream)
                    return True
                message = StreamBytes(
                    stream.attempt_id, stream.job_id, stream.name, stream.sent, data
                )
                if not self._send(message):
                    return False
                stream.sent += len(data)
        return True

    def _has_unstored(self, attempt_id: str) -> bool:
        return any((attempt_id, name) in self._streams for name in (LOG, METRICS))


def _size(path: str) -> int:
    try:
        info = os.lstat(path)
    except OSError:
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) else 0
