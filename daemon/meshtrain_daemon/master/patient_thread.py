"""Work in a thread that nobody has to wait for: a share that hangs must not hold up the end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def in_patient_thread(work: Callable[[], T], name: str) -> T:
    """The result of some work that may block for ever.

    Its thread ends with the process, whatever it is waiting for; those of
    `asyncio.to_thread` would be waited for.

    Args:
        name: the thread's, for those who look at the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(settled: Callable[[], None]) -> None:
        if not future.done():
            settled()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            told: Callable[[], None] = partial(future.set_exception, error)
        else:
            told = partial(future.set_result, result)
        # The loop may have ended meanwhile: then nobody asks any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, told)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
