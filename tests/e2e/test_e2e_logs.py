"""Logs and metrics at full speed, while links are cut and the master dies at the worst moments.

`make log-exactness` runs the same with a million lines.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mesh import Mesh, NewMesh
from weather import BEHIND_LINKS, Weather, resident_max_bytes

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_logs")]

LINES = int(os.environ.get("MESHTRAIN_LOG_LINES", "150000"))
WORDS = "of the numbered lines that this job prints"
LINE_BYTES = len(f"{0:07d} {WORDS}\n")
DEATHS = ("log.written:1", "log.fsynced:2", "log.counted:2")
"""The master dies between write, fsync, commit and confirmation, each in a life of its own."""
LEASE_S = 10.0
WAIT_S = 60.0 + LINES / 5000
FLOOD_BYTES = 40 * LINES
FLOODS = 4


def expected_line(number: int) -> bytes:
    return f"{number:07d} {WORDS}\n".encode()


def assert_exact(stored: Path) -> None:
    """Every line once, in order, and nothing else."""
    with stored.open("rb") as file:
        for number in range(LINES):
            line = file.readline()
            assert line == expected_line(number), f"line {number} is {line!r}"
        assert file.read() == b""


@pytest.mark.timeout(int(WAIT_S) * 4)
def test_P6_P7_a_log_at_full_speed_is_exact_through_cuts_and_deaths_of_both_daemons(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    total_bytes = LINES * LINE_BYTES
    mesh = new_mesh(lease_s=LEASE_S)
    mesh.start_master()
    with Weather(mesh, cuts_bytes=(total_bytes // 5,) * 3) as weather:
        mesh.start_worker("n1", through=BEHIND_LINKS)
        mesh.wait_connected("n1")
        mesh.kill("master")
        start_dying_master(mesh, tmp_path, DEATHS[0])
        script = tmp_path / "count.sh"
        script.write_text(f"seq -f '%07.0f {WORDS}' 0 {LINES - 1}\n")
        sweep = mesh.submit(f"name: counting\ncommand: sh {script}\n")
        for point in (*DEATHS[1:], ""):
            daemon = mesh.daemons["master"]
            mesh.wait_until(
                lambda daemon=daemon: daemon.process.poll() is not None,
                f"the master dies before {point or 'the end'}",
            )
            start_dying_master(mesh, tmp_path, point)
            if point == DEATHS[-1]:
                # The node's daemon dies too; the next one takes the log over where it is.
                mesh.kill("n1")
                mesh.start_worker("n1", through=BEHIND_LINKS)
        (row,) = mesh.jobs(sweep)

        def stored_bytes() -> int:
            return int(mesh.rows("log", row["job_id"], limit=1)[0]["size_bytes"])

        mesh.wait_until(lambda: stored_bytes() >= total_bytes, "all bytes are stored", WAIT_S)
        mesh.wait_jobs(sweep, timeout_s=WAIT_S)
    assert weather.cuts == 3
    for point in DEATHS:
        name = point.partition(":")[0]
        assert (tmp_path / f"{name}.note").read_text().startswith(name)
    (attempt,) = mesh.attempts(row["job_id"])
    assert attempt["state"] == "succeeded"
    assert_exact(mesh.home / "logs" / row["job_id"] / f"{attempt['attempt_id']}.log")
    assert weather.answers > 0
    assert weather.gap_max_s < LEASE_S
    print(
        f"{LINES:,} lines, {total_bytes:,} bytes, {weather.cuts} cuts, {len(DEATHS)} deaths of the "
        "master, one of the node's daemon: exact; the longest time between answered beats "
        f"{weather.gap_max_s:.3f} s (lease {LEASE_S:g} s)"
    )


def start_dying_master(mesh: Mesh, folder: Path, point: str) -> None:
    """Start a master that kills itself at a failpoint, or none."""
    if not point:
        mesh.start_master()
        return
    note = folder / f"{point.partition(':')[0]}.note"
    mesh.begin_master(MESHTRAIN_FAILPOINT=point, MESHTRAIN_FAILPOINT_NOTE=str(note))
    daemon = mesh.daemons["master"]
    daemon.expected_to_end = True
    # Its node may be there at once, with bytes that it dies of before it says that it listens.
    mesh.wait_until(
        lambda: daemon.process.poll() is not None or (mesh.home / "master.json").exists(),
        "the master listens, or has died",
    )


@pytest.mark.timeout(int(WAIT_S) * 4)
def test_P6_P12_a_flood_of_logs_delays_no_heartbeat_no_small_log_and_fills_no_memory(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh(lease_s=LEASE_S)
    mesh.start_master()
    with Weather(mesh) as weather:
        mesh.start_worker("n1", cpu_slots=FLOODS + 1, through=BEHIND_LINKS)
        mesh.wait_connected("n1")
        before_bytes = resident_max_bytes(mesh.daemons["master"].pid)
        flood = mesh.submit(
            "name: flood\n"
            f"command: sh -c 'yes a line of a flood that one job prints | head -c {FLOOD_BYTES}'\n"
            f"matrix: {{job: {list(range(FLOODS))}}}\n"
        )
        script = tmp_path / "small.sh"
        script.write_text("echo '{\"step\": 1}' > $MESHTRAIN_METRICS; echo the one line\n")
        small = mesh.submit(f"name: small\ncommand: sh {script}\n")
        (row,) = mesh.jobs(small)
        mesh.wait_log(row["job_id"], b"the one line\n")
        mesh.wait_log(row["job_id"], b'{"step": 1}\n', "metrics")
        mesh.wait_jobs(flood, timeout_s=WAIT_S)
        mesh.wait_jobs(small)
        for job in mesh.jobs(flood):

            def size_bytes(job_id: str = job["job_id"]) -> int:
                return int(mesh.rows("log", job_id, limit=1)[0]["size_bytes"])

            mesh.wait_until(
                lambda size_bytes=size_bytes: size_bytes() == FLOOD_BYTES,
                "a flood is stored",
                WAIT_S,
            )
            assert len(mesh.attempts(job["job_id"])) == 1
    grown_bytes = resident_max_bytes(mesh.daemons["master"].pid) - before_bytes
    print(
        f"{FLOODS} logs of {FLOOD_BYTES:,} bytes at once: the longest time between answered beats "
        f"{weather.gap_max_s:.3f} s (lease {LEASE_S:g} s), the master's memory grew by "
        f"{grown_bytes / 1e6:.0f} MB"
    )
    assert weather.answers > 0
    assert weather.gap_max_s < LEASE_S
    assert grown_bytes < 200e6
