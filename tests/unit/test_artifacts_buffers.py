"""Memory that chunks come into, taken and given back."""

from __future__ import annotations

from meshtrain.artifacts.buffers import Buffers


def test_a_buffer_has_the_size_that_is_asked_for() -> None:
    buffers = Buffers()
    for size_bytes in (0, 1, 65_536, 65_537, 1_000_000):
        assert len(buffers.take(size_bytes)) == size_bytes


def test_what_was_given_back_is_used_again() -> None:
    buffers = Buffers()
    first = buffers.take(100_000)
    memory = first.obj
    buffers.give_back(first)
    assert buffers.take(90_000).obj is memory
    assert buffers.take(90_000).obj is not memory, "it is in use"


def test_what_is_too_small_is_left_for_others() -> None:
    buffers = Buffers()
    small = buffers.take(1000)
    buffers.give_back(small)
    assert buffers.take(1_000_000).obj is not small.obj
    assert buffers.take(1000).obj is small.obj


def test_p12_no_more_than_so_many_are_kept() -> None:
    buffers = Buffers(kept_max=2)
    taken = [buffers.take(1000) for _ in range(4)]
    for view in taken:
        buffers.give_back(view)
    memories = [view.obj for view in taken]
    again = [buffers.take(1000) for _ in range(4)]
    assert sum(any(view.obj is memory for memory in memories) for view in again) == 2
