"""A `pynvml` whose driver and GPUs are what a JSON file says, at each call anew.

Put this folder in front on PYTHONPATH, and name the file in MESHTRAIN_FAKE_NVML;
`nvml_file.NvmlFile` writes it. Without the variable there is no driver.

    {"driver": "ok",            or "away"
     "version": 1,              of the driver; a library loaded under another one mismatches
     "holders": "/folder",      programs put themselves on a GPU: a file GPU-PID, its content bytes
     "gpus": [{"name": "H100", "uuid": "GPU-0", "memory": 80e9, "idle": 5e8, "hidden": 0,
               "processes": [{"pid": 7, "used": 1e9, "type": "C"}],   C, G, CG; used may be null
               "temperature": 40, "utilization": 0, "ecc": 0,             null: not supported
               "remapped": [0, 0, 0, 0], "retiring": 0,
               "errors": {"nvmlDeviceGetName": 15}}]}                     "*": every call
"""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any

NVML_TEMPERATURE_GPU = 0
NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
NVML_VOLATILE_ECC = 0

_UNINITIALIZED, _INVALID_ARGUMENT, _NOT_SUPPORTED = 1, 2, 3
_DRIVER_NOT_LOADED, _VERSION_MISMATCH = 9, 18
_TEXTS = {
    1: "Uninitialized",
    2: "Invalid Argument",
    3: "Not Supported",
    4: "Insufficient Permissions",
    9: "Driver Not Loaded",
    13: "Function Not Found",
    15: "GPU is lost",
    16: "GPU requires restart",
    18: "RM has detected an NVML/RM version mismatch.",
    999: "Unknown Error",
}

opened = 0
"""How often it was opened and not shut."""
_loaded_version: int | None = None


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(_TEXTS.get(value, f"NVML Error with code {value}"))
        self.value = value


class NVMLLibraryMismatchError(Exception):
    """Of a call that the driver is too old for."""


def _state() -> dict[str, Any]:
    path = os.environ.get("MESHTRAIN_FAKE_NVML")
    if not path:
        raise NVMLError(_DRIVER_NOT_LOADED)
    with open(path) as file:
        state: dict[str, Any] = json.load(file)
    if state.get("driver", "ok") != "ok":
        raise NVMLError(_DRIVER_NOT_LOADED)
    return state


def _open_state() -> dict[str, Any]:
    if not opened:
        raise NVMLError(_UNINITIALIZED)
    state = _state()
    if state.get("version", 1) != _loaded_version:
        raise NVMLError(_VERSION_MISMATCH)
    return state


def _gpu(handle: int, call: str) -> dict[str, Any]:
    gpus = _open_state()["gpus"]
    if not 0 <= handle < len(gpus):
        raise NVMLError(_INVALID_ARGUMENT)
    gpu: dict[str, Any] = gpus[handle]
    errors = gpu.get("errors", {})
    if code := errors.get(call, errors.get("*")):
        raise (
            NVMLLibraryMismatchError
            if call.endswith("Processes") and code == 13
            else NVMLError(code)
        )
    return gpu


def _optional(handle: int, call: str, key: str, default: Any) -> Any:
    value = _gpu(handle, call).get(key, default)
    if value is None:
        raise NVMLError(_NOT_SUPPORTED)
    return value


def nvmlInit() -> None:
    global opened, _loaded_version
    version = _state().get("version", 1)
    if _loaded_version is None:
        _loaded_version = version
    if version != _loaded_version:
        raise NVMLError(_VERSION_MISMATCH)
    opened += 1


def nvmlShutdown() -> None:
    global opened
    if not opened:
        raise NVMLError(_UNINITIALIZED)
    opened -= 1


def nvmlDeviceGetCount() -> int:
    return len(_open_state()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    _gpu(index, "nvmlDeviceGetHandleByIndex")
    return index


def nvmlDeviceGetUUID(handle: int) -> str:
    return str(_gpu(handle, "nvmlDeviceGetUUID").get("uuid", f"GPU-{handle}"))


def nvmlDeviceGetName(handle: int) -> str:
    return str(_gpu(handle, "nvmlDeviceGetName").get("name", "NVIDIA Fake"))


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    gpu = _gpu(handle, "nvmlDeviceGetMemoryInfo")
    used = gpu.get("idle", 0) + gpu.get("hidden", 0)
    used += sum(process["used"] or 0 for process in _processes(handle, gpu))
    total = int(gpu.get("memory", 80 * 10**9))
    return SimpleNamespace(total=total, used=int(used), free=total - int(used))


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    return _running(handle, "nvmlDeviceGetComputeRunningProcesses", "C")


def nvmlDeviceGetGraphicsRunningProcesses(handle: int) -> list[SimpleNamespace]:
    return _running(handle, "nvmlDeviceGetGraphicsRunningProcesses", "G")


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:
    assert sensor == NVML_TEMPERATURE_GPU
    return int(_optional(handle, "nvmlDeviceGetTemperature", "temperature", 40))


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:
    share = _optional(handle, "nvmlDeviceGetUtilizationRates", "utilization", 0)
    return SimpleNamespace(gpu=share, memory=0)


def nvmlDeviceGetTotalEccErrors(handle: int, error_type: int, counter: int) -> int:
    assert (error_type, counter) == (NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC)
    return int(_optional(handle, "nvmlDeviceGetTotalEccErrors", "ecc", 0))


def nvmlDeviceGetRemappedRows(handle: int) -> tuple[int, ...]:
    return tuple(_optional(handle, "nvmlDeviceGetRemappedRows", "remapped", [0, 0, 0, 0]))


def nvmlDeviceGetRetiredPagesPendingStatus(handle: int) -> int:
    return int(_optional(handle, "nvmlDeviceGetRetiredPagesPendingStatus", "retiring", None))


def _running(handle: int, call: str, kind: str) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(pid=process["pid"], usedGpuMemory=process["used"])
        for process in _processes(handle, _gpu(handle, call))
        if kind in process.get("type", "C")
    ]


def _processes(handle: int, gpu: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the file, and the programs that live and say that they are on this GPU."""
    found = list(gpu.get("processes", ()))
    holders = _open_state().get("holders")
    if holders and os.path.isdir(holders):
        for name in sorted(os.listdir(holders)):
            index, _, pid = name.partition("-")
            if index == str(handle) and pid.isdigit() and os.path.exists(f"/proc/{pid}"):
                with open(f"{holders}/{name}") as file:
                    found.append({"pid": int(pid), "used": int(file.read() or 0), "type": "C"})
    return found
