"""Ships what jobs print and measure to the master: bytes by offset, until they are stored there.

Jobs write to files, never to a pipe of the daemon. A stream's bytes go out in
order from the offset that the master has confirmed, with a bounded window on
their way; after a broken link sending goes on from the last confirmed offset,
and the master drops what it has already. Streams take turns, so that a flood of
one delays no other.

What logs take on the node's disk is bounded: see the spool module. Metrics are
kept whole, however long the master is away.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from meshtrain.wire.messages import BulkToMaster, StreamBytes, StreamHole, StreamStored
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, open_plain
from meshtrain_daemon.worker.spool import GIVE_BACK_STEP_BYTES, TAIL_KEPT_BYTES, LogSpool

CHUNK_BYTES = 64 * 1024
"""Bytes in one message."""
WINDOW_BYTES = 1024 * 1024
"""Bytes of one stream that may be on their way."""
TURN_BYTES = 4 * CHUNK_BYTES
"""What a stream sends before it is another one's turn."""
REPEAT_AFTER_S = 2.0
"""Bytes that were not confirmed for so long are sent again; each time it is twice as long,"""
REPEAT_AFTER_MAX_S = 60.0
"""up to this: a master that is slow must not get everything over and over."""
SPOOL_BYTES = 2_000_000_000
SPOOL_STEPS = 16
"""A spool that is full loses this part of it at once, so that it isn't done at every turn."""
METRICS_TOLD_BYTES = 1 << 30
"""Metrics of an attempt that wait for the master: above, people are told; nothing is refused."""
TAIL_COMPARED_BYTES = 64
"""Enough: two lines of a log that are alike have other lines before them, or a time."""
LOG = "log"
METRICS = "metrics"


@dataclass(slots=True)
class _Stream:
    attempt_id: str
    job_id: str
    name: str
    path: str
    spool: LogSpool | None = None
    sent: int = 0
    #: as far as anybody may ever have sent it: what lies below is not given up any more
    sent_max: int = 0
    stored: int = 0
    #: when the confirmed offset last moved, or bytes were first sent after it
    moved_s: float = 0.0
    repeat_after_s: float = REPEAT_AFTER_S
    #: the offset that bytes were sent from once more, since the master said it again
    repeated_from: int = -1
    #: the whole length, once the job has ended
    final: int | None = None
    told: bool = field(default=False)
    #: as far as its file was read, and the bytes before that while they are on the disk:
    #: by these it is seen that the job has cut it
    read_to: int = 0
    tail: bytes = b""

    @property
    def shift(self) -> int:
        """The offset of the file's first byte."""
        return self.spool.shift if self.spool is not None else 0

    def size_bytes(self) -> int:
        """Its length, with what is here no more; 0 where there is no such file."""
        size = _size(self.path)
        return size + self.shift if size else self.shift

    def waiting_bytes(self, size_bytes: int) -> int:
        """Bytes on the node's disk that the master doesn't have."""
        if size_bytes <= self.stored:
            return 0
        if self.spool is None:
            return size_bytes - self.stored
        return self.spool.kept_bytes(self.stored, size_bytes)

    def went(self, size_bytes: int) -> None:
        self.sent += size_bytes
        self.sent_max = max(self.sent_max, self.sent)

    def was_read(self, data: bytes) -> None:
        """These are the bytes of its file up to what was sent."""
        if self.sent >= self.read_to:
            before = self.tail if self.sent - len(data) == self.read_to else b""
            self.read_to, self.tail = self.sent, (before + data)[-TAIL_COMPARED_BYTES:]


