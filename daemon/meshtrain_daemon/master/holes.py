"""Where the stored bytes of a log are none: ranges that its node had no room to keep.

    logs/<job id>/<attempt id>.log.holes

A hole is a pair of numbers, its offset and its size, 8 bytes each, little
endian. It is on disk before the bytes after it are counted. One that lies
beyond the counted size was never confirmed: it is cut off before anything is
written in its place.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HOLES_MAX = 4096
"""Holes of one log that are kept; the zeros of any more are read as if they were printed."""
_RECORD = struct.Struct("<QQ")


class Hole(NamedTuple):
    """Offsets: the first byte of it, and the first one after it."""

    begin: int
    end: int


def holes_path(log: Path) -> Path:
    return log.with_name(f"{log.name}.holes")


def read_holes(log: Path, size_bytes: int) -> list[Hole]:
    """The holes of a log of which `size_bytes` are stored, in order; what can't be one is left out.

    Raises OSError when they can't be read.
    """
    try:
        with holes_path(log).open("rb") as file:
            data = file.read(HOLES_MAX * _RECORD.size)
    except FileNotFoundError:
        return []
    holes: list[Hole] = []
    for begin, size in _RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]):
        after = holes[-1].end if holes else 0
        if size == 0 or begin < after or begin + size > size_bytes:
            break
        holes.append(Hole(begin, begin + size))
    return holes


def cut_holes(log: Path, size_bytes: int) -> None:
    """Forget the holes beyond the stored bytes of a log. Raises OSError."""
    try:
        known_bytes = holes_path(log).stat().st_size
    except FileNotFoundError:
        return
    holes = read_holes(log, size_bytes)
    if known_bytes != len(holes) * _RECORD.size:
        write_holes(log, holes)


def write_holes(log: Path, holes: Iterable[Hole]) -> None:
    """Put these in place of the holes known so far, and fsync. Raises OSError."""
    data = b"".join(_RECORD.pack(begin, end - begin) for begin, end in holes)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(holes_path(log), flags, 0o644)
    try:
        # The holes that are counted already stay as they are, byte for byte, whatever happens.
        written = 0
        while written < len(data):
            written += os.pwrite(fd, data[written:], written)
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)
