"""What a host has, and how busy it is: CPUs, memory and disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

STAT = Path("/proc/stat")
MEMORY = Path("/proc/meminfo")


def memory_bytes() -> int:
    """Main memory of the host, in bytes; 0 where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def disk_free_bytes(folder: Path) -> int:
    """Free space, in bytes, where `folder` lies; raises OSError when it isn't there."""
    return shutil.disk_usage(folder).free


class CpuMeter:
    """Measures how busy the host's CPUs are; reading it takes some microseconds.

    Args:
        stat: where the kernel counts their time, as proc(5) tells.
    """

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._last = self._ticks()

    def share(self) -> float | None:
        """Share of all CPUs in use since it was asked last, 0 to 1; None where nobody counts."""
        last, now = self._last, self._ticks()
        self._last = now
        if last is None or now is None or now[1] <= last[1]:
            return None
        return min(max((now[0] - last[0]) / (now[1] - last[1]), 0.0), 1.0)

    def _ticks(self) -> tuple[int, int] | None:
        """Time in use and all time, since the host came up."""
        try:
            with self._stat.open("rb") as file:
                fields = [int(field) for field in file.readline().split()[1:9]]
            # Waiting for a disk leaves a CPU free; of what guests use, user has it already.
            return sum(fields) - fields[3] - fields[4], sum(fields)
        except (OSError, ValueError, IndexError):
            return None


def memory_used_bytes(meminfo: Path = MEMORY) -> int:
    """Main memory that could not be given to a new program; 0 where the system doesn't tell."""
    found: dict[bytes, int] = {}
    try:
        with meminfo.open("rb") as file:
            for line in file.readlines(4096):
                name, _, told = line.partition(b":")
                if name in (b"MemTotal", b"MemAvailable"):
                    found[name] = int(told.split()[0]) << 10
        return max(0, found[b"MemTotal"] - found[b"MemAvailable"])
    except (OSError, ValueError, IndexError, KeyError):
        return 0
