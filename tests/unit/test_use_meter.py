"""How busy a host is: measured, told when it has changed, and remembered for a while."""

from __future__ import annotations

from pathlib import Path

from meshtrain.core.changes import NodeRow
from meshtrain.core.node import GpuUse, HostUse
from meshtrain.core.use_history import READINGS_KEPT, UNKNOWN
from meshtrain.core.view import MeshView
from meshtrain.hardware.gpu_reader import GpuReading
from meshtrain.hardware.host import CpuMeter, memory_used_bytes
from meshtrain_daemon.worker.gpu_watch import GpuWatch
from meshtrain_daemon.worker.use_meter import REPEAT_AFTER_S, TELL_EVERY_S, UseMeter


def test_the_cpus_are_measured_between_two_askings(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 1 1 1\n")
    meter = CpuMeter(stat)
    assert meter.share() is None, "no time has passed"
    # 100 ticks went by: 25 in use, 25 waiting for a disk, 50 idle. Guests are in user already.
    stat.write_text("cpu  115 0 110 750 125 0 0 0 60 0\n")
    assert meter.share() == 0.25
    stat.write_text("nonsense\n")
    assert meter.share() is None
    stat.unlink()
    assert meter.share() is None


def test_memory_in_use_is_what_no_new_program_could_have(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:   400 kB\n")
    assert memory_used_bytes(meminfo) == 600 << 10
    meminfo.write_text("MemTotal:  1000 kB\n")
    assert memory_used_bytes(meminfo) == 0
    assert memory_used_bytes(tmp_path / "none") == 0


def test_this_host_is_measured() -> None:
    assert memory_used_bytes() > 0
    share = CpuMeter().share()
    assert share is None or 0 <= share <= 1


class Host:
    """A host whose clock and loads are set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.cpu: float | None = 0.104
        self.memory_bytes = 1 << 30
        self.gpus: tuple[GpuUse, ...] = ()
        self.meter = UseMeter(
            lambda: self.gpus,
            now_s=lambda: self.now_s,
            cpu=lambda: self.cpu,
            memory=lambda: self.memory_bytes,
        )

    def news_after(self, seconds: float) -> HostUse | None:
        self.now_s += seconds
        return self.meter.news()


def test_use_is_told_when_it_changed_and_not_too_often() -> None:
    host = Host()
    assert host.news_after(TELL_EVERY_S / 2) is None
    assert host.news_after(TELL_EVERY_S) == HostUse(0.1, 1 << 30)
    host.cpu = 0.8
    assert host.news_after(TELL_EVERY_S / 2) is None
    assert host.news_after(TELL_EVERY_S) == HostUse(0.8, 1 << 30)
    host.memory_bytes += 1000
    assert host.news_after(TELL_EVERY_S) is None, "nobody needs to know of a few bytes"
    assert host.news_after(REPEAT_AFTER_S) == HostUse(0.8, 1 << 30), "a beat may have been lost"


def test_gpus_are_told_as_they_were_read_last() -> None:
    class Reader:
        def __init__(self) -> None:
            self.reading = GpuReading(
                0, memory_bytes=80 << 30, used_bytes=20 << 30, temperature_c=71, utilisation=0.974
            )

        def read(self) -> tuple[GpuReading, ...]:
            return (self.reading,)

    reader = Reader()
    watch = GpuWatch((0,), reader)  # type: ignore[arg-type]
    host = Host()
    host.meter = UseMeter(
        watch.use, now_s=lambda: host.now_s, cpu=lambda: None, memory=lambda: host.memory_bytes
    )
    assert watch.use() == ()
    watch.busy(lambda pid: True)
    told = host.news_after(TELL_EVERY_S)
    assert told == HostUse(None, 1 << 30, (GpuUse(0, 0.97, 20 << 30, 80 << 30, 71),))
    reader.reading = GpuReading(0, fault="it fell off the bus")
    watch.busy(lambda pid: True)
    assert watch.use() == (), "one that doesn't answer isn't idle"


def node(use: HostUse | None, *, connected: bool = True) -> NodeRow:
    return NodeRow("n1", connected, False, True, 4, 1, ("A100",), (), 1 << 30, 0, use=use)


def test_a_view_remembers_some_readings_of_each_host() -> None:
    view = MeshView()
    view.apply(node(None))
    assert view.use_history == {}
    first = HostUse(0.5, 1 << 28, (GpuUse(0, 0.97), GpuUse(1)))
    view.apply(node(first))
    view.apply(node(first))
    history = view.use_history["n1"]
    assert (list(history.cpu), list(history.memory)) == ([50], [25]), "once each reading"
    assert [list(history.gpus[gpu]) for gpu in (0, 1)] == [[97], [UNKNOWN]]
    for reading in range(2 * READINGS_KEPT):
        view.apply(node(HostUse((reading % 100) / 100)))
    assert len(history.cpu) == READINGS_KEPT
    assert history.cpu[-1] == (2 * READINGS_KEPT - 1) % 100
    view.apply(node(None, connected=False))
    assert len(history.cpu) == READINGS_KEPT
