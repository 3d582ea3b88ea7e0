"""How many lines end in which block of a log: what turns a line's number into a place.

The master counts (its query `lines`), a region of many blocks at a time and in any
order; nothing of the log itself is needed. A log of 10^7 lines takes some 40 kB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence

BLOCK_BYTES = 64 << 10
REGION_BLOCKS = 64
REGION_BYTES = BLOCK_BYTES * REGION_BLOCKS
REGIONS_MAX = 16_384
"""64 GiB; what lies beyond is read without line numbers."""


class LineIndex:
    """The counts of the regions that are known, and their sums from the start on."""

    def __init__(self) -> None:
        self._regions: dict[int, array[int]] = {}
        #: line ends before each region of the unbroken beginning, and after its last whole one
        self._sums = array("Q", [0])

    def put(self, region: int, counts: Sequence[int]) -> None:
        """The line ends in each block of a region, of those blocks that are whole."""
        if not 0 <= region < REGIONS_MAX:
            return
        self._regions[region] = array("I", counts[:REGION_BLOCKS])
        while self.known_to(self.regions) == REGION_BLOCKS:
            self._sums.append(self._sums[-1] + sum(self._regions[self.regions]))

    def known_to(self, region: int) -> int:
        """How many blocks of a region are known."""
        return len(self._regions.get(region, ()))

    @property
    def regions(self) -> int:
        """Whole regions of the unbroken beginning that is known."""
        return len(self._sums) - 1

    @property
    def line_ends(self) -> int:
        """Lines that end in the unbroken beginning."""
        return self._sums[-1] + sum(self._regions.get(self.regions, ()))

    def line_ends_before(self, block: int) -> int | None:
        """Lines that end before a block begins; None where that isn't known."""
        region, within = divmod(block, REGION_BLOCKS)
        if region > self.regions or self.known_to(region) < within:
            return None
        return self._sums[region] + (sum(self._regions[region][:within]) if within else 0)

    def block_of_line_end(self, number: int) -> tuple[int, int] | None:
        """Where line `number`, from 0, ends: a block, and how many end in it before that one.

        None where it isn't known.
        """
        if not 0 <= number < self.line_ends:
            return None
        region = bisect_right(self._sums, number) - 1
        number -= self._sums[region]
        for within, count in enumerate(self._regions[region]):
            if number < count:
                return region * REGION_BLOCKS + within, number
            number -= count
        return None

    def next_block_with_end(self, block: int, end: int) -> int | None:
        """The first block from `block` on, below `end`, in which a line ends.

        A block that isn't counted yet may have one: it is answered too, and
        `is_known` tells the two apart. None: there is none.
        """
        while block < end:
            region, within = divmod(block, REGION_BLOCKS)
            counts = self._regions.get(region, array("I"))
            for index in range(within, min(REGION_BLOCKS, end - region * REGION_BLOCKS)):
                if index >= len(counts) or counts[index]:
                    return region * REGION_BLOCKS + index
            block = (region + 1) * REGION_BLOCKS
        return None

    def last_block_with_end(self, block: int) -> int | None:
        """The last block from `block` downwards in which a line ends, or that isn't counted yet."""
        while block >= 0:
            region, within = divmod(block, REGION_BLOCKS)
            counts = self._regions.get(region, array("I"))
            for index in range(within, -1, -1):
                if index >= len(counts) or counts[index]:
                    return region * REGION_BLOCKS + index
            block = region * REGION_BLOCKS - 1
        return None

    def is_known(self, block: int) -> bool:
        """Whether the lines that end in a block are counted."""
        region, within = divmod(block, REGION_BLOCKS)
        return within < self.known_to(region)
