"""A node with GPUs, as a fake driver shows them: who gets them, and when they are back (P8, P9)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gate import Gate
from mesh import Mesh, NewMesh

from meshtrain.spec.settings import WorkerSettings
from tests.gpu_double.nvml_file import NvmlFile

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_gpus")]
watched = pytest.mark.skipif(
    "gpu_glance_s" not in WorkerSettings.model_fields, reason="nodes don't watch their GPUs yet"
)

HOLD = """
import os, sys
gpu = os.environ["CUDA_VISIBLE_DEVICES"]
for name in os.listdir(sys.argv[1]):
    index, pid = name.split("-")
    if index == gpu and os.path.exists("/proc/" + pid):
        sys.exit("GPU " + gpu + " is held by " + pid)
with open(sys.argv[1] + "/" + gpu + "-" + str(os.getpid()), "w") as file:
    file.write("3000000000")
print("GPU", gpu, flush=True)
"""
"""Puts itself on the GPU that it was given, and fails where somebody is already."""


class GpuMesh:
    """A mesh whose one node has two GPUs."""

    def __init__(self, mesh: Mesh, nvml: NvmlFile, program: Path) -> None:
        self.mesh = mesh
        self.nvml = nvml
        self._program = program

    def submit(self, name: str, *, jobs: int = 1, then: str = "true") -> str:
        command = f"{sys.executable} {self._program} {self.nvml.holders} && {then}"
        return self.mesh.submit(
            f'name: {name}\ncommand: "{command}"\nmatrix: {{run: {list(range(jobs))}}}\n'
            "resources: {gpus: 1}\nretries: 0\n"
        )

    def gpus_of(self, sweep: str) -> list[str]:
        """The GPU of each job of a sweep, by what it wrote."""
        found = []
        for row in self.mesh.jobs(sweep):

            def said(name: str = row["name"]) -> list[bytes]:
                return self.mesh.log_bytes(name).split()

            found.append(self.mesh.wait_until(said, "its log is stored")[1].decode())
        return found

    def wait_note(self, words: str, *, there: bool = True) -> None:
        """Wait until the node's row says this, or says it no more."""
        self.mesh.wait_until(
            lambda: (words in str(self.mesh.rows("nodes"))) == there, f"{words!r}: {there}"
        )


@pytest.fixture(scope="module")
def gpus(new_module_mesh: NewMesh, tmp_path_factory: pytest.TempPathFactory) -> GpuMesh:
    folder = tmp_path_factory.mktemp("gpus")
    nvml = NvmlFile(folder)
    program = folder / "hold.py"
    program.write_text(HOLD)
    mesh = new_module_mesh()
    mesh.start_master()
    arguments = [
        *("--home", str(mesh.folder / "n1"), "--name", "n1", "--cpu-slots", "1"),
        *("--master", f"127.0.0.1:{mesh.ports['control']}"),
    ]
    looks = {"MESHTRAIN_GPU_GLANCE_S": "0.05", "MESHTRAIN_GPU_FREE_WAIT_S": "600"}
    mesh._start("n1", "worker", arguments, {**nvml.environment, **looks})
    mesh.wait_connected("n1")
    return GpuMesh(mesh, nvml, program)


@contextmanager
def somebody_on(nvml: NvmlFile, gpu: int) -> Iterator[None]:
    """A living process on a GPU that is none of the mesh's."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = nvml.holders / f"{gpu}-{process.pid}"
    holder.write_text(str(10**9))
    try:
        yield
    finally:
        process.communicate(b"\n")
        holder.unlink()


def test_p9_each_gpu_is_given_to_one_job_at_a_time(gpus: GpuMesh, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    sweep = gpus.submit("both", jobs=5, then=gate.wait_command)
    gpus.mesh.wait_until(lambda: gate.starts == 2, "two jobs run at once")
    gate.open()
    gpus.mesh.wait_jobs(sweep)
    assert set(gpus.gpus_of(sweep)) == {"0", "1"}


@watched
def test_a_gpu_that_somebody_else_uses_is_left_alone_until_it_is_free(
    gpus: GpuMesh, tmp_path: Path
) -> None:
    with somebody_on(gpus.nvml, 0):
        gpus.wait_note("GPU 0 used by somebody else")
        sweep = gpus.submit("beside", jobs=3)
        gpus.mesh.wait_jobs(sweep)
        assert gpus.gpus_of(sweep) == ["1", "1", "1"]
    gpus.wait_note("used by somebody else", there=False)
    gate = Gate(tmp_path)
    both = gpus.submit("after", jobs=2, then=gate.wait_command)
    gpus.mesh.wait_until(lambda: gate.starts == 2, "both GPUs are used again")
    gate.open()
    gpus.mesh.wait_jobs(both)


@watched
def test_a_gpu_that_is_lost_is_left_alone_and_its_neighbour_works_on(gpus: GpuMesh) -> None:
    gpus.nvml.gpu(1, errors={"*": 15})
    gpus.wait_note("GPU 1 used by somebody else")
    assert gpus.mesh.daemons["n1"].said("GPU 1 is left alone: GPU is lost (NVML)")
    sweep = gpus.submit("on_the_other", jobs=2)
    gpus.mesh.wait_jobs(sweep)
    assert gpus.gpus_of(sweep) == ["0", "0"]
    gpus.nvml.gpu(1, errors={})
    gpus.wait_note("used by somebody else", there=False)


@watched
def test_p8_a_job_is_told_as_ended_when_its_gpu_memory_is_back(
    gpus: GpuMesh, tmp_path: Path
) -> None:
    """The driver takes the memory back some time after the process has gone."""
    gate = Gate(tmp_path)
    sweep = gpus.submit("slow_memory", then=gate.wait_command)
    (name,) = [row["name"] for row in gpus.mesh.jobs(sweep)]
    gpus.mesh.wait_until(lambda: gate.starts == 1, "it runs")
    for gpu in (0, 1):
        gpus.nvml.gpu(gpu, hidden=8 * 10**9)
    gate.open()
    pid = gate.pids[0]
    gpus.mesh.wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its process has gone")
    # A job on the CPU of the same node comes and goes meanwhile, word of its end included.
    other = gpus.mesh.submit('name: other\ncommand: "echo done"\nresources: {gpus: 0}\n')
    gpus.mesh.wait_jobs(other)
    assert gpus.mesh.job(name)["state"] == "running"
    for gpu in (0, 1):
        gpus.nvml.gpu(gpu, hidden=0)
    gpus.mesh.wait_jobs(sweep)
    gpus.wait_note("used by somebody else", there=False)
