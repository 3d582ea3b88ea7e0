"""The same cell in several folders: which copy counts, and what people are told.

Cells are the same when they have the same point of the matrix and fill the same
reference row, whatever their names and ids. All copies are kept as a set, so that
it can't matter in which order folders are read, or which are merged first; one
copy of each cell then counts: of those that succeeded the newest, else the newest
end. No value is ever the mean of two copies.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from meshtrain.results.axes import AxisKey, axis_key, natural_key
from meshtrain.results.merge import CellResult, CellState
from meshtrain.results.sweep_results import Run


class Copy(msgspec.Struct, frozen=True):
    """A cell as one folder has it."""

    source: str
    cell: CellResult
    run: Run = Run()


class CellKey(msgspec.Struct, frozen=True):
    """What makes two cells the same."""

    group: str
    point: tuple[tuple[str, AxisKey], ...]
    name: str = ""
    """Set only where there is no axis to know a cell by."""


Copies = dict[CellKey, dict[bytes, Copy]]
"""Each cell's copies, by their bytes: a set."""


class Verdict(StrEnum):
    """What two copies of a cell are to each other."""

    SAME = "same"
    """One result in two folders."""
    NEWER = "newer"
    """Two results: the newer one counts."""
    ONLY_ONE_SUCCEEDED = "only one succeeded"
    CONTRADICTION = "contradiction"
    """Two results of one time, or of none, that differ."""


class Twice(msgspec.Struct, frozen=True):
    """A cell that several folders have."""

    kept: Copy
    left_out: tuple[Copy, ...]
    verdict: Verdict


class Settled(msgspec.Struct, frozen=True):
    """One copy of each cell, and the cells that had several."""

    kept: tuple[Copy, ...]
    twice: tuple[Twice, ...]


_encode = msgspec.msgpack.Encoder(order="sorted").encode


def cell_key(cell: CellResult) -> CellKey:
    """The key of a cell; equal ones are one cell."""
    point = tuple((axis, axis_key(cell.cell, axis)) for axis in sorted(cell.cell))
    name = "" if point else cell.name.rpartition("/")[2]
    return CellKey(cell.group, point, name)


def copies_of(copies: Iterable[Copy]) -> Copies:
    """The copies by their cells."""
    gathered: Copies = {}
    for copy in copies:
        gathered.setdefault(cell_key(copy.cell), {})[_mark(copy)] = copy
    return gathered


def union(one: Copies, other: Copies) -> Copies:
    """All copies of both: associative, whichever comes first, and the same twice is once."""
    return {
        key: {**one.get(key, {}), **other.get(key, {})}
        for key in [*one, *(key for key in other if key not in one)]
    }


def settle(copies: Copies) -> Settled:
    """One copy of each cell, in the sweep's order where the folders agree on one."""
    kept: list[tuple[CellKey, Copy]] = []
    twice: dict[CellKey, Twice] = {}
    for key, found in copies.items():
        if len(found) == 1:
            kept += ((key, copy) for copy in found.values())
            continue
        # Bytes decide between equals, so that it can't matter who came first.
        ordered = [found[mark] for mark in sorted(found, reverse=True)]
        ordered.sort(key=_rank, reverse=True)
        kept.append((key, ordered[0]))
        twice[key] = Twice(ordered[0], tuple(ordered[1:]), _verdict(ordered))
    numbered = _in_order(kept)
    return Settled(
        tuple(copy for _, copy in numbered),
        tuple(twice[key] for key, _ in numbered if key in twice),
    )


def _mark(copy: Copy) -> bytes:
    try:
        return _encode(copy)
    except OverflowError:
        # A whole number of more than 64 bits.
        return repr(copy).encode("utf-8", "backslashreplace")


def _rank(copy: Copy) -> tuple[int, float]:
    """Higher counts: what succeeded, then what is newest."""
    state = copy.cell.state
    if state == CellState.SUCCEEDED:
        level = 3
    elif state in (CellState.FAILED, CellState.CANCELLED):
        level = 2
    else:
        level = int(state == CellState.RUNNING)
    ended_s = copy.run.ended_s
    return level, float("-inf") if ended_s is None else ended_s


def _verdict(ordered: list[Copy]) -> Verdict:
    first, second = ordered[0], ordered[1]
    if all(_says(copy) == _says(first) for copy in ordered):
        return Verdict.SAME
    if (first.cell.state == CellState.SUCCEEDED) != (second.cell.state == CellState.SUCCEEDED):
        return Verdict.ONLY_ONE_SUCCEEDED
    rivals = [copy for copy in ordered[1:] if _rank(copy) == _rank(first)]
    if any(_result(copy) != _result(first) for copy in rivals):
        return Verdict.CONTRADICTION
    return Verdict.NEWER


def _result(copy: Copy) -> tuple[object, ...]:
    return copy.cell.state, copy.cell.metrics, copy.cell.absent, copy.cell.reason


def _says(copy: Copy) -> tuple[object, ...]:
    return (*_result(copy), copy.run.ended_s)


def _in_order(kept: list[tuple[CellKey, Copy]]) -> list[tuple[CellKey, Copy]]:
    """By the places in their sweeps where those don't clash, else by name; ids made unique."""
    places = {copy.cell.index for _, copy in kept}
    agree = None not in places and len(places) == len(kept)
    if agree:
        ordered = sorted(kept, key=lambda one: one[1].cell.index or 0)
    else:
        ordered = sorted(kept, key=lambda one: (natural_key(one[1].cell.name), repr(one[0])))
    ids: set[str] = set()
    result = []
    for key, copy in ordered:
        cell = copy.cell if agree else msgspec.structs.replace(copy.cell, index=None)
        while cell.job_id in ids:
            cell = msgspec.structs.replace(cell, job_id=f"{cell.job_id}+")
        ids.add(cell.job_id)
        numbered = copy if cell is copy.cell else msgspec.structs.replace(copy, cell=cell)
        result.append((key, numbered))
    return result
