"""What NVML tells about GPUs while they work: memory, processes, health.

A GPU is known by its place and its UUID together: should the driver count
anew, because one fell off the bus, a place never silently means another GPU.

MIG is left alone: it is neither switched nor looked into. A GPU in that mode is
read, and given out, as a whole.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

LOCK_WAIT_S = 10.0
"""How long a reading waits for the one before it: a wedged GPU makes NVML hang."""
PROCESSES_MAX = 4096
"""More of one GPU's processes than this aren't looked at."""

_Value = TypeVar("_Value")

_UNINITIALIZED = 1
_NOT_SUPPORTED = 3
_NO_PERMISSION = 4
_DRIVER_NOT_LOADED = 9
_FUNCTION_NOT_FOUND = 13
_LIBRARY_NOT_FOUND = 12
_VERSION_MISMATCH = 18
_NO_WORD = (_NOT_SUPPORTED, _NO_PERMISSION, _FUNCTION_NOT_FOUND)
"""Errors that mean: this GPU, or this driver, doesn't tell that."""
_DRIVER_AWAY = (_UNINITIALIZED, _DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND, _VERSION_MISMATCH)


class GpuProcess(msgspec.Struct, frozen=True):
    """A process on a GPU."""

    pid: int
    """As this host counts; one in another container has a number that means nothing here."""
    used_bytes: int | None
    """GPU memory; None where the driver doesn't tell."""
    computes: bool
    """False for one that only draws, as a desktop does."""


class GpuReading(msgspec.Struct, frozen=True):
    """One GPU at one moment."""

    index: int
    uuid: str = ""
    model: str = ""
    memory_bytes: int = 0
    used_bytes: int = 0
    processes: tuple[GpuProcess, ...] = ()
    temperature_c: int | None = None
    utilisation: float | None = None
    """Share of the last moments in which something computed, 0 to 1."""
    uncorrected_errors: int | None = None
    """Of its memory, since the driver was loaded; None where it has no ECC."""
    reset_pending: bool = False
    """Broken rows or pages are swapped out at its next reset."""
    fault: str | None = None
    """Why nothing can run on it: it is lost, needs a reset, or the driver is away."""

    @property
    def unaccounted_bytes(self) -> int | None:
        """Memory in use that no process shown has; None where the driver doesn't tell."""
        accounted = 0
        for process in self.processes:
            if process.used_bytes is None:
                return None
            accounted += process.used_bytes
        return max(0, self.used_bytes - accounted)


