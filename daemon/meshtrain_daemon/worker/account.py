"""Starts a job's program as another account than the daemon's own.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import NoReturn

from meshtrain_daemon.worker import program

_REASON_BYTES_MAX = 4096


class Account:
    """The ids that a job runs with, as its launch names them: `uid:gid:group,group`."""

    __slots__ = ("gid", "groups", "uid")

    def __init__(self, text: bytes) -> None:
        uid, gid, groups = text.split(b":")
        self.uid = int(uid)
        self.gid = int(gid)
        self.groups = [int(group) for group in groups.split(b",") if group]

    def take(self) -> None:
        """Makes this process one of the account, for good. Raises OSError."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


def spawn_as(
    account: Account,
    arguments: list[bytes],
    environment: dict[bytes, bytes],
    log_fd: int,
    cwd: bytes,
) -> int:
    """Starts a program as `program.spawn` does, with the ids of an account.

    Returns its process id. Raises LaunchRefused when it isn't there or can't run.
    """
    reason_fd, told_fd = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reason_fd)
        os.close(told_fd)
        raise program.LaunchRefused(program.told("can't fork for", arguments[0], error)) from error
    if pid == 0:
        _run(account, arguments, environment, log_fd, cwd, told_fd)
    os.close(told_fd)
    _set_group(pid)
    # The other end closes when the program begins.
    reason = os.read(reason_fd, _REASON_BYTES_MAX)
    os.close(reason_fd)
    if reason:
        os.waitpid(pid, 0)
        raise program.LaunchRefused(reason.decode("utf-8", "replace"))
    return pid


def _set_group(pid: int) -> None:
    try:
        os.setpgid(pid, pid)
    except OSError:
        return  # The job did it first, or has ended.


def _run(
    account: Account,
    arguments: list[bytes],
    environment: dict[bytes, bytes],
    log_fd: int,
    cwd: bytes,
    told_fd: int,
) -> NoReturn:
    reason = "can't start the job"
    try:
        os.setpgid(0, 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        for number in program.RESET_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        account.take()
        reason = _become(arguments, environment, cwd)
    except OSError as error:
        reason = program.told("can't become user", b"%d" % account.uid, error)
    finally:
        os.write(told_fd, reason.encode("utf-8", "replace")[:_REASON_BYTES_MAX])
        os._exit(127)


def _become(arguments: list[bytes], environment: dict[bytes, bytes], cwd: bytes) -> str:
    """Runs the program in place of this process; returns only when it can't, with the reason."""
    try:
        os.chdir(cwd)
    except OSError as error:
        return program.told("its user can't enter the working folder", cwd, error)
    search_path = environment.get(b"PATH", program.PATH_DEFAULT)
    try:
        found = program.find_program(arguments[0], search_path)
    except program.LaunchRefused as refusal:
        return str(refusal)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execve(found, arguments, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            return program.told("can't run", found, error)
    try:
        # A script without a first line that names its interpreter, as a shell runs it.
        os.execve(b"/bin/sh", [b"sh", found, *arguments[1:]], environment)
    except OSError as error:
        return program.told("can't run", b"/bin/sh", error)
