"""How busy hosts are, where they tell it."""

from __future__ import annotations

from tui_double import FakeSource, dashboard
from tui_rows import node

from meshtrain.core.changes import NodeRow
from meshtrain.core.node import GpuUse, HostUse
from meshtrain.core.view import MeshView
from meshtrain_tui.widgets.tally_line import Throughput
from meshtrain_tui.widgets.use import load_of, memory_words, spark

GB = 1_000_000_000


def busy(*shares: float | None, hot: int | None = 61, used: int = 20) -> HostUse:
    """A host whose GPUs are used so."""
    return HostUse(
        0.5,
        8 * GB,
        tuple(GpuUse(index, share, used * GB, 80 * GB, hot) for index, share in enumerate(shares)),
    )


def gpu_node(use: HostUse | None) -> NodeRow:
    return node("gpu1", gpus=("A100", "A100"), gpus_used=(0,), memory_bytes=64 * GB, use=use)


def test_a_spark_line() -> None:
    assert spark(bytes([0, 50, 100])) == "     ▁▅█"
    assert spark(bytes([255, 0])) == "       ▁"
    assert spark(bytes(range(0, 100, 5)), 4) == "▇▇██"
    assert memory_words(21_300_000_000, 24 * GB) == "21.3/24 GB"
    assert memory_words(104 * GB, 640 * GB) == "104/640 GB"
    assert memory_words(5, 0) == ""


def test_gpus_are_told_together() -> None:
    view = MeshView()
    for share in (0.0, 0.5, 1.0):
        view.apply(gpu_node(busy(share, share / 2)))
    load = load_of(view, view.nodes["gpu1"])
    assert load is not None
    assert list(load.readings) == [0, 38, 75]
    assert load.percent == 75
    assert (load.used_bytes, load.memory_bytes) == (40 * GB, 160 * GB)
    assert load.temperature_c == 61


def test_what_nobody_told_is_not_shown() -> None:
    view = MeshView()
    assert load_of(view, gpu_node(None)) is None
    view.apply(gpu_node(busy(None, None, hot=None)))
    load = load_of(view, view.nodes["gpu1"])
    assert load is not None
    assert (load.percent, load.temperature_c) == (None, None)


async def test_use_is_on_the_overview_and_on_the_nodes() -> None:
    source = FakeSource()
    readings = [gpu_node(busy(share, share)) for share in (0.0, 0.5, 0.97)]
    idle = node("cpu1", memory_bytes=16 * GB, use=HostUse(0.25, 4 * GB))
    source.tell([*readings, idle], whole=True)
    async with dashboard(source, size=(100, 30)) as shown:
        row = shown.row(" gpu1 ")
        for words in ("▁▅█  97%", "40.0/160 GB", "61°", "■□"):
            assert words in row
        assert "25%" in shown.row(" cpu1 ")
        source.tell([gpu_node(busy(0.9, 0.9, hot=91))])
        await shown.settle()
        assert "91° hot" in shown.row(" gpu1 "), "told without colour too"
        await shown.press("6")
        row = shown.row("gpu1")
        for words in ("90%", "40.0/160 GB", "91° hot"):
            assert words in row
        source.tell([node("gpu1", gpus=("A100", "A100"), connected=False)])
        await shown.settle()
        await shown.press("1")
        assert "%" not in shown.row(" gpu1 ")


def test_throughput_is_of_what_was_seen() -> None:
    throughput = Throughput()
    assert throughput.per_hour() is None
    for minute in range(30):
        throughput.add(60.0 * minute, 2 * minute)
    assert throughput.per_hour() == 120.0
    assert throughput.seen_s == 600.0
    throughput.add(1800.0, 3)
    assert throughput.per_hour() is None, "another master counts anew"
