"""Counts of what went out to dashboards, and the sums of the nodes' rows in it."""

from __future__ import annotations

from collections.abc import Sequence

from meshtrain.core.changes import Change, NodeRow, Note
from meshtrain.core.mesh_counts import NodeCounts
from meshtrain.wire.exposition import SHORT_S, Histogram


class FeedCounts:
    """What went out to dashboards, and the sums of the nodes' rows in it."""

    def __init__(self) -> None:
        self.nodes = NodeCounts()
        self.changes = 0
        self.notes = 0
        self.publish_s = Histogram(SHORT_S)

    def take(self, changes: Sequence[Change]) -> None:
        """Count what is published."""
        self.changes += len(changes)
        for change in changes:
            if isinstance(change, NodeRow):
                self.nodes.take(change)
            elif isinstance(change, Note):
                self.notes += 1
