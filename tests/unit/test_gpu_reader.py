"""What is read of GPUs, through a driver whose state lies in a file (P8, P9, P11)."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshtrain.hardware.gpu import find_gpus
from meshtrain.hardware.gpu_reader import GpuProcess, GpuReader
from tests.gpu_double.nvml_file import FOLDER, VARIABLE, NvmlFile

LOST, RESET_REQUIRED, UNKNOWN = 15, 16, 999


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NvmlFile]:
    """Two GPUs; a `pynvml` that was imported before is put aside for the test."""
    file = NvmlFile(tmp_path)
    monkeypatch.setenv(VARIABLE, str(file.path))
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    yield file
    sys.modules.pop("pynvml", None)


def opened() -> int:
    module: Any = importlib.import_module("pynvml")
    return int(module.opened)


def test_all_that_a_gpu_tells_is_read(nvml: NvmlFile) -> None:
    nvml.gpu(0, name="NVIDIA H100", temperature=61, utilization=87, ecc=2, remapped=[1, 0, 1, 0])
    nvml.gpu(1, ecc=None, remapped=None, temperature=None, utilization=None, retiring=1)
    nvml.gpu(
        0,
        processes=[
            {"pid": 40, "used": 3 * 10**9, "type": "C"},
            {"pid": 20, "used": 10**8, "type": "G"},
            {"pid": 30, "used": 2 * 10**8, "type": "CG"},
        ],
    )
    reader = GpuReader((0, 1))
    first, second = reader.read()
    assert (first.index, first.uuid, first.model) == (0, "GPU-0", "NVIDIA H100")
    assert (first.memory_bytes, first.used_bytes) == (80 * 10**9, 3_800_000_000)
    assert first.processes == (
        GpuProcess(20, 10**8, computes=False),
        GpuProcess(30, 2 * 10**8, computes=True),
        GpuProcess(40, 3 * 10**9, computes=True),
    )
    assert first.unaccounted_bytes == 500_000_000
    assert (first.temperature_c, first.utilisation, first.uncorrected_errors) == (61, 0.87, 2)
    assert (first.reset_pending, first.fault) == (True, None)
    assert (second.temperature_c, second.utilisation, second.uncorrected_errors) == (None,) * 3
    assert (second.reset_pending, second.fault) == (True, None)
    assert opened() == 1
    reader.read()
    assert opened() == 1
    reader.close()
    assert opened() == 0
    assert [reading.fault for reading in reader.read()] == [None, None]


def test_gpus_are_found_through_the_same_driver(nvml: NvmlFile) -> None:
    nvml.gpu(1, errors={"*": LOST})
    assert [(gpu.index, gpu.memory_bytes) for gpu in find_gpus()] == [(0, 80 * 10**9)]
    assert opened() == 0


def test_where_the_driver_does_not_tell_memory_of_a_process_it_is_unknown(nvml: NvmlFile) -> None:
    nvml.put(0, 7, used=None)
    (reading,) = GpuReader((0,)).read()
    assert reading.processes == (GpuProcess(7, None, computes=True),)
    assert reading.unaccounted_bytes is None


def test_an_old_driver_without_a_call_is_read_without_it(nvml: NvmlFile) -> None:
    nvml.put(0, 7)
    nvml.gpu(
        0, errors={"nvmlDeviceGetComputeRunningProcesses": 13, "nvmlDeviceGetRemappedRows": 13}
    )
    (reading,) = GpuReader((0,)).read()
    assert (reading.processes, reading.fault, reading.used_bytes) == ((), None, 1_500_000_000)


@pytest.mark.parametrize(
    ("call", "code", "says"),
    [
        ("*", LOST, "GPU is lost (NVML)"),
        ("nvmlDeviceGetMemoryInfo", RESET_REQUIRED, "GPU requires restart (NVML)"),
        ("nvmlDeviceGetUUID", UNKNOWN, "Unknown Error (NVML)"),
        ("nvmlDeviceGetComputeRunningProcesses", LOST, "GPU is lost (NVML)"),
        ("nvmlDeviceGetTemperature", LOST, "GPU is lost (NVML)"),
        ("nvmlDeviceGetTotalEccErrors", UNKNOWN, "Unknown Error (NVML)"),
    ],
)
def test_p11_a_gpu_that_fails_is_told_and_keeps_no_other_from_being_read(
    nvml: NvmlFile, call: str, code: int, says: str
) -> None:
    reader = GpuReader((0, 1))
    reader.read()
    nvml.gpu(0, errors={call: code})
    failed, well = reader.read()
    assert (failed.index, failed.uuid, failed.fault) == (0, "GPU-0", says)
    assert (well.index, well.fault) == (1, None)
    nvml.gpu(0, errors={})
    assert [reading.fault for reading in reader.read()] == [None, None]


def test_memory_that_can_not_be_mended_is_a_fault(nvml: NvmlFile) -> None:
    nvml.gpu(1, remapped=[9, 9, 0, 1])
    assert "have it replaced" in (GpuReader((1,)).read()[0].fault or "")


def test_a_driver_that_goes_away_and_comes_back_is_read_again(nvml: NvmlFile) -> None:
    reader = GpuReader((0, 1))
    assert [reading.fault for reading in reader.read()] == [None, None]
    nvml.driver(driver="away")
    for _ in range(2):
        assert [(r.uuid, r.fault) for r in reader.read()] == [
            ("GPU-0", "the GPU driver is away: Driver Not Loaded"),
            ("GPU-1", "the GPU driver is away: Driver Not Loaded"),
        ]
    nvml.driver(driver="ok")
    assert [reading.fault for reading in reader.read()] == [None, None]


def test_an_upgraded_driver_is_read_with_its_own_library(nvml: NvmlFile) -> None:
    reader = GpuReader((0, 1))
    reader.read()
    nvml.driver(version=2)
    assert [reading.fault for reading in reader.read()] == [None, None]
    nvml.driver(driver="away")
    reader.read()
    nvml.driver(driver="ok", version=3)
    assert [reading.fault for reading in reader.read()] == [None, None]


def test_p9_a_gpu_that_moved_to_another_place_is_not_taken_for_the_one_before(
    nvml: NvmlFile,
) -> None:
    reader = GpuReader((0, 1))
    reader.read()
    del nvml.state["gpus"][0]
    nvml.write()
    first, second = reader.read()
    assert first.fault is not None and second.fault is not None
    assert "the driver shows GPU-1 in the place of GPU-0" in first.fault
    assert second.fault == "Invalid Argument (NVML)"


def test_without_gpus_nobody_asks_the_driver(nvml: NvmlFile) -> None:
    assert GpuReader(()).read() == ()
    assert "pynvml" not in sys.modules


def test_without_pynvml_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install 'meshtrain[gpu]'" in (GpuReader((0,)).read()[0].fault or "")


def test_a_reading_that_hangs_does_not_hang_the_next(
    nvml: NvmlFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = GpuReader((0, 1), lock_wait_s=0.01)
    reader.read()
    module: Any = importlib.import_module("pynvml")
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(handle: int) -> str:
        hangs.set()
        goes_on.wait(10)
        return "x"

    monkeypatch.setattr(module, "nvmlDeviceGetName", hang)
    stuck = threading.Thread(target=reader.read)
    stuck.start()
    assert hangs.wait(10)
    assert all("has not answered" in (reading.fault or "") for reading in reader.read())
    reader.close()
    goes_on.set()
    stuck.join(10)
    assert [reading.fault for reading in reader.read()] == [None, None]
