"""A whole mesh on one host: a master and some workers as processes of their own, on loopback."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from meshtrain.errors import MeshtrainError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
_PR_SET_PDEATHSIG = 1


class LocalMeshError(MeshtrainError):
    """Raised when a process of the mesh doesn't come up, or ends on its own."""


class LocalMesh:
    """Starts the processes, and ends them all whatever happens.

    Args:
        home: folder for the state of all; one below it for each process.
        workers: how many nodes.
        slots: CPU slots of each.
        lease_s: the master's lease; short, since all is on one host.
    """

    def __init__(self, home: Path, *, workers: int, slots: int = 1, lease_s: float = 6.0) -> None:
        self.home = home
        self._workers = workers
        self._slots = slots
        self._lease_s = lease_s
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def inbox(self) -> Path:
        return self.home / "inbox"

    @property
    def results(self) -> Path:
        return self.home / "results"

    @property
    def address(self) -> str:
        """The master's control address; only once it listens."""
        return f"127.0.0.1:{self._ports()['control']}"

    def __enter__(self) -> LocalMesh:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        self._launch(
            "master",
            "master",
            *("--home", str(self.home / "master")),
            *("--inbox", str(self.inbox), "--results", str(self.results)),
            *("--control-port", "0", "--bulk-port", "0", "--feed-port", "0", "--http-port", "0"),
            *("--lease-s", f"{self._lease_s:g}", "--heartbeat-s", f"{self._lease_s / 6:g}"),
            *("--inbox-rest-s", "0.3"),
        )
        self._wait_for("the master to listen", lambda: bool(self._ports()))
        for number in range(1, self._workers + 1):
            name = f"node-{number}"
            self._launch(
                name,
                "worker",
                *("--home", str(self.home / name), "--name", name),
                *("--master", self.address, "--cpu-slots", str(self._slots)),
                *("--stop-grace-s", "0"),
            )

    def _launch(self, name: str, *arguments: str) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "meshtrain.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for us alone: we end them in good order.
                start_new_session=True,
                preexec_fn=_end_with_parent(os.getpid()),
            )

    def check(self) -> None:
        """Raises LocalMeshError, with the end of its log, when a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = (self.home / f"{name}.log").read_text(errors="replace").strip()
                tail = "\n  ".join(log.splitlines()[-8:])
                raise LocalMeshError(
                    f"{name} ended with exit code {process.returncode}:\n  {tail}\n"
                    f"Its whole log: {self.home / f'{name}.log'}"
                )

    def stop(self) -> None:
        """End all processes: workers first, the master last; whoever stays is killed."""
        order = [name for name in self._processes if name != "master"]
        for names in (order, ["master"] if "master" in self._processes else []):
            running = [self._processes[name] for name in names]
            for process in running:
                if process.poll() is None:
                    process.terminate()
            deadline_s = time.monotonic() + STOP_TIMEOUT_S
            for process in running:
                try:
                    process.wait(max(0.1, deadline_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._processes.clear()

    def _ports(self) -> dict[str, int]:
        try:
            return dict(msgspec.json.decode((self.home / "master" / "master.json").read_bytes()))
        except (OSError, msgspec.DecodeError, ValueError, TypeError, RecursionError):
            return {}

    def _wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not condition():
            self.check()
            if time.monotonic() > deadline_s:
                raise LocalMeshError(
                    f"waited {START_TIMEOUT_S:g} s for {what}; see the logs in {self.home}"
                )
            time.sleep(0.02)


def _end_with_parent(parent_pid: int) -> Callable[[], None] | None:
    """Have the kernel end a child when its parent is killed; Linux only."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:
            os._exit(1)

    return prepare
