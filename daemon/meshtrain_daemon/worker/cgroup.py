"""A cgroup for each attempt, where systemd has delegated one to the daemon (cgroup v2).

The job is in it from its first instruction, and so is all that it starts: one
write ends the lot, also when a fork bomb outruns the walk through /proc, and
when the shim that watched it was killed. Without one, the shim's place above
its job (a subreaper) and the mark in the environment do.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import os
import time

PREFIX = "meshtrain-"
MOUNTS_FILE = "/proc/self/mounts"
OWN_FILE = "/proc/self/cgroup"
_PROCS = b"/cgroup.procs"
_DELEGATED = ("user.delegate", "trusted.delegate")
_REMOVE_WITHIN_S = 2.0
_LOOK_AGAIN_S = 0.01


def delegated_folder(mounts: str = MOUNTS_FILE, own: str = OWN_FILE) -> str | None:
    """The folder of this process's own cgroup, if cgroups may be made below it.

    Systemd marks what it delegates; where it runs as somebody else than root,
    to be allowed to write says it too. The root of all cgroups is nobody's.
    """
    try:
        root = _mount_point(mounts)
        inside = _own_path(own)
    except OSError:
        return None
    if root is None or inside in (None, "/"):
        return None
    folder = f"{root}{inside}"
    if not (os.access(folder, os.W_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK)):
        return None
    if os.geteuid() != 0 or any(_is_set(folder, name) for name in _DELEGATED):
        return folder
    return None


def path_for(root: str, attempt_id: str) -> str:
    """The folder of an attempt's cgroup."""
    return f"{root}/{PREFIX}{attempt_id}"


def enter(folder: bytes) -> None:
    """Makes an attempt's cgroup and moves this process into it. Raises OSError."""
    if not os.path.isdir(folder):  # noqa: PTH112
        os.mkdir(folder)  # noqa: PTH102
    _write(folder + _PROCS, b"0")


def leave(folder: bytes) -> None:
    """Moves this process back to the cgroup above. Raises OSError."""
    _write(folder[: folder.rindex(b"/")] + _PROCS, b"0")


def kill(folder: bytes) -> None:
    """Sends SIGKILL to all that is in a cgroup, at once; fine when it isn't there."""
    try:
        _write(folder + b"/cgroup.kill", b"1")
    except OSError:
        # Linux before 5.14 has no such file: what is listed gets the signal.
        _kill_listed(folder)


def remove(folder: bytes) -> None:
    """Removes a cgroup, killing what is still in it; gives up on what no signal ends."""
    give_up_at_s = time.monotonic() + _REMOVE_WITHIN_S
    while True:
        try:
            os.rmdir(folder)  # noqa: PTH106
            return
        except OSError:
            if not os.path.isdir(folder) or time.monotonic() >= give_up_at_s:  # noqa: PTH112
                return
        kill(folder)
        time.sleep(_LOOK_AGAIN_S)


def remove_others(root: str, attempt_ids: list[str]) -> None:
    """Ends and removes the attempts' cgroups that are none of these: a crash left them."""
    kept = {path_for(root, attempt_id) for attempt_id in attempt_ids}
    try:
        found = [f"{root}/{name}" for name in os.listdir(root) if name.startswith(PREFIX)]  # noqa: PTH208
    except OSError:
        return
    for folder in found:
        if folder not in kept:
            kill(os.fsencode(folder))
            remove(os.fsencode(folder))


def _kill_listed(folder: bytes) -> None:
    from meshtrain_daemon.worker import processes

    try:
        with open(folder + _PROCS, "rb") as file:  # noqa: PTH123
            pids = [int(line) for line in file.read().split()]
    except (OSError, ValueError):
        return
    processes.signal_all([pid for pid in pids if pid > 0], 9)


def _write(path: bytes, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def _mount_point(mounts: str) -> str | None:
    with open(mounts, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        for line in file:
            fields = line.split()
            if len(fields) > 2 and fields[2] == "cgroup2":
                return fields[1]
    return None


def _own_path(own: str) -> str | None:
    with open(own, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("0::/"):
                return line[3:].rstrip("\n")
    return None


def _is_set(folder: str, name: str) -> bool:
    try:
        return os.getxattr(folder, name) == b"1"
    except OSError:
        return False
