"""Which of an artifact's holders a node is told of, and in which order."""

from __future__ import annotations

from meshtrain.core import commands as cmd
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.rates import BYTES_PER_S_ASSUMED
from meshtrain.core.spread import spread
from meshtrain.core.state import MeshState

SOURCES_MAX = 64
"""Of one artifact that a node is told of at a time, whole holders and partial ones each: a few
more than it follows."""
SOURCES_TRIED_MAX = 32
"""Of these, those that served the node before; the others are new to it."""


def told_sources(
    state: MeshState, artifact_id: str, for_node: str
) -> tuple[cmd.ArtifactSource, ...]:
    """Where a node may fetch from: whole holders, then partial ones, the master last.

    Among each kind, those that served the node fastest come first. Of very many
    it is told a part, each node another one.
    The master's own address is not known here: its url is left empty for
    the daemon to fill.
    """
    asker = state.nodes.get(for_node)
    by_master = artifact_id in state.held_by_master and for_node != MASTER_NODE_ID
    if by_master and asker is not None and artifact_id in asker.holds:
        # It has it: listing all holders for each of its jobs would be most of the work.
        return (cmd.ArtifactSource(MASTER_NODE_ID, ""),)
    whole: list[cmd.ArtifactSource] = []
    partial: list[cmd.ArtifactSource] = []
    for node_id, node in state.nodes.items():
        has = artifact_id in node.holds
        if (has or artifact_id in node.fetching) and node.connected and node_id != for_node:
            (whole if has else partial).append(cmd.ArtifactSource(node_id, node.spec.http_url))
    suspects = state.copies.suspects
    if suspects:
        # Nobody is asked who sent something corrupt, while there is another.
        whole = [s for s in whole if (s.node_id, artifact_id) not in suspects] or whole
    rates = state.copies.rates.by_source(for_node)
    found: list[cmd.ArtifactSource] = []
    for part in (whole, partial):
        if rates:
            part.sort(key=lambda s: rates.get(s.node_id, BYTES_PER_S_ASSUMED), reverse=True)
        if len(part) > SOURCES_MAX:
            tried = [s for s in part if s.node_id in rates][:SOURCES_TRIED_MAX]
            known = {s.node_id for s in tried}
            others = [s for s in part if s.node_id not in known]
            part = tried + spread(others, for_node, SOURCES_MAX - len(tried))
        found += part
    if by_master:
        found.append(cmd.ArtifactSource(MASTER_NODE_ID, ""))
    return tuple(found)
