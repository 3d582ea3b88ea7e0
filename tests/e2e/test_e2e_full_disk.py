"""The master's disk fills and is freed again: it stays up read-only, and nothing is lost."""

from __future__ import annotations

import errno
import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gate import Gate
from mesh import Mesh, NewMesh

from meshtrain.ids import new_id
from meshtrain.wire import messages as msg

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_full_disk")]

LEASE_S = 1.5
LINES = 20_000
PIECE = bytes(64 << 10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 48 MB, that a test may fill."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no file system of its own can be mounted here: {made.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Take all room that is left."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    piece = PIECE
    while piece:
        try:
            os.write(fd, piece)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            piece = piece[: len(piece) // 2]
    os.close(fd)


def health(mesh: Mesh) -> tuple[int, str]:
    asking = http.client.HTTPConnection("127.0.0.1", mesh.ports["http"], timeout=30)
    try:
        asking.request("GET", "/healthz")
        response = asking.getresponse()
        return response.status, json.loads(response.read())["status"]
    finally:
        asking.close()


def refusal(mesh: Mesh, message: msg.FromPerson) -> str:
    done = mesh.ask(message)
    assert isinstance(done, msg.Done)
    return done.error


def test_p12_a_master_whose_disk_is_full_answers_refuses_and_goes_on(
    new_mesh: NewMesh, tmp_path: Path, small_disk: Path
) -> None:
    mesh = new_mesh(lease_s=LEASE_S, heartbeat_s=0.2)
    mesh.home = small_disk / "master"
    mesh.inbox, mesh.results = mesh.home / "inbox", mesh.home / "results"
    mesh.start("n1", cpu_slots=2)
    feed = mesh.watch_feed()
    gate = Gate(tmp_path, "gate")
    running = f"""
name: running
command: "{gate.wait_command}; seq {LINES}; echo {{number}} > {{output}}/number"
matrix: {{number: [0, 1, 2, 3]}}
"""
    refused = "name: refused\ncommand: 'true'\n"
    first = mesh.submit(running)
    mesh.wait_until(lambda: gate.starts == 2, "two jobs run")
    mesh.wait_until(
        lambda: sum(row["state"] == "running" for row in mesh.jobs(first)) == 2, "the master knows"
    )
    hidden = mesh.inbox / ".dropped"
    hidden.write_text("name: dropped\ncommand: echo dropped\n")

    fill(mesh.home / "filler")
    full_since_s = time.monotonic()
    mesh.wait_until(lambda: feed.noted("the master is read-only"), "dashboards are told")
    hidden.rename(mesh.inbox / "dropped.yaml")
    # Questions are answered; what would change something is refused, with the mend.
    assert len(mesh.jobs(first)) == 4
    assert health(mesh) == (507, "read-only")
    assert mesh.log_bytes(mesh.jobs(first)[0]["job_id"]) == b""
    for message in (
        msg.Submit(new_id("request"), "sweep.yaml", refused.encode()),
        msg.Cancel(new_id("request"), (first,)),
        msg.Retry(new_id("request"), (first,)),
        msg.Drain(new_id("request"), "n1", True),
    ):
        error = refusal(mesh, message)
        assert "nothing was done: the master's disk is full" in error
        assert f"bytes are free at {mesh.home / 'state'}" in error and "Free some room" in error
    # Jobs end on their node, whose leases would have run out by now.
    gate.open()
    mesh.wait_until(lambda: not mesh.jobs_processes(f"seq {LINES}"), "two jobs have ended")
    mesh.wait_until(lambda: time.monotonic() > full_since_s + 2 * LEASE_S, "leases would be over")
    assert {row["state"] for row in mesh.jobs(first)} == {"running", "waiting"}
    assert (mesh.inbox / "dropped.yaml").exists()
    assert mesh.rows("nodes")[0]["connected"]
    assert gate.starts == 2

    (mesh.home / "filler").unlink()
    mesh.wait_until(lambda: feed.noted("room again"), "dashboards are told")
    assert health(mesh) == (200, "ready")
    rows = mesh.wait_jobs(first)
    printed = "".join(f"{number}\n" for number in range(1, LINES + 1)).encode()
    for row in rows:
        (attempt,) = mesh.attempts(row["job_id"])
        assert attempt["state"] == "succeeded"
        mesh.wait_log(row["job_id"], printed)
    assert gate.starts == 4
    mesh.wait_file(mesh.inbox / "accepted" / "dropped.yaml")
    names = {row["name"] for row in mesh.rows("sweeps")}
    assert names == {"running", "dropped"}, "what was refused was not done"
    mesh.wait_jobs(mesh.submit(refused))


def test_p12_p1_a_master_killed_on_a_full_disk_comes_back_on_it_with_all_it_had(
    new_mesh: NewMesh, tmp_path: Path, small_disk: Path
) -> None:
    mesh = new_mesh()
    mesh.home = small_disk / "master"
    mesh.inbox, mesh.results = mesh.home / "inbox", mesh.home / "results"
    mesh.start("n1")
    gate = Gate(tmp_path, "gate")
    sweep = mesh.submit(f"name: a\ncommand: '{gate.wait_command}; echo done'\n")
    mesh.wait_until(lambda: gate.starts == 1, "its job runs")
    mesh.wait_until(lambda: mesh.jobs(sweep)[0]["state"] == "running", "the master knows")
    fill(mesh.home / "filler")
    mesh.wait_until(
        lambda: "disk is full" in refusal(mesh, msg.Cancel(new_id("request"), (sweep,))),
        "the master is read-only",
    )
    mesh.kill("master")
    mesh.start_master()
    # That it runs is learnt from heartbeats, and those wait.
    assert [row["state"] for row in mesh.jobs(sweep)] == ["assigned"]
    assert "disk is full" in refusal(mesh, msg.Cancel(new_id("request"), (sweep,)))
    gate.open()
    (mesh.home / "filler").unlink()
    (row,) = mesh.wait_jobs(sweep)
    assert len(mesh.attempts(row["job_id"])) == 1
    mesh.wait_log(row["job_id"], b"done\n")
    assert gate.starts == 1
