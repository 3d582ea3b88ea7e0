"""The words by which a log tells that a GPU failed, and not the program on it.

They are those of the CUDA runtime and driver (cudaGetErrorString, names of
cudaError_t and CUresult), of NVML (nvmlReturn_t: GPU_IS_LOST, RESET_REQUIRED), of the
kernel driver (NVRM) and of torch (c10/cuda/CUDAFunctions.cpp). The Xid numbers are those of
broken memory (48, 64, 94, 95, 140), of NVLink (74), of the bus (79), and of processors of
the GPU's own that halted (62, 119, 120).

Not among them is what a program does to itself: an illegal memory access, a
device-side assert, an unspecified launch failure, a hardware stack error (its stack
ran over), an invalid device ordinal (it asked for a GPU that it wasn't given), a
driver that is too old for it, and the Xids 13, 31, 43 and 45, which follow those.

https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html
https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html
https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html
"""

from __future__ import annotations

import re

LAST_LINES = 12
"""Where the weaker words count: a program that goes on after them failed of something else."""

_FAULT = re.compile(
    rb"uncorrectable ECC error|ECC_?UNCORRECTABLE|"
    rb"uncorrectable NVLink error|NVLINK_?UNCORRECTABLE|"
    rb"GPU is lost|GPU_IS_LOST|fallen off the bus|"
    rb"GPU requires (?:a )?(?:reset|restart)|NVML_ERROR_RESET_REQUIRED|"
    rb"\bXid\b[^\n]{0,40}?:\s*(?:48|62|64|74|79|94|95|119|120|140)\b",
    re.IGNORECASE,
)
_NOT_USABLE = re.compile(
    rb"CUDA-capable device(?:s|\(s\))? (?:is/are|are|is) busy or unavailable|"
    rb"cudaErrorDevicesUnavailable|CUDA_ERROR_DEVICE_UNAVAILABLE|"
    rb"no CUDA-capable device is detected|cudaErrorNoDevice|CUDA_ERROR_NO_DEVICE|"
    rb"CUDA driver initialization failed|No CUDA GPUs are available|"
    rb"system not yet initialized|cudaErrorSystemNotReady|CUDA_ERROR_SYSTEM_NOT_READY",
    re.IGNORECASE,
)
"""Said where a GPU that was given can't be used at all: wedged, or its fabric is down."""
_WARNING = re.compile(rb"Warning:|\bWARNING\b|^W\d{4} ")


def tell_of_a_fault(tail: bytes) -> str:
    """The line that tells of a fault of a GPU; empty where none does.

    Args:
        tail: the end of what a job printed that had GPUs and failed.
    """
    lines = tail.splitlines()
    for line in reversed(lines):
        if _FAULT.search(line):
            return _text(line)
    for line in reversed([line for line in lines if line.strip()][-LAST_LINES:]):
        if _NOT_USABLE.search(line) and not _WARNING.search(line):
            return _text(line)
    return ""


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").strip()
