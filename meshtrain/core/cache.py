"""A node's cache: what lies in it, what it may take, and what could go first.

The node asks, the master grants: nothing here removes anything.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

import msgspec

from meshtrain.core.inventory import CANDIDATES_MAX, CacheUse, RoomWanted

GIB = 1 << 30
USE_NOTED_EVERY_S = 60.0
"""An artifact that is used again within this time is not noted anew on the disk."""


class CacheLimits(msgspec.Struct, frozen=True):
    budget_bytes: int = 0
    """What whole artifacts may take; 0 sets no limit but the disk."""
    reserve_bytes: int = GIB
    """What the disk keeps free in any case."""


class Cached(msgspec.Struct, frozen=True):
    """An artifact as a daemon finds it at its start."""

    artifact_id: str
    size_bytes: int = 0
    idle_s: float = 0.0
    """Since it was last used."""


class Cache:
    """Sizes and last uses of what a node holds.

    Args:
        limits: what it may take.
        found: what lies there at the start.
        now_s: the node's lease clock, in seconds.
    """

    def __init__(self, limits: CacheLimits, found: Iterable[Cached] = (), now_s: float = 0.0):
        self.limits = limits
        #: free bytes of the disk; None before the first look at it
        self.free_bytes: int | None = None
        self.used_bytes = 0
        self._size_bytes: dict[str, int] = {}
        self._used_s: dict[str, float] = {}
        self._noted_s: dict[str, float] = {}
        #: as many of the first candidates were asked for and not granted
        self._passed_over = 0
        for one in found:
            self.add(one.artifact_id, one.size_bytes, now_s - max(0.0, one.idle_s))

    def add(self, artifact_id: str, size_bytes: int, now_s: float) -> None:
        """An artifact has come; one that is there already was used."""
        known_bytes = self._size_bytes.get(artifact_id, 0)
        self._size_bytes[artifact_id] = max(size_bytes, known_bytes)
        self.used_bytes += self._size_bytes[artifact_id] - known_bytes
        self._used_s[artifact_id] = now_s

    def remove(self, artifact_id: str) -> None:
        """An artifact has gone; its room is free from now on."""
        size_bytes = self._size_bytes.pop(artifact_id, 0)
        self.used_bytes -= size_bytes
        self._used_s.pop(artifact_id, None)
        self._noted_s.pop(artifact_id, None)
        self._passed_over = 0
        if self.free_bytes is not None:
            self.free_bytes += size_bytes

    def use(self, artifact_id: str, now_s: float) -> bool:
        """Something needs an artifact now; says whether that is worth noting on the disk."""
        if artifact_id not in self._size_bytes:
            return False
        self._used_s[artifact_id] = now_s
        noted_s = self._noted_s.get(artifact_id)
        if noted_s is not None and now_s - noted_s < USE_NOTED_EVERY_S:
            return False
        self._noted_s[artifact_id] = now_s
        return True

    def size_of(self, artifact_id: str) -> int:
        """The bytes of an artifact that is here; 0 for others."""
        return self._size_bytes.get(artifact_id, 0)

    def room_bytes(self, coming_bytes: int = 0, waiting_bytes: int = 0) -> int:
        """What may come on top without anything having to go; below 0 so much has to.

        Args:
            coming_bytes: what is on its way here.
            waiting_bytes: of that, what the disk has given no room yet.
        """
        rooms = []
        if self.limits.budget_bytes:
            rooms.append(self.limits.budget_bytes - self.used_bytes - coming_bytes)
        if self.free_bytes is not None:
            rooms.append(self.free_bytes - self.limits.reserve_bytes - waiting_bytes)
        return min(rooms, default=0)

    def use_told(self, coming_bytes: int = 0, waiting_bytes: int = 0) -> CacheUse:
        """How full it is, as the master is told."""
        return CacheUse(
            used_bytes=self.used_bytes,
            budget_bytes=self.limits.budget_bytes,
            free_bytes=max(0, self.free_bytes or 0),
            room_bytes=max(0, self.room_bytes(coming_bytes, waiting_bytes)),
        )

    def wanted(
        self, needed: Container[str], coming_bytes: int, waiting_bytes: int, now_s: float
    ) -> RoomWanted | None:
        """What to ask the master for; None while there is room, or nothing could go.

        Of what nothing here needs, the longest idle goes first. What is smaller
        than the room that is wanted counts only for its share, so that a thousand
        small results don't go where one old base makes the room.

        Args:
            needed: what must stay, as far as this node knows.
            coming_bytes: what is on its way here.
            waiting_bytes: of that, what the disk has given no room yet.
        """
        over_bytes = -self.room_bytes(coming_bytes, waiting_bytes)
        if over_bytes <= 0:
            self._passed_over = 0
            return None
        idle = []
        for artifact_id, size_bytes in self._size_bytes.items():
            if size_bytes and artifact_id not in needed:
                idle_s = now_s - self._used_s[artifact_id]
                # Among equals the smallest: it is brought back soonest.
                idle.append((-min(size_bytes, over_bytes) * idle_s, size_bytes, artifact_id))
        idle.sort()
        if self._passed_over >= len(idle):
            self._passed_over = 0
        chosen = idle[self._passed_over : self._passed_over + CANDIDATES_MAX]
        if not chosen:
            return None
        return RoomWanted(over_bytes, tuple(artifact_id for *_, artifact_id in chosen))

    def pass_over(self) -> None:
        """None of those asked for last was granted: the next ask names others, if there are."""
        self._passed_over += CANDIDATES_MAX
