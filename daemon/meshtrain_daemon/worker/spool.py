"""What of a log still lies on its node, and what of it the node has given back to its disk.

A job holds its log open, so the file can't be replaced: its bytes are given back
by punching holes into it, which changes no offset. That is done with bytes that
the master has, and, when the master is away for so long that the spool is full,
with a range in the middle of what it has not: those are lost, and a line that
says so is shipped in their place.

What was given back is noted beside the log before it is done, in `log.spool`. So
a daemon that takes over a running job never takes a hole for bytes of the log.
The line is made from that note and never written into the job's file: a full
disk can't prevent it. The note outlives the daemon and not the host: with that
the job ends too.

A job may cut its log to nothing while it runs: a shell does that at `> /dev/stderr`,
since it opens the log anew. Offsets go on from where they were: the file's first byte
then lies at the offset `shift` of the log, and a line stands for what was there before.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec

from meshtrain_daemon.worker.attempt_folder import open_plain

GIVE_BACK_STEP_BYTES = 4 << 20
"""Confirmed bytes are given back in steps of this size."""
TAIL_KEPT_BYTES = 1 << 20
"""The end of a log stays: what a job said last tells why it failed."""
LEFT_MIN_BYTES = 128 << 10
"""A log that loses bytes keeps so many that the master doesn't have: half before, half after."""
LOSE_MIN_BYTES = 64 << 10
"""Fewer are not worth a line that tells of it."""
LOST_MAX = 1024
CUT_LINE = (
    b"\n[meshtrain: the job cut its log here, as `> /dev/stderr` and `tee /dev/stderr` do: "
    b"what it had printed just before may be lost; write `>&2` in its place]\n"
)
_NOTE_BYTES_MAX = 256 << 10
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_BEYOND_ANY_LOG = 1 << 42

Offset = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Lost(msgspec.Struct, frozen=True):
    """Bytes of a log that nobody has any more: from offset `begin` up to before `end`."""

    begin: Offset
    end: Offset
    #: the master had them, and lost them after the node had given them back
    by_master: bool = False
    #: no bytes: the place of the line that tells that the job cut its log
    is_cut: bool = False
    #: they were on their way when they were lost: the master may have the first of them yet
    was_sent: bool = False


class Note(msgspec.Struct, frozen=True):
    """What `log.spool` holds."""

    #: all bytes below are on the master's disk, and perhaps no longer here
    given_back: Offset = 0
    lost: Annotated[tuple[Lost, ...], msgspec.Meta(max_length=LOST_MAX)] = ()
    #: the offset of the file's first byte
    shift: Offset = 0


class Piece(NamedTuple):
    """What a log has from an offset on."""

    size_bytes: int
    #: in place of bytes of the file
    marker: bytes = b""
    is_hole: bool = False


_note_decoder = msgspec.json.Decoder(Note)


