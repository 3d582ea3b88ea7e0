"""How busy this host is, told with a heartbeat when it has changed; nothing is decided by it."""

from __future__ import annotations

from collections.abc import Callable

from meshtrain.clock import lease_now_s
from meshtrain.core.node import GpuUse, HostUse
from meshtrain.hardware.host import CpuMeter, memory_used_bytes

TELL_EVERY_S = 3.0
"""At most so often, however fast the heart beats."""
REPEAT_AFTER_S = 30.0
"""What hasn't changed is told again: a heartbeat may be lost, and a master is started anew."""
MEMORY_STEP_BYTES = 32 << 20
"""Smaller changes of main memory are none."""
GPU_MEMORY_STEP_BYTES = 8 << 20


class UseMeter:
    """Measures the host's CPUs and memory, and takes in what was read of its GPUs.

    Args:
        gpus: gives their use as it was read last; asks nobody.
        now_s: the lease clock, in seconds.
        cpu: measures the CPUs.
        memory: gives the bytes of main memory in use.
    """

    def __init__(
        self,
        gpus: Callable[[], tuple[GpuUse, ...]],
        *,
        now_s: Callable[[], float] = lease_now_s,
        cpu: Callable[[], float | None] | None = None,
        memory: Callable[[], int] = memory_used_bytes,
    ) -> None:
        self._gpus = gpus
        self._now_s = now_s
        self._cpu = CpuMeter().share if cpu is None else cpu
        self._memory = memory
        self._looked_s = now_s()
        self._told_s = -REPEAT_AFTER_S
        self._told: HostUse | None = None

    def news(self) -> HostUse | None:
        """The use of the host; None while there is nothing new to tell."""
        now_s = self._now_s()
        if now_s - self._looked_s < TELL_EVERY_S:
            return None
        self._looked_s = now_s
        cpu = self._cpu()
        use = HostUse(
            cpu=None if cpu is None else round(cpu, 2),
            memory_used_bytes=_stepped(self._memory(), MEMORY_STEP_BYTES),
            gpus=tuple(_rounded(gpu) for gpu in self._gpus()),
        )
        if use == self._told and now_s - self._told_s < REPEAT_AFTER_S:
            return None
        self._told, self._told_s = use, now_s
        return use


def _rounded(gpu: GpuUse) -> GpuUse:
    return GpuUse(
        index=gpu.index,
        used=None if gpu.used is None else round(min(max(gpu.used, 0.0), 1.0), 2),
        memory_used_bytes=_stepped(gpu.memory_used_bytes, GPU_MEMORY_STEP_BYTES),
        memory_bytes=gpu.memory_bytes,
        temperature_c=gpu.temperature_c,
    )


def _stepped(size_bytes: int, step_bytes: int) -> int:
    return round(size_bytes / step_bytes) * step_bytes
