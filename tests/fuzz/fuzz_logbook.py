"""A fuzz target with a memory: messages about streams into the logbook, over crashes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from unittest import mock

from fuzz_base import Target
from fuzz_scratch import scratch_folder

from meshtrain.store.base import StreamSize
from meshtrain.wire.messages import BulkToMaster, StreamBytes, StreamHole
from meshtrain_daemon.master.logbook import Logbook

STREAMS = ("log", "metrics", "log", "log")
ATTEMPTS = ("j.1", "j.2")
STEPS_MAX = 60
STEP_BYTES = 4


@dataclass(slots=True)
class _Known:
    """What a stream must hold."""

    data: bytearray = field(default_factory=bytearray)
    shown: bytearray = field(default_factory=bytearray)


class _Run:
    def __init__(self) -> None:
        self.folder = scratch_folder() / "logbook"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.book = Logbook(self.folder, ())
        self.known: dict[tuple[str, str], _Known] = {}
        self.counted: dict[tuple[str, str], StreamSize] = {}
        self.batch: list[BulkToMaster] = []

    def message(self, which: int, delta: int, size: int) -> None:
        attempt_id, stream = ATTEMPTS[which & 1], STREAMS[which >> 1 & 3]
        known = self.known.setdefault((attempt_id, stream), _Known())
        pending = len(known.data) + sum(
            size_of(m) for m in self.batch if (m.attempt_id, m.stream) == (attempt_id, stream)
        )
        offset = max(pending + delta - 128, 0)
        if which & 8:
            # Sizes that no log has, too.
            hole = (1 << 62) + size if which & 16 else size * 50
            self.batch.append(StreamHole(attempt_id, "j", stream, offset, hole))
        else:
            data = bytes((which + n) & 0xFF for n in range(size))
            self.batch.append(StreamBytes(attempt_id, "j", stream, offset, data))

    def commit(self) -> None:
        sizes = self.book.write(self.batch)
        for message in self.batch:
            self._follow(message)
        self.batch = []
        self.book.counted(sizes)
        self.counted |= {(size.attempt_id, size.stream): size for size in sizes}

    def crash(self, written: bool) -> None:
        if written:
            self.book.write(self.batch)
        self.batch = []
        self.book = Logbook(self.folder, self.counted.values())

    def _follow(self, message: BulkToMaster) -> None:
        known = self.known[message.attempt_id, message.stream]
        size = len(known.data)
        end = message.offset + size_of(message)
        if message.offset > size or end <= size:
            return
        if isinstance(message, StreamBytes):
            new = message.data[size - message.offset :]
            known.data += new
            known.shown += new
        elif message.stream == "log" and end <= 1 << 40:
            known.data += bytes(end - size)

    def check(self) -> None:
        for (attempt_id, stream), known in self.known.items():
            assert self.book.size_bytes(attempt_id, stream) == len(known.data)
            path = self.book.path("j", attempt_id, stream)
            stored = path.read_bytes() if path.exists() else b""
            # What a crash left beyond, nobody reads: the next write cuts it off.
            assert stored[: len(known.data)] == known.data
            shown, offset = b"", 0
            while True:
                piece = self.book.read("j", attempt_id, stream, offset, 700)
                shown += piece.data
                assert piece.next_offset >= offset
                if piece.next_offset == offset:
                    break
                offset = piece.next_offset
            assert shown == known.shown


def size_of(message: BulkToMaster) -> int:
    return message.size_bytes if isinstance(message, StreamHole) else len(message.data)


def streams(data: bytes) -> None:
    """Steps of four bytes: what, about whom, where, how much."""
    run = _Run()
    # Of a crash of the host no test can tell; without it a thousand runs take a second.
    with mock.patch.object(os, "fsync", lambda fd: None):
        for start in range(0, min(len(data), STEPS_MAX * STEP_BYTES), STEP_BYTES):
            step = data[start : start + STEP_BYTES].ljust(STEP_BYTES, b"\0")
            match step[0] % 8:
                case 0:
                    run.crash(written=False)
                case 1:
                    run.crash(written=True)
                case 2 | 3:
                    run.commit()
                case _:
                    run.message(step[1], step[2], step[3])
        run.commit()
        run.check()
        run.crash(written=False)
        run.check()


def stream_seeds() -> Sequence[bytes]:
    return [
        bytes((4, 0, 128, 9, 2, 0, 0, 0, 4, 8, 128, 5, 4, 0, 128, 7, 1, 0, 0, 0)),
        bytes((4, 0, 128, 200, 4, 8, 128, 1, 4, 8, 120, 3, 2, 0, 0, 0, 4, 1, 128, 7)),
        bytes((4, 2, 128, 9, 4, 10, 128, 9, 4, 24, 128, 9, 3, 0, 0, 0)),
    ]


TARGETS = (
    Target(
        "streams",
        streams,
        stream_seeds,
        ("meshtrain_daemon.master.logbook", "meshtrain_daemon.master.holes"),
        share=0.06,
        size_max=STEPS_MAX * STEP_BYTES,
    ),
)
