"""What a failure is called, and what follows: bad GPUs, memory that runs out, a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gate import Gate
from mesh import Mesh, NewMesh

from meshtrain.ids import new_id
from meshtrain.wire import messages as msg
from tests.gpu_double.nvml_file import NvmlFile

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_failures")]

GB = 10**9
ON_GPU = """
import json, os, sys
print("GPU", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
"""
BAD_GPU_0 = """
if os.environ["CUDA_VISIBLE_DEVICES"] == "0":
    said = {"class": "bad gpu", "message": "its sums are wrong"}
    json.dump(said, open(os.environ["MESHTRAIN_FAILURE"], "w"))
    sys.exit(1)
"""
ECC_ON_GPU_0 = """
if os.environ["CUDA_VISIBLE_DEVICES"] == "0":
    sys.exit("torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered")
"""


class GpuNode:
    """A mesh whose one node has a small GPU, 0, and a large one, 1."""

    def __init__(self, mesh: Mesh, folder: Path) -> None:
        self.mesh = mesh
        self.nvml = NvmlFile(folder)
        self.nvml.gpu(0, memory=40 * GB)
        self._folder = folder
        mesh.start_master()
        arguments = [
            *("--home", str(mesh.folder / "n1"), "--name", "n1", "--cpu-slots", "2"),
            *("--master", f"127.0.0.1:{mesh.ports['control']}"),
        ]
        looks = {"MESHTRAIN_GPU_GLANCE_S": "600"}
        mesh._start("n1", "worker", arguments, {**self.nvml.environment, **looks})
        mesh.wait_connected("n1")

    def submit(
        self, name: str, code: str, *, jobs: int = 1, needs: str = "gpus: 1", then: str = "true"
    ) -> str:
        program = self._folder / f"{name}.py"
        program.write_text(ON_GPU + code)
        return self.mesh.submit(
            f"name: {name}\nretries: 3\nmatrix: {{run: {list(range(jobs))}}}\n"
            f"resources: {{{needs}}}\ncommand: >-\n  {sys.executable} {program} && {then}\n"
        )

    def gpus_of(self, job: str) -> list[str]:
        """The GPU of each attempt of a job, by what it wrote."""
        found = []
        for one in self.mesh.attempts(job):

            def said(attempt: str = one["attempt_id"]) -> list[bytes]:
                return self.mesh.log_bytes(job, attempt=attempt).split()

            found.append(self.mesh.wait_until(said, "its log is stored")[1].decode())
        return found

    def failures_of(self, job: str) -> list[str]:
        return [one["failure"] for one in self.mesh.attempts(job)]

    @property
    def row(self) -> Any:
        return self.mesh.rows("nodes", "n1")[0]


@pytest.fixture
def node(new_mesh: NewMesh, tmp_path: Path) -> GpuNode:
    folder = tmp_path / "gpus"
    folder.mkdir()
    return GpuNode(new_mesh(heartbeat_s=0.1), folder)


@pytest.mark.parametrize("code", [BAD_GPU_0, ECC_ON_GPU_0], ids=["said", "ecc"])
def test_a_gpu_that_fails_three_times_is_out_of_use_until_it_is_released(
    node: GpuNode, tmp_path: Path, code: str
) -> None:
    mesh = node.mesh
    gate = Gate(tmp_path)
    # Nobody else is to have the good one, or a second try would go there.
    holder = node.submit("holder", "", needs="gpu_memory: 60GB", then=gate.wait_command)
    mesh.wait_until(lambda: gate.starts == 1, "the good GPU is held")
    sweep = node.submit("three", code, jobs=3)
    mesh.wait_until(lambda: "GPU 0 out of use after faults" in node.row["note"], "it is out")
    assert all(row["state"] == "waiting" for row in mesh.jobs(sweep))
    gate.open()
    rows = mesh.wait_jobs(sweep)
    gpus = [node.gpus_of(row["job_id"]) for row in rows]
    assert sum(one.count("0") for one in gpus) == 3
    assert all(one[-1] == "1" for one in gpus)
    told = str([node.failures_of(row["job_id"]) for row in rows])
    assert told.count("bad gpu") == 3
    mesh.wait_jobs(holder)
    mesh.do(msg.Release(new_id("request"), "n1"))
    mesh.wait_until(lambda: not node.row["note"], "it is in use again")
    (row,) = mesh.wait_jobs(node.submit("after", ""))
    assert node.gpus_of(row["job_id"]) == ["0"]


def test_a_gpu_that_is_lost_under_a_job_is_to_blame_for_its_crash(
    node: GpuNode, tmp_path: Path
) -> None:
    """Nothing in the log tells of it, and the last glance was before it: the driver is asked."""
    mesh = node.mesh
    gate = Gate(tmp_path)
    sweep = node.submit(
        "crashes",
        "",
        then=f"if [ $CUDA_VISIBLE_DEVICES = 0 ]; then {gate.wait_command}; exit 3; fi",
    )
    mesh.wait_until(lambda: gate.starts == 1, "it runs on GPU 0")
    node.nvml.gpu(0, errors={"*": 15})
    gate.open()
    (row,) = mesh.wait_jobs(sweep)
    assert node.gpus_of(row["job_id"]) == ["0", "1"]
    assert "GPU 0: GPU is lost" in str(node.failures_of(row["job_id"])[0])
    assert "bad gpu" in str(node.failures_of(row["job_id"])[0])


def test_a_job_that_runs_out_of_memory_gets_more_and_then_the_node_to_itself(
    node: GpuNode, tmp_path: Path
) -> None:
    mesh = node.mesh
    gate = Gate(tmp_path)
    beside = mesh.submit(f'name: beside\ncommand: "{gate.wait_command}"\nresources: {{gpus: 0}}\n')
    mesh.wait_until(lambda: gate.starts == 1, "another runs beside it")
    times = tmp_path / "times"
    code = (
        f'print("x", file=open("{times}", "a"))\n'
        f'if len(open("{times}").read().split()) < 3:\n'
        '    sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")\n'
    )
    sweep = node.submit("large", code)
    (row,) = mesh.jobs(sweep)
    job = row["job_id"]

    def waits_alone() -> bool:
        return len(mesh.attempts(job)) == 2 and mesh.job(job)["state"] == "waiting"

    mesh.wait_until(waits_alone, "it waits for a node to itself")
    gate.open()
    mesh.wait_jobs(sweep)
    mesh.wait_jobs(beside)
    assert node.gpus_of(job) == ["0", "1", "1"]
    assert str(node.failures_of(job)).count("'out of memory'") == 2
    assert [one["placements"][0]["alone"] for one in mesh.attempts(job)] == [False, False, True]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that a test may fill."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)],
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
    piece = bytes(64 << 10)
    while piece:
        try:
            os.write(fd, piece)
        except OSError:
            piece = piece[: len(piece) // 2]
    os.close(fd)


def test_p12_a_result_that_finds_its_node_s_disk_full_waits_for_room_and_is_not_made_anew(
    new_mesh: NewMesh, tmp_path: Path, small_disk: Path
) -> None:
    mesh = new_mesh(heartbeat_s=0.1)
    (mesh.folder / "n1").symlink_to(small_disk)
    mesh.start("n1", MESHTRAIN_ENCRYPT_ARTIFACTS="false")
    gate = Gate(tmp_path)
    filler = small_disk / "filler"
    sweep = mesh.submit(
        "name: big\nretries: 0\n"
        f'command: "head -c 1000000 /dev/zero > {{output}}/zeros; {gate.wait_command}"\n'
    )
    (row,) = mesh.jobs(sweep)
    mesh.wait_until(lambda: gate.starts == 1, "it runs")
    mesh.wait_job_state(row["job_id"], "running")
    fill(filler)
    gate.open()
    pid = gate.pids[0]
    mesh.wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it has ended")
    # Other work goes on meanwhile: several heartbeats try to store it in vain.
    mesh.start_worker("n2")
    mesh.wait_connected("n2")
    mesh.wait_jobs(mesh.submit("name: beside\ncommand: 'true'\nmatrix: {number: [1, 2, 3]}\n"))
    shown = mesh.job(row["job_id"])
    assert shown["state"] == "running" and len(shown["attempts"]) == 1
    filler.unlink()
    mesh.wait_jobs(sweep)
    (attempt,) = mesh.attempts(row["job_id"])
    assert attempt["state"] == "succeeded"
    assert gate.starts == 1
    found = mesh.wait_until(lambda: list(mesh.results.glob("big/*/zeros")), "its result is there")
    assert [zeros.stat().st_size for zeros in found] == [1_000_000]
