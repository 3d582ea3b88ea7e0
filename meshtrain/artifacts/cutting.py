"""A file's bytes in the chunks that it is cut into.

Files are cut by what they hold, so that what two files share is the same chunks
in both, wherever it lies in them: a fine-tune moves what is new in it, and its
base is not sent again.

- A file of at most `ONE_CHUNK_BYTES` is one chunk.
- A safetensors file is cut on the borders of its tensors (`core.tensor_cuts`).
- All else, and what is split of a large tensor, by content: FastCDC in the form of 2020
  (Xia et al., https://ieeexplore.ieee.org/document/9055082), as pyfastcdc has it after the
  Rust crate `fastcdc` (`v2020`). Chunks have `PIECE_BYTES_MIN` to `PIECE_BYTES_MAX`,
  about 550 KiB on the average; only the last one of a file or tensor may be smaller.

What it costs: finding the cuts takes about 0.4 s of one core per GB (2.5 GB/s) beside 0.2 s for
hashing a GB twice; it releases the GIL. Where pyfastcdc has no compiled wheel
it cuts alike in plain Python, at about 10 MB/s, and warns of it.

Every node must cut alike, and for all time: the cuts of some bytes are kept in
the tests, and whatever changes them changes the ids of artifacts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, Final

from pyfastcdc import FastCDC

from meshtrain.core.tensor_cuts import Span, tensor_spans
from meshtrain.core.tensor_layout import LENGTH_BYTES, header_size_bytes, read_layout
from meshtrain.errors import ArtifactError

ONE_CHUNK_BYTES = 512 << 10
PIECE_BYTES_MIN = 128 << 10
PIECE_BYTES_TARGET = 512 << 10
"""A chunk can be passed on once it is whole, and at the end of a fetch the last ones are waited
for: with 1 MiB a file of 128 MiB reaches eight hosts in 1.22 times what one link needs for it,
with 512 KiB in 1.17. Less would cost more than it gives: each is asked for, signed for and
verified, which takes about a millisecond of both sides."""
PIECE_BYTES_MAX = 2 << 20
_NORMALIZED: Final = 3
"""How strongly sizes are pulled to the target, the strongest: 19 of 20 chunks of random bytes have
0.3 MiB or more, 19 of 20 have 0.7 MiB or less, so that no long one is waited for at the end of a
fetch. Bytes put in cost no more new chunks than with the paper's 2: about one."""
_WINDOW_BYTES = 2 * PIECE_BYTES_MAX
"""Twice the largest chunk; the spans that `tensor_cuts` leaves whole are no larger."""


def content_pieces(file: BinaryIO, size_bytes: int, name: str) -> Iterator[memoryview]:
    """The chunks of a file by what it holds, in order; each is valid until the next is taken.

    Args:
        file: opened unbuffered, at its start.
        size_bytes: its size.
        name: what messages call it.

    Raises:
        ArtifactError: when it ends before its size.
    """
    window = _Window(file, size_bytes, name)
    if size_bytes <= ONE_CHUNK_BYTES:
        if size_bytes:
            yield window.take(size_bytes)
        return
    for span in _spans(file, size_bytes):
        if span.split:
            yield from window.cut(span.end - span.begin)
        else:
            yield window.take(span.end - span.begin)


def _spans(file: BinaryIO, size_bytes: int) -> list[Span]:
    """On the borders of tensors, where it has some; else all of it, to be cut by content."""
    fd = file.fileno()
    header_bytes = header_size_bytes(_read_ahead(fd, 0, LENGTH_BYTES + 1), size_bytes)
    if header_bytes is not None:
        layout = read_layout(_read_ahead(fd, LENGTH_BYTES, header_bytes), size_bytes)
        spans = tensor_spans(layout) if layout is not None else None
        if spans is not None:
            return spans
    return [Span(0, size_bytes, split=True)]


def _read_ahead(fd: int, offset: int, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        piece = os.pread(fd, size_bytes - len(data), offset + len(data))
        if not piece:
            break
        data += piece
    return data


class _Window:
    """The part of a file that is in memory; it moves from the file's start to its end."""

    def __init__(self, file: BinaryIO, size_bytes: int, name: str) -> None:
        self._file = file
        self._left_bytes = size_bytes
        """Of the file, behind what has been read."""
        self._name = name
        self._buffer = bytearray(min(size_bytes, _WINDOW_BYTES))
        self._begin = self._end = 0

    def take(self, size_bytes: int) -> memoryview:
        """The next bytes of the file."""
        self._fill(size_bytes)
        begin, self._begin = self._begin, self._begin + size_bytes
        return memoryview(self._buffer)[begin : self._begin]

    def cut(self, size_bytes: int) -> Iterator[memoryview]:
        """The next `size_bytes` of the file, cut by what they hold."""
        cutter = FastCDC(
            PIECE_BYTES_TARGET,
            min_size=PIECE_BYTES_MIN,
            max_size=PIECE_BYTES_MAX,
            normalized_chunking=_NORMALIZED,
        )
        while size_bytes:
            seen_bytes = min(size_bytes, PIECE_BYTES_MAX)
            self._fill(seen_bytes)
            view = memoryview(self._buffer)[self._begin : self._begin + seen_bytes]
            piece_bytes = next(iter(cutter.cut_buf(view))).length
            size_bytes -= piece_bytes
            yield self.take(piece_bytes)

    def _fill(self, size_bytes: int) -> None:
        """Reads until so many bytes are in the window, and then all that fits."""
        if self._end - self._begin >= size_bytes:
            return
        view = memoryview(self._buffer)
        kept = self._end - self._begin
        view[:kept] = view[self._begin : self._end]
        self._begin, self._end = 0, kept
        while self._left_bytes and self._end < len(view):
            room = view[self._end : self._end + self._left_bytes]
            count = self._file.readinto(room)  # type: ignore[attr-defined]
            if not count:
                raise ArtifactError(
                    f"{self._name} became shorter while it was read. Try again when nothing "
                    "writes to it"
                )
            self._end += count
            self._left_bytes -= count
