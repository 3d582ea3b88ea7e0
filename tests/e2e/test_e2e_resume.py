"""A training whose node is taken away goes on elsewhere, and ends as if nothing had happened."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mesh import Mesh, NewMesh, read_json

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_resume")]

NODES = ("n1", "n2")
TRAINING = """
name: {name}
target: {{mode: target_only, participant: w07, model: mlp, augmentation: affine, epochs: 20}}
checkpoint_every: 0.5
"""
EXAMPLE = Path(__file__).parents[2] / "configs" / "examples" / "resumable" / "train.py"
STEPS = 1_000_000
"""Of the walk that the example makes: some seconds."""


@pytest.fixture(scope="module")
def mesh(new_module_mesh: NewMesh) -> Mesh:
    mesh = new_module_mesh(lease_s=2.0)
    mesh.start(*NODES)
    return mesh


@pytest.fixture(scope="module")
def whole(mesh: Mesh) -> dict[str, Any]:
    """The metrics of a run that nobody interrupted."""
    return metrics_of(mesh, mesh.submit(TRAINING.format(name="whole")))


def node_of(mesh: Mesh, job: str) -> str:
    return str(mesh.wait_job_state(job, "running")["node_id"])


def wait_checkpoint(mesh: Mesh, job: str) -> None:
    """Wait until the master holds a checkpoint, so that its node is no longer needed."""
    path = mesh.home / "state" / "jobs.db"

    def held() -> bool:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as store:
            asked = store.execute("SELECT checkpoint_safe FROM jobs WHERE job_id = ?", (job,))
            return asked.fetchone() != (None,)

    mesh.wait_until(held, "the master holds a checkpoint")


def first_step(mesh: Mesh, job: str) -> int:
    """The step that the last attempt of a job went on from."""

    def said() -> re.Match[bytes] | None:
        attempt = mesh.attempts(job)[-1]["attempt_id"]
        return re.search(rb"goes on from step (\d+)", mesh.log_bytes(job, attempt=attempt))

    return int(mesh.wait_until(said, "it goes on from a step")[1])


def lose(mesh: Mesh, node: str) -> None:
    """Kill all of a node at once, its jobs included, as a power cut does."""
    mesh.daemons[node].expected_to_end = True
    home = str(mesh.folder / node)
    for _ in range(2):
        for pid, line in mesh.processes().items():
            if home in line or home in _cwd(pid):
                os.kill(pid, signal.SIGKILL)
    mesh.daemons[node].process.wait()


def _cwd(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def metrics_of(mesh: Mesh, sweep: str) -> dict[str, Any]:
    (row,) = mesh.wait_jobs(sweep)
    return {key: value for key, value in row["metrics"].items() if key != "seconds"}


def test_p7_a_training_that_is_handed_back_goes_on_from_its_step(
    mesh: Mesh, whole: dict[str, Any]
) -> None:
    sweep = mesh.submit(TRAINING.format(name="handed"))
    (row,) = mesh.jobs(sweep)
    job = row["job_id"]
    node = node_of(mesh, job)
    mesh.wait_until(
        lambda: list((mesh.folder / node).glob("attempts/*/checkpoint/step-*")), "it has one"
    )
    mesh.ask_to_hand_back(node)
    assert first_step(mesh, job) > 0
    assert metrics_of(mesh, sweep) == whole
    assert (whole["steps"], len(mesh.attempts(job))) == (4000, 2)
    mesh.wait_stopped(node)
    mesh.start_worker(node)
    mesh.wait_connected(*NODES)


def test_p7_a_training_that_somebody_ends_is_preempted_and_goes_on(
    mesh: Mesh, whole: dict[str, Any]
) -> None:
    """SIGTERM that the mesh didn't send, as a host's own rules may: no failure of the job."""
    sweep = mesh.submit(TRAINING.format(name="somebody_ends") + "retries: 0\n")
    (row,) = mesh.jobs(sweep)
    job = row["job_id"]
    node = node_of(mesh, job)
    found = mesh.wait_until(
        lambda: list((mesh.folder / node).glob("attempts/*/checkpoint/step-*")), "it has one"
    )
    started = read_json(found[0].parent.parent / "started.json")
    os.kill(started["pid"], signal.SIGTERM)
    assert first_step(mesh, job) > 0
    assert metrics_of(mesh, sweep) == whole
    first, _ = mesh.attempts(job)
    assert first["failure"]["failure_class"] == "preempted"


def test_p7_a_training_whose_host_is_lost_goes_on_from_its_last_checkpoint(
    mesh: Mesh, whole: dict[str, Any]
) -> None:
    sweep = mesh.submit(TRAINING.format(name="lost"))
    (row,) = mesh.jobs(sweep)
    node = node_of(mesh, row["job_id"])
    wait_checkpoint(mesh, row["job_id"])
    lose(mesh, node)
    assert first_step(mesh, row["job_id"]) > 0
    assert metrics_of(mesh, sweep) == whole
    mesh.start_worker(node)
    mesh.wait_connected(*NODES)


def test_p7_a_program_of_one_s_own_goes_on_too(mesh: Mesh) -> None:
    command = f"{sys.executable} {EXAMPLE} --dimensions 3 --seed 1 --steps {STEPS}"
    sweep = mesh.submit(
        f'name: own\ncommand: "{command} --output {{output}}"\ncheckpoint_every: 0.5\n'
        "results: {file: results.json}\n"
    )
    (row,) = mesh.jobs(sweep)
    node = node_of(mesh, row["job_id"])
    wait_checkpoint(mesh, row["job_id"])
    lose(mesh, node)
    assert first_step(mesh, row["job_id"]) > 0
    found = metrics_of(mesh, sweep)
    assert found["steps"] == STEPS
    mesh.start_worker(node)
    mesh.wait_connected(*NODES)
