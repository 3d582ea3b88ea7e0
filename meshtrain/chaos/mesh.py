"""The mesh that is hurt: a master and workers as processes on loopback, each behind its own links.

Each worker reaches the master under an address of its own below 127.1.0.0/16,
where links stand for the master's ports; so each node's links can be cut alone.
Every process of the mesh, its jobs included, carries a mark in its environment
and belongs to a session that was begun by one of them: by these all are found,
whatever became of their parents.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from meshtrain.chaos.link import Link
from meshtrain.errors import MeshtrainError
from meshtrain.ids import new_id

MARK = "MESHTRAIN_CHAOS"
MASTER = "master"
PORTS = ("control", "bulk", "feed", "http")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.05
SHIM_NAME = "meshtrain-shim"
SPAWNER_NAME = "meshtrain-spawn"
LOG_SHOWN_LINES = 12
_PR_SET_PDEATHSIG = 1


class ChaosError(MeshtrainError):
    """Raised when the mesh itself can't be set up, so that nothing was tried."""


class Process(msgspec.Struct, frozen=True):
    """A living process of the mesh."""

    pid: int
    name: str
    session: int
    line: str


class Daemon:
    """One daemon, over all its lives."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name = name
        self.arguments = arguments
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.lives = 0
        #: whether it is down on purpose; else its end is a bug
        self.down = True
        self.environment: dict[str, str] = {}

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tail(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return "\n".join(f"    {line}" for line in lines[-LOG_SHOWN_LINES:])
        return ""


class Mesh:
    """Starts the daemons, finds all that runs, and ends it whatever happens.

    Args:
        home: folder of all state; a folder below it for each daemon.
        nodes: how many workers.
        slots: CPU slots of each.
        lease_s: how long a silent node keeps its jobs.
        seed: of the links' jitter.
    """

    def __init__(self, home: Path, *, nodes: int, slots: int, lease_s: float, seed: int) -> None:
        self.home = home
        self.lease_s = lease_s
        self.mark = new_id("mesh")
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.nodes = [f"node-{number}" for number in range(1, nodes + 1)]
        self.links: dict[str, list[Link]] = {}
        self._sessions: set[int] = set()
        self.daemons = {MASTER: self._daemon(MASTER, self._master_arguments())}
        for number, name in enumerate(self.nodes, start=1):
            host = f"127.1.{number >> 8}.{number & 255}"
            self.links[name] = [
                Link((host, port), ("127.0.0.1", port), seed=seed + number)
                for port in (self.ports["control"], self.ports["bulk"])
            ]
            arguments = [
                *("worker", "--home", str(home / name), "--name", name),
                *("--master", f"{host}:{self.ports['control']}"),
                *("--cpu-slots", str(slots), "--gpus", ""),
            ]
            self.daemons[name] = self._daemon(name, arguments)
            # As under systemd: jobs go on while their daemon is restarted.
            self.daemons[name].environment = {"MESHTRAIN_JOBS_ON_STOP": "leave"}

    def _daemon(self, name: str, arguments: list[str]) -> Daemon:
        return Daemon(name, arguments, self.home / f"{name}.log")

    def _master_arguments(self) -> list[str]:
        arguments = [
            *("master", "--home", str(self.master_home)),
            *("--lease-s", f"{self.lease_s:g}", "--heartbeat-s", f"{self.lease_s / 6:g}"),
            *("--inbox-rest-s", "0.2"),
        ]
        for name, port in self.ports.items():
            arguments += [f"--{name}-port", str(port)]
        return arguments

    @property
    def master_home(self) -> Path:
        return self.home / MASTER

    @property
    def inbox(self) -> Path:
        return self.master_home / "inbox"

    @property
    def address(self) -> str:
        """Where the master is asked: past all links."""
        return f"127.0.0.1:{self.ports['control']}"

    # --- lives -----------------------------------------------------------------------

    async def start(self) -> None:
        """Start all; raises ChaosError when the master doesn't listen in time."""
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            for links in self.links.values():
                for link in links:
                    await link.start()
        except OSError as error:
            raise ChaosError(
                f"the links can't listen: {error.strerror or error}. All of 127.0.0.0/8 has to "
                "be this host's own, as it is on Linux"
            ) from error
        self.launch(MASTER)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not (self.master_home / "master.json").exists():
            master = self.daemons[MASTER]
            if not master.runs or time.monotonic() > deadline_s:
                raise ChaosError(
                    f"the master doesn't start; its log {master.log}:\n{master.tail()}"
                )
            await asyncio.sleep(POLL_S)
        for name in self.nodes:
            self.launch(name)

    def launch(self, name: str) -> None:
        """Begin a daemon's next life."""
        daemon = self.daemons[name]
        assert not daemon.runs, f"{name} runs already"
        daemon.lives += 1
        daemon.down = False
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MESHTRAIN_")}
        with daemon.log.open("ab") as log:
            log.write(f"--- life {daemon.lives}\n".encode())
            log.flush()
            daemon.process = subprocess.Popen(
                [sys.executable, "-m", "meshtrain.cli", *daemon.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env={**inherited, **daemon.environment, MARK: self.mark},
                # Ctrl-C is for us alone: we end them in good order.
                start_new_session=True,
                preexec_fn=_end_with_parent(os.getpid()),
            )
        self._sessions.add(daemon.process.pid)

    def kill(self, name: str) -> None:
        """kill -9 of a daemon, and of nothing else."""
        daemon = self.daemons[name]
        daemon.down = True
        if daemon.process is not None:
            daemon.process.kill()
            daemon.process.wait()

    async def terminate(self, name: str, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Ask a daemon to end, and wait; False when it had to be killed, or ended badly."""
        daemon = self.daemons[name]
        daemon.down = True
        if daemon.process is None:
            return True
        daemon.process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + timeout_s
        while daemon.process.poll() is None:
            if time.monotonic() > deadline_s:
                self.kill(name)
                return False
            await asyncio.sleep(POLL_S)
        # One that has only just begun doesn't listen for signals yet.
        return daemon.process.returncode in (0, -signal.SIGTERM)

    def ended_by_themselves(self) -> list[Daemon]:
        """The daemons that are down, and nobody took them down."""
        return [d for d in self.daemons.values() if not d.down and not d.runs]

    async def close(self) -> None:
        """End every process of the mesh, and its links."""
        for name in self.daemons:
            self.kill(name)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while (left := self.processes()) and time.monotonic() < deadline_s:
            for process in left:
                send_signal(process.pid, signal.SIGKILL)
            await asyncio.sleep(POLL_S)
        for links in self.links.values():
            for link in links:
                await link.close()

    # --- what runs -------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """Every living process of the mesh: by its mark, or by its session."""
        word = f"{MARK}={self.mark}".encode()
        own = os.getpid()
        found = []
        for entry in os.listdir("/proc"):  # noqa: PTH208
            if not entry.isdigit() or int(entry) == own:
                continue
            process = _look_at(int(entry), word, self._sessions)
            if process is not None:
                found.append(process)
        # A session's number isn't given anew while one of its processes lives.
        self._sessions = {p.session for p in found} | {
            d.process.pid for d in self.daemons.values() if d.process is not None and d.runs
        }
        return found


def _look_at(pid: int, word: bytes, sessions: set[int]) -> Process | None:
    folder = f"/proc/{pid}"
    try:
        with open(f"{folder}/stat", "rb") as file:  # noqa: PTH123
            stat = file.read()
        name = stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode(errors="replace")
        fields = stat[stat.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X"):
            return None
        session = int(fields[3])
        with open(f"{folder}/environ", "rb") as file:  # noqa: PTH123
            marked = word in file.read().split(b"\0")
        if not marked and session not in sessions:
            return None
        with open(f"{folder}/cmdline", "rb") as file:  # noqa: PTH123
            line = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except (OSError, ValueError):
        return None
    return Process(pid, name, session, line)


def send_signal(pid: int, number: int) -> bool:
    """Send a signal; False when there is no such process any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that no outgoing connection is given while they are free.

    A daemon that was killed needs its port again, so they lie below those that
    the system hands out.
    """
    told = Path("/proc/sys/net/ipv4/ip_local_port_range")
    below = int(told.read_text().split()[0]) if told.exists() else 32768
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, below)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def _end_with_parent(parent_pid: int) -> Callable[[], None]:
    """Have the kernel end a daemon when whoever started it is killed."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:
            os._exit(1)

    return prepare
