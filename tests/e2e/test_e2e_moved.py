"""Jobs that are moved: drained nodes, lost hosts, signals; what they do is the same as unmoved."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from gate import Gate
from mesh import Mesh, NewMesh

from meshtrain.ids import new_id
from meshtrain.wire import messages as msg

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_moved")]

NODES = ("n1", "n2")
LEASE_S = 1.5
STEPS, WAITS_AT = 100, 50
SUMS = """
import json, os, signal, sys, time
output, gate, on_sigterm = sys.argv[1:4]
step, total, asked = 0, 0, False
if folder := os.environ.get("MESHTRAIN_RESUME"):
    step, total = json.load(open(folder + "/state.json"))
print("goes on from step", step, flush=True)

def ask(*_):
    global asked
    asked = True

def checkpoint():
    folder = os.environ["MESHTRAIN_CHECKPOINT"]
    with open(folder + "/.state.json", "w") as file:
        json.dump([step, total], file)
    os.rename(folder + "/.state.json", folder + "/state.json")

if on_sigterm == "yes":
    signal.signal(signal.SIGTERM, ask)
while step < 100:
    step += 1
    total = (31 * total + step) % 1000003
    if step == 50:
        if on_sigterm == "no":
            checkpoint()
        with open(gate + ".starts", "a") as file:
            print(os.getpid(), file=file)
        while not asked and not os.path.exists(gate):
            time.sleep(0.02)
    if asked:
        checkpoint()
        sys.exit(75)
json.dump({"total": total}, open(output + "/metrics.json", "w"))
"""
"""Sums of 100 steps, waiting at the gate in the middle: with "no" it writes a checkpoint there,
with "yes" only when it gets SIGTERM."""


def whole() -> int:
    """What it comes to when nobody interrupts it."""
    total = 0
    for step in range(1, STEPS + 1):
        total = (31 * total + step) % 1000003
    return total


@pytest.fixture
def mesh(new_mesh: NewMesh) -> Mesh:
    mesh = new_mesh(lease_s=LEASE_S, heartbeat_s=0.1)
    mesh.start(*NODES)
    return mesh


class Sums:
    """One such job, at its gate."""

    def __init__(self, mesh: Mesh, folder: Path, *, on_sigterm: bool) -> None:
        self.mesh = mesh
        self.gate = Gate(folder)
        program = folder / "sums.py"
        program.write_text(SUMS)
        words = f"{sys.executable} {program} {{output}} {self.gate.path}"
        sweep = mesh.submit(
            f'name: sums\ncommand: "{words} {"yes" if on_sigterm else "no"}"\nretries: 0\n'
            f"checkpoint_every: {'1h' if on_sigterm else '0.1'}\n"
        )
        (row,) = mesh.jobs(sweep)
        self.job = row["job_id"]
        self.sweep = sweep
        self.wait_at_gate(1)
        self.node = str(mesh.wait_job_state(self.job, "running")["node_id"])

    def wait_at_gate(self, times: int) -> None:
        self.mesh.wait_until(lambda: self.gate.starts == times, f"at its gate {times} times")

    def wait_held_by_master(self) -> None:
        path = self.mesh.home / "state" / "jobs.db"

        def held() -> bool:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as store:
                asked = store.execute(
                    "SELECT checkpoint_safe FROM jobs WHERE job_id = ?", (self.job,)
                )
                return asked.fetchone() != (None,)

        self.mesh.wait_until(held, "the master holds its checkpoint")

    def wait_whole(self, *, attempts: int | None = None) -> list[str]:
        """Wait for its end, as if nobody had interrupted it; the nodes that it ran on."""
        (row,) = self.mesh.wait_jobs(self.sweep)
        assert row["metrics"]["total"] == whole()
        told = self.mesh.attempts(self.job)
        assert attempts in (None, len(told))
        return [str(one["placements"][0]["node_id"]) for one in told]

    def first_lines(self) -> list[bytes]:
        """What each attempt began with."""
        return [
            self.mesh.log_bytes(self.job, attempt=one["attempt_id"]).split(b"\n")[0]
            for one in self.mesh.attempts(self.job)
        ]


def test_p7_p8_a_node_that_is_drained_at_once_hands_on_what_a_program_writes_on_sigterm(
    mesh: Mesh, tmp_path: Path
) -> None:
    job = Sums(mesh, tmp_path, on_sigterm=True)
    mesh.do(msg.Drain(new_id("request"), job.node, True, within_s=0.0))
    first, second = job.wait_whole(attempts=2)
    assert (first, second) == (job.node, next(name for name in NODES if name != job.node))
    assert job.gate.starts == 1, "what was done before is not done again"
    assert mesh.attempts(job.job)[0]["state"] == "handed back"
    assert mesh.jobs_processes("sums.py") == {}
    mesh.wait_log(job.sweep, b"goes on from step 50\n")
    assert job.first_lines() == [b"goes on from step 0", b"goes on from step 50"]
    (row,) = [row for row in mesh.rows("nodes") if row["node_id"] == job.node]
    assert row["drained"] and not row["cpus_used"]


def test_p1_p7_a_host_is_lost_while_the_master_is_down_and_its_job_goes_on_elsewhere(
    mesh: Mesh, tmp_path: Path
) -> None:
    job = Sums(mesh, tmp_path, on_sigterm=False)
    job.wait_held_by_master()
    mesh.kill("master")
    lose(mesh, job.node)
    mesh.start_master()
    nodes = job.wait_whole(attempts=2)
    assert nodes[0] == job.node != nodes[1]
    assert job.gate.starts == 1
    mesh.wait_log(job.sweep, b"goes on from step 50\n")
    # What the first printed is whole as far as it came.
    assert job.first_lines()[0] in (b"goes on from step 0", b"")


def test_p2_p8_a_daemon_that_stood_still_for_longer_than_its_lease_doubles_nothing(
    mesh: Mesh, tmp_path: Path
) -> None:
    """SIGSTOP, its job is given to another node, SIGCONT: the old one ends, its word counts not."""
    job = Sums(mesh, tmp_path, on_sigterm=False)
    job.wait_held_by_master()
    old = job.gate.pids[0]
    mesh.daemons[job.node].process.send_signal(signal.SIGSTOP)
    try:
        nodes = job.wait_whole()
    finally:
        mesh.daemons[job.node].process.send_signal(signal.SIGCONT)
    # Its lease ends a moment before its node counts as away: it may be given to it once more.
    assert set(nodes[:-1]) == {job.node} != {nodes[-1]}
    mesh.wait_until(lambda: not Path(f"/proc/{old}").exists(), "the old one has ended")
    job.gate.open()
    mesh.wait_connected(job.node)
    mesh.wait_jobs(mesh.submit("name: after\ncommand: 'true'\nmatrix: {number: [1, 2, 3, 4]}\n"))
    assert len(mesh.attempts(job.job)) == len(nodes)
    (row,) = mesh.jobs(job.sweep)
    assert (row["state"], row["metrics"]["total"]) == ("succeeded", whole())


def lose(mesh: Mesh, node: str) -> None:
    """Kill all of a node at once, its jobs included, as a power cut does."""
    daemon = mesh.daemons[node]
    daemon.expected_to_end = True
    home = str(mesh.folder / node)
    for _ in range(2):
        for pid, line in mesh.processes().items():
            if home in line or home in _cwd(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    daemon.process.wait()


def _cwd(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""
