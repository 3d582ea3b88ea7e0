"""What was to be sent and what was: lines in a file, so that a restart forgets no notification.

    HOME/notify/journal.jsonl

A notification is written down before it is first tried, and again when it was
delivered or given up. What stands there without an end is sent again, under
the same id. What happened in the instant between a commit and its line is
found by looking through the sweeps at the start: their ids aren't there yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from meshtrain.core.notices import Notice
from meshtrain.security.private_file import fsync_folder

JOURNAL_FILE: Final = "journal.jsonl"
LINE_BYTES_MAX: Final = 1 << 20


class Way(StrEnum):
    """How somebody is told."""

    COMMAND = "command"
    WEBHOOK = "webhook"
    NOBODY = "nobody"
    """It happened, and nobody wanted to know."""


class Standing(StrEnum):
    QUEUED = "queued"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"
    DROPPED = "dropped"
    """There was no room for it in the queue."""


class Sending(msgspec.Struct, frozen=True):
    """One notice on one way."""

    notice: Notice
    way: Way
    to: str
    """The command's name, or the URL."""
    secret: str | None = None

    @property
    def key(self) -> str:
        return f"{self.notice.id}:{self.way}"


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    key: str
    standing: Standing
    sending: Sending | None = None


class _Since(msgspec.Struct, frozen=True):
    since_wall_s: float


_line_decoder = msgspec.json.Decoder(_Line)
_since_decoder = msgspec.json.Decoder(_Since)


class NoticeJournal:
    """The file. All but `has` blocks on the disk, and is called from one thread at a time.

    Args:
        folder: where it lies; it is made.
        now_s: of a new one: what ended before is not told.

    Raises OSError when it can't be read or written.
    """

    def __init__(self, folder: Path, now_s: float) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / JOURNAL_FILE
        self.since_wall_s = now_s
        self.unread = 0
        """Lines that could not be read: a crash cut them off, or somebody changed them."""
        self._lines: dict[str, _Line] = {}
        self._read()
        self._rewrite()

    def has(self, notice_id: str) -> bool:
        """Whether anything was written down about a notice."""
        return any(f"{notice_id}:{way}" in self._lines for way in Way)

    def open(self) -> list[Sending]:
        """What was queued and has no end, in the order in which it came."""
        return [
            line.sending
            for line in self._lines.values()
            if line.standing is Standing.QUEUED and line.sending is not None
        ]

    def queued(self, sendings: Iterable[Sending]) -> None:
        """Write down what is to be sent, or that nobody wanted to know."""
        self._append(
            _Line(one.key, Standing.QUEUED, one)
            if one.way is not Way.NOBODY
            else _Line(one.key, Standing.DELIVERED)
            for one in sendings
        )

    def ended(self, sending: Sending, standing: Standing) -> None:
        """Write down how it ended."""
        self._append([_Line(sending.key, standing)])

    def _append(self, lines: Iterable[_Line]) -> None:
        lines = list(lines)
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        with self._path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._lines.update((line.key, line) for line in lines)

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                while data := file.readline(LINE_BYTES_MAX):
                    self._take(data)
        except FileNotFoundError:
            return

    def _take(self, data: bytes) -> None:
        try:
            if data.startswith(b'{"since'):
                self.since_wall_s = _since_decoder.decode(data).since_wall_s
                return
            line = _line_decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.unread += 1
            return
        self._lines[line.key] = line

    def _rewrite(self) -> None:
        """One line for each notice, whatever it went through; also cuts off what a crash left."""
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(_Since(self.since_wall_s)) + b"\n")
            for line in self._lines.values():
                file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o600)
        temporary.replace(self._path)
        fsync_folder(self._path.parent)
