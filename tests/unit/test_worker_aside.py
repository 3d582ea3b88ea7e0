"""Blocking work beside the event loop: limited, its errors told, and no reason to stay."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from meshtrain_daemon.worker.aside import DiskWork, aside

ENDS_IN_THE_MIDST = """
import asyncio, threading
from meshtrain_daemon.worker.aside import DiskWork

async def main():
    begun = threading.Event()
    disk = DiskWork()
    task = asyncio.create_task(disk.do(lambda: (begun.set(), threading.Event().wait())))
    while not begun.is_set():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    print(disk.at_work)

asyncio.run(main())
"""


async def test_what_it_returns_and_what_it_raises_come_back() -> None:
    assert await aside(lambda: 7) == 7
    with pytest.raises(OSError, match="no"):
        await aside(_raise)


def _raise() -> int:
    raise OSError("no")


async def test_so_much_is_done_at_a_time_and_the_rest_waits() -> None:
    disk = DiskWork(threads_max=2)
    go_on = threading.Event()
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        go_on.wait()
        return number

    tasks = [asyncio.create_task(disk.do(lambda n=number: work(n))) for number in range(5)]
    while len(begun) < 2:
        await asyncio.sleep(0)
    assert disk.at_work == 2
    go_on.set()
    assert await asyncio.gather(*tasks) == [0, 1, 2, 3, 4]
    assert begun[:2] in ([0, 1], [1, 0])
    assert disk.at_work == 0


def test_p7_a_daemon_that_ends_waits_for_no_checkpoint_that_is_being_stored() -> None:
    """The leases of its jobs run on: the next daemon has to be there in time."""
    done = subprocess.run(
        [sys.executable, "-c", ENDS_IN_THE_MIDST], capture_output=True, timeout=60, check=True
    )
    assert done.stdout == b"1\n", "its thread was still at work"
