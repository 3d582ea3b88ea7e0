"""Which nodes the jobs of a group have been on, so that those that follow go there too.

A group is a sweep's jobs that are equal on the axes of its `affinity`: what one
of them has read and cached, the next one finds. That never costs waiting: a node
is chosen for a job as ever, and only then, of jobs that want the same of it, one
whose group is at home there goes first. So no slot stays free for affinity, each
sweep has as many slots at any time as it would have without, and jobs change
places with others of their own sweep and priority alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

Group = tuple[str, str]
"""A sweep's id, and the values that its jobs are equal on."""

AT_HOME = 0
NOWHERE = 1
"""No node that is there has run a job of the group: any may become its home."""
ELSEWHERE = 2


class Homes:
    """The nodes of each group of the sweeps that are open.

    Args:
        is_there: whether a node is connected.
    """

    def __init__(self, is_there: Callable[[str], bool]) -> None:
        self._is_there = is_there
        #: sweep → values → nodes, in the order in which they came to it
        self._of_sweep: dict[str, dict[str, dict[str, None]]] = {}

    def copy(self, is_there: Callable[[str], bool]) -> Homes:
        """The same homes, for a copy of the mesh."""
        copied = Homes(is_there)
        copied._of_sweep = {
            sweep_id: {values: dict(nodes) for values, nodes in groups.items()}
            for sweep_id, groups in self._of_sweep.items()
        }
        return copied

    def note(self, group: Group, node_id: str) -> None:
        """A job of the group runs on the node."""
        sweep_id, values = group
        self._of_sweep.setdefault(sweep_id, {}).setdefault(values, {})[node_id] = None

    def forget(self, sweep_id: str) -> None:
        """The sweep has ended."""
        self._of_sweep.pop(sweep_id, None)

    def nodes(self, group: Group) -> Iterable[str]:
        """The nodes that have run jobs of the group."""
        sweep_id, values = group
        return self._of_sweep.get(sweep_id, {}).get(values, ())

    def rank(self, group: Group | None, node_id: str) -> int:
        """AT_HOME, NOWHERE or ELSEWHERE; what has no group is at home everywhere."""
        if group is None:
            return AT_HOME
        nodes = self.nodes(group)
        if node_id in nodes:
            return AT_HOME
        return ELSEWHERE if any(self._is_there(other) for other in nodes) else NOWHERE
