"""How long a mesh takes over a set of tasks: list scheduling, with the scheduler's own placement.

Tasks start in their order, each as soon as a place is free for it; those that
start from a base wait for it. On slots that are all alike the time is at most
twice the best (R. L. Graham, Bounds on multiprocessing timing anomalies, 1969).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from meshtrain.core.job import Placement
from meshtrain.core.node import Node
from meshtrain.core.placement import choose, fit
from meshtrain.spec.jobs import Resources


class Task(msgspec.Struct, frozen=True):
    """A training of a base, or a job."""

    needs: Resources
    time_s: float
    trains: str | None = None
    """The recipe that it trains."""


class ListSchedule:
    """Runs tasks on nodes in thought; nodes come with what is taken on them now."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = {node.node_id: node for node in nodes}
        self._queues: dict[Resources, deque[Task]] = {}
        #: (end in seconds, number, placement or None for a base trained elsewhere, recipe)
        self._ends: list[tuple[float, int, Placement | None, str | None]] = []
        self._count = 0
        self._now_s = 0.0

    def run(
        self,
        first: Sequence[Task],
        then: Mapping[str | None, Sequence[Task]],
        ready_s: Mapping[str | None, float],
    ) -> float | None:
        """Seconds until all is done; None when something never finds a place.

        Args:
            first: the trainings of bases.
            then: the tasks that start from a recipe's base.
            ready_s: when each base that is not among `first` is there.
        """
        for task in first:
            self._queue(task)
        waiting = dict(then)
        for recipe_hash, at_s in ready_s.items():
            if at_s == 0.0:
                for task in waiting.pop(recipe_hash, ()):
                    self._queue(task)
            else:
                self._push(at_s, None, recipe_hash)
        self._place(self._nodes.values())
        while self._ends:
            self._now_s, number, placement, trained = heapq.heappop(self._ends)
            for task in waiting.pop(trained, ()) if trained is not None else ():
                self._queue(task)
            if placement is None:
                self._place(self._nodes.values())
                continue
            node = self._nodes[placement.node_id]
            node.release(str(number), placement)
            self._place(self._nodes.values() if trained is not None else (node,))
        done = not waiting and not any(self._queues.values())
        return self._now_s if done else None

    def _queue(self, task: Task) -> None:
        self._queues.setdefault(task.needs, deque()).append(task)

    def _push(self, at_s: float, placement: Placement | None, trained: str | None) -> int:
        self._count += 1
        heapq.heappush(self._ends, (at_s, self._count, placement, trained))
        return self._count

    def _place(self, nodes: Iterable[Node]) -> None:
        """Fill what is free; only on these nodes can anything have become free."""
        candidates = list(nodes)
        for needs, queue in self._queues.items():
            while queue:
                if len(candidates) == 1:
                    found = fit(candidates[0], needs)
                    placement = found if isinstance(found, Placement) else None
                else:
                    placement = choose(candidates, needs, lambda node: 0)
                if placement is None:
                    break
                task = queue.popleft()
                number = self._push(self._now_s + task.time_s, placement, task.trains)
                self._nodes[placement.node_id].occupy(str(number), placement)
