"""Sets of chunks, and how many hold each: whole numbers, bit n standing for chunk n."""

from __future__ import annotations

Bits = int
"""A set of chunk numbers: bit n stands for chunk n."""


class Holders:
    """How many peers hold each chunk, in binary: one set for each bit of all the counts."""

    def __init__(self) -> None:
        self._planes: list[Bits] = []

    def add(self, more: Bits) -> None:
        """One peer more holds these."""
        place = 0
        while more:
            if place == len(self._planes):
                self._planes.append(0)
            plane = self._planes[place]
            self._planes[place], more = plane ^ more, plane & more
            place += 1

    def remove(self, fewer: Bits) -> None:
        """One peer fewer holds these, that were added before."""
        place = 0
        while fewer:
            plane = self._planes[place]
            self._planes[place], fewer = plane ^ fewer, fewer & ~plane
            place += 1

    def rarest(self, candidates: Bits) -> Bits:
        """Those of the candidates that the fewest hold."""
        for plane in reversed(self._planes):
            candidates = candidates & ~plane or candidates
        return candidates


def bits_to_bytes(bits: Bits, chunk_count: int) -> bytes:
    """A set of chunks as it travels: bit n % 8 of byte n // 8 stands for chunk n."""
    return bits.to_bytes((chunk_count + 7) // 8, "little")


def bits_from_bytes(data: bytes | bytearray) -> Bits:
    """The set of chunks that `bits_to_bytes` wrote."""
    return int.from_bytes(data, "little")


def flags_of(bits: Bits, chunk_count: int) -> list[bool]:
    """A set of chunks, one by one; shifting the integer for each of many would take long."""
    data = bits_to_bytes(bits, chunk_count)
    return [bool(data[n >> 3] >> (n & 7) & 1) for n in range(chunk_count)]


def lowest(bits: Bits) -> int:
    """The first chunk of a set that has one."""
    return (bits & -bits).bit_length() - 1
