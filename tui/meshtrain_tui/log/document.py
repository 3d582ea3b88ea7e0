"""The lines of one stream, from any place on: a line is known by the offset that it begins at."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from meshtrain_tui.log.folding import SHOWN_BYTES_MAX, shown_of, shown_of_ends
from meshtrain_tui.log.line_index import BLOCK_BYTES, REGION_BLOCKS
from meshtrain_tui.log.search import SearchPattern
from meshtrain_tui.log.stream import PIECE_BYTES, LogStream


class Line(NamedTuple):
    """A line, and where it is."""

    begin: int
    end: int
    """The offset of what comes after it and its end."""
    shown: bytes
    """What is seen of it: its last state."""
    hidden_bytes: int
    """Of a line that is too long to be shown."""
    rank: int
    wall_s: float | None
    """When it came to the master; None where that isn't known."""


class LogDocument:
    """Finds lines in a stream; each answer is of the stream as it was last refreshed."""

    def __init__(self, stream: LogStream) -> None:
        self.stream = stream

    @property
    def size_bytes(self) -> int:
        return self.stream.size_bytes

    async def line_at(self, begin: int) -> Line:
        """The line that begins at an offset."""
        end, ends = await self._end_of(begin)
        text_end = end - 1 if ends else end
        size_bytes = text_end - begin
        if size_bytes <= SHOWN_BYTES_MAX:
            shown, cut = shown_of(await self.stream.read(begin, text_end))
        else:
            first = await self.stream.read(begin, begin + SHOWN_BYTES_MAX)
            last = await self.stream.read(text_end - SHOWN_BYTES_MAX, text_end)
            shown, cut = shown_of_ends(first, last)
        hidden_bytes = size_bytes - len(shown) if cut else 0
        wall_s = self.stream.times.at(begin)
        return Line(begin, end, shown, hidden_bytes, self.stream.rank, wall_s)

    async def begin_of(self, offset: int) -> int:
        """Where the line begins that the byte at an offset is in."""
        block: int | None = offset // BLOCK_BYTES
        upto = offset - offset // BLOCK_BYTES * BLOCK_BYTES
        neighbour = True
        while block is not None and block >= 0:
            data = await self.stream.block(block)
            at = data.rfind(b"\n", 0, upto)
            if at >= 0:
                return block * BLOCK_BYTES + at + 1
            upto = BLOCK_BYTES
            # The one before is needed soon anyway; further ones only where a line ends.
            block = block - 1 if neighbour else await self._block_before(block - 1)
            neighbour = False
        return 0

    async def before(self, begin: int) -> int | None:
        """Where the line before begins; None for the first one."""
        return await self.begin_of(begin - 1) if begin > 0 else None

    async def begin_from(self, offset: int) -> int:
        """Where the first line begins that begins at an offset or later."""
        if offset >= self.size_bytes:
            return self.size_bytes
        begin = await self.begin_of(offset)
        return begin if begin == offset else (await self._end_of(begin))[0]

    async def begin_of_line(self, number: int) -> int | None:
        """Where line `number`, from 0, begins; None where lines aren't counted that far."""
        if number == 0:
            return 0
        found = self.stream.index.block_of_line_end(number - 1)
        if found is None:
            tail = self.size_bytes // BLOCK_BYTES
            before = self.stream.index.line_ends_before(tail)
            if before is None or number <= before:
                return None
            # It ends in the last block, which is read and not counted.
            found = (tail, number - 1 - before)
        block, nth = found
        data = await self.stream.block(block)
        at = -1
        for _ in range(nth + 1):
            at = data.find(b"\n", at + 1)
            if at < 0:
                return None
        begin = block * BLOCK_BYTES + at + 1
        return begin if begin < self.size_bytes else None

    async def number_of(self, begin: int) -> int | None:
        """The number, from 0, of the line that begins at an offset; None where it isn't counted."""
        block = begin // BLOCK_BYTES
        before = self.stream.index.line_ends_before(block)
        if before is None:
            return None
        within = begin - block * BLOCK_BYTES
        return (
            before + (await self.stream.block(block)).count(b"\n", 0, within) if within else before
        )

    async def lines(self) -> int | None:
        """How many lines there are; None as long as they aren't counted."""
        if self.size_bytes == 0:
            return 0
        before = await self.number_of(self.size_bytes)
        if before is None:
            return None
        last = await self.stream.read(self.size_bytes - 1, self.size_bytes)
        return before + (last != b"\n")

    async def find(
        self, pattern: SearchPattern, begin: int, tell: Callable[[int], None] = lambda at: None
    ) -> int | None:
        """Where the first line begins, from the one at `begin` on, that a pattern is found in.

        `tell` hears how far the search is.
        """
        while begin < self.size_bytes:
            tell(begin)
            end = min(begin + PIECE_BYTES, self.size_bytes)
            lines = await self.stream.fetch(begin, end)
            if end < self.size_bytes:
                lines = lines[: lines.rfind(b"\n") + 1]
                if not lines:
                    line = await self.line_at(begin)
                    if pattern.is_in(line.shown):
                        return begin
                    begin = line.end
                    continue
            found = pattern.first_in(lines)
            if found is not None:
                return begin + found
            begin += len(lines)
        return None

    async def find_back(
        self, pattern: SearchPattern, end: int, tell: Callable[[int], None] = lambda at: None
    ) -> int | None:
        """Where the last line begins, of those before the one at `end`, that it is found in."""
        while end > 0:
            tell(end)
            begin = max(0, end - PIECE_BYTES)
            lines = await self.stream.fetch(begin, end)
            if begin > 0:
                cut = lines.find(b"\n") + 1
                if cut in (0, len(lines)):
                    begin = await self.begin_of(end - 1)
                    if pattern.is_in((await self.line_at(begin)).shown):
                        return begin
                    end = begin
                    continue
                lines, begin = lines[cut:], begin + cut
            found = pattern.last_in(lines)
            if found is not None:
                return begin + found
            end = begin
        return None

    async def _end_of(self, begin: int) -> tuple[int, bool]:
        """The offset after a line, and whether a line's end stands before it."""
        block: int | None = begin // BLOCK_BYTES
        since = begin - begin // BLOCK_BYTES * BLOCK_BYTES
        last = (self.size_bytes - 1) // BLOCK_BYTES
        neighbour = True
        while block is not None and block <= last:
            at = (await self.stream.block(block)).find(b"\n", since)
            if at >= 0:
                return block * BLOCK_BYTES + at + 1, True
            since = 0
            block = block + 1 if neighbour else await self._block_from(block + 1, last)
            neighbour = False
        return self.size_bytes, False

    async def _block_from(self, block: int, last: int) -> int | None:
        """The first block from one on in which a line may end; the last one isn't counted."""
        index = self.stream.index
        while block < last:
            found = index.next_block_with_end(block, last)
            if found is None:
                break
            if index.is_known(found) or not await self.stream.count(found // REGION_BLOCKS):
                return found
            if not index.is_known(found):
                return found
            block = found
        return last if block <= last else None

    async def _block_before(self, block: int) -> int | None:
        """The last block from one downwards in which a line may end."""
        index = self.stream.index
        while block >= 0:
            found = index.last_block_with_end(block)
            if found is None or index.is_known(found):
                return found
            if not await self.stream.count(found // REGION_BLOCKS) or not index.is_known(found):
                return found
            block = found
        return None
