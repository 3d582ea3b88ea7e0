"""A node's streams, over lives of its daemon, and a master's logbook, over its lives."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_records import made_folder

from meshtrain.wire.messages import BulkToMaster
from meshtrain_daemon.master.logbook import Logbook
from meshtrain_daemon.worker import spool as spool_module
from meshtrain_daemon.worker import streams as streams_module
from meshtrain_daemon.worker.streams import REPEAT_AFTER_S, Streamer

MIB = 1 << 20
MARKER = re.compile(rb"\n\[meshtrain: ([0-9,]+) bytes of this log were lost here: [^\n]*\]\n")
STEP, TAIL, LEFT, WINDOW = 1000, 200, 400, 1024


@pytest.fixture
def small_steps() -> Iterator[None]:
    """All sizes a thousandth of what they are; nothing waits for the disk."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (spool_module, streams_module):
            patched.setattr(module, "GIVE_BACK_STEP_BYTES", STEP)
            patched.setattr(module, "TAIL_KEPT_BYTES", TAIL)
        patched.setattr(spool_module, "LEFT_MIN_BYTES", LEFT)
        patched.setattr(spool_module, "LOSE_MIN_BYTES", 200)
        patched.setattr(streams_module, "CHUNK_BYTES", 300)
        patched.setattr(streams_module, "TURN_BYTES", 600)
        patched.setattr(streams_module, "WINDOW_BYTES", WINDOW)
        # No host crashes here.
        patched.setattr(os, "fsync", lambda fd: None)
        yield


class SpoolMesh:
    """What is printed, what is sent, and what is stored of it."""

    def __init__(self, folder: Path, spool_bytes: int, attempts: int = 1) -> None:
        (folder / "attempts").mkdir()
        self._home = folder
        self._spool_bytes = spool_bytes
        self.folders = [made_folder(folder / "attempts", f"j.{i}") for i in range(attempts)]
        self.link: list[BulkToMaster] = []
        self.link_max = 1 << 30
        self.told: list[str] = []
        self.removed: list[str] = []
        self.now_s = 1.0
        self.printed = {f.assignment.attempt_id: b"" for f in self.folders}
        self.counted: dict[tuple[str, str], object] = {}
        self.book = Logbook(folder / "logs", ())
        self.restart_daemon()

    def restart_daemon(self) -> None:
        self.link.clear()
        self.streamer = Streamer(
            self._send,
            remove=lambda folder: self.removed.append(folder.assignment.attempt_id),
            node_id="gpu1",
            spool_bytes=self._spool_bytes,
            say=self.told.append,
        )
        for folder in self.folders:
            self.streamer.watch(folder)

    def restart_master(self) -> None:
        self.link.clear()
        self.book = Logbook(self._home / "logs", self.counted.values())  # type: ignore[arg-type]
        self.streamer.rewind()

    def _send(self, message: BulkToMaster) -> bool:
        if len(self.link) >= self.link_max:
            return False
        self.link.append(message)
        return True

    def print(self, data: bytes, attempt: int = 0) -> None:
        folder = self.folders[attempt]
        self.printed[folder.assignment.attempt_id] += data
        with open(folder.log, "ab") as file:
            file.write(data)

    def ship(self) -> None:
        self.now_s += 0.1
        self.streamer.ship(self.now_s)

    def deliver(self, count: int = 1 << 30) -> None:
        for _ in range(min(count, len(self.link))):
            message = self.link.pop(0)
            sizes = self.book.write([message])
            self.counted |= {(size.attempt_id, size.stream): size for size in sizes}
            self.book.counted(sizes)
            self.streamer.stored(self.book.confirmation(message))

    def settle(self, end: bool = True) -> None:
        """The master is there again, and stays: all arrives."""
        if end:
            for folder in self.folders:
                self.streamer.ended(folder.assignment.attempt_id)
                self.streamer.drop(folder)
        for _ in range(20_000):
            self.now_s += 2 * REPEAT_AFTER_S
            self.ship()
            if not self.link and not self.streamer.waiting:
                break
            self.deliver()
        assert self.streamer.waiting is False

    def taken_bytes(self, attempt: int = 0) -> int:
        """What the log takes on the disk."""
        return os.stat(self.folders[attempt].log).st_blocks * 512

    def shown(self, attempt: int = 0) -> bytes:
        """What `meshtrain logs` prints."""
        attempt_id = self.folders[attempt].assignment.attempt_id
        data, offset = b"", 0
        while True:
            piece = self.book.read("j", attempt_id, "log", offset, MIB)
            data += piece.data
            if piece.next_offset == offset:
                return data
            offset = piece.next_offset

    def check(self, attempt: int = 0) -> int:
        """What is stored is what was printed, but for marked ranges; returns how many those are."""
        attempt_id = self.folders[attempt].assignment.attempt_id
        printed = self.printed[attempt_id]
        size = self.book.size_bytes(attempt_id, "log")
        assert size == len(printed)
        stored = self.book.path("j", attempt_id, "log").read_bytes() if size else b""
        kept = b""
        after = 0
        markers = 0
        for found in MARKER.finditer(stored):
            lost = int(found[1].replace(b",", b""))
            markers += 1
            assert stored[after : found.start()] == printed[after : found.start()]
            kept += stored[after : found.end()]
            after = found.start() + lost
            assert stored[found.end() : after] == bytes(after - found.end())
        assert stored[after:] == printed[after:]
        assert self.shown(attempt) == kept + stored[after:]
        return markers


def lines(count: int) -> bytes:
    return b"".join(b"line %07d\n" % number for number in range(count))
