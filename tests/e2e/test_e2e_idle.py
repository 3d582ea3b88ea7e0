"""What the daemons weigh while nothing happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from mesh import NewMesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_bad_peers")]

RESIDENT_BYTES_MAX = 80 * 10**6
"""A daemon never loads torch, and leaves the memory of its host to the jobs."""


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")


def test_an_idle_daemon_is_small(new_mesh: NewMesh) -> None:
    mesh = new_mesh()
    mesh.start("n1")
    for name in ("master", "n1"):
        size_bytes = resident_bytes(mesh.daemons[name].pid)
        assert size_bytes < RESIDENT_BYTES_MAX, f"{name} takes {size_bytes / 1e6:.0f} MB"
