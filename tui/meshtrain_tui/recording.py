"""A mesh's feed kept in a file: a JSON line a moment, whole also when the writer is killed.

    {"recording": 1, "address": "127.0.0.1:7470", "version": "0.1.0", "wall_s": 1795231007.3}
    {"wall_s": 1795231007.4, "batch": {"incarnation": …, "seq": 29, "changes": […], "whole": true}}
    {"wall_s": 1795231009.1, "answered": {"what": "results", "names": ["few_shot"], …}}
    {"wall_s": 1795231012.0, "trouble": "nothing heard from the master …"}

A line is written in one go, and cut off again when the disk is full; a line that a
crash cut short is passed over. From time to time a whole picture stands among the
changes, so that a player can begin there.
"""

from __future__ import annotations

import asyncio
import bisect
import fcntl
import os
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec

from meshtrain.core.changes import Change
from meshtrain.core.pages import Page, PageQuery, page_of
from meshtrain.core.view import MeshView
from meshtrain.errors import UserError
from meshtrain.net.zmq_feed import FeedBatch

RECORDING_VERSION = 1
LINE_BYTES_MAX = 256 * 1024 * 1024
TAIL_BYTES = 1 << 16
"""Read at once when the end of a recording is looked for a line that was cut short."""


class Beginning(msgspec.Struct, frozen=True):
    """The first line of a recording, and of each part that was added to it."""

    recording: int
    address: str
    version: str
    wall_s: float


class Answered(msgspec.Struct, frozen=True):
    """What the master answered to a question while this was recorded."""

    what: str
    names: tuple[str, ...]
    rows: list[Any]
    total: int


class Moment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was heard at one time: news of the feed, an answer, or that nothing is heard."""

    wall_s: float
    batch: FeedBatch | None = None
    answered: Answered | None = None
    trouble: str | None = None


def picture_of(view: MeshView) -> tuple[Change, ...]:
    """All rows of a view, as changes to an empty one."""
    return (
        *view.sweeps.values(),
        *view.bases.values(),
        *view.nodes.values(),
        *view.jobs.values(),
        *view.transfers,
        *view.notes,
        # After the transfers, which it counts in.
        view.moved,
    )


# --- writing -------------------------------------------------------------------------


def write_moment(file: BinaryIO, moment: Moment) -> None:
    """Add one moment to a recording."""
    file.write(msgspec.json.encode(moment) + b"\n")
    file.flush()


class RecordingFile:
    """A recording that grows; one process at a time writes it.

    Args:
        add: go on with a recording that is there, rather than refuse it.

    Raises UserError when the file can't be used.
    """

    def __init__(self, path: Path, *, add: bool = False) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (0 if add else os.O_EXCL)
        try:
            self._fd = os.open(path, flags, 0o600)
        except FileExistsError as error:
            raise UserError(
                f"{path} is there already: name another file, or add to it with --add"
            ) from error
        except OSError as error:
            raise UserError(f"{path} can't be written: {error.strerror or error}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = self._cut_torn_line() if add else 0
        except OSError as error:
            os.close(self._fd)
            raise UserError(
                f"{path} is being recorded to by another process, or can't be read: "
                f"{error.strerror or error}"
            ) from error
        except UserError:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def size_bytes(self) -> int:
        return self._size

    def write(self, line: Beginning | Moment) -> None:
        """Add a line, whole or not at all. Raises UserError when the disk takes no more."""
        data = msgspec.json.encode(line) + b"\n"
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise UserError(
                f"{self._path} can't be written any further: {error.strerror or error}; "
                "what was recorded so far is whole"
            ) from error
        self._size += len(data)

    def sync(self) -> None:
        """See that all that was written survives the host's end."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Harmless when closed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _cut_torn_line(self) -> int:
        """Cut off what follows the last whole line; the size then. Raises UserError for no
        recording."""
        size = os.fstat(self._fd).st_size
        if size == 0:
            return 0
        first = os.pread(self._fd, TAIL_BYTES, 0).partition(b"\n")[0]
        if not first.startswith(b"{"):
            raise UserError(f"{self._path} is no recording: name another file")
        whole = size
        while whole > 0:
            start = max(0, whole - TAIL_BYTES)
            newline = os.pread(self._fd, whole - start, start).rfind(b"\n")
            if newline >= 0:
                whole = start + newline + 1
                break
            whole = start
        os.ftruncate(self._fd, whole)
        return whole


# --- reading -------------------------------------------------------------------------


class _BatchHead(msgspec.Struct, frozen=True):
    whole: bool


class _AnsweredHead(msgspec.Struct, frozen=True):
    what: str
    names: tuple[str, ...]


class _Head(msgspec.Struct, frozen=True):
    """As much of a line as is needed to find it again."""

    wall_s: float
    recording: int | None = None
    address: str = ""
    batch: _BatchHead | None = None
    answered: _AnsweredHead | None = None


