"""How busy a node's host is, in a few cells: its use a while ago and now, memory, temperature.

A node with GPUs is shown by them: the mean of their use, their memory together, the
hottest one. Where nobody told, nothing is shown.
"""

from __future__ import annotations

import msgspec
from textual.content import Content

from meshtrain.core.changes import NodeRow
from meshtrain.core.node import HostUse
from meshtrain.core.use_history import UNKNOWN, UseHistory
from meshtrain.core.view import MeshView

SPARK_WIDTH = 8
_BARS = "▁▂▃▄▅▆▇█"
BUSY_PERCENT = 90
HOT_C = 85
USE_WIDTH = SPARK_WIDTH + 26


class Load(msgspec.Struct, frozen=True):
    """What is known of a host's use."""

    readings: bytes = b""
    """Per cent, the newest last; UNKNOWN where nobody told."""
    percent: int | None = None
    used_bytes: int = 0
    memory_bytes: int = 0
    temperature_c: int | None = None


def load_of(view: MeshView, node: NodeRow) -> Load | None:
    """How busy a node's GPUs are, or its CPUs where it has none; None where nobody told."""
    use = node.use
    if use is None:
        return None
    history = view.use_history.get(node.node_id)
    if not node.gpus:
        percent = None if use.cpu is None else round(100 * use.cpu)
        readings = bytes(history.cpu) if history else b""
        return Load(readings, percent, use.memory_used_bytes, node.memory_bytes)
    shares = [gpu.used for gpu in use.gpus if gpu.used is not None]
    temperatures = [gpu.temperature_c for gpu in use.gpus if gpu.temperature_c is not None]
    return Load(
        _mean_readings(history, use) if history else b"",
        round(100 * sum(shares) / len(shares)) if shares else None,
        sum(gpu.memory_used_bytes for gpu in use.gpus),
        sum(gpu.memory_bytes for gpu in use.gpus),
        max(temperatures, default=None),
    )


def _mean_readings(history: UseHistory, use: HostUse) -> bytes:
    """The mean of the GPUs, reading by reading."""
    rows = [history.gpus[gpu.index][-SPARK_WIDTH:] for gpu in use.gpus if gpu.index in history.gpus]
    length = max((len(row) for row in rows), default=0)
    means = bytearray()
    for back in range(length, 0, -1):
        known = [row[-back] for row in rows if len(row) >= back and row[-back] != UNKNOWN]
        means.append(round(sum(known) / len(known)) if known else UNKNOWN)
    return bytes(means)


def spark(readings: bytes, width: int = SPARK_WIDTH) -> str:
    """The last readings as a line of bars; blank where nobody told."""
    drawn = "".join(
        " " if percent == UNKNOWN else _BARS[min(percent * len(_BARS) // 100, len(_BARS) - 1)]
        for percent in readings[-width:]
    )
    return f"{drawn:>{width}}"


def memory_words(used_bytes: int, memory_bytes: int) -> str:
    """`21.3/24 GB`; nothing where the size is not known."""
    if not memory_bytes:
        return ""
    used = used_bytes / 1e9
    return f"{used:.{0 if used >= 99.95 else 1}f}/{memory_bytes / 1e9:.0f} GB"


def spark_cell(load: Load) -> Content:
    """The use a while ago, and now: `▁▂▇▇▇▇▇▇  97%`."""
    if load.percent is None:
        return Content("")
    style = "$text-success" if load.percent >= BUSY_PERCENT else ""
    return Content.assemble(
        (spark(load.readings), "$text-primary"), (f" {load.percent:>3}%", style)
    )


def temperature_cell(load: Load) -> Content:
    """`71°`; one that is hot says so in a word."""
    if load.temperature_c is None:
        return Content("")
    if load.temperature_c >= HOT_C:
        return Content.styled(f"{load.temperature_c}° hot", "$text-error")
    return Content(f"{load.temperature_c}°")


def use_cell(load: Load) -> Content:
    """All of it, `USE_WIDTH` cells wide."""
    memory = memory_words(load.used_bytes, load.memory_bytes)
    cell = Content.assemble(spark_cell(load), f" {memory:>11} ", temperature_cell(load))
    return cell.append(" " * max(0, USE_WIDTH - cell.cell_length))
