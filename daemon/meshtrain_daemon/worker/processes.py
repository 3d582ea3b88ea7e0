"""What /proc tells about processes: parents, start times, marks in their environment.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import os


def boot_id() -> str:
    """The id of this boot of the host; process ids and start times count within it."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
        return file.read().strip()


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since the boot (field 22 of its stat).

    Raises OSError when there is no such process.
    """
    return int(_stat_fields(pid)[19])


def descendants(root_pid: int, apart_from: frozenset[int] = frozenset()) -> list[int]:
    """The living processes below `root_pid`, without the subtrees of `apart_from`.

    Zombies are left out, for they hold nothing and no signal reaches them; what
    is below a zombie was given another parent.
    """
    children: dict[int, list[int]] = {}
    zombies: set[int] = set()
    for pid in _pids():
        try:
            fields = _stat_fields(pid)
        except OSError:
            continue
        if fields[0] in (b"Z", b"X"):
            zombies.add(pid)
        children.setdefault(int(fields[1]), []).append(pid)
    found: list[int] = []
    waiting = [root_pid]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid in apart_from:
                continue
            if pid not in zombies:
                found.append(pid)
            waiting.append(pid)
    return found


def was_below(pid: int, root_pid: int) -> bool:
    """Whether a process is below `root_pid`, a zombie too; one that is gone counts as such."""
    at = pid
    missed = 0
    while at > 1 and at != root_pid:
        try:
            at = int(_stat_fields(at)[1])
        except OSError:
            if at == pid:
                return True
            if at == missed:
                return False  # It lives, and isn't shown (hidepid): another account's.
            # Its parent ended in this moment, and it was given another.
            missed, at = at, pid
    return at == root_pid


def marked(entry: bytes) -> list[int]:
    """The living processes that were started with `entry` (`NAME=value`) in their environment."""
    own_pid = os.getpid()
    found: list[int] = []
    for pid in _pids():
        if pid == own_pid:
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
                if entry in file.read().split(b"\0"):
                    found.append(pid)
        except OSError:
            continue
    return found


def marks_found(entries: frozenset[bytes]) -> list[bytes]:
    """Which of these entries (`NAME=value`) are in the environment of a living process."""
    found: dict[bytes, None] = {}
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
                found.update(dict.fromkeys(entries.intersection(file.read().split(b"\0"))))
        except OSError:
            continue
    return list(found)


def signal_all(pids: list[int], signal_number: int) -> None:
    """Sends a signal to each process that is still there and may be signalled."""
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except (ProcessLookupError, PermissionError):
            continue


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _stat_fields(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third (state) on; a name may hold anything."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    try:
        text = os.read(fd, 2048)
    finally:
        os.close(fd)
    if not text:
        raise ProcessLookupError(pid)
    return text[text.rindex(b")") + 2 :].split()
