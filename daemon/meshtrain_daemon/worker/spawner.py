"""A small program that forks shims for the daemon, so that the daemon never forks itself.

It reads frames from one socket, hands each launch to an idle shim or forks a
new one, and passes orders on. Shims that are done serve again: a fork costs
more than the job's own start. With a preloaded module its shims can also run
that module's `run(argument) -> int` in a forked process, which saves the
imports (seconds, for torch).

Started by `runner.Runner` as `spawner.main()`; not a program for people.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import _socket  # The socket module proper would bring selectors, enum's users and half a megabyte.
import gc
import os
import select
import signal
import sys
from collections.abc import Callable

from meshtrain import failpoints
from meshtrain_daemon.worker import control, frames, processes
from meshtrain_daemon.worker.program import IGNORED_SIGNALS
from meshtrain_daemon.worker.shim import Shim

IDLE_SHIMS_MAX = 64
"""Idle shims kept while launches come."""
IDLE_SHIMS_AT_REST = 2
"""Idle shims kept once no launch came for `REST_AFTER_S`."""
REST_AFTER_S = 10.0

_READ_BYTES = 1 << 16
_STRAY_ROUND_S = 0.02
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_SFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_SIGSET_BYTES = 128


class Kernel:
    """The three system calls that Python has no name for."""

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)

    def adopt_orphans(self) -> None:
        """Makes this process the parent of what its descendants leave behind."""
        self._check(self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))

    def name(self, name: bytes) -> None:
        """Names this process in ps and top; at most 15 bytes."""
        self._check(self._libc.prctl(_PR_SET_NAME, name, 0, 0, 0))

    def shim_signals(self) -> int:
        """A descriptor that gives its reader the end of a child, and what `control` names."""
        signal.pthread_sigmask(signal.SIG_BLOCK, control.TAKEN)
        mask = self._ctypes.create_string_buffer(_SIGSET_BYTES)
        self._libc.sigemptyset(mask)
        for number in control.TAKEN:
            self._check(self._libc.sigaddset(mask, number))
        fd: int = self._libc.signalfd(-1, mask, _SFD_FLAGS)
        self._check(fd)
        return fd

    def _check(self, result: int) -> None:
        if result < 0:
            number = self._ctypes.get_errno()
            raise OSError(number, os.strerror(number))


class _ShimLink:
    __slots__ = ("attempt_id", "fd", "pid")

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd
        self.attempt_id: bytes | None = None


class Spawner:
    """Owns the shims. Arguments: the daemon's socket, the pipe of events, what calls run."""

    def __init__(
        self, commands_fd: int, events_fd: int, kernel: Kernel, call: Callable[[str], int] | None
    ) -> None:
        self._commands_fd = commands_fd
        self._events_fd = events_fd
        self._kernel = kernel
        self._call = call
        self._environment = dict(os.environb)
        self._environment.pop(frames.ATTEMPT_VARIABLE.encode(), None)
        self._boot_id = processes.boot_id()
        self._buffer = b""
        self._links: dict[int, _ShimLink] = {}
        self._by_attempt: dict[bytes, _ShimLink] = {}
        self._idle: list[_ShimLink] = []
        self._lost_attempts: list[bytes] = []
        self._daemon_lives = True
        self._poll = select.epoll()
        self._poll.register(commands_fd, select.EPOLLIN)

    def serve(self) -> None:
        """Serves until the daemon is gone; shims with a job go on with it alone."""
        while self._daemon_lives or self._lost_attempts:
            timeout_s = _STRAY_ROUND_S if self._lost_attempts else REST_AFTER_S
            ready = self._poll.poll(timeout_s)
            if not ready:
                self._release_idle(IDLE_SHIMS_AT_REST)
                self._reap()
            for fd, _ in ready:
                if fd == self._commands_fd:
                    self._read_commands()
                else:
                    self._hear(self._links[fd])
            if self._lost_attempts:
                self._end_strays()

    def _read_commands(self) -> None:
        data = os.read(self._commands_fd, _READ_BYTES)
        if not data:
            self._lose_daemon()
            return
        messages, self._buffer = frames.take_messages(self._buffer + data)
        for message in messages:
            if message[0] == frames.LAUNCH:
                self._launch(message)
                continue
            link = self._by_attempt.get(frames.attempt_of(message))
            if link is not None:
                self._pass_on(link, message)

    def _lose_daemon(self) -> None:
        self._daemon_lives = False
        self._poll.unregister(self._commands_fd)
        self._release_idle(0)

    def _launch(self, message: bytes) -> None:
        attempt_id = frames.attempt_of(message)
        try:
            link = self._idle.pop() if self._idle else self._fork_shim()
        except OSError as error:
            reason = f"can't fork a shim: {error.strerror}; too many processes or too little memory"
            frames.tell(self._events_fd, frames.launch_failed_line(attempt_id, reason))
            return
        try:
            os.write(link.fd, message)
        except BrokenPipeError:
            pass  # It was killed: the end of its link is read next, and tells of the loss.
        except OSError as error:
            reason = f"can't hand {len(message)} bytes to a shim: {error.strerror}; shorten the "
            reason += "command and its variables, or raise net.core.wmem_max"
            frames.tell(self._events_fd, frames.launch_failed_line(attempt_id, reason))
            self._idle.append(link)
            return
        link.attempt_id = attempt_id
        self._by_attempt[attempt_id] = link

    def _pass_on(self, link: _ShimLink, message: bytes) -> None:
        try:
            os.write(link.fd, message)
        except (BlockingIOError, BrokenPipeError):
            # Dead: its link tells so next. Full: it has orders enough to end.
            return

    def _fork_shim(self) -> _ShimLink:
        self._reap()
        own_end, shim_end = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        own_end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 2 * frames.MESSAGE_BYTES_MAX)
        own_fd, shim_fd = own_end.detach(), shim_end.detach()
        try:
            pid = os.fork()
        except OSError:
            os.close(own_fd)
            os.close(shim_fd)
            raise
        if pid == 0:
            os.close(own_fd)
            self._be_shim(shim_fd)
        os.close(shim_fd)
        os.set_blocking(own_fd, False)
        link = _ShimLink(pid, own_fd)
        self._links[own_fd] = link
        self._poll.register(own_fd, select.EPOLLIN)
        return link

    def _be_shim(self, link_fd: int) -> None:
        status = 70
        try:
            os.setsid()
            self._kernel.adopt_orphans()
            self._kernel.name(b"meshtrain-shim")
            # A shim sees the end of its spawner only when no other shim holds that end too.
            for fd in (self._commands_fd, self._poll.fileno(), *self._links):
                os.close(fd)
            Shim(
                link_fd=link_fd,
                events_fd=self._events_fd,
                environment=self._environment,
                boot_id=self._boot_id,
                signals_fd=self._kernel.shim_signals(),
                call=self._call,
            ).serve()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)

    def _hear(self, link: _ShimLink) -> None:
        try:
            told = os.read(link.fd, 64)
        except BlockingIOError:
            return
        except ConnectionResetError:
            told = b""
        if not told:
            self._bury(link)
            return
        if link.attempt_id is not None:
            del self._by_attempt[link.attempt_id]
            link.attempt_id = None
        self._idle.append(link)
        self._release_idle(IDLE_SHIMS_MAX if self._daemon_lives else 0)

    def _bury(self, link: _ShimLink) -> None:
        self._forget(link)
        if link in self._idle:
            self._idle.remove(link)
        if link.attempt_id is not None:
            del self._by_attempt[link.attempt_id]
            self._lost_attempts.append(link.attempt_id)

    def _release_idle(self, kept: int) -> None:
        while len(self._idle) > kept:
            link = self._idle.pop()
            self._forget(link)

    def _forget(self, link: _ShimLink) -> None:
        self._poll.unregister(link.fd)
        del self._links[link.fd]
        os.close(link.fd)
        try:
            # One that is stopped at this moment must hold up nobody: it is reaped later.
            os.waitpid(link.pid, os.WNOHANG)
        except ChildProcessError:
            return  # Reaped together with strays.

    def _end_strays(self) -> None:
        """Kills what killed shims left behind; tells of their attempts once nothing is left."""
        shims = frozenset(link.pid for link in self._links.values())
        strays = processes.descendants(os.getpid(), shims)
        processes.signal_all(strays, signal.SIGKILL)
        self._reap()
        if strays:
            return
        for attempt_id in self._lost_attempts:
            frames.tell(self._events_fd, b'{"type":"shim_lost","attempt_id":"%b"}\n' % attempt_id)
        self._lost_attempts.clear()

    def _reap(self) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _preload(module_name: str) -> Callable[[str], int]:
    import importlib

    module = importlib.import_module(module_name)
    module.preload()
    run: Callable[[str], int] = module.run
    if _threads_after_fork() > 1:
        raise RuntimeError(
            f"{module_name}.preload() left {_threads_after_fork() - 1} threads running, "
            "and a process with threads can't be forked safely; start none there"
        )
    return run


