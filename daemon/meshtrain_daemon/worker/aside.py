"""Blocking work in threads that a daemon which ends waits for no more.

A checkpoint may be terabytes. A daemon that is to be replaced must be gone in
a moment, for its leases run on: so what it was storing is left half done, as
by a kill, and is made anew by the next. asyncio's own threads, and those of
concurrent.futures, keep a process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

THREADS_MAX = 8
"""Pieces of work at a time; a disk gains nothing from more."""

_Value = TypeVar("_Value")


async def aside(work: Callable[[], _Value], name: str = "aside") -> _Value:
    """What `work` returns or raises, made in a thread that doesn't keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Value] = loop.create_future()

    def settle(value: _Value | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future


class DiskWork:
    """Work on a node's disk, so much at a time; the rest waits in the order in which it came."""

    def __init__(self, threads_max: int = THREADS_MAX) -> None:
        self._free = asyncio.Semaphore(threads_max)
        self._lock = threading.Lock()
        self._at_work = 0

    @property
    def at_work(self) -> int:
        """Threads that are at it, also those that nobody waits for any more."""
        return self._at_work

    async def do(self, work: Callable[[], _Value]) -> _Value:
        """What `work` returns or raises, made in a thread."""
        async with self._free:
            return await aside(lambda: self._counted(work), "disk")

    def _counted(self, work: Callable[[], _Value]) -> _Value:
        with self._lock:
            self._at_work += 1
        try:
            return work()
        finally:
            with self._lock:
                self._at_work -= 1
