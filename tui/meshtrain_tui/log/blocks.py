"""The pieces of a stream that are kept: those that were looked at last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from meshtrain_tui.log.line_index import BLOCK_BYTES

KEPT_MAX = 64
"""Blocks: 4 MiB of a stream."""


class Blocks:
    """Reads a stream by blocks of 64 KiB.

    Args:
        fetch: the bytes from one offset to another, all of them.
        kept_max: blocks that are kept.
    """

    def __init__(
        self, fetch: Callable[[int, int], Awaitable[bytes]], kept_max: int = KEPT_MAX
    ) -> None:
        self._fetch = fetch
        self._kept_max = kept_max
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    async def block(self, number: int, size_bytes: int) -> bytes:
        """A block of a stream that has `size_bytes` now; the last one may be a part of one."""
        begin = number * BLOCK_BYTES
        wanted = min(size_bytes - begin, BLOCK_BYTES)
        data = self._kept.pop(number, b"")
        if len(data) < wanted:
            data += await self._fetch(begin + len(data), begin + wanted)
        self._kept[number] = data
        while len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)
        return data[:wanted]

    async def read(self, begin: int, end: int, size_bytes: int) -> bytes:
        """The bytes from `begin` up to `end`."""
        parts = []
        for number in range(begin // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1):
            data = await self.block(number, size_bytes)
            at = number * BLOCK_BYTES
            parts.append(data[max(begin - at, 0) : max(end - at, 0)])
        return b"".join(parts)

    def forget(self) -> None:
        """Keep nothing: the stream is another one."""
        self._kept.clear()
