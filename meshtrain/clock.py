"""The two clocks of a process: one for durations and leases, one for people."""

from __future__ import annotations

import time

_LEASE_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lease_now_s() -> float:
    """Seconds on a clock that never jumps and, on Linux, runs on through suspend."""
    return time.clock_gettime(_LEASE_CLOCK)


def wall_now_s() -> float:
    """Seconds since 1970 as the host believes; for display and records only."""
    return time.time()
