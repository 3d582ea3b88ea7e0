"""Transfers to and from the archive: each in a thread, and watched for hanging."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from meshtrain_daemon.master.patient_thread import in_patient_thread

STALL_S = 120.0
"""A transfer that has not moved for so long hangs."""
END_WAIT_S = 3.0
"""How long transfers under way have at the end to leave no parts behind."""

T = TypeVar("T")


class Transfer:
    """A thread's work, and when it last moved."""

    __slots__ = ("_all", "_moved_s", "_stopped")

    def __init__(self, all_of_them: Transfers) -> None:
        self._all = all_of_them
        self._moved_s = time.monotonic()
        self._stopped = False

    def moved(self) -> bool:
        """To be called in the thread, again and again; says whether it shall end."""
        self._moved_s = time.monotonic()
        return self._stopped or self._all.stopping

    def stop(self) -> None:
        """Let it end as soon as it asks."""
        self._stopped = True

    def rests_s(self) -> float:
        """For how long it has not moved."""
        return time.monotonic() - self._moved_s


class Transfers:
    """Runs transfers in threads that nothing has to wait for at the end.

    Args:
        stall_s: after which one that doesn't move hangs.
    """

    def __init__(self, stall_s: float = STALL_S) -> None:
        self._stall_s = stall_s
        self._count = 0
        self._changed = threading.Condition()
        self.stopping = False

    async def run(self, work: Callable[[Transfer], T], hangs: Callable[[], None]) -> T:
        """The result of some work in a thread.

        Args:
            hangs: called each time that it has not moved for long; what it raises
                ends the waiting, and the thread as soon as it moves.
        """
        transfer = Transfer(self)

        def counted() -> T:
            try:
                return work(transfer)
            finally:
                self._add(-1)

        self._add(1)
        task = asyncio.ensure_future(in_patient_thread(counted, "archive"))
        try:
            while True:
                await asyncio.wait([task], timeout=self._stall_s)
                if task.done():
                    return task.result()
                if transfer.rests_s() >= self._stall_s:
                    hangs()
        finally:
            transfer.stop()
            task.cancel()

    def _add(self, count: int) -> None:
        with self._changed:
            self._count += count
            self._changed.notify_all()

    async def close(self) -> None:
        """End what is under way; what can't be ended, such as a share that hangs, is left."""
        self.stopping = True

        def wait() -> None:
            with self._changed:
                self._changed.wait_for(lambda: self._count == 0, END_WAIT_S)

        await asyncio.to_thread(wait)
