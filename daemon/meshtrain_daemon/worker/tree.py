"""All processes of one job: waits for them, ends them, and tells how it went.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from meshtrain_daemon.worker import frames, processes
from meshtrain_daemon.worker.order import Order

KILL_AGAIN_S = 0.05
"""How often SIGKILL is sent again to what still lives (a tree may grow while it is killed)."""


class Tree:
    """All processes of one job, from its start until none is left.

    Arguments: `pid` of the job's main process, a child of this one; `started_s`
    when it started (monotonic); `hear` waits up to so many seconds for a child's
    end or for orders, and returns the orders.
    """

    def __init__(
        self,
        order: Order,
        pid: int,
        started_s: float,
        *,
        hear: Callable[[float | None], list[bytes]],
    ) -> None:
        self._hear = hear
        self._order = order
        self._pid = pid
        self._started_s = started_s
        self._cause = frames.CAUSE_FINISHED
        self._status: int | None = None
        self._duration_s = 0.0
        self._user_cpu_s = 0.0
        self._system_cpu_s = 0.0
        self._rss_bytes_max = 0
        self._leftovers_ended = 0
        self._timeout_at_s = None if order.timeout_s is None else started_s + order.timeout_s
        self._kill_at_s: float | None = None

    def wait_until_empty(self) -> None:
        """Returns once no process of the job is left."""
        while True:
            for message in self._hear(self._time_left_s()):
                self._obey(message)
            if self._reap():
                self._remove_cgroup()
                return
            now_s = time.monotonic()
            if self._status is not None and self._kill_at_s is None:
                self._leftovers_ended = len(processes.descendants(os.getpid()))
                self.end(self._order.kill_grace_s)
            elif self._timeout_at_s is not None and now_s >= self._timeout_at_s:
                self._timeout_at_s = None
                self._end_for(frames.CAUSE_TIMED_OUT, self._order.kill_grace_s)
            elif self._kill_at_s is not None and now_s >= self._kill_at_s:
                self._signal_tree(signal.SIGKILL)
                self._kill_at_s = now_s + KILL_AGAIN_S

    def exit_line(self, started_wall_s: float) -> bytes:
        """The event of the job's end, which is the content of `exit.json` too."""
        status = self._status or 0
        code, signal_number = b"null", b"null"
        if os.WIFSIGNALED(status):
            signal_number = b"%d" % os.WTERMSIG(status)
        else:
            code = b"%d" % os.WEXITSTATUS(status)
        return (
            b'{"type":"exited","attempt_id":"%b","code":%b,"signal":%b,"cause":"%b",'
            b'"started_at_s":%.6f,"ended_at_s":%.6f,"duration_s":%.6f,"user_cpu_s":%.6f,'
            b'"system_cpu_s":%.6f,"rss_bytes_max":%d,"leftovers_ended":%d}\n'
            % (
                self._order.attempt_id,
                code,
                signal_number,
                self._cause,
                started_wall_s,
                time.time(),
                self._duration_s,
                self._user_cpu_s,
                self._system_cpu_s,
                self._rss_bytes_max,
                self._leftovers_ended,
            )
        )

    def _time_left_s(self) -> float | None:
        at_s = self._kill_at_s if self._kill_at_s is not None else self._timeout_at_s
        return None if at_s is None else at_s - time.monotonic()

    def _reap(self) -> bool:
        """Takes the status of each ended child; True once there is no child left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            self._user_cpu_s += usage.ru_utime
            self._system_cpu_s += usage.ru_stime
            self._rss_bytes_max = max(self._rss_bytes_max, usage.ru_maxrss * 1024)
            if pid == self._pid:
                self._status = status
                self._duration_s = time.monotonic() - self._started_s
                self._timeout_at_s = None

    def _obey(self, message: bytes) -> None:
        kind = message[0]
        attempt_id, *fields = message[1:].split(b"\0")
        if attempt_id not in (b"", self._order.attempt_id):
            return  # It was meant for the job before this one.
        if kind == frames.END:
            grace_s = float(fields[0]) if fields[0] else self._order.kill_grace_s
            self._end_for(fields[1], grace_s)
        elif kind == frames.SIGNAL and self._status is None:
            processes.signal_all([-self._pid], int(fields[0]))

    def _end_for(self, cause: bytes, grace_s: float) -> None:
        self._reap()
        if self._status is None and self._cause == frames.CAUSE_FINISHED:
            # Only a job that still runs is ended for a cause.
            self._cause = cause
        self.end(grace_s)

    def end(self, grace_s: float) -> None:
        """Has what is left end: SIGTERM, `grace_s`, SIGKILL; again only to bring it nearer."""
        kill_at_s = time.monotonic() + grace_s
        if self._kill_at_s is None:
            self._kill_at_s = kill_at_s
            if grace_s > 0:
                self._signal_tree(signal.SIGTERM)
                self._signal_tree(signal.SIGCONT)
        else:
            self._kill_at_s = min(self._kill_at_s, kill_at_s)

    def _signal_tree(self, signal_number: int) -> None:
        below = processes.descendants(os.getpid())
        if self._status is None:
            # One call for the whole group: a process that it forks meanwhile gets it too.
            processes.signal_all([-self._pid], signal_number)
            if signal_number != signal.SIGKILL:
                below = [pid for pid in below if _group_of(pid) != self._pid]
        processes.signal_all(below, signal_number)
        if signal_number == signal.SIGKILL and self._order.cgroup:
            from meshtrain_daemon.worker import cgroup

            cgroup.kill(self._order.cgroup)

    def _remove_cgroup(self) -> None:
        if self._order.cgroup:
            from meshtrain_daemon.worker import cgroup

            cgroup.remove(self._order.cgroup)


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
