"""Jobs outlive their worker daemon, their spawner, and end with their true exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from gate import Gate
from mesh import Mesh, NewMesh

from meshtrain_daemon.worker import processes

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_outlive")]

NODE = "n1"
SLOTS = 4
LINES = 2_000_000
GRACE = {"MESHTRAIN_KILL_GRACE_S": "0.3"}

STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for move in range(2):
    if os.fork() == 0:
        os.setsid()
        if move and os.fork():
            os._exit(0)
        break
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
while True:
    signal.pause()
"""


@pytest.fixture
def mesh(new_mesh: NewMesh) -> Mesh:
    mesh = new_mesh()
    mesh.start(NODE, cpu_slots=SLOTS, **GRACE)
    return mesh


def start_again(mesh: Mesh, **environment: str) -> None:
    mesh.start_worker(NODE, cpu_slots=SLOTS, **{**GRACE, **environment})
    daemon = mesh.daemons[NODE]
    mesh.wait_until(lambda: daemon.said(f"worker {NODE} ready"), "the worker is up")


def gone(pids: list[int]) -> bool:
    """Whether none lives; of an orphan of a killed shim init may still keep the entry."""
    return not any(lives(pid) for pid in pids)


def lives(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def start_record(mesh: Mesh, sweep: str) -> Any:
    """What the shim of a sweep's one job left in its folder."""
    attempt_id = mesh.attempts(sweep)[-1]["attempt_id"]
    path = mesh.folder / NODE / "attempts" / attempt_id / "started.json"
    return json.loads(mesh.wait_file(path).read_bytes())


def spawners(mesh: Mesh) -> list[int]:
    """The spawners of the node's daemon that lives now."""
    daemon = mesh.daemons[NODE].pid
    return [
        pid
        for pid in processes.descendants(daemon)
        if Path(f"/proc/{pid}/comm").read_text().strip() == "meshtrain-spawn"
    ]


def job(name: str, gate: Gate, then: str) -> str:
    return f'name: {name}\nretries: 0\ncommand: "{gate.wait_command}; {then}"\n'


def test_p7_jobs_go_on_under_a_killed_daemon_and_are_adopted(mesh: Mesh, tmp_path: Path) -> None:
    gates = {name: Gate(tmp_path, name) for name in ("good", "bad", "early", "cancelled")}
    words = {
        "good": "echo done; echo 7 > {output}/number",
        "bad": "exit 5",
        "early": "echo early; echo 3 > {output}/number",
        "cancelled": "true",
    }
    sweeps = {name: mesh.submit(job(name, gate, words[name])) for name, gate in gates.items()}
    for name, gate in gates.items():
        mesh.wait_until(lambda gate=gate: gate.starts == 1, f"{name} runs")
        mesh.wait_job_state(sweeps[name], "running")
    pids = {name: gate.pids[0] for name, gate in gates.items()}

    mesh.kill(NODE)
    # One ends while no daemon runs.
    gates["early"].open()
    mesh.wait_until(lambda: gone([pids["early"]]), "it ends")
    assert not gone([pids["good"]]) and not gone([pids["bad"]]) and not gone([pids["cancelled"]])
    start_again(mesh)
    assert mesh.daemons[NODE].said("took over 4 jobs")

    mesh.wait_jobs(sweeps["early"])
    mesh.cancel(sweeps["cancelled"])
    mesh.wait_jobs(sweeps["cancelled"], "cancelled")
    assert gone([pids["cancelled"]])
    gates["good"].open()
    gates["bad"].open()
    mesh.wait_jobs(sweeps["good"])
    (row,) = mesh.wait_jobs(sweeps["bad"], "failed")
    assert row["failure"].startswith("user error: exit code 5")
    for name, gate in gates.items():
        assert gate.starts == 1, name
        assert len(mesh.attempts(sweeps[name])) == 1
    mesh.wait_log(sweeps["good"], b"done\n")
    mesh.wait_log(sweeps["early"], b"early\n")
    for name, number in (("good", "7\n"), ("early", "3\n")):
        folder = mesh.results / name
        mesh.wait_file(folder / "phase2_experiments.json")
        assert [path.read_text() for path in folder.glob("*/number")] == [number]


def test_p7_p8_a_tree_that_was_adopted_is_cancelled_whole(mesh: Mesh, tmp_path: Path) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    written = tmp_path / "pids"
    sweep = mesh.submit(f"name: stubborn\ncommand: {sys.executable} {script} {written}\n")

    def all_there() -> bool:
        return written.exists() and len(written.read_text().split()) == 3

    mesh.wait_until(all_there, "all three processes are there")
    mesh.wait_job_state(sweep, "running")
    pids = [int(line) for line in written.read_text().split()]
    mesh.kill(NODE)
    start_again(mesh)
    assert not gone(pids[:1])
    mesh.cancel(sweep)
    mesh.wait_jobs(sweep, "cancelled")
    assert gone(pids)
    assert mesh.jobs_processes(str(script)) == {}


def test_p7_jobs_go_on_under_a_killed_spawner(mesh: Mesh, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    sweep = mesh.submit(job("kept", gate, "exit 6"))
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    mesh.wait_job_state(sweep, "running")
    for pid in spawners(mesh):
        os.kill(pid, signal.SIGKILL)
    mesh.wait_jobs(mesh.submit("name: after\ncommand: 'true'\n"))
    assert not gone(gate.pids)
    gate.open()
    (row,) = mesh.wait_jobs(sweep, "failed")
    assert row["failure"].startswith("user error: exit code 6")
    assert gate.starts == 1


@pytest.mark.parametrize("when", ["running", "adopted", "away"])
def test_p7_p8_a_killed_shim_s_orphans_are_swept_and_the_job_runs_again(
    mesh: Mesh, tmp_path: Path, when: str
) -> None:
    gate = Gate(tmp_path)
    orphan = tmp_path / "orphan"
    sweep = mesh.submit(
        "name: orphaned\nretries: 0\n"
        f'command: "(setsid sleep 1000 & echo $! >> {orphan}); {gate.wait_command}"\n'
    )
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    mesh.wait_job_state(sweep, "running")
    shim = start_record(mesh, sweep)["shim_pid"]
    orphans = [int(line) for line in orphan.read_text().split()]
    if when != "running":
        mesh.kill(NODE)
    if when == "adopted":
        start_again(mesh)
        mesh.wait_connected(NODE)
    os.kill(shim, signal.SIGKILL)
    if when == "away":
        start_again(mesh)
    mesh.wait_until(lambda: gate.starts == 2, "the job runs again")
    assert gone(gate.pids[:1]) and gone(orphans)
    gate.open()
    mesh.wait_jobs(sweep)
    lost, ended = mesh.attempts(sweep)
    assert lost["state"] == "lost" or "host lost" in str(lost)
    assert ended["state"] == "succeeded"


def test_p7_a_daemon_that_leaves_its_jobs_ends_at_once_and_the_next_takes_them_over(
    mesh: Mesh, tmp_path: Path
) -> None:
    mesh.kill(NODE)
    start_again(mesh, MESHTRAIN_JOBS_ON_STOP="leave")
    mesh.wait_connected(NODE)
    gate = Gate(tmp_path)
    sweep = mesh.submit(job("left", gate, "exit 4"))
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    mesh.wait_job_state(sweep, "running")
    # Asked twice at once: whether they come as one or two, no job is ended.
    mesh.ask_to_stop(NODE)
    mesh.ask_to_stop(NODE)
    assert mesh.wait_stopped(NODE) == 0
    assert not gone(gate.pids)
    start_again(mesh)
    assert mesh.daemons[NODE].said("took over 1 job ")
    gate.open()
    (row,) = mesh.wait_jobs(sweep, "failed")
    assert row["failure"].startswith("user error: exit code 4")
    assert gate.starts == 1


def test_p6_p7_what_a_job_printed_is_whole_though_its_daemon_died_after_its_end_was_told(
    mesh: Mesh, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    script = tmp_path / "print.sh"
    script.write_text(f"{gate.wait_command}\nseq -f '%08.0f' 1 {LINES}\n")
    sweep = mesh.submit(f"name: printing\ncommand: sh {script}\n")
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    gate.open()
    mesh.wait_job_state(sweep, "succeeded", "collecting")
    mesh.kill(NODE)
    start_again(mesh)
    mesh.wait_jobs(sweep)
    mesh.wait_log(sweep, "".join(f"{number:08d}\n" for number in range(1, LINES + 1)).encode())
    assert gate.starts == 1

    def cleared() -> bool:
        attempts = mesh.folder / NODE / "attempts"
        return not any(path.read_bytes() for path in attempts.glob("*/log"))

    mesh.wait_until(cleared, "its folder is removed")


def test_p7_an_adopted_job_is_handed_back_by_a_daemon_that_is_stopped(
    mesh: Mesh, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    sweep = mesh.submit(job("handed", gate, "true"))
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    mesh.wait_job_state(sweep, "running")
    mesh.kill(NODE)
    start_again(mesh)
    mesh.wait_connected(NODE)
    mesh.ask_to_hand_back(NODE)
    assert mesh.wait_stopped(NODE) == 0
    assert gone(gate.pids)
    (row,) = mesh.jobs(sweep)
    assert row["state"] == "waiting"
    start_again(mesh)
    mesh.wait_until(lambda: gate.starts == 2, "it runs again")
    gate.open()
    mesh.wait_jobs(sweep)


def test_p9_a_second_daemon_on_one_home_is_refused_and_touches_nothing(
    mesh: Mesh, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    sweep = mesh.submit(job("first", gate, "true"))
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    first = mesh.daemons[NODE]
    mesh.start_worker(NODE)
    second = mesh.daemons[NODE]
    second.expected_to_end = True
    assert mesh.wait_stopped(NODE) == 1
    assert second.said(f"in use by another worker, process {first.pid}")
    mesh.daemons[NODE] = first
    gate.open()
    mesh.wait_jobs(sweep)
    assert gate.starts == 1


def test_p6_p7_a_daemon_that_is_killed_again_and_again_loses_no_short_job(mesh: Mesh) -> None:
    sweep = mesh.submit(
        f"name: many\nretries: 0\ncommand: echo {{number}}\nmatrix: {{number: {list(range(60))}}}\n"
    )
    for done in (1, 20, 40):
        mesh.wait_until(
            lambda done=done: sum(row["state"] == "succeeded" for row in mesh.jobs(sweep)) >= done,
            f"{done} are done",
        )
        mesh.kill(NODE)
        start_again(mesh)
    rows = mesh.wait_jobs(sweep)
    assert len(rows) == 60
    for row in rows:
        number = row["name"].rpartition("=")[2]
        mesh.wait_log(row["job_id"], f"{number}\n".encode())
