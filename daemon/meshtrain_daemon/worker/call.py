"""What a forked process does to run a preloaded function as a job.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from meshtrain_daemon.worker import frames


def run_and_exit(
    call: Callable[[str], int],
    argument: str,
    environment: dict[bytes, bytes],
    *,
    log_fd: int,
    close_fds: tuple[int, ...],
    reset_signals: tuple[int, ...],
    account: bytes = b"",
) -> NoReturn:
    """Turns this forked process into a job that is like one started by exec, and never returns.

    Its exit code is what `call(argument)` returns; an exception is written to
    the log with its traceback and gives 1.
    """
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        for fd in (log_fd, *close_fds):
            os.close(fd)
        for number in reset_signals:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.environb.clear()
        os.environb.update(environment)
        _show_mark(environment)
        if account:
            from meshtrain_daemon.worker.account import Account

            Account(account).take()
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        gc.enable()
        code = call(argument)
    except SystemExit as exit_asked:
        if isinstance(exit_asked.code, int):
            code = exit_asked.code
        elif exit_asked.code is None:
            code = 0
        else:
            print(exit_asked.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code & 0xFF)


_PR_SET_NAME = 15

_mark_address = 0


def reserve_mark() -> None:
    """Remembers where the spawner's own environment holds room for an attempt's mark.

    /proc/PID/environ shows the memory that a program was started with, and a
    forked job has no start of its own: it writes its mark into that memory, so
    that orphans of either kind are found in the same way. Must run before the
    environment is changed.
    """
    import ctypes

    global _mark_address
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    address = getenv(frames.ATTEMPT_VARIABLE.encode())
    if os.environ.get(frames.ATTEMPT_VARIABLE, "") == mark_room():
        _mark_address = address or 0


def mark_room() -> str:
    """The value that the daemon gives the variable in a spawner that serves calls."""
    return "-" * frames.MARK_LEN_MAX


def _show_mark(environment: dict[bytes, bytes]) -> None:
    if not _mark_address:
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"meshtrain-job", 0, 0, 0)
    mark = environment.get(frames.ATTEMPT_VARIABLE.encode(), b"")
    ctypes.memmove(
        _mark_address,
        mark.ljust(frames.MARK_LEN_MAX, b"\0"),
        frames.MARK_LEN_MAX,
    )
