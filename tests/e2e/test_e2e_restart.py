"""The master is killed and started again: nothing acknowledged is lost, nothing runs twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate import Gate
from mesh import NewMesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_restart")]

LINES = 200_000
NODES = ("n1", "n2")


def test_p1_p2_p3_p7_jobs_go_on_while_the_master_is_killed(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh()
    mesh.start(*NODES, cpu_slots=2)
    gate, late = Gate(tmp_path, "gate"), Gate(tmp_path, "late")
    made = tmp_path / "made"
    base = f'{{command: "echo base >> {made}; echo model > {{output}}/model"}}'
    running = f"""
name: running
base: {base}
command: "{gate.wait_command}; cat {{base}}/model; echo {{number}} > {{output}}/number"
matrix: {{number: [0, 1, 2, 3]}}
"""
    waiting = f"""
name: waiting
base: {base}
command: "{late.wait_command}; cat {{base}}/model"
matrix: {{number: [0, 1, 2, 3]}}
"""
    first = mesh.submit(running)
    mesh.wait_until(lambda: gate.starts == 4, "four jobs run")
    mesh.wait_until(
        lambda: all(row["state"] == "running" for row in mesh.jobs(first)), "the master knows"
    )
    second = mesh.submit(waiting)
    mesh.kill("master")
    before = [pid for pid in gate.pids if Path(f"/proc/{pid}").exists()]
    assert len(before) == 4
    # Jobs end while nobody can be told.
    gate.open()
    mesh.wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), "the jobs have ended"
    )

    mesh.start_master()
    mesh.wait_connected(*NODES)
    rows = mesh.wait_jobs(first)
    assert len(rows) == 4
    assert gate.starts == 4
    for row in rows:
        (attempt,) = mesh.attempts(row["job_id"])
        assert attempt["state"] == "succeeded"
        mesh.wait_log(row["job_id"], b"model\n")
    assert len(mesh.jobs(second)) == 4
    late.open()
    mesh.wait_jobs(second)
    assert late.starts == 4
    assert made.read_text() == "base\n"
    (row,) = mesh.rows("bases")
    assert len(mesh.attempts(row["job_id"])) == 1
    for number in range(4):
        cell = mesh.results / "running" / f"number={number}"
        assert mesh.wait_file(cell / "number").read_text() == f"{number}\n"


def test_p1_what_ended_just_before_the_master_was_killed_is_laid_out_later(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh()
    mesh.start("n1")
    sweep = mesh.submit("name: ended\ncommand: echo 7 > {output}/number\n")
    mesh.wait_jobs(sweep)
    mesh.kill("master")
    mesh.start_master()
    folder = mesh.results / "ended"
    mesh.wait_file(folder / "phase2_experiments.json")
    assert [path.read_text() for path in folder.glob("*/number")] == ["7\n"]


def test_p6_a_log_is_stored_exact_through_a_restart_of_the_master(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh()
    mesh.start("n1")
    gate = Gate(tmp_path)
    line = "{:07d} of the numbered lines that this job prints\n"
    script = tmp_path / "count.sh"
    half = LINES // 2
    words = "of the numbered lines that this job prints"
    script.write_text(
        f"seq -f '%07.0f {words}' 0 {half - 1}\n"
        f"{gate.wait_command}\n"
        f"seq -f '%07.0f {words}' {half} {LINES - 1}\n"
    )
    sweep = mesh.submit(f"name: counting\ncommand: sh {script}\n")
    mesh.wait_until(lambda: gate.starts == 1, "half of the lines are printed")
    (row,) = mesh.jobs(sweep)

    def some_stored() -> bool:
        return bool(mesh.rows("log", row["job_id"], limit=1)[0]["size_bytes"])

    mesh.wait_until(some_stored, "some of them are stored")
    mesh.kill("master")
    gate.open()
    mesh.start_master()
    mesh.wait_jobs(sweep)
    expected = "".join(map(line.format, range(LINES))).encode()
    mesh.wait_log(row["job_id"], expected)
    (attempt,) = mesh.attempts(row["job_id"])
    stored = mesh.home / "logs" / row["job_id"] / f"{attempt['attempt_id']}.log"
    assert stored.read_bytes() == expected


def test_p7_a_worker_that_comes_before_its_master_waits_for_it(new_mesh: NewMesh) -> None:
    mesh = new_mesh()
    mesh.start("n1")
    mesh.kill("master")
    mesh.start_worker("n2")
    daemon = mesh.daemons["n2"]
    mesh.wait_until(lambda: daemon.said("worker n2 ready"), "the worker is up")
    mesh.start_master()
    mesh.wait_connected("n1", "n2")
    mesh.wait_jobs(mesh.submit("name: after\ncommand: 'true'\nmatrix: {number: [0, 1, 2]}\n"))
