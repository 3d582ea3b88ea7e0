"""Starts a job's program with nothing of the shim's own: signals, descriptors, environment.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import errno
import os
import signal

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
"""What a service manager or a terminal sends to everything; a shim ends by word only."""
RESET_SIGNALS = (*IGNORED_SIGNALS, signal.SIGPIPE, signal.SIGXFSZ)
"""What the shim or Python ignores, and a job must not inherit."""
PATH_DEFAULT = b"/usr/local/bin:/usr/bin:/bin"


class LaunchRefused(Exception):  # noqa: N818
    """Raised when a job can't be started; the message says why and what to mend."""


def spawn(arguments: list[bytes], environment: dict[bytes, bytes], log_fd: int) -> int:
    """Starts a program in a process group of its own, its output going to `log_fd`.

    Returns its process id. Raises LaunchRefused when it isn't there or can't run.
    """
    program = find_program(arguments[0], environment.get(b"PATH", PATH_DEFAULT))
    try:
        return _posix_spawn(program, arguments, environment, log_fd)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise LaunchRefused(told("can't run", program, error)) from error
    try:
        # A script without a first line that names its interpreter, as a shell runs it.
        return _posix_spawn(b"/bin/sh", [b"sh", program, *arguments[1:]], environment, log_fd)
    except OSError as error:
        raise LaunchRefused(told("can't run", b"/bin/sh", error)) from error


def _posix_spawn(
    program: bytes, arguments: list[bytes], environment: dict[bytes, bytes], log_fd: int
) -> int:
    return os.posix_spawn(
        program,
        arguments,
        environment,
        file_actions=((os.POSIX_SPAWN_DUP2, log_fd, 1), (os.POSIX_SPAWN_DUP2, log_fd, 2)),
        setpgroup=0,
        setsigmask=(),
        setsigdef=RESET_SIGNALS,
    )


def find_program(name: bytes, search_path: bytes) -> bytes:
    """The path of a program, as a shell finds it. Raises LaunchRefused."""
    if b"/" in name:
        return name
    if not name:
        raise LaunchRefused("can't run an empty command; give a program")
    unfit = None
    for folder in search_path.split(b":"):
        candidate = (folder or b".") + b"/" + name
        if os.access(candidate, os.X_OK):
            return candidate
        if unfit is None and os.access(candidate, os.F_OK):
            unfit = candidate
    if unfit is not None:
        raise LaunchRefused(f"can't run {_shown(unfit)}: it is not executable; chmod +x it")
    raise LaunchRefused(
        f"command not found: {_shown(name)}; install it on this node or give its full path"
    )


def told(what: str, subject: bytes, error: OSError) -> str:
    """What failed on what, why, and what to look at."""
    mend = {
        errno.ENOENT: "it doesn't exist on this node",
        errno.EACCES: "check its permissions and that it is a program",
        errno.E2BIG: "its arguments or environment are too long",
        errno.EAGAIN: "the limit on processes is reached (ulimit -u)",
        errno.ENOMEM: "the node is out of memory",
        errno.ENOSPC: "the disk is full",
    }.get(error.errno or 0)
    reason = f"{what} {_shown(subject)}: {os.strerror(error.errno or 0)}"
    return f"{reason}; {mend}" if mend else reason


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
