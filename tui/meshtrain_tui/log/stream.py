"""One stream of an attempt, as the master has it: its bytes, how many lines, and when they came."""

from __future__ import annotations

from typing import Any, Protocol

from meshtrain_tui.log.blocks import Blocks
from meshtrain_tui.log.line_index import (
    BLOCK_BYTES,
    REGION_BLOCKS,
    REGION_BYTES,
    REGIONS_MAX,
    LineIndex,
)
from meshtrain_tui.log.times import StreamTimes

PIECE_BYTES = 1 << 20
"""Of one answer: as much as the master gives."""


class Ask(Protocol):
    """Asks the master a query whose answer is one row."""

    async def __call__(
        self, what: str, names: tuple[str, ...], *, offset: int = 0, limit: int = 1
    ) -> dict[str, Any]:
        """The row. Raises MeshtrainError when there is none."""


class LogStream:
    """A stream that grows. `refresh` tells how far it is; nothing else asks for that.

    Args:
        ask: the master.
        job_id: whose it is.
        attempt_id: of which attempt.
        stream: its name on the master.
        rank: of a gang's member; 0 where there is one alone.
    """

    def __init__(
        self, ask: Ask, job_id: str, attempt_id: str, stream: str = "log", rank: int = 0
    ) -> None:
        self._ask = ask
        self._names = (job_id, stream, attempt_id)
        self.rank = rank
        self.size_bytes = 0
        self.ended = False
        self.times = StreamTimes()
        self.index = LineIndex()
        self._blocks = Blocks(self.fetch)

    async def refresh(self) -> bool:
        """Ask how long it is; True when that has changed. Raises MeshtrainError."""
        row = await self._ask("log", self._names, offset=self.size_bytes, limit=1)
        self.ended = row["ended"]
        size_bytes = row["size_bytes"]
        if size_bytes == self.size_bytes:
            return False
        if size_bytes < self.size_bytes:
            # A master that was restored has less of it.
            self.times, self.index = StreamTimes(), LineIndex()
            self._blocks.forget()
        row = await self._ask("times", self._names, offset=self.times.next_offset)
        self.times.extend(zip(row["offsets"], row["walls_s"], strict=True))
        self.size_bytes = size_bytes
        return True

    async def read(self, begin: int, end: int) -> bytes:
        """Bytes that are kept for the next look at them."""
        return await self._blocks.read(begin, end, self.size_bytes) if begin < end else b""

    async def block(self, number: int) -> bytes:
        """A block, kept for the next look at it."""
        return await self._blocks.block(number, self.size_bytes)

    async def fetch(self, begin: int, end: int) -> bytes:
        """Bytes from one offset to another; what was lost of them on their node is zeros."""
        data = bytearray()
        while len(data) < end - begin:
            at = begin + len(data)
            limit = min(end - at, PIECE_BYTES)
            row = await self._ask("log", self._names, offset=at, limit=limit)
            if row["next_offset"] <= at:
                # The file is gone from the master's disk: there is nothing to be seen.
                break
            data += bytes(min(row["begin"], end) - at)
            data += row["data"][: end - row["begin"]] if row["begin"] < end else b""
            data += bytes(min(row["next_offset"], end) - begin - len(data))
        return bytes(data) + bytes(end - begin - len(data))

    async def count(self, region: int) -> bool:
        """Let the master count the lines of a region; False where lines have no numbers."""
        if region >= REGIONS_MAX:
            return False
        begin = region * REGION_BYTES
        row = await self._ask("lines", self._names, offset=begin, limit=REGION_BYTES)
        whole: int = (min(row["next_offset"], self.size_bytes) - begin) // BLOCK_BYTES
        self.index.put(region, row["counts"][:whole])
        return whole > 0

    async def count_next(self) -> bool:
        """Count the next region that isn't known whole; False when there is none."""
        region = self.index.regions
        known = region * REGION_BLOCKS + self.index.known_to(region)
        return known < self.size_bytes // BLOCK_BYTES and await self.count(region)
