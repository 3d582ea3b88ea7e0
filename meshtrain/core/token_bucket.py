"""How long to wait before the next bytes, so that no more than a rate goes out.

The generic cell rate algorithm (ITU-T I.371): in place of a bucket that fills, the
moment is kept at which it would be full again.
"""

from __future__ import annotations


class TokenBucket:
    """A rate that all who send share.

    Args:
        bytes_per_s: what may go out in the long run.
        burst_s: how much of it, in time, may go out at once after a rest.
    """

    def __init__(self, bytes_per_s: float, burst_s: float = 0.1) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_s = burst_s
        self._paid_until_s = 0.0

    def delay_s(self, size_bytes: int, now_s: float) -> float:
        """Counts some bytes as sent; returns how long to wait before they are.

        Args:
            size_bytes: of what is going to be sent.
            now_s: on a clock that never goes back.
        """
        start_s = max(self._paid_until_s, now_s - self._burst_s)
        self._paid_until_s = start_s + size_bytes / self._bytes_per_s
        return max(0.0, self._paid_until_s - now_s)
