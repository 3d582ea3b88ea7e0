"""Real daemons under a supervisor that listens: when they are ready, and how they stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from gate import Gate
from mesh import NewMesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_supervised")]


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.bind(str(tmp_path / "notify"))
    ear.settimeout(30)
    yield ear
    ear.close()


def hear(ear: socket.socket, line: str) -> list[str]:
    """The lines that came, up to the datagram that holds `line`."""
    told: list[str] = []
    while line not in told:
        told += ear.recv(4096).decode().split("\n")
    return told


def test_p7_a_host_that_goes_down_hands_back_what_a_restart_would_leave(
    new_mesh: NewMesh, ear: socket.socket, tmp_path: Path
) -> None:
    """P7, P8: SIGINT, which the unit sends when the host goes down, leaves no job behind."""
    mesh = new_mesh()
    mesh.start()
    mesh.start_worker(
        "n1",
        NOTIFY_SOCKET=str(tmp_path / "notify"),
        WATCHDOG_USEC="100000",
        MESHTRAIN_JOBS_ON_STOP="leave",
        MESHTRAIN_STOP_GRACE_S="0.2",
        MESHTRAIN_KILL_GRACE_S="0.2",
    )
    told = hear(ear, "READY=1")
    assert any(line.startswith("STATUS=0 attempts") for line in told)
    hear(ear, "WATCHDOG=1")
    gate = Gate(tmp_path)
    sweep = mesh.submit(f'name: handed\ncommand: "{gate.wait_command}; env"\n')
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    mesh._signal("n1", signal.SIGINT)
    assert "STOPPING=1" in hear(ear, "STOPPING=1")
    assert mesh.wait_stopped("n1") == 0
    assert mesh.jobs_processes(str(mesh.folder / "n1")) == {}
    mesh.wait_until(lambda: mesh.job(sweep)["state"] != "running", "the job is handed back")
    (attempt,) = mesh.attempts(sweep)
    assert attempt["state"] == "handed back"
