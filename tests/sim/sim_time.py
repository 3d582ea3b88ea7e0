"""Virtual time: what happens when, in an order that a seed replays exactly."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class VirtualTime:
    """Time passes from one event to the next; those of one moment keep the order of their setting.

    Args:
        now_s: when it begins.
    """

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something when so much time has passed."""
        self._count += 1
        heapq.heappush(self._events, (self.now_s + delay_s, self._count, action))

    def step(self) -> None:
        """Go on to the next event."""
        self.now_s, _, action = heapq.heappop(self._events)
        action()

    def run_for(self, duration_s: float) -> None:
        """Let so much time pass."""
        end_s = self.now_s + duration_s
        while self._events and self._events[0][0] <= end_s:
            self.step()
        self.now_s = end_s

    def run_until(self, condition: Callable[[], bool], limit_s: float = 3600.0) -> None:
        """Let time pass until something holds; raises AssertionError when that takes too long."""
        end_s = self.now_s + limit_s
        while not condition():
            assert self.now_s < end_s, f"not reached in {limit_s} s of virtual time"
            self.step()
