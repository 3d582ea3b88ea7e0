"""Which GPUs are left alone, and when an attempt's are back, through a fake driver (P8, P9)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshtrain.hardware.gpu_reader import GpuReader, GpuReading
from meshtrain_daemon.worker import frames
from meshtrain_daemon.worker.gpu_watch import GpuWatch, our_processes
from tests.gpu_double.nvml_file import FOLDER, VARIABLE, NvmlFile

DEAD = 2**22 + 7
"""A process id that Linux never gives."""
OURS, THEIRS = DEAD + 11, DEAD + 22


def ours(pid: int) -> bool:
    return pid == OURS


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NvmlFile]:
    file = NvmlFile(tmp_path)
    monkeypatch.setenv(VARIABLE, str(file.path))
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    yield file
    sys.modules.pop("pynvml", None)


def glances(
    watch: GpuWatch, count: int, test: Callable[[int], bool] = ours
) -> list[tuple[int, ...]]:
    return [watch.busy(test) for _ in range(count)]


def test_a_gpu_that_somebody_else_uses_is_left_alone_until_it_is_free(nvml: NvmlFile) -> None:
    watch = GpuWatch((0, 1))
    assert glances(watch, 1) == [()]
    nvml.put(1, OURS, THEIRS)
    assert glances(watch, 3) == [(), (1,), (1,)]
    assert watch.why(1) == f"used by a process of another container ({THEIRS})"
    assert watch.why(0) == ""
    assert watch.pids_on((0, 1)) == {OURS, THEIRS}
    nvml.put(1, OURS)
    assert glances(watch, 3) == [(1,), (), ()]
    assert watch.why(1) == ""


def test_what_is_seen_at_one_glance_alone_changes_nothing(nvml: NvmlFile) -> None:
    watch = GpuWatch((0, 1))
    watch.busy(ours)
    for _ in range(4):
        nvml.put(0, THEIRS)
        assert watch.busy(ours) == ()
        nvml.put(0)
        assert watch.busy(ours) == ()


def test_the_first_glance_counts_at_once(nvml: NvmlFile) -> None:
    """A node says hello with it: a GPU in use must not be given a job first."""
    nvml.put(0, THEIRS)
    assert GpuWatch((0, 1)).busy(ours) == (0,)


def test_a_gpu_that_fails_is_left_alone_at_once_and_comes_back(nvml: NvmlFile) -> None:
    watch = GpuWatch((0, 1))
    watch.busy(ours)
    nvml.gpu(0, errors={"*": 15})
    assert watch.busy(ours) == (0,)
    assert watch.why(0) == "GPU is lost (NVML)"
    nvml.gpu(0, errors={})
    assert glances(watch, 2) == [(0,), ()]
    nvml.driver(driver="away")
    assert watch.busy(ours) == (0, 1)
    nvml.driver(driver="ok", version=2)
    assert glances(watch, 2) == [(0, 1), ()]


def test_a_desktop_needs_no_gpu_to_itself(nvml: NvmlFile) -> None:
    nvml.put(0, THEIRS, THEIRS + 1, used=400 << 20, kind="G")
    watch = GpuWatch((0, 1))
    assert watch.busy(ours) == ()
    nvml.put(0, THEIRS, os.getpid(), used=600 << 20, kind="G")
    assert glances(watch, 2) == [(), (0,)]
    assert "1.3 GB used for drawing" in watch.why(0)
    nvml.put(0, THEIRS, used=400 << 20, kind="CG")
    assert glances(watch, 3)[-1] == (0,)


def test_memory_that_no_visible_process_has_is_somebody_else_s(nvml: NvmlFile) -> None:
    """In a container NVML shows the processes of that container alone."""
    watch = GpuWatch((0, 1))
    assert watch.busy(ours) == ()
    nvml.gpu(0, hidden=4 * 10**9)
    nvml.gpu(1, hidden=4 * 10**9)
    # GPU 1 is held by an attempt of ours, whose processes are hidden as well.
    assert [watch.busy(ours, held={1}) for _ in range(2)] == [(), (0,)]
    assert "4.5 GB used by processes that this host doesn't show" in watch.why(0)
    nvml.gpu(0, hidden=10**8)
    assert [watch.busy(ours, held={1}) for _ in range(2)] == [(0,), ()]
    nvml.put(0, OURS, used=None)
    assert glances(watch, 2) == [(), (1,)]


def test_hidden_use_that_was_there_before_the_daemon_is_seen(nvml: NvmlFile) -> None:
    nvml.gpu(0, hidden=40 * 10**9)
    assert GpuWatch((0, 1)).busy(ours) == (0,)


class NeverRead(GpuReader):
    def read(self) -> tuple[GpuReading, ...]:
        raise AssertionError("nobody may ask the driver")


async def test_without_gpus_nothing_is_asked_and_no_thread_isProgram(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
    watch = GpuWatch((), NeverRead(()))
    assert watch.busy(ours) == ()
    assert await watch.glance(ours) == ()
    assert await watch.wait_free((), (), 5) == ()
    with_gpus = GpuWatch((0,), NeverRead((0,)))
    assert await with_gpus.wait_free((), (), 5) == ()


async def test_a_glance_does_not_hold_the_loop_up(nvml: NvmlFile) -> None:
    nvml.put(0, THEIRS)
    assert await GpuWatch((0, 1)).glance(ours) == (0,)


async def test_what_changes_is_told_once(nvml: NvmlFile) -> None:
    told: list[tuple[int, ...]] = []
    news = asyncio.Event()

    def changed(busy: tuple[int, ...]) -> None:
        told.append(busy)
        news.set()

    async def wait_news() -> None:
        await asyncio.wait_for(news.wait(), 20)
        news.clear()

    nvml.put(0, THEIRS)
    watch = GpuWatch((0, 1))
    known = await watch.glance(ours)
    following = asyncio.ensure_future(watch.follow(ours, lambda: (), 0.001, changed, known))
    nvml.put(1, THEIRS)
    await wait_news()
    nvml.put(0)
    await wait_news()
    nvml.put(1)
    await wait_news()
    following.cancel()
    assert (known, told) == ((0,), [(0, 1), (1,), ()])
    await GpuWatch(()).follow(ours, lambda: (), 3600, changed)


async def test_p8_an_attempt_is_over_when_its_processes_and_its_memory_are_gone(
    nvml: NvmlFile,
) -> None:
    watch = GpuWatch((0, 1))
    watch.busy(ours)
    # What was there before it, and whoever came meanwhile and lives, isn't the attempt's.
    nvml.put(0, DEAD, DEAD + 1, os.getpid())
    nvml.gpu(1, hidden=5 * 10**9)
    waiting = asyncio.ensure_future(watch.wait_free((0, 1), {DEAD + 1}, 60))
    await _some_readings(watch)
    assert not waiting.done()
    nvml.put(0, DEAD + 1, os.getpid())
    await _some_readings(watch)
    assert not waiting.done()
    nvml.gpu(1, hidden=0)
    assert await waiting == ()


async def test_p8_a_gpu_that_is_not_given_back_is_named_at_the_timeout(nvml: NvmlFile) -> None:
    watch = GpuWatch((0, 1))
    watch.busy(ours)
    nvml.put(1, DEAD)
    assert await watch.wait_free((0, 1), (), 0.05) == (1,)
    nvml.put(1)
    nvml.gpu(0, errors={"*": 15})
    # A GPU that is lost gives nothing back, however long one waits.
    assert await watch.wait_free((0, 1), (), 600) == (0,)
    assert await watch.wait_free((1, 7), (), 0.05) == ()


async def test_p8_a_driver_that_hangs_keeps_nobody_waiting_past_the_timeout(
    nvml: NvmlFile,
) -> None:
    goes_on = threading.Event()

    class Hanging(GpuReader):
        def read(self) -> tuple[GpuReading, ...]:
            goes_on.wait(20)
            return super().read()

    watch = GpuWatch((0, 1), Hanging((0, 1)))
    assert await watch.wait_free((0, 1), (), 0.02) == (0, 1)
    goes_on.set()


async def test_what_goes_wrong_in_the_thread_is_not_lost() -> None:
    with pytest.raises(AssertionError, match="nobody may ask"):
        await GpuWatch((0,), NeverRead((0,))).glance(ours)


@pytest.mark.skipif(sys.platform != "linux", reason="nodes run on Linux")
def test_a_process_is_ours_by_its_mark_or_its_shim() -> None:
    command = [sys.executable, "-c", "input()"]
    with (
        Program(command, {frames.ATTEMPT_VARIABLE: "node-1/life/job.5"}) as marked,
        Program(command, {frames.ATTEMPT_VARIABLE: "node-2/life/job.5"}) as of_another,
        Program(command, {}) as plain,
    ):
        test = our_processes("node-1/")
        assert [test(process.pid) for process in (marked, of_another, plain)] == [
            True,
            False,
            False,
        ]
        assert not test(DEAD) and not test(1) and not test(0)
        below = our_processes("node-9/", lambda: {os.getpid()})
        assert below(plain.pid) and below(os.getpid()) and not below(os.getppid())


class Program:
    """A program that waits for its input to end."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.close()
        self.process.wait(20)


