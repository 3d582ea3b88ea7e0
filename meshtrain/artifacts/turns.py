"""Answers go out a few at a time: those that share a link side by side would all come late.

A chunk is of use once it is whole. Eight that share an uplink arrive together,
after the time of eight; one after the other, the first arrives after the time of
one, and its receiver can pass it on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_ONCE = 6
"""Two fill a link of ours that is the narrow one; where receivers' links are shared too, an answer
gets but a part of ours, and the others of these take the rest."""
PATIENCE_S = 0.25
"""Who takes longer for an answer has a slower link than ours: others go beside it."""


class Turns:
    """Lets so many through at a time, in the order in which they came.

    Args:
        at_once: how many.
        patience_s: after which one who is at it counts no more.
    """

    def __init__(self, at_once: int = AT_ONCE, patience_s: float = PATIENCE_S) -> None:
        self._free = at_once
        self._patience_s = patience_s
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn, and has it until the block ends."""
        await self._enter()
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._leave()

        timer = asyncio.get_running_loop().call_later(self._patience_s, leave)
        try:
            yield
        finally:
            timer.cancel()
            leave()

    async def _enter(self) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                # The turn came, and there is nobody left to take it.
                self._leave()
            elif waiter in self._waiting:
                # Else its turn came just now, and was passed on.
                self._waiting.remove(waiter)
            raise

    def _leave(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
