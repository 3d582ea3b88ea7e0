"""A mesh of real processes on loopback, for tests: started, killed, asked, and always cleaned up.

Every process of a mesh, its jobs included, carries a word of its own in its
environment. By that word they are all found, whatever became of their parents.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from feed_watch import FeedWatch

from meshtrain.core.member import MemberKind
from meshtrain.ids import new_id
from meshtrain.net.base import MasterAwayError
from meshtrain.net.curve import ClientSecurity, client_security
from meshtrain.net.zmq_client import MasterClient
from meshtrain.security.standing import PERSON_FOLDER, load_standing
from meshtrain.wire import messages as msg

POLL_S = 0.03
WAIT_S = 60.0
"""How long a condition may take; machines that test are busy."""
LOG_SHOWN_BYTES = 6000
MARK = "E2E_MESH"
PORTS = ("control", "bulk", "feed", "http")
TERMINAL = {"succeeded", "failed", "cancelled"}

T = TypeVar("T")
_living: dict[str, Mesh] = {}


def living_meshes() -> list[Mesh]:
    """The meshes that are up now."""
    return list(_living.values())


class NewMesh(Protocol):
    """Makes a mesh; `lease_s` is short where a test kills what holds leases."""

    def __call__(
        self,
        name: str = "mesh",
        *,
        lease_s: float = 20.0,
        heartbeat_s: float = 0.3,
        secure: bool = False,
    ) -> Mesh: ...


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


class Mesh:
    """A master and its workers below one folder.

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
        self._mark = new_id("mesh")
        self._lives = 0
        self._feed: FeedWatch | None = None
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.daemons: dict[str, Daemon] = {}
        _living[self._mark] = self

    # --- daemons -----------------------------------------------------------------------------

    def start(self, *nodes: str, cpu_slots: int = 1, **environment: str) -> None:
        """Start the master and these workers, and wait until all are there."""
        self.start_master()
        for node in nodes:
            self.start_worker(node, cpu_slots=cpu_slots, **environment)
        self.wait_connected(*nodes)

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

    def start_worker(
        self, name: str, *, cpu_slots: int = 1, through: str = "127.0.0.1", **environment: str
    ) -> None:
        """Start a worker; `environment` holds settings that have no flag.

        `through` is the address where it looks for the master's ports. In a mesh with
        keys it joins first, unless it has.
        """
        arguments = [
            *("--home", str(self.folder / name), "--name", name),
            *("--cpu-slots", str(cpu_slots), "--gpus", ""),
        ]
        if not self.secure:
            arguments += ["--master", f"{through}:{self.ports['control']}"]
        elif not (self.folder / name / "mesh.json").exists():
            arguments += ["--join", self.token()]
        self._start(name, "worker", arguments, environment)

    def wait_connected(self, *nodes: str) -> None:
        """Wait until the master has these nodes."""

        def connected() -> bool:
            there = {row["node_id"] for row in self.rows("nodes") if row["connected"]}
            return there >= set(nodes)

        self.wait_until(connected, f"{', '.join(nodes)} are connected")

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
                env={**inherited, **self.environment, **environment, MARK: self._mark},
            )
        self.daemons[name] = Daemon(name, process, log)

    def command_prefix(self, name: str) -> list[str]:
        """What a daemon's command is run by: nothing, where all are on one host."""
        return []

    def processes(self) -> dict[int, str]:
        """Every living process of this mesh, by its id, with its command line."""
        word = f"{MARK}={self._mark}".encode()
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
        if self._feed is not None:
            self._feed.close()
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
        _living.pop(self._mark, None)

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

    def logs(self) -> list[tuple[str, str]]:
        """The end of each daemon's log, and where the jobs stand."""
        told = []
        for path in sorted(self.folder.glob("*.log")):
            text = path.read_bytes()[-LOG_SHOWN_BYTES:].decode(errors="replace")
            told.append((f"{self.folder.name}/{path.name}", text))
        with contextlib.suppress(Exception):
            lines = [
                f"{r['name']}  {r['state']}  {r['node_id']}  {r['failure']} {r['reason']}"
                for r in self.rows("jobs")
            ]
            told.append((f"{self.folder.name} jobs", "\n".join(lines)))
        return told

    # --- talking to the master ----------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where this host's commands find the master."""
        return f"127.0.0.1:{self.ports['control']}"

    @property
    def keys(self) -> ClientSecurity | None:
        """What the test shows the master; None in a mesh without keys."""
        if not self.secure:
            return None
        return client_security(load_standing(self.home / PERSON_FOLDER, MemberKind.PERSON))

    def token(
        self, kind: MemberKind = MemberKind.NODE, *, ttl_s: float = 600, uses: int = 1
    ) -> str:
        """A word to join with."""
        try:
            return self.do(msg.IssueToken(new_id("request"), kind, ttl_s, uses)).done[0]
        except MasterAwayError:
            # Lost with the links that were cut when somebody was revoked just before.
            return self.do(msg.IssueToken(new_id("request"), kind, ttl_s, uses)).done[0]

    def revoke(self, name: str, kind: MemberKind = MemberKind.NODE) -> msg.Done:
        return self.do(msg.Revoke(new_id("request"), kind, name))

    def ask(self, message: msg.FromPerson) -> msg.Done | msg.Answer:
        """The master's answer; raises MasterAwayError when it is away."""
        with MasterClient(self.address, timeout_s=15, security=self.keys) as client:
            return client.request(message)

    def do(self, message: msg.FromPerson) -> msg.Done:
        """Have something done that must not be refused."""
        done = self.ask(message)
        assert isinstance(done, msg.Done)
        assert not done.error, done.error
        return done

    def rows(self, what: str, *names: str, offset: int = 0, limit: int = 1000) -> list[Any]:
        """The rows that answer a query."""
        answer = self.ask(msg.Query(new_id("request"), what, names, offset, limit))
        assert isinstance(answer, msg.Answer)
        assert not answer.error, answer.error
        return answer.rows

    def submit(self, text: str, name: str = "sweep.yaml", **options: Any) -> str:
        """Submit a job file; the sweep's id once it is acknowledged."""
        message = msg.Submit(new_id("request"), name, text.encode(), **options)
        return self.do(message).done[0]

    def cancel(self, *names: str) -> msg.Done:
        return self.do(msg.Cancel(new_id("request"), names))

    def retry(self, *names: str) -> msg.Done:
        return self.do(msg.Retry(new_id("request"), names))

    def drop(self, text: str, name: str) -> None:
        """Put a job file into the inbox, whole."""
        hidden = self.inbox / f".{name}.being-written"
        hidden.write_text(text)
        hidden.rename(self.inbox / name)

    # --- what became of things --------------------------------------------------------------

    def jobs(self, name: str) -> list[Any]:
        """The rows of a sweep's jobs, or of one job."""
        return self.rows("jobs", name)

    def job(self, name: str) -> Any:
        """All that is known of one job."""
        return self.rows("job", name)[0]

    def base(self, recipe_hash: str) -> Any:
        return self.rows("bases", recipe_hash)[0]

    def bases_of(self, sweep_id: str) -> list[Any]:
        """The bases that a sweep asked for."""
        return [self.base(r) for r in self.rows("sweeps", sweep_id)[0]["recipe_hashes"]]

    def attempts(self, name: str) -> list[Any]:
        """All executions of a job, oldest first."""
        return list(self.job(name)["attempts"])

    def wait_jobs(
        self, name: str, state: str = "succeeded", timeout_s: float = WAIT_S
    ) -> list[Any]:
        """Wait until all jobs of a sweep have ended; all must have ended in this state."""

        def ended() -> list[Any]:
            rows = self.jobs(name)
            return rows if all(row["state"] in TERMINAL for row in rows) else []

        rows = self.wait_until(ended, f"all jobs of {name} have ended", timeout_s)
        wrong = {
            row["name"]: row["failure"] or row["state"] for row in rows if row["state"] != state
        }
        assert not wrong, wrong
        return rows

    def wait_job_state(self, name: str, *states: str) -> Any:
        """Wait until one job is in one of these states."""

        def there() -> Any:
            row = self.job(name)
            return row if row["state"] in states else None

        return self.wait_until(there, f"{name} is {' or '.join(states)}")

    def wait_file(self, path: Path) -> Path:
        """Wait until a file is there."""
        self.wait_until(path.exists, f"{path.name} is there")
        return path

    def log_bytes(self, name: str, stream: str = "log", attempt: str = "") -> bytes:
        """All stored bytes of a job's stream."""
        data = b""
        while True:
            row = self.rows("log", name, stream, attempt, offset=len(data), limit=1 << 20)[0]
            data += bytes(row["data"])
            if len(data) >= row["size_bytes"]:
                return data

    def wait_log(self, name: str, expected: bytes, stream: str = "log") -> None:
        """Wait until as many bytes are stored as are expected, and compare them."""

        def long_enough() -> bool:
            row = self.rows("log", name, stream, limit=1)[0]
            return bool(row["size_bytes"] >= len(expected))

        self.wait_until(long_enough, f"the {stream} of {name} has {len(expected)} bytes")
        stored = self.log_bytes(name, stream)
        if stored != expected:
            same = (ours == theirs for ours, theirs in zip(stored, expected, strict=False))
            at = next((place for place, is_same in enumerate(same) if not is_same), len(expected))
            raise AssertionError(f"differs from byte {at} on: {stored[at : at + 200]!r}")

    def watch_feed(self) -> FeedWatch:
        """Begin to note what the feed tells."""
        self._feed = FeedWatch(self.address)
        self.wait_until(self._feed.ready.is_set, "the feed is followed")
        return self._feed


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that no outgoing connection is given while they are free.

    A master that was killed needs its ports again, so they lie below those that
    the system hands out. Each process that runs tests beside others takes them from a
    part of its own: two of them would else find the same one free.
    """
    told = Path("/proc/sys/net/ipv4/ip_local_port_range")
    below = int(told.read_text().split()[0]) if told.exists() else 32768
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    part = (below - 10_000) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = 10_000 + number * part
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(first, first + part)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def read_json(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())
