"""The locks that keep two jobs of one host off the same GPU, whichever daemon started them.

A file for each GPU lies in a folder that all daemons of the host share. A shim
locks it before its job starts, and until nothing of the job lives. The kernel
drops the lock of a shim that is killed. A file says who locked it last.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from meshtrain_daemon.worker.program import LaunchRefused, told

TRY_AGAIN_S = 0.05
FOLDER_MODE = 0o1777
"""Everybody's, as the temporary folder is: daemons may run as different users."""
_FILE_MODE = 0o666
_HOLDER_BYTES_MAX = 300


def lock_gpus(
    paths: list[bytes], holder: bytes, *, wait_s: float, pause: Callable[[float], None]
) -> list[int]:
    """Locks all these files and returns their descriptors, which no job inherits.

    Arguments: `holder` what others are told while the locks are held; `wait_s`
    how long they may stay another's; `pause` waits so many seconds, and may
    raise to give up. Raises LaunchRefused, naming the holder.
    """
    import fcntl

    held: list[int] = []
    give_up_at_s = time.monotonic() + wait_s
    try:
        # Always in one order: two jobs that want the same two never wait for each other.
        for path in sorted(paths):
            fd = _open(path)
            held.append(fd)
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= give_up_at_s:
                        raise LaunchRefused(_in_use(path, fd, wait_s)) from None
                pause(TRY_AGAIN_S)
            os.ftruncate(fd, 0)
            os.pwrite(fd, holder[:_HOLDER_BYTES_MAX], 0)
    except OSError as error:
        release(held)
        raise LaunchRefused(told("can't get GPU lock", paths[0], error)) from error
    except BaseException:
        release(held)
        raise
    return held


def release(held: list[int]) -> None:
    """Lets go of locks."""
    while held:
        os.close(held.pop())


def _open(path: bytes) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # Without O_CREAT: in a folder that is everybody's, Linux refuses it on others' files.
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    folder = path[: path.rindex(b"/")]
    try:
        os.mkdir(folder)  # noqa: PTH102
        os.chmod(folder, FOLDER_MODE)  # noqa: PTH101
    except FileExistsError:
        pass
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(fd, _FILE_MODE)
    return fd


def _in_use(path: bytes, fd: int, wait_s: float) -> str:
    holder = os.pread(fd, _HOLDER_BYTES_MAX, 0).decode("utf-8", "replace").strip()
    name = path[path.rindex(b"/") + 1 :].removesuffix(b".lock").decode("utf-8", "replace")
    return (
        f"can't get GPU {name.removeprefix('gpu-')}: after {wait_s:g} s it was still held by "
        f"{holder or 'another process'}; give each daemon on this host GPUs of its own (setting "
        "gpus), or end what holds it"
    )
