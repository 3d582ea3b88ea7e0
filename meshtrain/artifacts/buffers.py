"""Memory that chunks come into, used again: fresh memory costs as much as the copy it saves."""

from __future__ import annotations

BUFFERS_KEPT_MAX = 32
_ROUND_BYTES = 64 << 10
"""Chunks of about one size share buffers."""


class Buffers:
    """Buffers of one fetcher. Belongs to one event loop.

    Args:
        kept_max: buffers kept while nobody uses them.
    """

    def __init__(self, kept_max: int = BUFFERS_KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._free: list[bytearray] = []

    def take(self, size_bytes: int) -> memoryview:
        """Memory of a size; what it holds is of no meaning."""
        for index, buffer in enumerate(self._free):
            if len(buffer) >= size_bytes:
                del self._free[index]
                return memoryview(buffer)[:size_bytes]
        rounded = -(-size_bytes // _ROUND_BYTES) * _ROUND_BYTES
        return memoryview(bytearray(rounded))[:size_bytes]

    def give_back(self, view: memoryview) -> None:
        """Gives back what `take` gave, once nothing uses it any more."""
        buffer = view.obj
        assert isinstance(buffer, bytearray)
        if len(self._free) < self._kept_max:
            self._free.append(buffer)
