"""What the figures were taken on, and how busy that machine was."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from peers.process_tree import cpu_s

_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "devtmpfs"}
_FSYNC_SAMPLES = 50
_FSYNC_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Machine:
    """The host, as far as it bears on the figures."""

    cores: int
    cpu: str
    kernel: str
    python: str
    scratch_file_system: str
    fdatasync_ms: float
    """Median of a 4 KiB append and fdatasync on the scratch disk: what durability costs."""


def file_system_of(path: Path) -> str:
    """The type of the file system that holds `path`."""
    best, found = -1, "unknown"
    resolved = str(path.resolve())
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = line.split()
        inside = resolved == mount_point or resolved.startswith(mount_point.rstrip("/") + "/")
        # Of two mounts on one point, the later hides the earlier.
        if inside and len(mount_point) >= best:
            best, found = len(mount_point), kind
    return found


def keeps_nothing(file_system: str) -> bool:
    """Whether an fsync there costs nothing, which would flatter whoever is durable."""
    return file_system in _MEMORY_FILE_SYSTEMS


def _fdatasync_ms(folder: Path) -> float:
    path = folder / "fdatasync"
    samples = []
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        for index in range(_FSYNC_SAMPLES):
            begin_s = time.monotonic()
            os.pwrite(fd, b"x" * _FSYNC_BYTES, index * _FSYNC_BYTES)
            os.fdatasync(fd)
            samples.append((time.monotonic() - begin_s) * 1000)
    finally:
        os.close(fd)
        path.unlink()
    return statistics.median(samples)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def describe(scratch: Path) -> Machine:
    """Reads this host; `scratch` is where the durable systems will write."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=_cpu_name(),
        kernel=platform.release(),
        python=platform.python_version(),
        scratch_file_system=file_system_of(scratch),
        fdatasync_ms=_fdatasync_ms(scratch),
    )


def _busy_and_all_ticks() -> tuple[int, int]:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


class OthersMeter:
    """How many cores everyone else on the host uses, beside this process and all it starts."""

    def __init__(self) -> None:
        self._begin_s = time.monotonic()
        self._begin_busy_s, self._begin_own_s = _busy_s(), cpu_s(os.getpid())

    def cores(self) -> float:
        """The mean since it was made.

        To be read while what was started still runs: what a system leaves unreaped when it
        stops would be counted as others'.
        """
        busy_s = _busy_s() - self._begin_busy_s
        own_s = cpu_s(os.getpid()) - self._begin_own_s
        return max(0.0, busy_s - own_s) / (time.monotonic() - self._begin_s)


def _busy_s() -> float:
    return _busy_and_all_ticks()[0] / os.sysconf("SC_CLK_TCK")


def wait_idle(busy_share_max: float, timeout_s: float, sample_s: float = 0.5) -> float:
    """Waits until the host's cores are mostly idle; returns the busy share at the end, 0 to 1."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        busy_before, all_before = _busy_and_all_ticks()
        time.sleep(sample_s)
        busy_after, all_after = _busy_and_all_ticks()
        share = (busy_after - busy_before) / max(1, all_after - all_before)
        if share <= busy_share_max or time.monotonic() >= deadline_s:
            return share