async def _some_readings(watch: GpuWatch) -> None:
    """Until a wait that looks every 20 ms, and later less often, has looked again."""
    seen = asyncio.Event()
    loop = asyncio.get_running_loop()
    read, count = watch.reader.read, 0

    def counted() -> tuple[GpuReading, ...]:
        nonlocal count
        readings = read()
        count += 1
        if count == 2:
            loop.call_soon_threadsafe(seen.set)
        return readings

    watch.reader.read = counted  # type: ignore[method-assign]
    await seen.wait()
    watch.reader.read = read  # type: ignore[method-assign]


async def test_a_gpu_that_failed_under_an_attempt_is_named(nvml: NvmlFile) -> None:
    watch = GpuWatch((0, 1))
    nvml.gpu(0, ecc=2)
    watch.busy(ours)
    before = watch.errors_of((0, 1))
    assert before == {0: 2, 1: 0}
    assert await watch.wait_free((0, 1), (), 60) == ()
    assert watch.why_bad((0, 1), before) == ""
    nvml.gpu(0, ecc=3)
    assert await watch.wait_free((0, 1), (), 60) == ()
    assert watch.why_bad((0,), before) == "GPU 0: uncorrectable ECC error (NVML)"
    assert watch.why_bad((1,), before) == ""
    assert watch.why_bad((0,), {}) == "", "nobody knows how many there were"
    nvml.gpu(1, errors={"*": 15})
    assert await watch.wait_free((0, 1), (), 60) == (1,)
    assert watch.why_bad((1,), before) == "GPU 1: GPU is lost (NVML)"
    nvml.gpu(1, errors={})
    assert await watch.wait_free((1,), (), 60) == ()
    assert watch.why_bad((1,), before) == ""
