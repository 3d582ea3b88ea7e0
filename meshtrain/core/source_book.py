"""Who holds what, as a node was last told: fetching goes on by it while the master is away."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from meshtrain.core.commands import ArtifactSource

ARTIFACTS_MAX = 1000
SOURCES_MAX = 64
"""Of one artifact; the first ones are the best."""


class KnownSources(msgspec.Struct, frozen=True):
    """A line of the book, as it lies on the node's disk."""

    artifact_id: str
    sources: tuple[ArtifactSource, ...]
    size_bytes: int = 0
    unfinished: bool = False
    """Whether it was being fetched: the next daemon goes on with it."""


class SourceBook:
    """The last known sources of the artifacts that this node was told of; bounded."""

    def __init__(self, known: Iterable[KnownSources] = ()) -> None:
        self._lines: OrderedDict[str, KnownSources] = OrderedDict()
        for line in known:
            self._put(line)
        #: whether it differs from what was last taken for the disk
        self._changed = False

    def learn(
        self, artifact_id: str, sources: tuple[ArtifactSource, ...], size_bytes: int = 0
    ) -> None:
        """These hold it, the best first; those known before follow."""
        known = self._lines.get(artifact_id)
        by_node: dict[str, ArtifactSource] = {}
        for source in (*sources, *(known.sources if known is not None else ())):
            by_node.setdefault(source.node_id, source)
        if known is not None:
            size_bytes = size_bytes or known.size_bytes
        best = tuple(by_node.values())[:SOURCES_MAX]
        line = KnownSources(artifact_id, best, size_bytes, unfinished=True)
        if line != known:
            self._put(line)
            self._changed = True

    def finish(self, artifact_id: str) -> None:
        """It is not being fetched any more."""
        line = self._lines.get(artifact_id)
        if line is not None and line.unfinished:
            self._lines[artifact_id] = msgspec.structs.replace(line, unfinished=False)
            self._changed = True

    def of(self, artifact_id: str) -> tuple[ArtifactSource, ...]:
        """Who holds it, as far as is known."""
        line = self._lines.get(artifact_id)
        return line.sources if line is not None else ()

    def unfinished(self) -> tuple[KnownSources, ...]:
        """What was being fetched when the book was last kept."""
        return tuple(line for line in self._lines.values() if line.unfinished)

    def take_news(self) -> tuple[KnownSources, ...] | None:
        """All lines, if there is anything new to keep; else None."""
        if not self._changed:
            return None
        self._changed = False
        return tuple(self._lines.values())

    def _put(self, line: KnownSources) -> None:
        self._lines[line.artifact_id] = line
        self._lines.move_to_end(line.artifact_id)
        while len(self._lines) > ARTIFACTS_MAX:
            self._lines.popitem(last=False)
