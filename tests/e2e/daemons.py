"""The daemons of a mesh as real processes on loopback: started, killed, and always cleaned up.

Every process of a mesh, its jobs included, carries a word of its own in its
environment. By that word they are all found, whatever became of their parents.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from free_ports import free_ports

from meshtrain.ids import new_id
from meshtrain.net.base import MasterAwayError

POLL_S = 0.03
WAIT_S = 60.0
"""How long a condition may take; machines that test are busy."""
MARK = "E2E_MESH"
PORTS = ("control", "bulk", "feed", "http")

T = TypeVar("T")


class Daemon:
    """One life of a daemon."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.expected_to_end = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self, text: str) -> bool:
        """Whether its log has this text."""
        return text in self.log.read_text(errors="replace")


class MeshDaemons:
    """The processes of a master and its workers below one folder.

    Args:
        folder: where all its state goes.
        lease_s: how long a silent node keeps its jobs.
        secure: whether members with keys are let in and nobody else; its workers join with
            tokens, and the test asks as the master's own `admin`.
    """

    def __init__(
        self, folder: Path, *, lease_s: float, heartbeat_s: float, secure: bool = False
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.home = folder / "master"
        self.inbox = self.home / "inbox"
        self.results = self.home / "results"
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self.secure = secure
        #: settings of all its daemons that have no flag
        self.environment: dict[str, str] = {}
        #: the word that all its processes carry
        self.mark = new_id("mesh")
        self._lives = 0
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.daemons: dict[str, Daemon] = {}

    # --- starting ----------------------------------------------------------------------------

    def start_master(self, **environment: str) -> None:
        """Start the master, always on the same ports, and wait until it listens."""
        self.begin_master(**environment)

        def listening() -> bool:
            return (self.home / "master.json").exists()

        self.wait_until(listening, "the master listens")
        told = json.loads((self.home / "master.json").read_bytes())
        assert {port: told[port] for port in PORTS} == self.ports

    def begin_master(self, **environment: str) -> None:
        """Start the master's process; it may never get as far as to listen."""
        (self.home / "master.json").unlink(missing_ok=True)
        arguments = [
            *("--home", str(self.home)),
            *("--lease-s", str(self._lease_s), "--heartbeat-s", str(self._heartbeat_s)),
            *("--inbox-rest-s", "0.2"),
        ]
        if self.secure:
            arguments.append("--secure")
        for port in PORTS:
            arguments += [f"--{port}-port", str(self.ports[port])]
        self._start("master", "master", arguments, environment)

    def begin_worker(
        self, name: str, *, cpu_slots: int, through: str, join: str = "", **environment: str
    ) -> None:
        """Start a worker's process, which joins first where it is given a word to join with.

        `environment` holds settings that have no flag; `through` is the address where it
        looks for the master's ports.
        """
        arguments = [
            *("--home", str(self.folder / name), "--name", name),
            *("--cpu-slots", str(cpu_slots), "--gpus", ""),
        ]
        if not self.secure:
            arguments += ["--master", f"{through}:{self.ports['control']}"]
        elif join:
            arguments += ["--join", join]
        self._start(name, "worker", arguments, environment)

    # --- ending --------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """kill -9 of a daemon, and of nothing else."""
        self._signal(name, signal.SIGKILL)
        self.daemons[name].process.wait()

    def ask_to_stop(self, name: str) -> Daemon:
        """SIGTERM to a daemon, as a service manager sends it."""
        self._signal(name, signal.SIGTERM)
        return self.daemons[name]

    def ask_to_hand_back(self, name: str) -> None:
        """SIGTERM twice: what runs is handed back at once."""
        daemon = self.ask_to_stop(name)
        self.wait_until(lambda: daemon.said("stopping: running jobs have"), f"{name} stops")
        self.ask_to_stop(name)

    def wait_stopped(self, name: str) -> int:
        """Wait for a daemon's end; its exit code."""
        daemon = self.daemons[name]
        self.wait_until(lambda: daemon.process.poll() is not None, f"{name} has ended")
        return int(daemon.process.returncode)

    def _signal(self, name: str, number: int) -> None:
        daemon = self.daemons[name]
        daemon.expected_to_end = True
        daemon.process.send_signal(number)

    def _start(
        self, name: str, role: str, arguments: list[str], environment: dict[str, str]
    ) -> None:
        self._lives += 1
        log = self.folder / f"{name}.{self._lives}.log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MESHTRAIN_")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *self.command_prefix(name),
                    sys.executable,
                    "-m",
                    "meshtrain.cli",
                    role,
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**inherited, **self.environment, **environment, MARK: self.mark},
            )
        self.daemons[name] = Daemon(name, process, log)

    def command_prefix(self, name: str) -> list[str]:
        """What a daemon's command is run by: nothing, where all are on one host."""
        return []

    def processes(self) -> dict[int, str]:
        """Every living process of this mesh, by its id, with its command line."""
        word = f"{MARK}={self.mark}".encode()
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if word in (folder / "environ").read_bytes().split(b"\0"):
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(folder.name)] = line.decode(errors="replace").strip()
        return found

    def jobs_processes(self, words: str) -> dict[int, str]:
        """The living processes of this mesh whose command line has these words."""
        return {pid: line for pid, line in self.processes().items() if words in line}

    def close(self) -> None:
        """End every process of the mesh."""
        for daemon in self.daemons.values():
            daemon.expected_to_end = True
            if daemon.process.poll() is None:
                daemon.process.kill()
            daemon.process.wait()
        deadline_s = time.monotonic() + WAIT_S
        while left := self.processes():
            assert time.monotonic() < deadline_s, f"processes that no signal ends: {left}"
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_S)

    # --- waiting -----------------------------------------------------------------------------

    def wait_until(self, condition: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
        """Poll until the condition is true, and return it.

        A master that is away counts as not yet; a daemon that ended by itself
        fails the test at once, and so does running out of time.
        """
        deadline_s = time.monotonic() + timeout_s
        trouble = ""
        while True:
            try:
                if reached := condition():
                    return reached
            except MasterAwayError as error:
                trouble = f" ({error})"
            for daemon in self.daemons.values():
                code = daemon.process.poll()
                if code is not None and not daemon.expected_to_end:
                    raise AssertionError(f"{daemon.name} ended by itself with {code}: {what}")
            if time.monotonic() > deadline_s:
                raise AssertionError(f"not within {timeout_s:g} s: {what}{trouble}")
            time.sleep(POLL_S)
