"""A shim that goes on with its job though its spawner is gone: watched, and told by signals.

A process id is given out again once its process is gone. So a shim is only
ever reached through a descriptor of the process itself (pidfd_open(2)), taken
after its start time was compared with the one on record.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import select
import struct
from collections.abc import Callable

from meshtrain.errors import MeshtrainError
from meshtrain_daemon.worker import control, processes
from meshtrain_daemon.worker.launch import Started

_PIDFD_SEND_SIGNAL = 424
"""The system call's number, the same on each architecture."""
_SIGINFO_BYTES = 128


def open_shim(started: Started) -> int | None:
    """A descriptor of the shim of an attempt, or None when it is gone.

    Raises MeshtrainError where the kernel has no such descriptors.
    """
    if started.boot_id != processes.boot_id():
        return None
    try:
        pidfd = os.pidfd_open(started.shim_pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        raise MeshtrainError(
            f"can't watch process {started.shim_pid}, which supervises a job: {error.strerror}; "
            "a worker needs Linux 5.3 or later, and descriptors left to open (ulimit -n)"
        ) from error
    try:
        # Looked at after it was opened: it can't become another process any more.
        if processes.start_ticks(started.shim_pid) == started.shim_start_ticks:
            return pidfd
    except OSError:
        pass
    os.close(pidfd)
    return None


def is_over(pidfd: int, timeout_s: float = 0.0) -> bool:
    """Whether the process of a descriptor has ended, or does so within the time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def send(pidfd: int, signal_number: int, number: int = 0) -> None:
    """Sends a signal to the process of a descriptor, with a number.

    A process that is gone is no error.
    """
    # siginfo_t of a 64-bit Linux: signal, error, code, a gap, pid, uid, value.
    header = struct.pack(
        "<iiiiiIi", signal_number, 0, control.SI_QUEUE, 0, os.getpid(), os.getuid(), number
    )
    info = ctypes.create_string_buffer(header, _SIGINFO_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_PIDFD_SEND_SIGNAL, pidfd, signal_number, info, 0) < 0:
        code = ctypes.get_errno()
        if code != errno.ESRCH:
            raise OSError(code, os.strerror(code))


def end(pidfd: int, grace_s: float | None) -> None:
    """Has the shim of a descriptor end its job's tree; `grace_s` None takes its launch's."""
    if grace_s is None:
        number = control.GRACE_OF_LAUNCH
    else:
        number = 0 if grace_s <= 0 else min(int(grace_s * 1000) + 1, control.NUMBER_MAX)
    try:
        send(pidfd, control.END_WITHIN, number)
    except BlockingIOError:
        # The host's queue of signals is full (ulimit -i): one of these needs no room there.
        send(pidfd, control.END if number else control.END_AT_ONCE)


class KeptShim:
    """One such shim.

    Args:
        pidfd: from `open_shim`; this owns it from now on.
        on_over: called once, in the event loop, when the shim has ended.
    """

    def __init__(self, pidfd: int, on_over: Callable[[], None]) -> None:
        self._pidfd = pidfd
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._over)

    def end(self, grace_s: float | None) -> None:
        """Has it end its job's tree; `grace_s` None takes the grace of its launch."""
        end(self._pidfd, grace_s)

    def pass_on(self, signal_number: int) -> None:
        """Has it send a signal to its job's process group."""
        send(self._pidfd, control.PASS_ON, signal_number)

    def close(self) -> None:
        """Watch it no longer; it goes on."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _over(self) -> None:
        self.close()
        self._on_over()
