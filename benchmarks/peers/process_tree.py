"""What a process and all that it started are doing, read from /proc."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_REST_POLL_S = 0.25
_REST_POLLS = 3


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets, and may hold blanks and brackets.
    return text[text.rindex(")") + 2 :].split()


def descendants(root: int) -> list[int]:
    """The pids of all processes below `root`, parents before their children."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))) is not None:
            children[int(fields[1])].append(int(entry.name))
    found: list[int] = []
    frontier = [root]
    while frontier:
        frontier = [child for parent in frontier for child in children[parent]]
        found += frontier
    return found


def cpu_s(root: int) -> float:
    """CPU seconds of `root` and its living descendants, children that they reaped included."""
    total_ticks = 0
    for pid in [root, *descendants(root)]:
        fields = _stat_fields(pid)
        if fields is not None:
            total_ticks += sum(int(field) for field in fields[11:15])
    return total_ticks / _TICKS_PER_S


def wait_at_rest(root: int, timeout_s: float, busy_cores_max: float = 0.15) -> bool:
    """Returns True once `root` and its descendants use less than `busy_cores_max` cores.

    False when they are still busier than that after `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    calm = 0
    before_s, before_cpu_s = time.monotonic(), cpu_s(root)
    while time.monotonic() < deadline_s:
        time.sleep(_REST_POLL_S)
        now_s, now_cpu_s = time.monotonic(), cpu_s(root)
        calm = calm + 1 if now_cpu_s - before_cpu_s < busy_cores_max * (now_s - before_s) else 0
        if calm == _REST_POLLS:
            return True
        before_s, before_cpu_s = now_s, now_cpu_s
    return False