class LogSpool:
    """The bytes of one log that the node still has.

    Args:
        path: the log.
        node_id: told in the line that stands for lost bytes.

    A note that a former daemon left beside the log is read and followed.
    """

    def __init__(self, path: str, node_id: str) -> None:
        self._path = path
        self._note_path = f"{path}.spool"
        self._node_id = node_id
        #: whether the file system can; None until it was tried
        self._can_punch: bool | None = None
        self.given_back = 0
        self.lost: list[Lost] = []
        #: the offset of the file's first byte: the job may have cut what was before
        self.shift = 0
        if os.path.lexists(path):
            self._take_over()

    def _take_over(self) -> None:
        note = self._read_note()
        if note is None:
            self.given_back = _leading_hole(self._path)
            return
        self.given_back, self.lost, self.shift = note.given_back, list(note.lost), note.shift
        # The former daemon may have ended between its note and its deed.
        with contextlib.suppress(OSError), self._open() as fd:
            self._punch(fd, 0, self.given_back)
            for lost in self.lost:
                self._punch(fd, lost.begin, lost.end)

    # --- what there is -----------------------------------------------------------------------

    def piece(self, offset: int) -> Piece:
        """What is to be shipped from this offset on, up to where something else begins."""
        for lost in self.lost:
            if offset < lost.begin:
                return Piece(lost.begin - offset)
            if offset < lost.end:
                marker = self._marker(lost)
                within = offset - lost.begin
                if within < len(marker):
                    return Piece(len(marker) - within, marker=marker[within:])
                return Piece(lost.end - offset, is_hole=True)
        return Piece(_BEYOND_ANY_LOG)

    def kept_bytes(self, begin: int, end: int) -> int:
        """How many bytes between two offsets are not lost."""
        kept = end - begin
        for lost in self.lost:
            kept -= max(min(end, lost.end) - max(begin, lost.begin), 0)
        return kept

    def reach(self, kept_bytes: int) -> int:
        """How far somebody came who shipped so many bytes from those that were given back on."""
        offset = self.given_back
        for lost in self.lost:
            if lost.end <= offset:
                continue
            if lost.begin - offset > kept_bytes:
                break
            kept_bytes -= lost.begin - offset
            offset = lost.end
        return offset + kept_bytes

    def _marker(self, lost: Lost) -> bytes:
        if lost.is_cut:
            return CUT_LINE[: lost.end - lost.begin]
        why = f"the spool of node {self._node_id} was full"
        if lost.by_master:
            why = f"the master lost them, and node {self._node_id} had them no more"
        size = lost.end - lost.begin
        text = f"\n[meshtrain: {size:,} bytes of this log were lost here: {why}]\n".encode()
        return text if len(text) <= size else b""

    def cut(self, stored: int, sent: int) -> None:
        """The job has cut its file to nothing: what it holds from now on comes after a line.

        Args:
            stored: the master has all bytes below this offset.
            sent: and may have those below this one: what was on its way is here no more.
        """
        self.given_back = stored
        begin = max(stored, sent)
        on_its_way = [Lost(stored, begin, was_sent=True)] if stored < begin else []
        self.shift = begin + len(CUT_LINE)
        self.lost = [*on_its_way, Lost(begin, self.shift, is_cut=True)]
        self._write_note()

    # --- what is given back ------------------------------------------------------------------

    def stored(self, offset: int, size_bytes: int) -> None:
        """The master has all bytes below an offset; what of them is far from the end may go.

        Args:
            size_bytes: the log's size, or an upper bound of it.
        """
        if offset < self.given_back:
            self._master_lost(offset)
            return
        self.lost = [self._after(lost, offset) for lost in self.lost]
        if offset - self.given_back < GIVE_BACK_STEP_BYTES:
            return
        end = min(offset, size_bytes - TAIL_KEPT_BYTES)
        for lost in self.lost:
            if lost.begin < end < lost.end:
                end = lost.begin
        if end - self.given_back < GIVE_BACK_STEP_BYTES or not self._may_punch():
            return
        begin, self.given_back = self.given_back, end
        self.lost = [lost for lost in self.lost if lost.end > end]
        self._punch_noted(begin, end)

    def _after(self, lost: Lost, offset: int) -> Lost:
        """What is lost still, where bytes that were on their way did arrive."""
        arrived = lost.begin < offset < lost.end
        if lost.was_sent and arrived and offset != lost.begin + len(self._marker(lost)):
            return msgspec.structs.replace(lost, begin=offset)
        return lost

    def _master_lost(self, offset: int) -> None:
        """It asks for what is not here any more."""
        if any(lost.begin <= offset < lost.end for lost in self.lost):
            return
        above = [lost for lost in self.lost if lost.begin >= self.given_back]
        self.lost = [Lost(offset, self.given_back, by_master=True), *above]

    def lose(self, size_bytes: int, begin: int, free_bytes: int) -> int:
        """Give up bytes that the master doesn't have, in their middle; returns how many.

        Args:
            size_bytes: the log's size.
            begin: nothing below this offset may go: it was sent already.
            free_bytes: how many are wanted.
        """
        last = self.lost[-1] if self.lost else None
        if last is not None and (last.begin < begin or last.by_master or last.is_cut):
            # Its line may have been sent: it can't tell of more bytes now.
            last = None
        before = self.lost[:-1] if last else self.lost
        if before:
            begin = max(begin, before[-1].end)
        head = last.begin - begin if last else 0
        tail = size_bytes - (last.end if last else begin)
        kept = max(head + tail - free_bytes, LEFT_MIN_BYTES)
        freed = head + tail - kept
        if freed < LOSE_MIN_BYTES or not self._may_punch():
            return 0
        if last is None and len(self.lost) >= LOST_MAX:
            return 0
        tail_kept = min(tail, kept - min(kept // 2, head if last else kept))
        lost = Lost(begin + kept - tail_kept, size_bytes - tail_kept)
        self.lost = [*before, lost]
        self._punch_noted(lost.begin, lost.end)
        return freed

    def _may_punch(self) -> bool:
        if self._can_punch is None:
            with contextlib.suppress(OSError), self._open() as fd:
                # Where no byte is: asks only whether this file system knows how.
                self._can_punch = _punch(fd, _BEYOND_ANY_LOG, _BEYOND_ANY_LOG + 4096)
        return bool(self._can_punch)

    def _punch_noted(self, begin: int, end: int) -> None:
        noted = self._write_note()
        with contextlib.suppress(OSError), self._open() as fd:
            self._punch(fd, begin, end)
        if not noted:
            # The disk was full; now there is room.
            self._write_note()

    def _punch(self, fd: int, begin: int, end: int) -> None:
        _punch(fd, max(begin - self.shift, 0), max(end - self.shift, 0))

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        """The log, to punch holes into it. Raises OSError when it is no file of its own."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._path, flags)
        try:
            # A job may have put another name of some other file there.
            if os.fstat(fd).st_nlink != 1:
                raise OSError(errno.EMLINK, "the log is a link")
            yield fd
        finally:
            os.close(fd)

    # --- the note ----------------------------------------------------------------------------

    def _read_note(self) -> Note | None:
        try:
            with open_plain(self._note_path) as file:
                note = _note_decoder.decode(file.read(_NOTE_BYTES_MAX))
        except (OSError, msgspec.DecodeError, ValueError, RecursionError):
            return None
        offset = 0
        for lost in note.lost:
            if not offset <= lost.begin < lost.end:
                return None
            offset = lost.end
        return note

    def _write_note(self) -> bool:
        """Whether it could be written."""
        data = msgspec.json.encode(Note(self.given_back, tuple(self.lost), self.shift))
        new = f"{self._note_path}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)  # noqa: PTH108
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                whole = os.write(fd, data) == len(data)
            finally:
                os.close(fd)
            if whole:
                os.rename(new, self._note_path)  # noqa: PTH104
        except OSError:
            return False
        return whole


def _leading_hole(path: str) -> int:
    """Where the bytes of a file begin that has no note: a crash may have taken it."""
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                return os.lseek(file.fileno(), 0, os.SEEK_DATA) if size else 0
            except OSError as error:
                return size if error.errno == errno.ENXIO else 0
    except OSError:
        return 0


_fallocate = None
with contextlib.suppress(AttributeError):
    _fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
    _fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _punch(fd: int, begin: int, end: int) -> bool:
    """fallocate(2): give the file system a range's room back; False where it can't."""
    if _fallocate is None:
        return False
    if end <= begin:
        return True
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    return bool(_fallocate(fd, mode, begin, end - begin) == 0)