_head_decoder = msgspec.json.Decoder(_Head)
_moment_decoder = msgspec.json.Decoder(Moment)
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Recording:
    """A recording on disk: which moments there are, and when. Lines are read as they are needed.

    Raises UserError when the file can't be read, is no recording, or is damaged
    otherwise than at its very end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = ""
        self.torn_bytes = 0
        """At the end: of a line that a crash cut short."""
        self._offsets = array("Q")
        self._times = array("d")
        self._wholes = array("Q")
        self._answers: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        try:
            self._file = path.open("rb")
            self._scan()
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or error}") from error

    def __len__(self) -> int:
        return len(self._times)

    @property
    def begins_wall_s(self) -> float:
        return self._times[0] if self._times else 0.0

    @property
    def ends_wall_s(self) -> float:
        return self._times[-1] if self._times else 0.0

    def wall_s(self, index: int) -> float:
        """When a moment was."""
        return self._times[index]

    def moment(self, index: int) -> Moment:
        """One moment. Raises UserError when its line has been damaged since."""
        try:
            self._file.seek(self._offsets[index])
            return _moment_decoder.decode(self._file.readline(LINE_BYTES_MAX))
        except (OSError, *_BROKEN) as error:
            raise self._damaged(index + 1, str(error)) from error

    def count_until(self, wall_s: float) -> int:
        """How many moments there are up to and at a time."""
        return bisect.bisect_right(self._times, wall_s)

    def whole_before(self, count: int) -> int:
        """The last whole picture among the first `count` moments; 0 where there is none."""
        place = bisect.bisect_left(self._wholes, count)
        return self._wholes[place - 1] if place else 0

    def answer(self, what: str, names: Sequence[str], count: int) -> Answered | None:
        """The last answer to a question among the first `count` moments."""
        there = self._answers.get((what, tuple(names)), [])
        place = bisect.bisect_left(there, count)
        return self.moment(there[place - 1]).answered if place else None

    def close(self) -> None:
        self._file.close()

    def _scan(self) -> None:
        offset, line_number, last_s = 0, 0, 0.0
        while line := self._file.readline(LINE_BYTES_MAX):
            line_number += 1
            if not line.endswith(b"\n"):
                if len(line) >= LINE_BYTES_MAX:
                    raise self._damaged(line_number, f"longer than {LINE_BYTES_MAX:,} bytes")
                self.torn_bytes = len(line)
                return
            try:
                head = _head_decoder.decode(line)
            except _BROKEN as error:
                raise self._damaged(line_number, str(error)) from error
            if head.recording is not None:
                if head.recording != RECORDING_VERSION:
                    raise UserError(
                        f"{self.path} was recorded in format {head.recording}, and this meshtrain "
                        f"plays {RECORDING_VERSION}: use the version that recorded it"
                    )
                self.address = head.address
            else:
                index = len(self._times)
                # A clock that was set back must not make time run backwards.
                last_s = max(last_s, head.wall_s)
                self._offsets.append(offset)
                self._times.append(last_s)
                if head.batch is not None and head.batch.whole:
                    self._wholes.append(index)
                if head.answered is not None:
                    key = (head.answered.what, head.answered.names)
                    self._answers.setdefault(key, []).append(index)
            offset += len(line)

    def _damaged(self, line: int, why: str) -> UserError:
        return UserError(
            f"{self.path} can't be read as a recorded feed: line {line}: {why}; "
            "record one with `meshtrain record FILE`"
        )


def read_recording(path: Path) -> list[Moment]:
    """The moments of a recording, in order. Raises UserError when it is none."""
    recording = Recording(path)
    try:
        return [recording.moment(index) for index in range(len(recording))]
    finally:
        recording.close()


def apply_all(view: MeshView, changes: Iterable[Change]) -> None:
    for change in changes:
        view.apply(change)


class Replay:
    """Plays moments on their own clock, as far as it is told to.

    Its lease clock and its wall clock are one: that of the moments.
    """

    def __init__(self, moments: Sequence[Moment]) -> None:
        self.view = MeshView()
        self.trouble = ""
        self.last_heard_s: float | None = None
        self._clock_s = moments[0].wall_s if moments else 0.0
        self._moments = deque(moment for moment in moments if moment.batch is not None)
        self._due: asyncio.Queue[Moment | None] = asyncio.Queue()

    def now_s(self) -> float:
        """When the moment was that was played last."""
        return self._clock_s

    def play_while(self, go_on: Callable[[Moment], bool]) -> None:
        """Tell all that was heard before the first moment that `go_on` refuses."""
        while self._moments and go_on(self._moments[0]):
            self._due.put_nowait(self._moments.popleft())

    async def wait_played(self) -> None:
        """Return when all that was told has been taken in."""
        await self._due.join()

    async def batches(self) -> AsyncIterator[FeedBatch]:
        while (moment := await self._due.get()) is not None:
            assert moment.batch is not None
            self._clock_s = self.last_heard_s = moment.wall_s
            if moment.batch.whole:
                self.view = MeshView()
            apply_all(self.view, moment.batch.changes)
            yield moment.batch
            self._due.task_done()

    async def page(self, query: PageQuery) -> Page:
        """A page of the rows that were recorded; raises as `page_of` does."""
        return page_of(self.view, query)

    def close(self) -> None:
        self._due.put_nowait(None)