def _threads_after_fork() -> int:
    """The threads of this process, once libraries that stop theirs at a fork have done so."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def _be_ended_before_the_daemon() -> None:
    """Out of memory, the kernel takes jobs first: they don't inherit the daemon's protection."""
    fd = os.open("/proc/self/oom_score_adj", os.O_RDWR)
    try:
        if int(os.read(fd, 16)) < 0:
            os.pwrite(fd, b"0", 0)
    finally:
        os.close(fd)


def main() -> None:
    """Runs the spawner: `commands_fd events_fd [module]` are its arguments."""
    commands_fd, events_fd = int(sys.argv[1]), int(sys.argv[2])
    module_name = sys.argv[3] if len(sys.argv) > 3 else ""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(commands_fd, False)
    os.set_inheritable(events_fd, False)
    call = None
    try:
        failpoints.arm(os.environ)
        kernel = Kernel()
        kernel.adopt_orphans()
        kernel.name(b"meshtrain-spawn")
        _be_ended_before_the_daemon()
        if module_name:
            from meshtrain_daemon.worker.call import reserve_mark

            reserve_mark()
            call = _preload(module_name)
        spawner = Spawner(commands_fd, events_fd, kernel, call)
    except Exception as error:
        import traceback

        traceback.print_exc()
        reason = frames.json_string(f"{type(error).__name__}: {error}")
        frames.tell(events_fd, b'{"type":"refused","reason":%b}\n' % reason)
        sys.stderr.flush()
        os._exit(1)  # A thread that was left running would hold up sys.exit.
    gc.collect()
    gc.freeze()
    gc.disable()
    frames.tell(events_fd, b'{"type":"ready","pid":%d}\n' % os.getpid())
    spawner.serve()
    os._exit(0)
