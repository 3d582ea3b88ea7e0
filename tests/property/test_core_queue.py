"""The queue of waiting jobs: the most urgent first, and as cheap with 100,000 as with one."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrain.core import queue as queue_module
from meshtrain.core.queue import OUTDATED_MIN, Shape, WaitingQueue
from meshtrain.spec.jobs import Resources

SHAPES = [Shape(Resources(gpus=gpus), recipe) for gpus in (0, 1) for recipe in (None, "r")]

#: (what is done, job, shape, priority, base)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "discard", "take"]),
        st.integers(0, 9),
        st.sampled_from(SHAPES),
        st.integers(-3, 3),
        st.booleans(),
    ),
    max_size=60,
)


def taken(queue: WaitingQueue, closed: Iterable[Shape] = ()) -> list[str]:
    """All jobs of open shapes, in the order in which they would start."""
    order = []
    for job_id, _, turn in queue.in_order(lambda shape: shape not in closed):
        turn.take()
        order.append(job_id)
    return order


@given(STEPS, st.sets(st.sampled_from(SHAPES)))
def test_jobs_come_by_priority_then_bases_then_submission(
    steps: list[tuple[str, int, Shape, int, bool]], closed: set[Shape]
) -> None:
    queue = WaitingQueue()
    waiting: dict[str, tuple[tuple[int, int, int, str], Shape]] = {}
    for what, order, shape, priority, is_base in steps:
        job_id = f"job{order}"
        if what == "push":
            queue.push(job_id, shape, priority=priority, order=order, is_base=is_base)
            waiting[job_id] = ((-priority, 0 if is_base else 1, order, job_id), shape)
        elif what == "discard":
            queue.discard(job_id)
            waiting.pop(job_id, None)
        else:
            for first, _, turn in queue.in_order(lambda _: True):
                assert waiting[first][0] == min(entry for entry, _ in waiting.values())
                turn.take()
                del waiting[first]
                break
        assert len(queue) == len(waiting)
        assert all(job_id in queue for job_id in waiting)
    opened = sorted(entry for entry, shape in waiting.values() if shape not in closed)
    assert taken(queue, closed) == [entry[3] for entry in opened]
    rest = sorted(entry for entry, shape in waiting.values() if shape in closed)
    assert taken(queue) == [entry[3] for entry in rest]
    assert len(queue) == 0


def test_a_shape_that_is_passed_over_keeps_its_jobs_and_lets_others_come() -> None:
    queue = WaitingQueue()
    for order in range(4):
        queue.push(f"j{order}", SHAPES[order % 2], priority=0, order=order)
    seen = []
    for job_id, shape, turn in queue.in_order(lambda _: True):
        seen.append(job_id)
        if shape is SHAPES[1]:
            turn.take()
    assert seen == ["j0", "j1", "j3"]
    assert taken(queue) == ["j0", "j2"]


def test_what_is_pushed_between_a_turn_and_its_taking_is_not_lost() -> None:
    queue = WaitingQueue()
    queue.push("late", SHAPES[0], priority=0, order=2)
    seen = []
    for job_id, _, turn in queue.in_order(lambda _: True):
        seen.append(job_id)
        if job_id == "late":
            queue.push("urgent", SHAPES[0], priority=9, order=3)
        turn.take()
    assert seen == ["late", "urgent"]


class CountedHeap:
    """heapq, counting."""

    def __init__(self) -> None:
        self.operations = 0

    def heappush(self, heap: list[Any], item: Any) -> None:
        self.operations += 1
        heapq.heappush(heap, item)

    def heappop(self, heap: list[Any]) -> Any:
        self.operations += 1
        return heapq.heappop(heap)

    def heapify(self, heap: list[Any]) -> None:
        self.operations += len(heap)
        heapq.heapify(heap)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountedHeap:
    heap = CountedHeap()
    monkeypatch.setattr(queue_module, "heapq", heap)
    return heap


def test_a_pass_over_100_000_jobs_that_starts_one_costs_a_few_heap_operations(
    counted: CountedHeap,
) -> None:
    queue = WaitingQueue()
    for order in range(100_000):
        queue.push(f"j{order}", SHAPES[order % 4], priority=0, order=order)
    assert counted.operations == 100_000
    counted.operations = 0
    for expected in range(8):
        (job_id, _, turn), *_ = queue.in_order(lambda _: True)
        assert job_id == f"j{expected}"
        turn.take()
    assert counted.operations < 8 * 16


def test_jobs_moved_without_end_neither_fill_the_heaps_nor_cost_more_than_a_few_operations_each(
    counted: CountedHeap,
) -> None:
    queue = WaitingQueue()
    for round_ in range(300):
        for order in range(100):
            queue.push(f"j{order}", SHAPES[0], priority=round_, order=order)
    assert sum(len(heap) for heap in queue._heaps.values()) <= 2 * 100 + OUTDATED_MIN
    assert counted.operations < 3 * 300 * 100
    assert taken(queue) == [f"j{order}" for order in range(100)]


def test_pushing_the_same_again_adds_nothing(counted: CountedHeap) -> None:
    queue = WaitingQueue()
    for _ in range(1000):
        queue.push("j", SHAPES[0], priority=1, order=1)
    assert counted.operations == 1
    assert taken(queue) == ["j"]
    assert taken(queue) == []