class GpuReader:
    """Reads the same GPUs again and again; threads may share it.

    NVML stays open between readings, for opening it wakes GPUs up. After any
    fault it is opened anew, so that a driver that went away, for an upgrade or a
    reset, is found when it is back, also in another version.

    Args:
        indices: the GPUs, as the driver counts them.
        lock_wait_s: how long a reading waits for one that hangs.
    """

    def __init__(self, indices: Iterable[int], *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._indices = tuple(dict.fromkeys(indices))
        self._lock_wait_s = lock_wait_s
        self._lock = threading.Lock()
        self._nvml: Any = None
        self._open = False
        self._uuids: dict[int, str] = {}

    def read(self) -> tuple[GpuReading, ...]:
        """All GPUs as they are now. Blocks while NVML does: call it in a thread.

        What goes wrong is told as the `fault` of the GPUs that it concerns.
        """
        if not self._indices:
            return ()
        if not self._lock.acquire(timeout=self._lock_wait_s):
            return self._all_faulty(
                f"NVML has not answered for {self._lock_wait_s:g} s: look for Xid in dmesg, and "
                "reset the GPU or reboot the host"
            )
        try:
            return self._read()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Lets go of the driver; the next reading opens it again."""
        if self._lock.acquire(timeout=self._lock_wait_s):
            try:
                self._shut()
            finally:
                self._lock.release()

    def _read(self) -> tuple[GpuReading, ...]:
        fault = self._make_open()
        if fault is None:
            readings = self._read_each()
            if readings is not None:
                return readings
            # The driver was away in between: it may be back already.
            fault = self._make_open()
            if fault is None:
                readings = self._read_each()
                if readings is not None:
                    return readings
                fault = "the driver goes away again and again: look for Xid in dmesg"
        return self._all_faulty(fault)

    def _read_each(self) -> tuple[GpuReading, ...] | None:
        """A reading of each GPU; None when the driver is away."""
        readings = []
        for index in self._indices:
            try:
                readings.append(self._read_one(index))
            except self._nvml.NVMLError as error:
                if _code(error) in _DRIVER_AWAY:
                    self._shut(reload=_code(error) == _VERSION_MISMATCH)
                    return None
                readings.append(
                    GpuReading(index, self._uuids.get(index, ""), fault=f"{error} (NVML)")
                )
        if any(reading.fault for reading in readings):
            # Only a driver that is opened anew shows a GPU that came back.
            self._shut()
        return tuple(readings)

    def _read_one(self, index: int) -> GpuReading:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        known = self._uuids.setdefault(index, uuid)
        if known != uuid:
            return GpuReading(
                index,
                known,
                fault=f"the driver shows {uuid} in the place of {known}: it counts its GPUs "
                "anew. Start the worker daemon again",
            )
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        remapped = self._told(nvml.nvmlDeviceGetRemappedRows, handle)
        retiring = self._told(nvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)
        utilisation = self._told(nvml.nvmlDeviceGetUtilizationRates, handle)
        return GpuReading(
            index=index,
            uuid=uuid,
            model=_text(nvml.nvmlDeviceGetName(handle)),
            memory_bytes=int(memory.total),
            used_bytes=int(memory.used),
            processes=self._processes(handle),
            temperature_c=self._told(
                nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU
            ),
            utilisation=None if utilisation is None else utilisation.gpu / 100,
            uncorrected_errors=self._told(
                nvml.nvmlDeviceGetTotalEccErrors,
                handle,
                nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                nvml.NVML_VOLATILE_ECC,
            ),
            reset_pending=bool(retiring) or (remapped is not None and bool(remapped[2])),
            fault=(
                "its memory has a broken row that could not be swapped out: have it replaced"
                if remapped is not None and remapped[3]
                else None
            ),
        )

    def _processes(self, handle: Any) -> tuple[GpuProcess, ...]:
        nvml = self._nvml
        found: dict[int, GpuProcess] = {}
        for computes, ask in (
            (True, nvml.nvmlDeviceGetComputeRunningProcesses),
            (False, nvml.nvmlDeviceGetGraphicsRunningProcesses),
        ):
            for process in (self._told(ask, handle) or ())[:PROCESSES_MAX]:
                pid = int(process.pid)
                used = process.usedGpuMemory
                # One that draws and computes stands in both lists, with the same memory.
                found.setdefault(
                    pid, GpuProcess(pid, None if used is None else int(used), computes)
                )
        return tuple(found[pid] for pid in sorted(found))

    def _told(self, ask: Callable[..., _Value], *arguments: Any) -> _Value | None:
        """The answer; None where this GPU or this driver has none."""
        try:
            return ask(*arguments)
        except self._nvml.NVMLError as error:
            if _code(error) in _NO_WORD:
                return None
            raise
        except self._nvml.NVMLLibraryMismatchError:
            return None  # A driver older than the call.

    def _make_open(self) -> str | None:
        """Opens NVML if it isn't open; returns why it can't be."""
        if self._open:
            return None
        try:
            if self._nvml is None:
                self._nvml = importlib.import_module("pynvml")
        except ImportError:
            return "pynvml is not installed: pip install 'meshtrain[gpu]'"
        for last in (False, True):
            try:
                self._nvml.nvmlInit()
            except self._nvml.NVMLError as error:
                if _code(error) == _VERSION_MISMATCH and not last:
                    self._shut(reload=True)
                    continue
                return f"the GPU driver is away: {error}"
            self._open = True
            return None
        return None

    def _shut(self, *, reload: bool = False) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(self._nvml.NVMLError):  # It may have gone away by itself.
                self._nvml.nvmlShutdown()
        if reload:
            _forget_library(self._nvml)
            self._nvml = importlib.reload(self._nvml)

    def _all_faulty(self, fault: str) -> tuple[GpuReading, ...]:
        return tuple(
            GpuReading(index, self._uuids.get(index, ""), fault=fault) for index in self._indices
        )


def _forget_library(nvml: Any) -> None:
    """Unloads NVML: the library of the former driver can't talk to its successor."""
    import _ctypes

    library = getattr(nvml, "nvmlLib", None)
    handle = getattr(library, "_handle", None)
    if isinstance(handle, int) and handle:
        _ctypes.dlclose(handle)


def _code(error: Any) -> int:
    return int(getattr(error, "value", -1))


def _text(told: Any) -> str:
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
