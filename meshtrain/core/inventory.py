"""What a node holds, told to the master as numbered changes.

A hello lists all that the node holds; from there on only changes are told, each
with a number of the session. Each is repeated with the heartbeats until the
master says up to which number it has taken them, so that lost, doubled and
reordered messages leave the master's directory as the node's disk is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from typing import Annotated

import msgspec

Bytes = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]

CHANGES_TOLD_MAX = 500
"""Changes in one message; the others follow when these are taken."""
CHANGES_KEPT_MAX = 10_000
"""Changes that wait for a master that takes none; above that a new session lists all anew."""
CANDIDATES_MAX = 64
"""Artifacts that a node names at a time when it asks for room."""


class Holding(StrEnum):
    """What became of an artifact on a node."""

    HELD = "held"
    """It lies there, whole and verified."""
    GONE = "gone"
    KEPT = "kept"
    """It was to be evicted, and something on the node needs it: it is still there."""


class InventoryChange(msgspec.Struct, frozen=True):
    artifact_id: str
    holding: Holding
    size_bytes: Bytes = 0
    why: str = ""
    """Of KEPT: what needs it."""


class CacheUse(msgspec.Struct, frozen=True):
    """How full a node's cache, and its disk, is."""

    used_bytes: Bytes = 0
    """All artifacts that lie there whole."""
    budget_bytes: Bytes = 0
    """What they may take; 0 is as much as the disk has, but for a reserve."""
    free_bytes: Bytes = 0
    """Of the disk; 0 where it isn't known."""
    room_bytes: Bytes = 0
    """What may come without anything having to go."""


class RoomWanted(msgspec.Struct, frozen=True):
    """A node has more than its budget, or is about to: what may go, in this order?"""

    size_bytes: Bytes
    """How much has to go."""
    candidates: tuple[str, ...] = ()


class InventoryLog:
    """The changes that the master has not said to have."""

    def __init__(self) -> None:
        #: the number of the last change of this session
        self.number = 0
        self._changes: deque[InventoryChange] = deque()

    def note(self, changes: Iterable[InventoryChange]) -> int:
        """Number some changes; returns the number of the first."""
        first = self.number + 1
        for change in changes:
            self._changes.append(change)
            self.number += 1
        return first

    def confirm(self, number: int) -> None:
        """The master has taken all up to this number; it can't have taken later ones."""
        while self._changes and self.number - len(self._changes) < number:
            self._changes.popleft()

    def pending(self) -> tuple[int, tuple[InventoryChange, ...]]:
        """The number of the first change to tell again, and the changes from there on."""
        first = self.number - len(self._changes) + 1
        return first, tuple(islice(self._changes, CHANGES_TOLD_MAX))

    @property
    def overfull(self) -> bool:
        """Whether more waits than is kept: then all is told anew, in a new session."""
        return len(self._changes) > CHANGES_KEPT_MAX

    def restart(self) -> None:
        """A new session begins, with a list of all: no change since then."""
        self.number = 0
        self._changes.clear()
