"""The axes of a sweep: what their values are, and in which order they stand."""

from __future__ import annotations

import functools
import heapq
import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

INT_MAX = 2**63 - 1
KEYS_KEPT_MAX = 65_536
"""Values whose keys are remembered: a sweep of many cells has few values on each axis."""
_DIGITS = re.compile(r"([0-9]+)")


class AxisKey(msgspec.Struct, frozen=True):
    """What makes two values of an axis the same: 1 and 1.0 are, 1 and true and "1" aren't."""

    kind: str
    text: str


ABSENT = AxisKey("absent", "")
"""The key of an axis that a cell doesn't have."""


def axis_key(cell: Mapping[str, Any], axis: str) -> AxisKey:
    """The key of the cell's value on `axis`, or ABSENT."""
    if axis not in cell:
        return ABSENT
    value = cell[axis]
    if type(value) in _HASHABLE:
        return _known_key(value)
    return _made_key(value)


_HASHABLE = frozenset({bool, int, float, str, type(None)})


def _made_key(value: Any) -> AxisKey:
    value = plain_value(value)
    if value is None:
        return AxisKey("none", "")
    if isinstance(value, bool):
        return AxisKey("bool", str(value))
    if isinstance(value, int | float):
        # A zero's sign goes: 0.0 and -0.0 are one value.
        number = float(value) + 0.0
        return AxisKey("number", repr(number) if number == value else str(value))
    return AxisKey("text", value)


_known_key = functools.lru_cache(KEYS_KEPT_MAX, typed=True)(_made_key)


def plain_value(value: Any) -> bool | int | float | str | None:
    """`value` as a scalar that JSON can carry: what is none becomes its text."""
    if value is None or isinstance(value, str) or value is True or value is False:
        return value
    if isinstance(value, int):
        return value if abs(value) <= INT_MAX else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    try:
        return json.dumps(value, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError):
        return str(type(value).__name__)


def natural_key(text: str) -> tuple[Any, ...]:
    """A sort key that puts `fold=2` before `fold=10`."""
    parts = _DIGITS.split(text)
    return tuple(
        (len(part.lstrip("0")), part.lstrip("0"), part) if i % 2 else (0, part, part)
        for i, part in enumerate(parts)
    )


def natural_axis_key(key: AxisKey) -> tuple[Any, ...]:
    """A sort key for values whose order in the sweep isn't known: numbers rise, text is natural."""
    kinds = ("number", "bool", "text", "none", "absent")
    number = float(key.text) if key.kind == "number" else 0.0
    return (kinds.index(key.kind), number, natural_key(key.text))


def axis_names(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """All axes of the cells, in the order in which they first appear."""
    names: dict[str, None] = {}
    for cell in cells:
        if not cell.keys() <= names.keys():
            names.update(dict.fromkeys(cell))
    return list(names)


class AxisColumns:
    """The keys of many cells, a column an axis; made once, since a sweep may have many cells."""

    __slots__ = ("columns", "count")

    def __init__(self, cells: Sequence[Mapping[str, Any]]) -> None:
        self.count = len(cells)
        self.columns = {
            name: [axis_key(cell, name) for cell in cells] for name in axis_names(cells)
        }

    def of(self, axis: str) -> list[AxisKey]:
        """Each cell's key on `axis`."""
        return self.columns.get(axis) or [ABSENT] * self.count

    def points(self, axes: Sequence[str]) -> Iterable[tuple[AxisKey, ...]]:
        """Each cell's keys on `axes`."""
        if not axes:
            return [()] * self.count
        return zip(*(self.of(axis) for axis in axes), strict=True)

    def ordered(self, axis: str, *, in_sweep_order: bool) -> list[AxisKey]:
        """The distinct values of `axis`, ABSENT last.

        With `in_sweep_order`, the cells come in the sweep's order, and the values
        keep it even where excluded cells hide it at the start: between two values,
        those cells decide that differ in nothing else.
        """
        seen = dict.fromkeys(self.of(axis))
        absent = [ABSENT] if ABSENT in seen else []
        seen.pop(ABSENT, None)
        if not in_sweep_order:
            return [*sorted(seen, key=natural_axis_key), *absent]
        if len(seen) < 2:
            return [*seen, *absent]
        return [*self._in_sweep_order(axis, list(seen)), *absent]

    def _in_sweep_order(self, axis: str, seen: list[AxisKey]) -> list[AxisKey]:
        rank = {key: place for place, key in enumerate(seen)}
        followers: dict[AxisKey, set[AxisKey]] = {key: set() for key in seen}
        last_in_context: dict[Hashable, AxisKey] = {}
        contexts = self.points([name for name in self.columns if name != axis])
        for key, context in zip(self.of(axis), contexts, strict=True):
            if key == ABSENT:
                continue
            before = last_in_context.get(context)
            if before is not None and before != key:
                followers[before].add(key)
            last_in_context[context] = key
        return _topological(rank, followers)


def ordered_keys(
    cells: Sequence[Mapping[str, Any]], axis: str, *, in_sweep_order: bool
) -> list[AxisKey]:
    """The distinct values of `axis` as `AxisColumns.ordered` puts them."""
    return AxisColumns(cells).ordered(axis, in_sweep_order=in_sweep_order)


def _topological(rank: dict[AxisKey, int], followers: dict[AxisKey, set[AxisKey]]) -> list[AxisKey]:
    """Kahn's order, earliest seen first; a cycle is broken at its earliest seen value."""
    by_rank = list(rank)
    waits_for = dict.fromkeys(rank, 0)
    for nexts in followers.values():
        for key in nexts:
            waits_for[key] += 1
    ready = [rank[key] for key, count in waits_for.items() if count == 0]
    heapq.heapify(ready)
    done: dict[AxisKey, None] = {}
    earliest = 0
    while len(done) < len(rank):
        if not ready:
            while by_rank[earliest] in done:
                earliest += 1
            ready.append(earliest)
        key = by_rank[heapq.heappop(ready)]
        if key in done:
            continue
        done[key] = None
        for follower in followers[key]:
            waits_for[follower] -= 1
            if waits_for[follower] == 0 and follower not in done:
                heapq.heappush(ready, rank[follower])
    return list(done)
