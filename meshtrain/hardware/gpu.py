"""The NVIDIA GPUs of a host, read through NVML."""

from __future__ import annotations

from collections.abc import Collection

from meshtrain.core.node import Gpu
from meshtrain.errors import SettingsError


def find_gpus(wanted: str | Collection[int] = "auto") -> tuple[Gpu, ...]:
    """The GPUs that the mesh may use.

    Args:
        wanted: "auto" for all that the driver shows, or their indices.

    Returns an empty tuple where there is no driver or no GPU and none was
    asked for. Raises SettingsError when one that was asked for isn't there.
    """
    found = _all_gpus()
    if wanted == "auto":
        return found
    by_index = {gpu.index: gpu for gpu in found}
    missing = [index for index in wanted if index not in by_index]
    if missing:
        seen = ", ".join(str(index) for index in by_index) or "none"
        raise SettingsError(
            f"the settings name GPU {missing[0]}, the driver shows {seen}: mend `gpus`, or "
            "check the driver with nvidia-smi and that meshtrain[gpu] is installed"
        )
    return tuple(by_index[index] for index in dict.fromkeys(int(index) for index in wanted))


def _all_gpus() -> tuple[Gpu, ...]:
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                name = pynvml.nvmlDeviceGetName(handle)
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
            except pynvml.NVMLError:
                # One GPU that fell off the bus must not keep the others from working.
                continue
            model = name.decode() if isinstance(name, bytes) else str(name)
            gpus.append(Gpu(index=index, model=model, memory_bytes=int(memory)))
        return tuple(gpus)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()
