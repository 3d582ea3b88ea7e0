"""What a host has, with a driver that the test plays."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from meshtrain.errors import SettingsError
from meshtrain.hardware.gpu import find_gpus
from meshtrain.hardware.host import disk_free_bytes, memory_bytes


class NVMLError(Exception):
    pass


class Driver:
    """As much of pynvml as is used; `broken` GPUs have fallen off the bus."""

    def __init__(
        self, memory: list[int], broken: tuple[int, ...] = (), starts: bool = True
    ) -> None:
        self.NVMLError = NVMLError
        self._memory = memory
        self._broken = broken
        self._starts = starts
        self.open = 0

    def nvmlInit(self) -> None:
        if not self._starts:
            raise NVMLError("driver not loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self._memory)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index in self._broken:
            raise NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes | str:
        return b"RTX 4090" if handle % 2 else "A100"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=self._memory[handle])


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> object:
    def install(driver: object) -> object:
        monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[arg-type]
        return driver

    return install


def test_all_gpus_are_found_and_the_driver_is_closed(play) -> None:  # type: ignore[no-untyped-def]
    driver = play(Driver([80, 24]))
    assert [(g.index, g.model, g.memory_bytes) for g in find_gpus()] == [
        (0, "A100", 80),
        (1, "RTX 4090", 24),
    ]
    assert driver.open == 0


def test_those_asked_for_are_found_each_once(play) -> None:  # type: ignore[no-untyped-def]
    play(Driver([80, 24, 24]))
    assert [g.index for g in find_gpus((2, 0, 2))] == [2, 0]
    assert find_gpus(()) == ()


def test_one_that_is_not_there_is_named(play) -> None:  # type: ignore[no-untyped-def]
    play(Driver([80]))
    with pytest.raises(SettingsError, match=r"name GPU 3, the driver shows 0: mend `gpus`"):
        find_gpus((0, 3))


def test_a_gpu_that_is_lost_does_not_keep_the_others(play) -> None:  # type: ignore[no-untyped-def]
    driver = play(Driver([80, 24, 24], broken=(1,)))
    assert [g.index for g in find_gpus()] == [0, 2]
    assert driver.open == 0


def test_no_driver_is_no_gpu(play) -> None:  # type: ignore[no-untyped-def]
    play(Driver([80], starts=False))
    assert find_gpus() == ()
    play(None)
    assert find_gpus() == ()
    with pytest.raises(SettingsError, match="shows none"):
        find_gpus((0,))


def test_the_host_has_memory_and_disk(tmp_path: Path) -> None:
    assert memory_bytes() > 0
    assert disk_free_bytes(tmp_path) > 0
    with pytest.raises(OSError):
        disk_free_bytes(tmp_path / "absent")
