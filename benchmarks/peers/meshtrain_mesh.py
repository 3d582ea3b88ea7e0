"""meshtrain itself: a master and one worker with their own commands, each job in its shim."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peer import About, BenchmarkError, Options, Peer, drive, version_of

from meshtrain.cli.context import act, ask
from meshtrain.core.job import JobState
from meshtrain.ids import new_id
from meshtrain.net.zmq_client import MasterClient
from meshtrain.wire.messages import Submit

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0
_REQUEST_TIMEOUT_S = 60.0
_POLL_S = 0.02
_BAD_STATES = (JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Submitted:
    """Sweeps that the master has acknowledged."""

    sweep_ids: tuple[str, ...]
    jobs: int


class MeshtrainPeer(Peer[Submitted]):
    chunk_jobs = 10_000

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._submitted = 0

    def start(self, options: Options) -> About:
        os.environ.pop("PYTHONPATH", None)
        self._logs = options.scratch
        home = options.scratch / "master"
        self._launch(
            "master",
            *("--home", str(home), "--control-port", "0", "--bulk-port", "0"),
            *("--feed-port", "0", "--http-port", "0"),
        )
        self._client = MasterClient(self._address(home / "master.json"), _REQUEST_TIMEOUT_S)
        self._launch(
            "worker",
            *("--home", str(options.scratch / "worker"), "--name", "bench"),
            *("--master", self._address(home / "master.json")),
            *("--cpu-slots", str(options.slots), "--stop-grace-s", "0"),
        )
        self._await("the worker to join", self._joined)
        return About(
            versions={**version_of("meshtrain", "pyzmq"), "sqlite": sqlite3.sqlite_version},
            durability="SQLite WAL, synchronous=FULL: a submission is acknowledged after its "
            "fsync, ends ride the group commit",
            how="one job per process, each under its shim with its log on disk",
        )

    def _launch(self, role: str, *arguments: str) -> None:
        with (self._logs / f"{role}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "meshtrain.cli", role, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    def _address(self, ports_path: Path) -> str:
        self._await("the master to listen", ports_path.exists)
        return f"127.0.0.1:{json.loads(ports_path.read_text())['control']}"

    def _joined(self) -> bool:
        return any(row["connected"] for row in ask(self._client, "nodes").rows)

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not condition():
            self._check_alive()
            if time.monotonic() > deadline_s:
                raise BenchmarkError(f"waited {_START_TIMEOUT_S:.0f} s for {what}")
            time.sleep(_POLL_S)

    def _check_alive(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                tails = [path.read_text()[-1000:] for path in sorted(self._logs.glob("*.log"))]
                raise BenchmarkError("a daemon ended on its own:\n" + "\n".join(tails))

    def submit(self, argv: Sequence[str], count: int) -> Submitted:
        sweep_ids: list[str] = []
        for first in range(0, count, self.chunk_jobs):
            jobs = min(self.chunk_jobs, count - first)
            self._submitted += 1
            job_file = {
                "name": f"bench{self._submitted}",
                "command": _shell_line(argv),
                "matrix": {"i": {"range": [0, jobs]}},
                "resources": {"gpus": 0},
            }
            message = Submit(
                request_id=new_id("submit"),
                name="bench.json",
                data=json.dumps(job_file).encode(),
            )
            sweep_ids += act(self._client, message).done[:1]
        return Submitted(tuple(sweep_ids), count)

    def wait(self, ticket: Submitted, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        pending = list(ticket.sweep_ids)
        while True:
            rows = ask(self._client, "sweeps", pending).rows
            for row in rows:
                bad = {state: n for state, n in row["states"].items() if state in _BAD_STATES}
                if bad:
                    raise BenchmarkError(f"jobs of {row['sweep_id']} ended as {bad}")
            pending = [
                row["sweep_id"]
                for row in rows
                if row["states"].get(JobState.SUCCEEDED, 0) < row["jobs"]
            ]
            if not pending:
                return
            if time.monotonic() > deadline_s:
                raise BenchmarkError(f"not done after {timeout_s:.0f} s")
            self._check_alive()
            time.sleep(_POLL_S)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _shell_line(argv: Sequence[str]) -> str:
    # A command is a shell line already, so a shell's own argument is taken as it is.
    return argv[2] if list(argv[:2]) == ["/bin/sh", "-c"] else " ".join(argv)


if __name__ == "__main__":
    drive(MeshtrainPeer())
