"""Stopping nodes and cancelling jobs: nothing is left over, and nobody is blamed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from gate import Gate
from mesh import Mesh, NewMesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_stop")]

NODES = ("n1", "n2")

STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
for move in range(3):
    if os.fork() == 0:
        if move == 1:
            os.setsid()
        if move == 2:
            os.setsid()
            if os.fork():
                os._exit(0)
        break
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
while True:
    signal.pause()
"""


@pytest.fixture(scope="module")
def mesh(new_module_mesh: NewMesh) -> Mesh:
    """Tests that stop a node start it again."""
    mesh = new_module_mesh()
    mesh.start(*NODES, MESHTRAIN_KILL_GRACE_S="0.3")
    return mesh


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def start_again(mesh: Mesh, node: str) -> None:
    mesh.start_worker(node, MESHTRAIN_KILL_GRACE_S="0.3")
    mesh.wait_connected(node)


def processes_of(mesh: Mesh, node: str) -> dict[int, str]:
    """What lives of a node: its daemon, and whatever works in its folder."""
    return mesh.jobs_processes(str(mesh.folder / node))


def test_a_stopped_worker_lets_its_job_finish_and_takes_no_more(mesh: Mesh, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    sweep = mesh.submit(f'name: finishing\ncommand: "{gate.wait_command}; echo finished"\n')
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    node = mesh.wait_job_state(sweep, "running")["node_id"]
    daemon = mesh.ask_to_stop(node)
    mesh.wait_until(lambda: daemon.said("stopping: running jobs have"), "it stops")
    mesh.wait_until(
        lambda: not mesh.rows("nodes", node)[0]["accepting"], "the master knows that it stops"
    )
    others = mesh.submit("name: others\ncommand: 'true'\nmatrix: {number: [0, 1, 2]}\n")
    assert {row["node_id"] for row in mesh.wait_jobs(others)} == set(NODES) - {node}
    gate.open()
    assert mesh.wait_stopped(node) == 0
    mesh.wait_jobs(sweep)
    (attempt,) = mesh.attempts(sweep)
    assert attempt["state"] == "succeeded"
    assert attempt["placements"][0]["node_id"] == node
    mesh.wait_log(sweep, b"finished\n")
    assert processes_of(mesh, node) == {}
    start_again(mesh, node)


def test_p2_p8_a_stopped_worker_hands_back_what_runs_too_long(mesh: Mesh, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    sweep = mesh.submit(f'name: handed\nretries: 0\ncommand: "{gate.wait_command}"\n')
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    node = mesh.wait_job_state(sweep, "running")["node_id"]
    mesh.ask_to_hand_back(node)
    assert mesh.wait_stopped(node) == 0
    mesh.wait_until(lambda: gate.starts == 2, "the job runs elsewhere")
    assert gone(gate.pids[:1])
    assert processes_of(mesh, node) == {}
    gate.open()
    mesh.wait_jobs(sweep)
    handed, ended = mesh.attempts(sweep)
    assert handed["state"] == "handed back"
    assert ended["state"] == "succeeded"
    assert ended["placements"][0]["node_id"] != node
    assert gate.starts == 2
    start_again(mesh, node)


def test_p8_a_cancelled_job_leaves_no_process_however_stubborn(mesh: Mesh, tmp_path: Path) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    written = tmp_path / "pids"
    sweep = mesh.submit(f"name: stubborn\ncommand: {sys.executable} {script} {written}\n")

    def all_there() -> bool:
        return written.exists() and len(written.read_text().split()) == 4

    mesh.wait_until(all_there, "all four processes are there")
    pids = [int(line) for line in written.read_text().split()]
    assert not gone(pids)
    mesh.cancel(sweep)
    mesh.wait_jobs(sweep, "cancelled")
    assert gone(pids)
    assert mesh.jobs_processes(str(script)) == {}


def test_p8_a_job_that_fails_leaves_no_process(mesh: Mesh, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    sweep = mesh.submit(f'name: leaving\ncommand: "sleep 1000 & echo $! > {pid_file}; exit 7"\n')
    (row,) = mesh.wait_jobs(sweep, "failed")
    assert row["failure"].startswith("user error: exit code 7")
    assert gone([int(pid_file.read_text())])


def test_p8_a_job_past_its_timeout_is_ended(mesh: Mesh, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    sweep = mesh.submit(f'name: late\ntimeout: 0.5s\ncommand: "{gate.wait_command}"\n')
    (row,) = mesh.wait_jobs(sweep, "failed")
    assert row["failure"].startswith("timeout: ")
    assert gone(gate.pids)
    assert len(mesh.attempts(sweep)) == 1


def test_p8_a_mesh_that_is_stopped_leaves_no_process(new_mesh: NewMesh, tmp_path: Path) -> None:
    mesh = new_mesh()
    mesh.start("n1")
    gate = Gate(tmp_path)
    sweep = mesh.submit(f'name: open\ncommand: "{gate.wait_command}"\n')
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    mesh.wait_job_state(sweep, "running")
    mesh.ask_to_hand_back("n1")
    assert mesh.wait_stopped("n1") == 0
    (row,) = mesh.jobs(sweep)
    assert row["state"] == "waiting"
    mesh.ask_to_stop("master")
    assert mesh.wait_stopped("master") == 0
    assert mesh.processes() == {}