class Streamer:
    """The streams of a node's attempts.

    Args:
        send: hands one message to the bulk socket; False when it can't take any now.
        remove: removes an attempt's folder; may do so later.
        node_id: told in the line that stands for lost bytes.
        spool_bytes: bytes of all logs together that the master doesn't have.
        say: shows a line to people.
    """

    def __init__(
        self,
        send: Callable[[BulkToMaster], bool],
        remove: Callable[[AttemptFolder], object] = AttemptFolder.remove,
        *,
        node_id: str = "",
        spool_bytes: int = SPOOL_BYTES,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._send = send
        self._remove = remove
        self._node_id = node_id
        self._spool_bytes = spool_bytes
        self._say = say
        #: the stream whose turn it is, since the socket took no more
        self._turn: tuple[str, str] | None = None
        self._streams: dict[tuple[str, str], _Stream] = {}
        #: attempts whose folder may go as soon as their bytes are stored
        self._dropped: dict[str, AttemptFolder] = {}

    @property
    def waiting(self) -> bool:
        """Whether bytes of ended attempts are not stored yet."""
        return bool(self._dropped)

    def watch(self, folder: AttemptFolder) -> None:
        """A job starts, or runs since before this daemon: what it writes is to be shipped."""
        assignment = folder.assignment
        attempt_id, job_id = assignment.attempt_id, assignment.job_id
        log = _Stream(attempt_id, job_id, LOG, folder.log, LogSpool(folder.log, self._node_id))
        metrics = _Stream(attempt_id, job_id, METRICS, folder.metrics)
        for stream in (log, metrics):
            self._streams[attempt_id, stream.name] = stream
            if stream.spool is not None:
                # What lies below is not here any more, and the master has it.
                stream.stored = stream.sent = stream.spool.given_back
            if size := stream.size_bytes():
                # A former daemon may have sent more than it noted.
                stream.sent_max = min(size, _sent_by_former(stream))

    def ended(self, attempt_id: str) -> dict[str, int]:
        """Nothing of the job runs any more: its files have their final length.

        Returns that length, in bytes, for each stream that isn't stored whole yet.
        """
        unstored = {}
        for name in (LOG, METRICS):
            stream = self._streams.get((attempt_id, name))
            if stream is None:
                continue
            self._look_for_cut(stream)
            stream.final = stream.size_bytes()
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
            stream.repeat_after_s = REPEAT_AFTER_S
        elif stream.sent > stream.stored != stream.repeated_from:
            # At once, but once: what is on its way may be answered the same.
            stream.repeated_from = stream.sent = stream.stored
        stream.stored = message.offset
        stream.sent = max(stream.sent, stream.stored)
        stream.sent_max = max(stream.sent_max, stream.sent)
        if stream.spool is not None:
            stream.spool.stored(stream.stored, stream.size_bytes())
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
        sizes = {key: self._size_now(stream) for key, stream in self._streams.items()}
        self._bound_spool(sizes)
        keys = list(sizes)
        if self._turn in sizes:
            first = keys.index(self._turn)
            keys = keys[first:] + keys[:first]
        self._turn = None
        for key in keys:
            self._look_for_lost_messages(self._streams[key], now_s)
        while keys:
            more = []
            for number, key in enumerate(keys):
                stream = self._streams.get(key)
                if stream is None or sizes[key] <= stream.sent:
                    continue
                before = stream.sent
                if not self._ship_turn(stream, sizes[key]):
                    # Whoever got something in has had its turn.
                    had_some = stream.sent > before
                    self._turn = keys[(number + 1) % len(keys)] if had_some else key
                    return
                if stream.sent > before:
                    more.append(key)
            keys = more

    def _size_now(self, stream: _Stream) -> int:
        if stream.final is not None:
            return stream.final
        self._look_for_cut(stream)
        return stream.size_bytes()

    def _look_for_cut(self, stream: _Stream) -> None:
        """Whether the job has cut its log since it was last read: a shell does, unasked.

        Its file is shorter than what was read of it, or has other bytes by now.
        """
        if stream.spool is None or stream.read_to <= stream.shift:
            return
        end = stream.read_to - stream.shift
        begin = end - len(stream.tail)
        if stream.spool.given_back > stream.read_to - len(stream.tail):
            begin = end
        try:
            with open_plain(stream.path) as file:
                size = os.fstat(file.fileno()).st_size
                tail = stream.tail[: end - begin]
                if size >= end and os.pread(file.fileno(), end - begin, begin) == tail:
                    return
        except OSError:
            return  # It is gone, or something else lies there: nothing of it is read any more.
        stream.spool.cut(stream.stored, stream.sent_max)
        stream.read_to, stream.tail = 0, b""
        self._tell(
            stream,
            f"{stream.attempt_id} cut its log, as `> /dev/stderr` does: what it had printed just "
            "before may be lost; its command should write `>&2`",
        )

    def _look_for_lost_messages(self, stream: _Stream, now_s: float) -> None:
        if stream.sent <= stream.stored:
            return
        if stream.moved_s == 0.0:
            stream.moved_s = now_s
        elif now_s - stream.moved_s > stream.repeat_after_s:
            stream.sent = stream.stored
            stream.moved_s = now_s
            stream.repeat_after_s = min(2 * stream.repeat_after_s, REPEAT_AFTER_MAX_S)

    def _ship_turn(self, stream: _Stream, size: int) -> bool:
        """Send the next bytes of one stream; False when the socket takes no more."""
        room = WINDOW_BYTES - _kept_bytes(stream, stream.stored, stream.sent)
        left = min(room, TURN_BYTES)
        if left <= 0:
            return True
        try:
            file = open_plain(stream.path)
        except OSError:
            # The job took its own file away: what isn't stored of it is lost with it.
            if stream.final is not None:
                self._close(stream)
            return True
        with file:
            while left > 0 and stream.sent < size:
                piece = stream.spool.piece(stream.sent) if stream.spool is not None else None
                rest = (
                    size - stream.sent
                    if piece is None
                    else min(piece.size_bytes, size - stream.sent)
                )
                if piece is not None and piece.is_hole:
                    if not self._send(self._hole(stream, rest)):
                        return False
                    stream.went(rest)
                    continue
                count = min(CHUNK_BYTES, rest, left)
                if piece is not None and piece.marker:
                    data = piece.marker[:count]
                else:
                    file.seek(stream.sent - stream.shift)
                    data = file.read(count)
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
                stream.went(len(data))
                if piece is None or not piece.marker:
                    stream.was_read(data)
                left -= len(data)
        return True

    def _hole(self, stream: _Stream, size_bytes: int) -> StreamHole:
        return StreamHole(stream.attempt_id, stream.job_id, stream.name, stream.sent, size_bytes)

    # --- the bound of the spool --------------------------------------------------------------

    def _bound_spool(self, sizes: dict[tuple[str, str], int]) -> None:
        """Let the logs lose bytes until what waits is within its bound; the longest first."""
        waiting = {key: self._streams[key].waiting_bytes(size) for key, size in sizes.items()}
        for key, size_bytes in waiting.items():
            if key[1] == METRICS and size_bytes > METRICS_TOLD_BYTES:
                self._tell(
                    self._streams[key],
                    f"{size_bytes:,} bytes of metrics of {key[0]} wait for the master, more than "
                    "a job should measure; they are kept",
                )
        logs = {key: size_bytes for key, size_bytes in waiting.items() if key[1] == LOG}
        excess = sum(logs.values()) - self._spool_bytes
        if excess <= 0:
            return
        excess += self._spool_bytes // SPOOL_STEPS
        for key in sorted(logs, key=logs.__getitem__, reverse=True):
            stream = self._streams[key]
            if stream.spool is None or excess <= 0:
                break
            freed = stream.spool.lose(sizes[key], stream.sent_max, excess)
            excess -= freed
            if freed:
                self._tell(
                    stream,
                    f"the spool of logs is full ({self._spool_bytes:,} bytes): bytes of the log "
                    f"of {key[0]} are lost until the master takes them",
                )

    def _tell(self, stream: _Stream, text: str) -> None:
        """Once for a stream."""
        if not stream.told:
            stream.told = True
            self._say(text)

    def _has_unstored(self, attempt_id: str) -> bool:
        return any((attempt_id, name) in self._streams for name in (LOG, METRICS))


def _size(path: str) -> int:
    try:
        info = os.lstat(path)
    except OSError:
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) else 0


def _kept_bytes(stream: _Stream, begin: int, end: int) -> int:
    return end - begin if stream.spool is None else stream.spool.kept_bytes(begin, end)


def _sent_by_former(stream: _Stream) -> int:
    """The offset that no former daemon can have sent more than."""
    if stream.spool is None:
        return 0
    return stream.spool.reach(GIVE_BACK_STEP_BYTES + TAIL_KEPT_BYTES + WINDOW_BYTES)
