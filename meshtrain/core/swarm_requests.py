"""The chunks that were asked for and have not come, and how long such things take."""

from __future__ import annotations

from collections.abc import Iterator

from meshtrain.core.bits import Bits
from meshtrain.core.swarm_peers import Peer, SwarmLimits

_SMOOTHING = 0.3
"""The weight of the newest time in an average."""


class Requests:
    """What is on its way in one fetch.

    Args:
        limits: how much may be, and when it is late.
    """

    def __init__(self, limits: SwarmLimits) -> None:
        self._limits = limits
        self._askers: dict[int, dict[str, float]] = {}
        """Chunk → peer → when it was asked for it."""
        self._asked_last_s: dict[int, float] = {}
        """Chunk → when it was asked for last; the longest ago first."""
        self._chunk_times_s = 0.0
        self._chunk_timed = 0
        """How many peers have a time for a chunk, and the sum of these."""
        self._latency_s: float | None = None
        """From a request to its chunk, smoothed over all peers."""
        self.chunks: Bits = 0
        """The chunks that were asked of at least one peer."""
        self.count = 0

    def askers(self, chunk: int) -> list[str]:
        """The peers that were asked for a chunk, sorted."""
        return sorted(self._askers.get(chunk, ()))

    def add(self, peer: Peer, chunk: int, now_s: float) -> None:
        """A peer is asked for a chunk."""
        peer.in_flight[chunk] = now_s
        self.count += 1
        self._askers.setdefault(chunk, {})[peer.peer] = now_s
        self.chunks |= 1 << chunk
        self._asked_last_s.pop(chunk, None)
        self._asked_last_s[chunk] = now_s

    def remove(self, peer: Peer, chunk: int) -> float | None:
        """Takes a request back; returns when it was sent, None when it was not."""
        asked_s = peer.in_flight.pop(chunk, None)
        if asked_s is None:
            return None
        self.count -= 1
        askers = self._askers[chunk]
        askers.pop(peer.peer, None)
        if not askers:
            del self._askers[chunk], self._asked_last_s[chunk]
            self.chunks &= ~(1 << chunk)
        elif self._asked_last_s[chunk] == asked_s:
            self._asked_last_s[chunk] = max(askers.values())
            by_time = sorted(self._asked_last_s.items(), key=lambda item: item[1])
            self._asked_last_s = dict(by_time)
        return asked_s

    def came(self, peer: Peer, asked_s: float, now_s: float) -> None:
        """A chunk that was asked for has come: that tells how long the next ones take."""
        # What was asked for in advance waited for what came before it.
        chunk_s = now_s - max(asked_s, peer.heard_s)
        peer.heard_s = now_s
        if peer.chunk_s is None:
            self._chunk_timed += 1
            self._chunk_times_s += chunk_s
            peer.chunk_s = chunk_s
        else:
            change_s = _SMOOTHING * (chunk_s - peer.chunk_s)
            self._chunk_times_s += change_s
            peer.chunk_s += change_s
        latency_s = now_s - asked_s
        before_s = latency_s if self._latency_s is None else self._latency_s
        self._latency_s = before_s + _SMOOTHING * (latency_s - before_s)

    # --- whom to ask --------------------------------------------------------

    def turn(self, peer: Peer) -> tuple[bool, float, int]:
        """Whom to ask first: who will have answered first."""
        chunk_s = peer.chunk_s
        if chunk_s is None:
            chunk_s = self._chunk_times_s / self._chunk_timed if self._chunk_timed else 1.0
        return peer.last_resort, (len(peer.in_flight) + 1) * chunk_s, peer.order

    def has_room(self, peer: Peer) -> bool:
        """Whether a peer may be asked for one more chunk."""
        return len(peer.in_flight) < self._room_of(peer)

    def wants_more(self, peer: Peer) -> bool:
        """Whether it is time to ask: of a fast peer in rows, when half of the last one came."""
        room = self._room_of(peer)
        if room > self._limits.requests_per_peer_max:
            room = room // 2 + 1
        return len(peer.in_flight) < room

    def _room_of(self, peer: Peer) -> int:
        limits = self._limits
        if peer.chunk_s is None:
            return min(2, limits.requests_per_peer_max)
        ahead = int(limits.pipeline_s / max(peer.chunk_s, 1e-6))
        room = min(1 + ahead, limits.requests_per_peer_max)
        if peer.chunk_s < limits.fast_chunk_s:
            return max(room, min(1 + ahead, limits.fast_requests_max))
        return room

    # --- what is late -------------------------------------------------------

    def late_after_s(self, *, is_end: bool) -> float:
        """After which a chunk that was asked for is asked for elsewhere too.

        Args:
            is_end: whether all that is missing was asked for.
        """
        limits = self._limits
        if self._latency_s is None or not is_end:
            return limits.slow_after_s
        soon_s = max(limits.endgame_min_s, limits.endgame_factor * self._latency_s)
        return min(soon_s, limits.slow_after_s)

    def late_for(self, peer: Peer, now_s: float, late_after_s: float) -> Bits:
        """The chunks that are late, and that one more peer may be asked for."""
        late = 0
        for chunk, asked_s in self._asked_last_s.items():
            # The sum that the wake-up was set by: a difference would be rounded otherwise.
            if now_s < asked_s + late_after_s:
                break
            askers = self._askers[chunk]
            if peer.peer not in askers and len(askers) < self._limits.askers_per_chunk_max:
                late |= 1 << chunk
        return late

    def moments_s(self) -> Iterator[float]:
        """When chunks were asked for last, the longest ago first."""
        return iter(self._asked_last_s.values())
