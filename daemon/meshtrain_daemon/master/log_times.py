"""When the bytes of a log came here: what a reader jumps by, and merges the ranks of a gang by.

    logs/<job id>/<attempt id>.log.times

Pairs of an offset and a wall time, 16 bytes, little endian: from that offset on
bytes came at that time. Both only grow. They are a help and no promise: bytes
that waited on their node bear the time when the master took them, and where the
file is lost, or the disk refuses, the log is whole all the same.
"""

from __future__ import annotations

import contextlib
import os
import struct
from bisect import bisect_left
from collections import OrderedDict
from pathlib import Path

TIMES_MAX = 32_768
"""Pairs of one log; a file that is full keeps half of them, evenly in time."""
INTERVAL_MIN_S = 0.1
"""Between two pairs; of a log that has grown for long, its span / (TIMES_MAX / 2)."""
PATHS_KNOWN_MAX = 1024
"""Logs whose last pair is kept in memory; of others it is read from the file."""
PAIR = struct.Struct("<Qd")


class LogTimes:
    """Notes when bytes came; one for all logs of a master."""

    def __init__(self) -> None:
        #: log → the first time, the last pair, how many pairs
        self._known: OrderedDict[Path, tuple[float, int, float, int]] = OrderedDict()

    def note(self, log: Path, offset: int, wall_s: float) -> None:
        """Bytes of `log` from `offset` on came at `wall_s`; never raises for the disk."""
        with contextlib.suppress(OSError):
            self._note(log, offset, wall_s)

    def _note(self, log: Path, offset: int, wall_s: float) -> None:
        known = self._known.get(log) or _look(log, offset)
        first_s, last_offset, last_s, count = known or (wall_s, -1, wall_s, 0)
        interval_s = max(INTERVAL_MIN_S, (last_s - first_s) / (TIMES_MAX / 2))
        # A clock that was put back would mix up what came when.
        wall_s = max(wall_s, last_s)
        if count == 0 or (offset > last_offset and wall_s - last_s >= interval_s):
            path = times_path(log)
            if count >= TIMES_MAX:
                count = _thin(path, (last_s - first_s) / (TIMES_MAX / 2))
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(path, flags, 0o644)
            try:
                os.write(fd, PAIR.pack(offset, wall_s))
            finally:
                os.close(fd)
            last_offset, last_s, count = offset, wall_s, count + 1
        self._known[log] = (first_s, last_offset, last_s, count)
        self._known.move_to_end(log)
        while len(self._known) > PATHS_KNOWN_MAX:
            self._known.popitem(last=False)


def times_path(log: Path) -> Path:
    return log.with_name(f"{log.name}.times")


def read_times(log: Path, offset: int, size_bytes: int) -> list[tuple[int, float]]:
    """The pairs of a log of which `size_bytes` are stored, from `offset` on, in order.

    Empty where there are none, and where they can't be read.
    """
    try:
        with times_path(log).open("rb") as file:
            data = file.read(2 * TIMES_MAX * PAIR.size)
    except OSError:
        return []
    pairs: list[tuple[int, float]] = []
    for begin, wall_s in PAIR.iter_unpack(data[: len(data) // PAIR.size * PAIR.size]):
        if begin >= size_bytes or (pairs and (begin <= pairs[-1][0] or wall_s < pairs[-1][1])):
            break
        pairs.append((begin, wall_s))
    return pairs[bisect_left(pairs, (offset, float("-inf"))) :]


def _look(log: Path, offset: int) -> tuple[float, int, float, int] | None:
    """What is known of a log that another process wrote: without pairs that lie beyond `offset`."""
    pairs = read_times(log, 0, offset + 1)
    path = times_path(log)
    if not pairs:
        path.unlink(missing_ok=True)
        return None
    size_bytes = len(pairs) * PAIR.size
    if path.stat().st_size != size_bytes:
        os.truncate(path, size_bytes)
    return pairs[0][1], *pairs[-1], len(pairs)


def _thin(path: Path, interval_s: float) -> int:
    """Keep pairs that lie `interval_s` apart; how many those are."""
    kept: list[tuple[int, float]] = []
    for pair in PAIR.iter_unpack(path.read_bytes()):
        if not kept or pair[1] - kept[-1][1] >= interval_s:
            kept.append((pair[0], pair[1]))
    # Half of them, however they lie in time.
    kept = kept[-TIMES_MAX // 2 :] if len(kept) >= TIMES_MAX else kept
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(b"".join(PAIR.pack(*pair) for pair in kept))
    new.replace(path)
    return len(kept)
