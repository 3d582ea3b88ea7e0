"""Some out of many, others for each."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from meshtrain.core.spread import spread


@given(count=st.integers(0, 300), count_max=st.integers(0, 80), key=st.text(max_size=12))
def test_as_many_as_there_is_room_for_and_none_twice(count: int, count_max: int, key: str) -> None:
    chosen = spread(range(count), key, count_max)
    assert len(chosen) == len(set(chosen)) == min(count, count_max)
    assert set(chosen) <= set(range(count))
    assert spread(range(count), key, count_max) == chosen


def test_few_are_told_of_as_they_are() -> None:
    assert spread(["b", "a"], "node-1", 2) == ["b", "a"]


def test_none_is_told_to_all_and_none_to_nobody() -> None:
    told = Counter(n for node in range(1000) for n in spread(range(1000), f"node-{node}", 64))
    assert len(told) == 1000
    assert max(told.values()) < 4 * 64
