"""When the bytes of a stream came to the master: pairs of an offset and a wall time."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable


class StreamTimes:
    """Pairs that only grow, both numbers of them."""

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._walls_s = array("d")

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def next_offset(self) -> int:
        """From where on nothing is known."""
        return self._offsets[-1] + 1 if self._offsets else 0

    @property
    def span_s(self) -> tuple[float, float] | None:
        """The first time and the last; None where nothing is known."""
        return (self._walls_s[0], self._walls_s[-1]) if self._walls_s else None

    def extend(self, pairs: Iterable[tuple[int, float]]) -> None:
        """Take in pairs that come after those that are known; others are passed over."""
        for offset, wall_s in pairs:
            if self._offsets and offset <= self._offsets[-1]:
                continue
            if self._walls_s:
                wall_s = max(wall_s, self._walls_s[-1])
            self._offsets.append(offset)
            self._walls_s.append(wall_s)

    def at(self, offset: int) -> float | None:
        """When the byte at `offset` came; None where that isn't known."""
        index = bisect_right(self._offsets, offset)
        return self._walls_s[index - 1] if index else None

    def first_from(self, wall_s: float) -> int | None:
        """The offset of the first byte that came at `wall_s` or later; None: none is known."""
        index = bisect_left(self._walls_s, wall_s)
        return self._offsets[index] if index < len(self._offsets) else None

    def first_after(self, wall_s: float) -> int | None:
        """The offset of the first byte that came later than `wall_s`; None: none is known."""
        index = bisect_right(self._walls_s, wall_s)
        return self._offsets[index] if index < len(self._offsets) else None
