"""The jobs that wait for a place, in the order in which they get one.

Jobs of one shape (the same needs, the same base) are interchangeable to
placement, so one heap a shape is kept, and a pass looks at the heads alone:
100,000 waiting jobs cost no more than one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

import msgspec

from meshtrain.core.affinity import Group
from meshtrain.spec.jobs import Resources

#: (-priority, 0 for a base and 1 for others, order of submission, job id)
Entry = tuple[int, int, int, str]


OUTDATED_MIN = 1024
"""So many outdated entries are kept before it is looked whether they outnumber the others."""


class Shape(msgspec.Struct, frozen=True):
    """What placement can tell jobs apart by."""

    needs: Resources
    recipe_hash: str | None
    """The base that must be there first."""
    datasets: tuple[tuple[str, int], ...] = ()
    """The artifacts that it reads, with their sizes in bytes."""
    shares: tuple[str, ...] = ()
    """The shares that its node must have."""
    parent: str | None = None
    """Of a base that continues from another: the artifact of that one."""
    group: Group | None = None
    """Of a sweep with affinity: the jobs that are best on one node."""
    purse: str | None = None
    """Of a sweep with a budget: its id; of a base, while there are such sweeps: its recipe."""


class WaitingQueue:
    def __init__(self) -> None:
        self._heaps: dict[Shape, list[Entry]] = {}
        #: The one valid entry of each waiting job; heaps may hold outdated ones.
        self._valid: dict[str, tuple[Shape, Entry]] = {}
        #: sweep → the shapes of its groups that have a heap
        self._groups: dict[str, dict[Shape, None]] = {}
        #: Entries in all heaps, outdated ones too.
        self._entries = 0

    def __len__(self) -> int:
        return len(self._valid)

    def copy(self) -> WaitingQueue:
        """The same jobs in the same order, to try something on."""
        copied = WaitingQueue()
        copied._heaps = {shape: list(heap) for shape, heap in self._heaps.items()}
        copied._valid = dict(self._valid)
        copied._groups = {sweep_id: dict(shapes) for sweep_id, shapes in self._groups.items()}
        copied._entries = self._entries
        return copied

    def shape_of(self, job_id: str) -> Shape | None:
        """What placement tells a waiting job by; None for one that is not in."""
        found = self._valid.get(job_id)
        return None if found is None else found[0]

    def ordered(self) -> Iterator[str]:
        """All waiting jobs, most urgent first, whether they could start or not."""
        for entry in sorted(entry for _, entry in self._valid.values()):
            yield entry[3]

    def ahead_of(self, job_id: str) -> Iterator[tuple[str, Shape, int]]:
        """The waiting jobs before one, in no order, each with its shape and priority."""
        if job_id not in self._valid:
            return
        own = self._valid[job_id][1]
        for other_id, (shape, entry) in self._valid.items():
            if entry < own:
                yield other_id, shape, -entry[0]

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._valid

    def push(
        self, job_id: str, shape: Shape, *, priority: int, order: int, is_base: bool = False
    ) -> None:
        """Add a job, or move it if it waits already."""
        entry = (-priority, 0 if is_base else 1, order, job_id)
        if self._valid.get(job_id) == (shape, entry):
            return
        self._valid[job_id] = (shape, entry)
        heapq.heappush(self._heap(shape), entry)
        self._entries += 1
        if self._entries > 2 * len(self._valid) + OUTDATED_MIN:
            self._drop_outdated()

    def _heap(self, shape: Shape) -> list[Entry]:
        heap = self._heaps.get(shape)
        if heap is None:
            heap = self._heaps[shape] = []
            if shape.group is not None:
                self._groups.setdefault(shape.group[0], {})[shape] = None
        return heap

    def _drop_heap(self, shape: Shape) -> None:
        del self._heaps[shape]
        if shape.group is not None:
            shapes = self._groups[shape.group[0]]
            del shapes[shape]
            if not shapes:
                del self._groups[shape.group[0]]

    def kin(self, job_id: str) -> Iterator[tuple[str, Shape]]:
        """The first jobs of other groups of a waiting job's sweep, as urgent as it, oldest first.

        Those alone that need of a node what it does: where it fits, they fit too.
        """
        shape, entry = self._valid[job_id]
        if shape.group is None:
            return
        found = []
        for other in list(self._groups[shape.group[0]]):
            head = self._head(other)
            alike = (other.needs, other.shares) == (shape.needs, shape.shares)
            if head is not None and other != shape and alike and head[:2] == entry[:2]:
                found.append((head, other))
        found.sort(key=lambda pair: pair[0])
        for head, other in found:
            yield head[3], other

    def discard(self, job_id: str) -> None:
        """Take a job out; harmless when it isn't in."""
        self._valid.pop(job_id, None)

    def in_order(self, is_open: Callable[[Shape], bool]) -> Iterator[tuple[str, Shape, _Turn]]:
        """The first job of each open shape, most urgent first.

        Each comes with a turn: `take()` removes the job and lets the shape's
        next one compete; without it the shape is passed over in this pass.
        """
        heads: list[tuple[Entry, int, Shape]] = []
        for number, shape in enumerate(list(self._heaps)):
            entry = self._head(shape)
            if entry is not None and is_open(shape):
                heads.append((entry, number, shape))
        heapq.heapify(heads)
        while heads:
            entry, number, shape = heapq.heappop(heads)
            if self._valid.get(entry[3]) != (shape, entry):
                # Another gave it its turn.
                following = self._head(shape)
                if following is not None:
                    heapq.heappush(heads, (following, number, shape))
                continue
            turn = _Turn(self, entry)
            yield entry[3], shape, turn
            if turn.taken:
                following = self._head(shape)
                if following is not None:
                    heapq.heappush(heads, (following, number, shape))

    def _head(self, shape: Shape) -> Entry | None:
        heap = self._heaps.get(shape)
        if heap is None:
            return None
        while heap:
            entry = heap[0]
            if self._valid.get(entry[3]) == (shape, entry):
                return entry
            heapq.heappop(heap)
            self._entries -= 1
        self._drop_heap(shape)
        return None

    def _take(self, entry: Entry) -> None:
        # Its entry goes when it comes to the head: whatever was pushed meanwhile stays.
        del self._valid[entry[3]]

    def _drop_outdated(self) -> None:
        """Build the heaps anew from what waits: jobs moved often must not fill the memory."""
        self._heaps = {}
        self._groups = {}
        for shape, entry in self._valid.values():
            self._heap(shape).append(entry)
        for heap in self._heaps.values():
            heapq.heapify(heap)
        self._entries = len(self._valid)


class _Turn:
    __slots__ = ("_entry", "_queue", "taken")

    def __init__(self, queue: WaitingQueue, entry: Entry) -> None:
        self._queue = queue
        self._entry = entry
        self.taken = False

    def take(self) -> None:
        self._queue._take(self._entry)
        self.taken = True

    def give_to(self, job_id: str) -> None:
        """Remove another waiting job instead; this one competes again, for what is left."""
        self._queue.discard(job_id)
        self.taken = True
