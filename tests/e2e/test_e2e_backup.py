"""A backup of a running master is restored: the nodes come back, and nothing runs twice at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gate import Gate
from mesh import Mesh, NewMesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_backup")]


def command(mesh: Mesh, *arguments: str) -> Any:
    """What a command prints as JSON."""
    line = [sys.executable, "-m", "meshtrain.cli", "--home", str(mesh.home), *arguments, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_p1_p2_p6_a_mesh_goes_on_from_a_backup_of_its_running_master(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh()
    mesh.start("n1", cpu_slots=3)
    before, during, after = (Gate(tmp_path, name) for name in ("before", "during", "after"))
    ended = mesh.submit("name: ended\ncommand: echo ended\n")
    mesh.wait_jobs(ended)
    job = 'name: {name}\ncommand: "seq 1000; {wait}; echo on; {later}; echo {name}"\n'
    running = mesh.submit(
        job.format(name="running", wait=before.wait_command, later=after.wait_command)
    )
    mesh.wait_until(lambda: before.starts == 1, "a job runs")
    numbers = "".join(f"{number}\n" for number in range(1, 1001)).encode()
    mesh.wait_log(mesh.jobs(running)[0]["job_id"], numbers)

    made = command(mesh, "backup", str(tmp_path / "mesh.backup"))
    assert made["jobs"] == 2

    # After it: a job more, and bytes that the node was told to be stored, and dropped.
    before.open()
    mesh.wait_log(mesh.jobs(running)[0]["job_id"], numbers + b"on\n")
    late = mesh.submit(job.format(name="late", wait=during.wait_command, later="true"))
    mesh.wait_until(lambda: during.starts == 1, "a later job runs")
    mesh.kill("master")
    done = command(mesh, "restore", str(tmp_path / "mesh.backup"))
    assert (Path(done["aside"]) / "jobs.db").exists()
    mesh.start_master()
    mesh.wait_connected("n1")

    # The job of the lost time is unknown, and ended on its node; the others go on as they were.
    assert {row["sweep_id"] for row in mesh.rows("sweeps")} == {ended, running}
    mesh.wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in during.pids),
        "what the restored master doesn't know is ended",
    )
    after.open()
    (row,) = mesh.wait_jobs(running)
    mesh.wait_log(row["job_id"], numbers + b"on\nrunning\n")
    (attempt,) = mesh.attempts(row["job_id"])
    assert (attempt["state"], before.starts) == ("succeeded", 1)
    mesh.wait_jobs(ended)
    # It is the same sweep, and its attempts have other epochs than the lost ones.
    during.open()
    assert mesh.submit(job.format(name="late", wait=during.wait_command, later="true")) == late
    (row,) = mesh.wait_jobs(late)
    (attempt,) = mesh.attempts(row["job_id"])
    assert int(attempt["attempt_id"].rpartition(".")[2]) >> 40 == done["incarnation"]
