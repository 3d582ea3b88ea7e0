"""A long sorted list that takes in, gives up and counts off entries cheaply.

It is cut into blocks, so that a change moves a thousand entries and not all of
them: the list of lists that sortedcontainers and blist are built on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

BLOCK_ENTRIES = 1000
"""A block is cut in two when it has twice as many."""


class Ordered(Protocol):
    """What can be sorted."""

    def __lt__(self, other: Any, /) -> bool: ...


Entry = TypeVar("Entry", bound=Ordered)


class SortedBlocks(Generic[Entry]):
    """Entries in ascending order; each is there once.

    Args:
        entries: to begin with, in ascending order.
    """

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self._blocks: list[list[Entry]] = []
        self._lasts: list[Entry] = []
        self._length = 0
        self.extend(entries)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Entry]:
        for block in self._blocks:
            yield from block

    def extend(self, entries: Sequence[Entry]) -> None:
        """Put entries, in ascending order, after those that are there."""
        for start in range(0, len(entries), BLOCK_ENTRIES):
            block = list(entries[start : start + BLOCK_ENTRIES])
            self._blocks.append(block)
            self._lasts.append(block[-1])
        self._length += len(entries)

    def add(self, entry: Entry) -> None:
        """Put an entry in its place."""
        self._length += 1
        if not self._blocks:
            self._blocks.append([entry])
            self._lasts.append(entry)
            return
        place = min(bisect_right(self._lasts, entry), len(self._blocks) - 1)
        block = self._blocks[place]
        insort(block, entry)
        self._lasts[place] = block[-1]
        if len(block) >= 2 * BLOCK_ENTRIES:
            self._blocks.insert(place + 1, block[BLOCK_ENTRIES:])
            del block[BLOCK_ENTRIES:]
            self._lasts.insert(place, block[-1])

    def remove(self, entry: Entry) -> None:
        """Take an entry out. Raises KeyError when it isn't there."""
        place = bisect_left(self._lasts, entry)
        if place == len(self._blocks):
            raise KeyError(entry)
        block = self._blocks[place]
        index = bisect_left(block, entry)
        if index == len(block) or block[index] != entry:
            raise KeyError(entry)
        del block[index]
        self._length -= 1
        if block:
            self._lasts[place] = block[-1]
        else:
            del self._blocks[place], self._lasts[place]

    def piece(self, offset: int, limit: int, *, backwards: bool = False) -> list[Entry]:
        """At most `limit` entries from the `offset`-th on, counted from the end if `backwards`."""
        if backwards:
            end = max(0, self._length - offset)
            start = max(0, end - limit)
            return self._piece(start, end)[::-1]
        return self._piece(min(offset, self._length), min(offset + limit, self._length))

    def _piece(self, start: int, end: int) -> list[Entry]:
        found: list[Entry] = []
        for block in self._blocks:
            if end <= 0:
                break
            if start < len(block):
                found += block[max(0, start) : end]
            start -= len(block)
            end -= len(block)
        return found
