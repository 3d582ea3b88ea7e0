"""Counts of what went out to dashboards: the sums of the nodes' rows, bytes, the last lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from meshtrain.core.changes import Change, Moved, NodeRow, Note, TransferRow
from meshtrain.core.mesh_counts import NodeCounts
from meshtrain.wire.exposition import SHORT_S, Histogram

NOTES_KEPT_MAX: Final = 500


class PublishedCounts:
    """What went out to dashboards since the master came up."""

    def __init__(self) -> None:
        self.nodes = NodeCounts()
        self.changes = 0
        self.notes_count = 0
        self.notes: deque[Note] = deque(maxlen=NOTES_KEPT_MAX)
        """The last lines for people, oldest first."""
        self.moved = Moved()
        """Bytes of artifacts that arrived."""
        self.publish_s = Histogram(SHORT_S)

    def take(self, changes: Sequence[Change]) -> None:
        """Count what is published."""
        self.changes += len(changes)
        for change in changes:
            if isinstance(change, NodeRow):
                self.nodes.take(change)
            elif isinstance(change, Note):
                self.notes_count += 1
                self.notes.append(change)
            elif isinstance(change, TransferRow):
                self.moved = self.moved.plus(change)
