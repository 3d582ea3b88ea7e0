"""One look at all that waits: which job goes where, and why a node is passed over.

The scheduler gives out jobs by this, and estimates and reasons come from it too,
run on a copy of the state: there is no second opinion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from meshtrain.core import budget, patience, reserve, shares
from meshtrain.core.affinity import AT_HOME
from meshtrain.core.job import Job, Placement
from meshtrain.core.node import Node
from meshtrain.core.placement import choose, fit
from meshtrain.core.queue import Shape
from meshtrain.core.refusal import Because, Refusal
from meshtrain.core.state import MeshState

Give = Callable[[Job, Placement], None]


class PlacePass:
    """Gives waiting jobs to nodes that take some, most urgent first.

    Args:
        give: takes a job that left the queue, and its place; it must occupy the place.
    """

    def __init__(self, state: MeshState, give: Give) -> None:
        self._state = state
        self._give = give
        #: node → the job that it is kept free for
        self.kept: dict[str, str] = {}
        #: node → the shape that had better wait for another one than go there
        self.put_off: dict[str, Shape] = {}

    def run(self, most: int | None = None) -> None:
        """Give out what can be given out, at most so much."""
        state = self._state
        given = 0
        if not len(state.queue):
            return
        ahead = bool(state.short_sweeps)
        free = {
            node.node_id: node
            for node in state.nodes.values()
            if node.takes_jobs and node.has_room(ahead=ahead)
        }
        if not free:
            return
        fitted_nowhere: set[tuple[Shape, bool]] = set()
        for job_id, shape, turn in state.queue.in_order(self.is_open):
            if not free:
                return
            job = state.jobs[job_id]
            lacking_s = self.lacking_s(shape)
            short = job.sweep_id in state.short_sweeps
            there: Iterable[Node] = free.values()
            if shape.shares:
                there = [n for n in there if shares.has_all(state, n, shape.shares)]
            if shape.group is not None and (_ungrouped(shape), short) in fitted_nowhere:
                continue
            placement = choose(
                there,
                shape.needs,
                lacking_s,
                ahead=short,
                run_s=state.run_s_mean.get(job.sweep_id or "", 0.0),
                is_home=self._is_home(shape),
            )
            if placement is None:
                if shape.group is not None:
                    fitted_nowhere.add((_ungrouped(shape), short))
                if reserve.is_wide(shape.needs):
                    node_id = reserve.node_for(state, job, shape.needs, self.kept.keys())
                    if node_id is not None:
                        self.kept[node_id] = job_id
                        free.pop(node_id, None)
                continue
            node = state.nodes[placement.node_id]
            if patience.is_sooner_elsewhere(state, job, shape, lacking_s(node)):
                self.put_off[node.node_id] = shape
                continue
            state.copies.held_back_s.pop(shape.recipe_hash or "", None)
            kin = self._kin(job_id, shape, placement, there, ahead=short)
            if kin is None:
                turn.take()
            else:
                # It is at home there; this one finds another place, or waits for the next.
                turn.give_to(kin[0])
                job, placement = state.jobs[kin[0]], kin[1]
            self._give(job, placement)
            given += 1
            if given == most:
                return
            node = state.nodes[placement.node_id]
            if not (node.takes_jobs and node.has_room(ahead=ahead)):
                del free[node.node_id]

    def is_open(self, shape: Shape) -> bool:
        """Whether jobs of a shape may start at all: what they start from is there, and paid for."""
        state = self._state
        if budget.is_blocked(state, shape.purse):
            return False
        if shape.parent is not None and not state.is_held(shape.parent):
            return False
        return shape.recipe_hash is None or state.is_ready(shape.recipe_hash)

    def refusal(self, node: Node, job: Job, shape: Shape) -> Refusal:
        """Why a node took a waiting job not in this pass, which has been run."""
        state = self._state
        found = fit(node, shape.needs, ahead=job.sweep_id in state.short_sweeps)
        if isinstance(found, Refusal):
            return found
        lack = shares.lack_of(state, node, shape.shares)
        if lack:
            return Refusal(Because.SHARE, note=lack)
        keeper = self.kept.get(node.node_id)
        if keeper is not None and keeper != job.job_id:
            return Refusal(Because.KEPT, note=state.jobs[keeper].name)
        if self.put_off.get(node.node_id) == shape:
            return Refusal(Because.ELSEWHERE)
        return Refusal(Because.AHEAD)

    def _is_home(self, shape: Shape) -> Callable[[Node], bool] | None:
        group, homes = shape.group, self._state.homes
        if group is None:
            return None
        return lambda node: homes.rank(group, node.node_id) == AT_HOME

    def _kin(
        self,
        job_id: str,
        shape: Shape,
        placement: Placement,
        there: Iterable[Node],
        *,
        ahead: bool,
    ) -> tuple[str, Placement] | None:
        """A job of the same sweep that is rather at home where this one would go, and its place."""
        homes, node_id = self._state.homes, placement.node_id
        rank = homes.rank(shape.group, node_id)
        found = None
        if rank == AT_HOME:
            return None
        node = self._state.nodes[node_id]
        here_s = self.lacking_s(shape)(node)
        for other_id, other in self._state.queue.kin(job_id):
            nearer = homes.rank(other.group, node_id)
            if nearer >= rank or not self.is_open(other):
                continue
            if not shares.has_all(self._state, self._state.nodes[node_id], other.shares):
                continue
            lacking_s = self.lacking_s(other)
            if lacking_s(node) > here_s:
                # What it starts from would have to come first.
                continue
            place = choose(there, other.needs, lacking_s, ahead=ahead, is_home=self._is_home(other))
            if place is None or place.node_id != node_id:
                continue
            rank, found = nearer, (other_id, place)
            if rank == AT_HOME:
                break
        return found

    def lacking_s(self, shape: Shape) -> Callable[[Node], float]:
        """How long a node would fetch what it lacks, by what it fetched lately."""
        wanted = list(shape.datasets)
        if shape.recipe_hash is not None:
            base = self._state.bases[shape.recipe_hash]
            if base.artifact_id is not None:
                wanted.append((base.artifact_id, base.size_bytes))
        if shape.parent is not None:
            wanted.append((shape.parent, 1))
        if not wanted:
            return _nothing_lacks
        rates = self._state.copies.rates

        def lacking_s(node: Node) -> float:
            total = 0
            for artifact_id, size_bytes in wanted:
                if artifact_id not in node.holds:
                    # Half a way: it is coming already.
                    is_coming = artifact_id in node.fetching
                    total += size_bytes // 2 if is_coming else max(1, size_bytes)
            return total / rates.of_node(node.node_id) if total else 0.0

        return lacking_s


def _nothing_lacks(node: Node) -> float:
    return 0.0


def _ungrouped(shape: Shape) -> Shape:
    """What all groups of a sweep have in common."""
    return msgspec.structs.replace(shape, group=None)
