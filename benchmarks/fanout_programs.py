"""The programs of one run: started on their hosts, commanded, listened to, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fanout_voice import die_with_parent
from peers.process_tree import cpu_s

_END_LIMIT_S = 10.0
_POLL_S = 0.02
"""Programs take the time themselves: what they told may lie for a moment."""
_STDERR_TAIL_BYTES = 2000
_LINE_BYTES_MAX = 1 << 20


class ProgramError(Exception):
    """Raised when a program failed or took too long; the message ends with its last words."""

    def in_short(self) -> str:
        """What failed, and the last of those words: what lies between is a traceback."""
        first, *rest = str(self).splitlines()
        return f"{first}: {rest[-1]}" if rest else first


class Program:
    """One program that speaks as `fanout_voice` does.

    Args:
        name: the host that it runs on.
        command: how it is started.
        order: what it is to do.
        log: the file that its stderr goes to.
    """

    def __init__(self, name: str, command: Sequence[str], order: dict[str, Any], log: Path) -> None:
        self.name = name
        self._log = log
        self._heard: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._killed_cpu_s: float | None = None
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                # A Ctrl-C goes to the benchmark, which ends all in order.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._ear = threading.Thread(target=self._listen, name=f"ear-{name}", daemon=True)
        self._ear.start()
        self.tell(json.dumps(order))

    def tell(self, line: str) -> None:
        """Say something to it; a program that has ended says so when it is listened to."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def wait_for(self, event: str, deadline_s: float) -> dict[str, Any]:
        """What it tells under this name.

        Raises ProgramError when it tells something else, ends, or is silent until the deadline.
        """
        try:
            return self._hear(event, max(0.0, deadline_s - time.monotonic()))
        except queue.Empty:
            raise self._error(f"is not {event} in time") from None

    def told(self, event: str) -> dict[str, Any] | None:
        """What it has told under this name, None when that is still to come; raises as above."""
        with contextlib.suppress(queue.Empty):
            return self._hear(event, 0.0)
        return None

    def _hear(self, event: str, timeout_s: float) -> dict[str, Any]:
        heard = self._heard.get(timeout=timeout_s) if timeout_s else self._heard.get_nowait()
        if heard is None:
            raise self._error(f"ended early with exit code {self._process.wait()}")
        if heard.get("event") != event:
            raise self._error(f"told {str(heard)[:200]} where {event!r} was due")
        return heard

    def cpu_s(self) -> float:
        """CPU seconds of it and all below it so far, also after it was killed."""
        return self._killed_cpu_s if self._killed_cpu_s is not None else cpu_s(self._process.pid)

    def kill(self) -> None:
        """End it as a crash of its host would, and keep what it had used."""
        self._process.send_signal(signal.SIGKILL)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._killed_cpu_s = usage.ru_utime + usage.ru_stime

    def let_end(self) -> None:
        """Close its input, at which it ends."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def end(self, deadline_s: float) -> None:
        """Wait until it has ended; at the deadline it is killed."""
        assert self._process.stdout is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._ear.join(_END_LIMIT_S)
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        # A stop of the benchmark may close the pipe under this thread.
        with contextlib.suppress(ValueError, OSError):
            while line := self._process.stdout.readline(_LINE_BYTES_MAX):
                try:
                    self._heard.put(json.loads(line))
                except ValueError:
                    self._heard.put({"event": "a line that is no JSON", "line": repr(line[:200])})
        self._heard.put(None)

    def _error(self, what: str) -> ProgramError:
        tail = self._log.read_bytes()[-_STDERR_TAIL_BYTES:].decode(errors="replace").strip()
        return ProgramError(f"{self.name} {what}" + (f"\n{tail}" if tail else ""))


def wait_for_all(
    programs: Iterable[Program], event: str, deadline_s: float
) -> dict[str, dict[str, Any]]:
    """What each of them tells under a name; the first that fails ends the wait.

    Raises ProgramError as `Program.wait_for` does.
    """
    told: dict[str, dict[str, Any]] = {}
    silent = {program.name: program for program in programs}
    while silent:
        for name, program in list(silent.items()):
            if (heard := program.told(event)) is not None:
                told[name] = heard
                del silent[name]
        if silent:
            if time.monotonic() > deadline_s:
                next(iter(silent.values())).wait_for(event, deadline_s)
            time.sleep(_POLL_S)
    return told


def end_all(programs: Iterable[Program]) -> None:
    """End programs, all at once."""
    ending = list(programs)
    for program in ending:
        program.let_end()
    deadline_s = time.monotonic() + _END_LIMIT_S
    for program in ending:
        program.end(deadline_s)
