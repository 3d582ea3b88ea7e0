"""What a job wrote, as it goes out: byte for byte, folded for a terminal, or as lines of JSON."""

from __future__ import annotations

import codecs
import re
from typing import BinaryIO, Protocol

import msgspec
from rich.cells import cell_len, set_cell_size

LINE_CHARS_MAX = 1 << 16
"""A line that doesn't end is cut here, so that it can't fill the memory."""
_ESCAPE = re.compile(
    r"\x1b\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?"  # titles, links, the clipboard
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # colours, and moves of the cursor
    r"|\x1b[PX^_][^\x1b]{0,4096}(?:\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m\Z")
_UP = re.compile(r"\x1b\[[0-9]*[AF]")
_CONTROL = {code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if code != 0x09}
_CONTROL_IN_LINES = {code: None for code in _CONTROL if code != 0x0A}
_DRIVES = frozenset(b"\r\x1b")
_RANK = re.compile(r"\s*\[(?:rank|default|local_?rank)\s?([0-9]{1,6})\]:?\s?", re.IGNORECASE)
"""What torchrun puts before each line of a rank, and torch before its errors."""


class LogOut(Protocol):
    """Where the bytes of a log go."""

    def write(self, data: bytes) -> None: ...

    def flush(self) -> None:
        """Show what came so far, also of a line that has not ended."""
        ...

    def part(self) -> None:
        """Leave the terminal at the beginning of a line: somebody else writes there."""
        ...

    def end(self) -> None:
        """No more comes of this attempt."""
        ...


class BytesOut:
    """Byte for byte, as the job wrote it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()

    def part(self) -> None:
        self._stream.flush()

    def end(self) -> None:
        self._stream.flush()


class Lines:
    """Parts bytes into lines of text; what is no UTF-8 shows as a mark for it."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.open = ""
        """The line that has not ended yet."""

    def of(self, data: bytes, *, final: bool = False) -> list[str]:
        """The lines that end in these bytes."""
        *ended, self.open = (self.open + self._decode(data, final)).split("\n")
        if len(self.open) > LINE_CHARS_MAX:
            # Of what a progress bar repeats only the last is ever shown.
            self.open = last_drawn(self.open)
        if len(self.open) > LINE_CHARS_MAX:
            ended.append(self.open)
            self.open = ""
        return ended


class LinesOut:
    """Whole lines: those of one rank, or each as a JSON object, or both.

    Args:
        rank: of a job that runs several processes, whose lines alone are taken.
        as_json: whether each line goes out as `{"attempt": …, "text": …}`.
    """

    def __init__(self, stream: BinaryIO, *, rank: int | None = None, as_json: bool = False) -> None:
        self._stream = stream
        self._rank = rank
        self._as_json = as_json
        self._lines = Lines()
        self.attempt = 0
        """The number of the attempt that the lines are of, from 1."""

    def write(self, data: bytes) -> None:
        for line in self._lines.of(data):
            self._put(line)

    def flush(self) -> None:
        self._stream.flush()

    def part(self) -> None:
        self._stream.flush()

    def end(self) -> None:
        for line in self._lines.of(b"", final=True):
            self._put(line)
        if self._lines.open:
            self._put(self._lines.open)
            self._lines.open = ""
        self._stream.flush()

    def _put(self, line: str) -> None:
        rank = rank_of(line)
        if self._rank is not None and rank != self._rank:
            return
        if self._as_json:
            document = {"attempt": self.attempt, "rank": rank, "text": line}
            self._stream.write(msgspec.json.encode(document) + b"\n")
        else:
            self._stream.write(line.encode("utf-8", "replace") + b"\n")


class ScreenOut:
    """For a terminal: a progress bar takes one line, which shows its latest state.

    Colours stay; all else that drives a terminal is taken out, so that a job can
    neither clear the screen nor write to the clipboard.

    Args:
        width: columns of the terminal.
        colours: whether colours are shown.
        rank: as of LinesOut.
    """

    def __init__(
        self, stream: BinaryIO, *, width: int, colours: bool = True, rank: int | None = None
    ) -> None:
        self._stream = stream
        self._width = width
        self._colours = colours
        self._rank = rank
        self._lines = Lines()
        #: what stands in the terminal's last line, and is written over by what comes
        self._standing = ""

    def write(self, data: bytes) -> None:
        lines = self._lines.of(data)
        if self._rank is None and _DRIVES.isdisjoint(data) and not _drives(lines[:1]):
            # Nothing but text, as nearly all logs are: taken as it is, all at once.
            if lines:
                self._wipe()
                text = "\n".join(lines).translate(_CONTROL_IN_LINES) + "\n"
                self._stream.write(text.encode("utf-8", "replace"))
            return
        told: list[str] = []
        bar = ""
        for line in lines:
            if self._rank is not None and rank_of(line) != self._rank:
                continue
            if _UP.search(line):
                # One of several bars, which goes back up: it is drawn again and again.
                bar = line
                continue
            bar = ""
            told.append(plain(last_drawn(line), colours=self._colours))
        if told:
            self._wipe()
            text = "\n".join(told) + "\n"
            self._stream.write(text.encode("utf-8", "replace"))
        if bar:
            self._stand(bar)

    def flush(self) -> None:
        line = self._lines.open
        if line.strip() and (self._rank is None or rank_of(line) == self._rank):
            self._stand(line)
        self._stream.flush()

    def end(self) -> None:
        self.write(b"\n" if self._lines.open else b"")
        self.part()

    def part(self) -> None:
        if self._standing:
            self._stream.write(b"\n")
            self._standing = ""
        self._stream.flush()

    def _stand(self, line: str) -> None:
        text = plain(last_drawn(line), colours=False).expandtabs()
        if cell_len(text) > self._width - 1:
            text = set_cell_size(text, self._width - 1)
        if text != self._standing:
            self._stream.write(f"\r\x1b[K{text}".encode("utf-8", "replace"))
            self._standing = text

    def _wipe(self) -> None:
        if self._standing:
            self._stream.write(b"\r\x1b[K")
            self._standing = ""


def _drives(lines: list[str]) -> bool:
    """Whether any of these lines holds more than text."""
    return any("\r" in line or "\x1b" in line for line in lines)


def last_drawn(line: str) -> str:
    r"""What a line shows in the end: of what `\r` parts, the last that isn't empty."""
    if "\r" not in line:
        return line
    for part in reversed(line.split("\r")):
        if plain(part, colours=False).strip():
            return part
    return ""


def plain(text: str, *, colours: bool) -> str:
    """Text without what drives a terminal, but for colours where they are wanted."""
    if "\x1b" not in text:
        return text.translate(_CONTROL)
    kept: list[str] = []
    at = 0
    coloured = False
    for found in _ESCAPE.finditer(text):
        kept.append(text[at : found.start()].translate(_CONTROL))
        if colours and _COLOUR.match(found[0]):
            kept.append(found[0])
            coloured = True
        at = found.end()
    kept.append(text[at:].translate(_CONTROL))
    # No colour runs over into the next line.
    return "".join(kept) + ("\x1b[0m" if coloured else "")


def rank_of(line: str) -> int | None:
    """The rank that a line is marked with; None for a line without a mark."""
    found = _RANK.match(line)
    return None if found is None else int(found[1])
