"""The process above one job: starts it, waits for all of its tree, records how it ended.

A shim is forked by the spawner and gets its orders over a link of its own. It
is a subreaper, so each process that the job leaves behind becomes its child,
and "no child left" means that nothing of the job lives. It then writes the
exit status to disk, tells the daemon, and may serve the next launch.

When the spawner is gone, the shim goes on with its job alone: the daemon, or
the next one, finds it by `started.json` and tells it by signals (control.py)
to end. It ends itself once the job's end is on disk.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable

from meshtrain import failpoints
from meshtrain_daemon.worker import control, frames, processes, records
from meshtrain_daemon.worker.job_start import start_job
from meshtrain_daemon.worker.order import Order
from meshtrain_daemon.worker.program import LaunchRefused, told
from meshtrain_daemon.worker.tree import Tree

IDLE = b"i"

_SIGNALS_READ_BYTES = 32 * control.RECORD_BYTES
_LINK_BYTES_MAX = frames.MESSAGE_BYTES_MAX + 1
_RECORD_AGAIN_S = 1.0
_POLL_MS_MAX = 3_600_000
"""poll(2) takes 24.8 days at most, and timeouts may be longer: it is waited for in pieces."""
_RECORD_TRIES_MAX = 7 * 86_400
"""How often an end that nobody hears is written to a full disk: for a week, a try a second."""
_NOT_WANTED = (
    "ended on request before it started: its folder is gone, for its node gave it up meanwhile"
)


class Shim:
    """Serves launches one after the other until its link is closed.

    Arguments: `link_fd` the shim's end of its link; `events_fd` the pipe to the
    daemon; `environment` what each job inherits; `boot_id` of this boot;
    `signals_fd` a signalfd for `control.TAKEN`, which must be blocked; `call` what
    a launch by call runs in the forked process, or None.
    """

    def __init__(
        self,
        *,
        link_fd: int,
        events_fd: int,
        environment: dict[bytes, bytes],
        boot_id: str,
        signals_fd: int,
        call: Callable[[str], int] | None,
    ) -> None:
        self._link_fd = link_fd
        self._events_fd = events_fd
        self._environment = environment
        self._boot_id = boot_id.encode()
        self._signals_fd = signals_fd
        self._call = call
        self._pid = os.getpid()
        self._start_ticks = processes.start_ticks(self._pid)
        self._spawner_lives = True
        self._poll = select.poll()
        self._poll.register(link_fd, select.POLLIN)
        self._poll.register(signals_fd, select.POLLIN)

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
        # A signal that came while it was idle was not meant for this job.
        self._take_signals()
        started_wall_s = time.time()
        started_s = time.monotonic()
        gpus_held: list[int] = []
        try:
            if order.gpu_locks:
                gpus_held = self._lock_gpus(order)
            pid = start_job(
                order,
                self._environment,
                call=self._call,
                close_fds=(self._link_fd, self._events_fd, self._signals_fd, *gpus_held),
            )
        except LaunchRefused as refusal:
            line = frames.launch_failed_line(order.attempt_id, str(refusal))
        else:
            tree = Tree(order, pid, started_s, hear=self._hear)
            wanted = self._record_start(order, pid, started_wall_s)
            if not wanted:
                tree.end(0.0)
            tree.wait_until_empty()
            line = (
                tree.exit_line(started_wall_s)
                if wanted
                else frames.launch_failed_line(order.attempt_id, _NOT_WANTED)
            )
        os.chdir("/")
        # Before the end is told: the next job may be for the same GPU.
        for fd in gpus_held:
            os.close(fd)
        self._record_exit(order.folder, line)

    def _lock_gpus(self, order: Order) -> list[int]:
        from meshtrain_daemon.worker.gpu_lock import lock_gpus

        def pause(timeout_s: float) -> None:
            for message in self._hear(timeout_s):
                if message[0] == frames.END and frames.attempt_of(message) in (
                    b"",
                    order.attempt_id,
                ):
                    raise LaunchRefused("ended on request before it started")

        return lock_gpus(
            order.gpu_locks,
            b"attempt %b, supervised by process %d" % (order.attempt_id, self._pid),
            wait_s=order.gpu_lock_wait_s,
            pause=pause,
        )

    def _record_start(self, order: Order, pid: int, started_wall_s: float) -> bool:
        """Records the start and tells it; False when the attempt isn't wanted any more."""
        line = (
            b'{"type":"started","attempt_id":"%b","pid":%d,"shim_pid":%d,"start_ticks":%d,'
            b'"boot_id":"%b","started_at_s":%.6f,"shim_start_ticks":%d}\n'
            % (
                order.attempt_id,
                pid,
                self._pid,
                processes.start_ticks(pid),
                self._boot_id,
                started_wall_s,
                self._start_ticks,
            )
        )
        failpoints.reach("shim.start.before")
        try:
            records.write_start(order.folder, line)
        except OSError as error:
            if error.errno in records.GONE:
                return False
            # The job runs; its record only helps a later daemon to find it.
            print(told("can't record a start", order.folder, error), file=sys.stderr)
        failpoints.reach("shim.start.recorded")
        frames.tell(self._events_fd, line)
        return True

    # Ending

    def _record_exit(self, folder: bytes, line: bytes) -> None:
        failpoints.reach("shim.exit.before")
        for tries in range(_RECORD_TRIES_MAX):
            try:
                records.write_exit(folder, line)
                break
            except OSError as error:
                if error.errno in records.GONE:
                    break  # Its node gave the attempt up.
                if not tries:
                    print(told("can't record an exit", folder, error), file=sys.stderr)
            if frames.tell(self._events_fd, line):
                return  # The event brings the status to a daemon that is there.
            if any(message[0] == frames.END for message in self._hear(_RECORD_AGAIN_S)):
                return  # Nobody wants to know any more.
        failpoints.reach("shim.exit.recorded")
        frames.tell(self._events_fd, line)

    def _hear(self, timeout_s: float | None) -> list[bytes]:
        """Waits for a child's end or orders; returns the orders."""
        timeout_ms = None
        if timeout_s is not None:
            timeout_ms = min(max(0, int(min(timeout_s, _POLL_MS_MAX) * 1000) + 1), _POLL_MS_MAX)
        messages = []
        for fd, _ in self._poll.poll(timeout_ms):
            if fd == self._signals_fd:
                messages += self._take_signals()
                continue
            message = self._read_link()
            if message:
                messages.append(message)
            else:
                # The job goes on: the daemon, or the next one, can still tell us by signals.
                self._spawner_lives = False
                self._poll.unregister(fd)
        return messages

    def _take_signals(self) -> list[bytes]:
        try:
            read = os.read(self._signals_fd, _SIGNALS_READ_BYTES)
        except BlockingIOError:
            return []
        return control.orders_of(read, self._is_of_job)

    def _is_of_job(self, pid: int) -> bool:
        """Whether a process that sent a signal is below this one, or was: it can't be asked."""
        if pid <= 0:
            return False  # From outside of this container.
        return processes.was_below(pid, self._pid)

    def _read_link(self) -> bytes:
        """The next order, or nothing once the spawner is gone."""
        try:
            return os.read(self._link_fd, _LINK_BYTES_MAX)
        except ConnectionResetError:
            return b""
