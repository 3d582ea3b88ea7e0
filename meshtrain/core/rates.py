"""How fast artifacts came to nodes, and from whom: measured, and forgotten in time.

Kept in memory by the master, from what nodes tell of each fetch. A source's rate
is a lower bound where several served at once; that is what ranking them needs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

PAIRS_MAX = 50_000
"""Pairs of node and source that are remembered; the ones not heard of for longest go."""
NEWEST_WEIGHT = 0.3
"""What the newest fetch counts in the mean."""
SAMPLE_BYTES_MIN = 256 << 10
"""What is smaller measures the way there and back, not the rate."""
BYTES_PER_S_ASSUMED = 50e6
"""Until something is measured: less than a link of 1 Gbit/s carries."""
BYTES_PER_S_MIN = 1e3
_NOTHING: Mapping[str, float] = MappingProxyType({})


class Rates:
    """Means, in bytes per second, that follow the newest fetches."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._by_source: dict[str, dict[str, float]] = {}
        self._nodes: dict[str, float] = {}

    def learn(self, node_id: str, bytes_by_source: Mapping[str, int], duration_s: float) -> None:
        """Take in a fetch that a node has ended.

        Args:
            bytes_by_source: what each source delivered.
            duration_s: how long all of it took, in seconds.
        """
        if not duration_s > 0:
            return
        for source, size_bytes in bytes_by_source.items():
            if size_bytes < SAMPLE_BYTES_MIN:
                continue
            mine = self._by_source.setdefault(node_id, {})
            mine[source] = _mean(mine.get(source), size_bytes / duration_s)
            self._pairs[node_id, source] = None
            self._pairs.move_to_end((node_id, source))
        while len(self._pairs) > PAIRS_MAX:
            self._drop(*self._pairs.popitem(last=False)[0])
        total_bytes = sum(bytes_by_source.values())
        if total_bytes >= SAMPLE_BYTES_MIN:
            known = self._nodes.get(node_id)
            self._nodes[node_id] = _mean(known, total_bytes / duration_s)

    def of_source(self, node_id: str, source: str) -> float:
        """How fast a source serves a node; the assumed rate where they never met.

        So one that is unknown is tried before one that is known to be slow.
        """
        return self.by_source(node_id).get(source, BYTES_PER_S_ASSUMED)

    def by_source(self, node_id: str) -> Mapping[str, float]:
        """How fast each source served a node that ever did."""
        return self._by_source.get(node_id, _NOTHING)

    def of_node(self, node_id: str) -> float:
        """How fast a node gets what it lacks, from all sources together."""
        return self._nodes.get(node_id, BYTES_PER_S_ASSUMED)

    def forget(self, node_id: str) -> None:
        """A node is no more, or another one by its name."""
        self._nodes.pop(node_id, None)
        for key in [key for key in self._pairs if node_id in key]:
            del self._pairs[key]
            self._drop(*key)

    def _drop(self, node_id: str, source: str) -> None:
        mine = self._by_source[node_id]
        del mine[source]
        if not mine:
            del self._by_source[node_id]


def _mean(known: float | None, newest: float) -> float:
    newest = max(newest, BYTES_PER_S_MIN)
    return newest if known is None else known + NEWEST_WEIGHT * (newest - known)
