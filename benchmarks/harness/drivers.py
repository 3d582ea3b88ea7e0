"""Runs one driver of one system, listens to it, and ends all that it started."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.loopback_only import NOT_ALLOWED
from peers.process_tree import descendants

from harness.machine import OthersMeter
from harness.systems import BENCHMARKS, System

_PR_SET_CHILD_SUBREAPER = 36
_TEARDOWN_LIMIT_S = 15.0
_KILL_LIMIT_S = 10.0
_STDERR_TAIL_BYTES = 2000
_LINE_BYTES_MAX = 1 << 20


class DriverError(Exception):
    """Raised when a driver failed or took too long; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one run of a driver measures; 0 leaves that measurement out."""

    slots: int
    jobs: int = 0
    latency_samples: int = 0
    waiting: int = 0
    waiting_jobs: int = 0
    measure_limit_s: float = 120.0
    run_limit_s: float = 400.0


@dataclass(slots=True)
class Outcome:
    """What one run of a driver told."""

    about: dict[str, Any] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    """From the call of submit to the first instruction of the job, one a sample."""
    rate: dict[str, Any] | None = None
    waiting: dict[str, Any] | None = None
    others_cores: float = 0.0
    """How many cores everyone else on the host used meanwhile."""


def adopt_orphans() -> None:
    """Makes orphans of drivers children of this process, so that it finds and ends them too."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def end_descendants() -> None:
    """Kills and reaps every process below this one."""
    deadline_s = time.monotonic() + _KILL_LIMIT_S
    while pids := descendants(os.getpid()):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > deadline_s:
            raise DriverError(f"processes {pids} don't end; end them by hand")
        time.sleep(0.01)


@contextlib.contextmanager
def _folders(scratch: Path) -> Iterator[tuple[Path, Path]]:
    run_folder = Path(tempfile.mkdtemp(dir=scratch))
    # Unix sockets go here: their paths must be short.
    socket_folder = Path(tempfile.mkdtemp(prefix="mb"))
    try:
        yield run_folder, socket_folder
    finally:
        shutil.rmtree(run_folder, ignore_errors=True)
        shutil.rmtree(socket_folder, ignore_errors=True)


def _command(system: System, request: Request, run_folder: Path, stamps: Path) -> list[str]:
    python = str(system.python)
    return [
        python,
        str(BENCHMARKS / "peers" / "loopback_only.py"),
        python,
        str(system.driver),
        *("--slots", str(request.slots)),
        *("--scratch", str(run_folder)),
        *("--stamps", str(stamps)),
        *("--jobs", str(request.jobs)),
        *("--latency-samples", str(request.latency_samples)),
        *("--waiting", str(request.waiting)),
        *("--waiting-jobs", str(request.waiting_jobs)),
        *("--limit-s", str(request.measure_limit_s)),
    ]


class _Listener:
    """Gathers the driver's lines and the jobs' stamps, each taken in the moment it arrives."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self.ended = False
        self._submitted_s: dict[int, float] = {}
        self._started_s: dict[int, float] = {}
        self._partial = {"lines": b"", "stamps": b""}

    def take(self, source: str, data: bytes, now_s: float) -> None:
        *whole, rest = (self._partial[source] + data).split(b"\n")
        if len(rest) > _LINE_BYTES_MAX:
            raise DriverError(f"a line of more than {_LINE_BYTES_MAX} bytes")
        self._partial[source] = rest
        for line in whole:
            if source == "stamps":
                self._started_s.setdefault(int(line), now_s)
            elif line.startswith(b'{"event"'):
                self._take_event(json.loads(line))

    def _take_event(self, event: dict[str, Any]) -> None:
        match event.pop("event"):
            case "about":
                self.outcome.about = event
            case "latency":
                self._submitted_s[event["index"]] = event["submitted_s"]
            case "rate":
                self.outcome.rate = event
            case "waiting":
                self.outcome.waiting = event
            case "end":
                self.ended = True

    def finish(self, request: Request) -> Outcome:
        unstarted = self._submitted_s.keys() - self._started_s.keys()
        if unstarted or len(self._submitted_s) != request.latency_samples:
            raise DriverError(
                f"{len(self._submitted_s)} of {request.latency_samples} samples of the latency "
                f"came in, {len(unstarted)} of them without the job's own stamp"
            )
        self.outcome.latencies_ms = [
            (self._started_s[index] - submitted_s) * 1000
            for index, submitted_s in sorted(self._submitted_s.items())
        ]
        return self.outcome


def _listen(driver: subprocess.Popen[bytes], stamps_fd: int, limit_s: float) -> _Listener:
    assert driver.stdout is not None
    listener = _Listener()
    deadline_s = time.monotonic() + limit_s
    with selectors.DefaultSelector() as selector:
        selector.register(driver.stdout, selectors.EVENT_READ, "lines")
        selector.register(stamps_fd, selectors.EVENT_READ, "stamps")
        while not listener.ended:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise DriverError(f"not through after {limit_s:.0f} s")
            ready = selector.select(left_s)
            now_s = time.monotonic()
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:  # only the driver's own output can end: its process did
                    code = driver.wait()
                    if code == NOT_ALLOWED:
                        raise DriverError("this host allows no network namespace")
                    raise DriverError(f"ended early with exit code {code}")
                listener.take(key.data, data, now_s)
    return listener


def run_driver(system: System, request: Request, scratch: Path) -> Outcome:
    """Runs `system`'s driver once.

    Raises:
        DriverError: it failed, took longer than `request.run_limit_s`, or left samples out.
    """
    with _folders(scratch) as (run_folder, socket_folder):
        stamps = socket_folder / "stamps"
        os.mkfifo(stamps)
        # Opened for both ways, so that it never meets an end of file between two jobs.
        stamps_fd = os.open(stamps, os.O_RDWR | os.O_NONBLOCK)
        stderr_path = run_folder / "driver.stderr"
        others = OthersMeter()
        with stderr_path.open("wb") as stderr:
            driver = subprocess.Popen(
                _command(system, request, run_folder, stamps),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=run_folder,
                env={
                    **os.environ,
                    "TMPDIR": str(socket_folder),
                    "PYTHONPATH": "",
                    "RUST_BACKTRACE": "0",
                },
                # A Ctrl-C goes to the harness, which ends the driver in order.
                start_new_session=True,
            )
        try:
            try:
                listener = _listen(driver, stamps_fd, request.run_limit_s)
                outcome = listener.finish(request)
                outcome.others_cores = others.cores()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(_TEARDOWN_LIMIT_S)
            except DriverError as error:
                tail = stderr_path.read_bytes()[-_STDERR_TAIL_BYTES:].decode(errors="replace")
                raise DriverError(f"{system.title}: {error}\n{tail}".rstrip()) from None
        finally:
            if driver.poll() is None:
                driver.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(_TEARDOWN_LIMIT_S)
            assert driver.stdout is not None
            driver.stdout.close()
            os.close(stamps_fd)
            end_descendants()
        return outcome
