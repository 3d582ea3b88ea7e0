"""How a shim starts its job: its log, folder, environment, cgroup and account.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from meshtrain_daemon.worker.order import Order
from meshtrain_daemon.worker.program import RESET_SIGNALS, LaunchRefused, spawn, told


def start_job(
    order: Order,
    inherited: dict[bytes, bytes],
    *,
    call: Callable[[str], int] | None,
    close_fds: tuple[int, ...],
) -> int:
    """Starts the job and returns the id of its main process.

    Arguments: `inherited` is the environment that the order's is added to;
    `close_fds` what a job that is forked must not keep. Raises LaunchRefused.
    """
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        log_fd = os.open(order.log_path, flags, 0o644)
        os.set_blocking(log_fd, True)
    except OSError as error:
        raise LaunchRefused(told("can't open the log", order.log_path, error)) from error
    try:
        try:
            os.chdir(order.cwd)
        except OSError as error:
            raise LaunchRefused(told("can't enter the working folder", order.cwd, error)) from error
        environment = inherited.copy()
        for entry in order.environment:
            name, _, value = entry.partition(b"=")
            environment[name] = value
        if order.cgroup:
            return _start_in_cgroup(order, environment, log_fd, call, close_fds)
        return _start(order, environment, log_fd, call, close_fds)
    finally:
        os.close(log_fd)


def _start_in_cgroup(
    order: Order,
    environment: dict[bytes, bytes],
    log_fd: int,
    call: Callable[[str], int] | None,
    close_fds: tuple[int, ...],
) -> int:
    """A process begins in the cgroup of the one that made it: the shim goes there and back."""
    from meshtrain_daemon.worker import cgroup

    folder = order.cgroup
    try:
        cgroup.enter(folder)
    except OSError as error:
        print(told("can't use a cgroup", folder, error), file=sys.stderr)
        cgroup.remove(folder)
        order.cgroup = b""
        return _start(order, environment, log_fd, call, close_fds)
    try:
        return _start(order, environment, log_fd, call, close_fds)
    except LaunchRefused:
        order.cgroup = b""
        raise
    finally:
        try:
            cgroup.leave(folder)
        except OSError as error:
            # The shim is in it: it must never be killed as a whole.
            print(told("can't leave a cgroup", folder, error), file=sys.stderr)
            order.cgroup = b""
        else:
            if not order.cgroup:
                cgroup.remove(folder)


def _start(
    order: Order,
    environment: dict[bytes, bytes],
    log_fd: int,
    call: Callable[[str], int] | None,
    close_fds: tuple[int, ...],
) -> int:
    if order.is_call:
        return _fork_call(order, environment, log_fd, call, close_fds)
    if order.account:
        from meshtrain_daemon.worker.account import Account, spawn_as

        account = Account(order.account)
        return spawn_as(account, order.arguments, environment, log_fd, order.cwd)
    return spawn(order.arguments, environment, log_fd)


def _fork_call(
    order: Order,
    environment: dict[bytes, bytes],
    log_fd: int,
    called: Callable[[str], int] | None,
    close_fds: tuple[int, ...],
) -> int:
    if called is None:
        raise LaunchRefused("this spawner has nothing preloaded to call; launch a command")
    from meshtrain_daemon.worker import call

    try:
        pid = os.fork()
    except OSError as error:
        raise LaunchRefused(told("can't fork for", b"the call", error)) from error
    if pid == 0:
        call.run_and_exit(
            called,
            order.arguments[0].decode("utf-8", "surrogateescape"),
            environment,
            log_fd=log_fd,
            close_fds=close_fds,
            reset_signals=RESET_SIGNALS,
            account=order.account,
        )
    try:
        os.setpgid(pid, pid)
    except OSError:
        return pid  # The job did it first, or has ended.
    return pid
