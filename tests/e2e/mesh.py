"""A mesh of real processes on loopback, for tests: asked as a person asks it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Protocol

import msgspec
from daemons import WAIT_S, MeshDaemons
from feed_watch import FeedWatch

from meshtrain.core.member import MemberKind
from meshtrain.ids import new_id
from meshtrain.net.base import MasterAwayError
from meshtrain.net.curve import ClientSecurity, client_security
from meshtrain.net.zmq_client import MasterClient
from meshtrain.security.standing import PERSON_FOLDER, load_standing
from meshtrain.wire import messages as msg

LOG_SHOWN_BYTES = 6000
TERMINAL = {"succeeded", "failed", "cancelled"}

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


class Mesh(MeshDaemons):
    """A master and its workers, and somebody who asks and commands.

    Args:
        folder: where all its state goes.
        lease_s: how long a silent node keeps its jobs.
        secure: whether members with keys are let in and nobody else; its workers join with
            tokens, and the test asks as the master's own `admin`.
    """

    def __init__(
        self, folder: Path, *, lease_s: float, heartbeat_s: float, secure: bool = False
    ) -> None:
        super().__init__(folder, lease_s=lease_s, heartbeat_s=heartbeat_s, secure=secure)
        self._feed: FeedWatch | None = None
        _living[self.mark] = self

    def start(self, *nodes: str, cpu_slots: int = 1, **environment: str) -> None:
        """Start the master and these workers, and wait until all are there."""
        self.start_master()
        for node in nodes:
            self.start_worker(node, cpu_slots=cpu_slots, **environment)
        self.wait_connected(*nodes)

    def start_worker(
        self, name: str, *, cpu_slots: int = 1, through: str = "127.0.0.1", **environment: str
    ) -> None:
        """Start a worker; in a mesh with keys it joins first, unless it has.

        `environment` holds settings that have no flag; `through` is the address where it
        looks for the master's ports.
        """
        joined = not self.secure or (self.folder / name / "mesh.json").exists()
        join = "" if joined else self.token()
        self.begin_worker(name, cpu_slots=cpu_slots, through=through, join=join, **environment)

    def wait_connected(self, *nodes: str) -> None:
        """Wait until the master has these nodes."""

        def connected() -> bool:
            there = {row["node_id"] for row in self.rows("nodes") if row["connected"]}
            return there >= set(nodes)

        self.wait_until(connected, f"{', '.join(nodes)} are connected")

    def close(self) -> None:
        if self._feed is not None:
            self._feed.close()
        super().close()
        _living.pop(self.mark, None)

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


def read_json(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())
