"""The process above one job: starts it, waits for all of its tree, records how it ended.

A shim is forked by the spawner and gets its orders over a link of its own. It
is a subreaper, so each process that the job leaves behind becomes its child,
and "no child left" means that nothing of the job lives. It then writes the
exit status to disk, tells the daemon, and may serve the next launch.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import time
from collections.abc import Callable

from meshtrain_daemon.worker import frames, processes
from meshtrain_daemon.worker.order import Order
from meshtrain_daemon.worker.program import RESET_SIGNALS, LaunchRefused, spawn, told
from meshtrain_daemon.worker.tree import Tree

IDLE = b"i"

_SIGNAL_RECORD_BYTES = 128
_LINK_BYTES_MAX = frames.MESSAGE_BYTES_MAX + 1
_HELPLESS_RETRIES_MAX = 60


class Shim:
    """Serves launches one after the other until its link is closed.

    Arguments: `link_fd` the shim's end of its link; `events_fd` the pipe to the
    daemon; `environment` what each job inherits; `boot_id` of this boot;
    `child_signals_fd` a signalfd for SIGCHLD, which must be blocked; `call` what
    a launch by call runs in the forked process, or None.
    """

    def __init__(
        self,
        *,
        link_fd: int,
        events_fd: int,
        environment: dict[bytes, bytes],
        boot_id: str,
        child_signals_fd: int,
        call: Callable[[str], int] | None,
    ) -> None:
        self._link_fd = link_fd
        self._events_fd = events_fd
        self._environment = environment
        self._boot_id = boot_id.encode()
        self._child_signals_fd = child_signals_fd
        self._call = call
        self._pid = os.getpid()
        self._spawner_lives = True
        self._poll = select.poll()
        self._poll.register(link_fd, select.POLLIN)
        self._poll.register(child_signals_fd, select.POLLIN)

    def serve(self) -> None:
        """Runs launch after launch; returns when the spawner closed the link or died."""
        while self._spawner_lives:
            message = self._read_link()
            if not message:
                return
            if message[0] == frames.LAUNCH:
                self._run(Order(message))
                if self._spawner_lives:
                    try:
                        os.write(self._link_fd, IDLE)
                    except BrokenPipeError:
                        return

    def _run(self, order: Order) -> None:
        started_wall_s = time.time()
        started_s = time.monotonic()
        try:
            pid = self._start(order)
        except LaunchRefused as refusal:
            line = frames.launch_failed_line(order.attempt_id, str(refusal))
        else:
            self._record_start(order, pid, started_wall_s)
            tree = Tree(order, pid, started_s, hear=self._hear)
            tree.wait_until_empty()
            line = tree.exit_line(started_wall_s)
        os.chdir("/")
        self._record_exit(order.folder, line)

    # Starting

    def _start(self, order: Order) -> int:
        try:
            log_fd = os.open(order.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise LaunchRefused(told("can't open the log", order.log_path, error)) from error
        try:
            try:
                os.chdir(order.cwd)
            except OSError as error:
                raise LaunchRefused(
                    told("can't enter the working folder", order.cwd, error)
                ) from error
            environment = self._environment.copy()
            for entry in order.environment:
                name, _, value = entry.partition(b"=")
                environment[name] = value
            if order.is_call:
                return self._fork_call(self._call, order, environment, log_fd)
            return spawn(order.arguments, environment, log_fd)
        finally:
            os.close(log_fd)

    def _fork_call(
        self,
        called: Callable[[str], int] | None,
        order: Order,
        environment: dict[bytes, bytes],
        log_fd: int,
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
                close_fds=(self._link_fd, self._events_fd, self._child_signals_fd),
                reset_signals=RESET_SIGNALS,
            )
        try:
            os.setpgid(pid, pid)
        except OSError:
            return pid  # The job did it first, or has ended.
        return pid

    def _record_start(self, order: Order, pid: int, started_wall_s: float) -> None:
        line = (
            b'{"type":"started","attempt_id":"%b","pid":%d,"shim_pid":%d,"start_ticks":%d,'
            b'"boot_id":"%b","started_at_s":%.6f}\n'
            % (
                order.attempt_id,
                pid,
                self._pid,
                processes.start_ticks(pid),
                self._boot_id,
                started_wall_s,
            )
        )
        try:
            _write(order.folder + b"/" + frames.STARTED_FILE.encode(), line)
        except OSError as error:
            # The job runs; its record only helps a later daemon to find it.
            print(told("can't record a start", order.folder, error), file=sys.stderr)
        frames.tell(self._events_fd, line)

    # Ending

    def _record_exit(self, folder: bytes, line: bytes) -> None:
        path = folder + b"/" + frames.EXIT_FILE.encode()
        for tries in range(_HELPLESS_RETRIES_MAX):
            try:
                _write(path, line)
                break
            except OSError as error:
                if not tries:
                    print(told("can't record an exit", folder, error), file=sys.stderr)
                if self._spawner_lives:
                    break  # The event brings the status to a daemon that is there.
                time.sleep(1)
        frames.tell(self._events_fd, line)

    def _hear(self, timeout_s: float | None) -> list[bytes]:
        """Waits for a child's end or orders; returns the orders."""
        timeout_ms = None if timeout_s is None else max(0, int(timeout_s * 1000) + 1)
        messages = []
        for fd, _ in self._poll.poll(timeout_ms):
            if fd == self._child_signals_fd:
                os.read(fd, _SIGNAL_RECORD_BYTES)
                continue
            message = self._read_link()
            if not message:
                self._spawner_lives = False
                self._poll.unregister(fd)
                message = frames.end_message(b"", None, frames.CAUSE_SPAWNER_LOST)
            messages.append(message)
        return messages

    def _read_link(self) -> bytes:
        """The next order, or nothing once the spawner is gone."""
        try:
            return os.read(self._link_fd, _LINK_BYTES_MAX)
        except ConnectionResetError:
            return b""


def _write(path: bytes, line: bytes) -> None:
    """Writes a record, whole or not at all as far as this process can be killed.

    Records are of one size and written in one call, over what an earlier
    attempt may have left: a file system that gives out few inodes at a high
    rate is slow to give out more.
    """
    if len(line) > frames.RECORD_BYTES:
        _write_long(path, line)
        return
    record = line.rstrip(b"\n").ljust(frames.RECORD_BYTES - 1) + b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        if os.pwrite(fd, record, 0) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def _write_long(path: bytes, line: bytes) -> None:
    fd = os.open(path + b".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        if os.write(fd, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)
    os.replace(path + b".tmp", path)  # noqa: PTH105
