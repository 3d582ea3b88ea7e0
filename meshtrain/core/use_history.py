"""How busy each host was a while ago, for lines that show it; a byte a reading."""

from __future__ import annotations

from meshtrain.core.node import HostUse

READINGS_KEPT = 60
UNKNOWN = 255
"""A reading that the driver, or the system, did not tell."""


class UseHistory:
    """The last readings of one host."""

    __slots__ = ("cpu", "gpus", "memory", "memory_bytes")

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        #: per cent, the newest last; UNKNOWN where it wasn't told
        self.cpu = bytearray()
        self.memory = bytearray()
        #: GPU → its use in per cent, the newest last
        self.gpus: dict[int, bytearray] = {}

    def add(self, use: HostUse) -> None:
        """Take in a reading."""
        memory = use.memory_used_bytes / self.memory_bytes if self.memory_bytes else None
        _add(self.cpu, use.cpu)
        _add(self.memory, memory)
        for gpu in use.gpus:
            _add(self.gpus.setdefault(gpu.index, bytearray()), gpu.used)


def _add(readings: bytearray, share: float | None) -> None:
    readings.append(UNKNOWN if share is None else round(100 * min(max(share, 0.0), 1.0)))
    del readings[:-READINGS_KEPT]
