"""Who holds which artifact: the master's directory, kept by what nodes tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshtrain.core.node import Node

_NOBODY: frozenset[str] = frozenset()


class Directory:
    """Artifact → the nodes that hold it, and its size; the master itself is not in it.

    `Node.holds` says the same the other way round, and changes here alone.
    """

    def __init__(self) -> None:
        self._holders: dict[str, set[str]] = {}
        #: of artifacts that some node holds, as far as it is known
        self._size_bytes: dict[str, int] = {}

    def only(self, artifact_ids: Iterable[str]) -> Directory:
        """A copy that knows of these artifacts alone."""
        copied = Directory()
        for artifact_id in artifact_ids:
            if artifact_id in self._holders:
                copied._holders[artifact_id] = set(self._holders[artifact_id])
            if artifact_id in self._size_bytes:
                copied._size_bytes[artifact_id] = self._size_bytes[artifact_id]
        return copied

    def add(self, node: Node, artifact_id: str, size_bytes: int = 0) -> bool:
        """Note that a node holds an artifact. False while it is on its way out there."""
        if artifact_id == node.evicting:
            # Said before the node obeyed: it says itself what became of it.
            return False
        node.holds.add(artifact_id)
        self._holders.setdefault(artifact_id, set()).add(node.node_id)
        if size_bytes:
            self._size_bytes[artifact_id] = size_bytes
        return True

    def remove(self, node: Node, artifact_id: str) -> None:
        """Note that a node no longer holds an artifact; harmless when it never did."""
        node.holds.discard(artifact_id)
        holders = self._holders.get(artifact_id)
        if holders is not None:
            holders.discard(node.node_id)
            if not holders:
                del self._holders[artifact_id]
                self._size_bytes.pop(artifact_id, None)

    def replace(
        self, node: Node, artifact_ids: Iterable[str], sizes_bytes: Mapping[str, int]
    ) -> None:
        """Note all that a node holds; nothing else of it counts any more."""
        self.clear(node)
        for artifact_id in artifact_ids:
            self.add(node, artifact_id, sizes_bytes.get(artifact_id, 0))

    def clear(self, node: Node) -> None:
        """Forget all that a node holds."""
        for artifact_id in list(node.holds):
            self.remove(node, artifact_id)

    def holders(self, artifact_id: str) -> set[str] | frozenset[str]:
        """The ids of the nodes known to hold it, away or not."""
        return self._holders.get(artifact_id, _NOBODY)

    def size_bytes(self, artifact_id: str) -> int:
        """The size of an artifact that some node holds; 0 where it isn't known."""
        return self._size_bytes.get(artifact_id, 0)

    def contradiction(self, nodes: Mapping[str, Node]) -> str:
        """Where the two ways round differ; empty where they agree."""
        for artifact_id, holders in self._holders.items():
            for node_id in holders:
                if node_id not in nodes or artifact_id not in nodes[node_id].holds:
                    return f"the directory lists {artifact_id} at {node_id}, which has it not"
        for node in nodes.values():
            for artifact_id in node.holds:
                if node.node_id not in self._holders.get(artifact_id, _NOBODY):
                    return f"{node.node_id} holds {artifact_id}, and the directory doesn't know"
        return ""
