"""How long to wait between two questions of one kind, so that a busy master is asked less often."""

from __future__ import annotations

from collections import deque


class Pace:
    """Takes note of how long answers took.

    One late answer says nothing: a master that was started again while somebody waited
    is as quick as before. Two in a row do.

    Args:
        pause_min_s: between two questions, however quick the answers are.
        busy_share_max: of the time, that the master may spend on them.
    """

    def __init__(self, pause_min_s: float, busy_share_max: float) -> None:
        self._pause_min_s = pause_min_s
        self._busy_share_max = busy_share_max
        self._took_s: deque[float] = deque(maxlen=2)

    def answered(self, took_s: float) -> None:
        """An answer came after so long; of a question without one nothing is to be learnt."""
        self._took_s.append(max(0.0, took_s))

    @property
    def pause_s(self) -> float:
        """From one question to the next."""
        return max(self._pause_min_s, min(self._took_s, default=0.0) / self._busy_share_max)
