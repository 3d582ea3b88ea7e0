"""Compares two sweeps: row by row, with the cells paired that differ in nothing but the sweep.

A pair is two cells with the same point of the matrix, fold and seed included. The
difference of a row is the mean of its pairs' differences, with Student's t over
the pairs; where no cell pairs, it is the difference of the two means, with Welch's
interval. What has no partner is left out of paired differences, and told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from meshtrain.errors import NotFoundError
from meshtrain.results.axes import AxisKey, axis_key, axis_names, natural_axis_key
from meshtrain.results.formats import axis_texts, cell_text, plain_text
from meshtrain.results.interval import CONFIDENCE, half_width, welch
from meshtrain.results.merge import MeasuredCell, MergedRow, MergedTable, mean_and_std, merge
from meshtrain.results.sweep_results import SweepResults

ROWS_NAMED_MAX = 6


class Verdict(StrEnum):
    """What the interval of a difference bears."""

    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "unclear"
    """The interval holds 0, or there is none."""


class Side(msgspec.Struct, frozen=True):
    """One sweep's part of a row."""

    mean: float | None = None
    std: float | None = None
    n: int = 0
    expected: int = 0
    left_out: int = 0
    """Values that have no partner, and so aren't in a paired difference."""


class ComparedRow(msgspec.Struct, frozen=True):
    """A row of one sweep beside that of the other."""

    axes: dict[str, Any]
    group: str
    one: Side
    other: Side
    difference: float | None = None
    """The other less the one."""
    half_width: float | None = None
    """Half the interval of the difference; None where there are too few values."""
    pairs: int = 0
    """Pairs that the difference is made from; 0 means that it is of unpaired means."""
    verdict: Verdict = Verdict.UNCLEAR


class Comparison(msgspec.Struct, frozen=True):
    """Two sweeps, row by row."""

    one: str
    other: str
    metric: str
    axes: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    overall: ComparedRow | None
    """Over all pairs of the matrix; None where one row says the same."""
    higher_is_better: bool
    direction: str
    confidence: float = CONFIDENCE
    notes: tuple[str, ...] = ()
    """What doesn't pair, and why."""


class _Axes(msgspec.Struct, frozen=True):
    shown: tuple[str, ...]
    paired: tuple[str, ...]
    notes: tuple[str, ...]


def compare(
    one: SweepResults,
    other: SweepResults,
    *,
    by: Sequence[str] | None = None,
    metric: str | None = None,
) -> Comparison:
    """`other` beside `one`.

    `by` and `metric` are as for `merge`; the axes that either sweep averages over
    are averaged over. Raises NotFoundError when `by` names an axis that one lacks.
    """
    axes = _axes(one, other, by)
    first = merge(one.cells, one.spec, by=_present(one, axes.shown), metric=metric)
    wanted = metric or first.metric or None
    second = merge(other.cells, other.spec, by=_present(other, axes.shown), metric=wanted)
    keyed = [_keyed(table, axes.shown) for table in (first, second)]
    notes = [*axes.notes, *(f"{one.name}: {note}" for note in first.notes)]
    notes += [f"{other.name}: {note}" for note in second.notes]
    if first.metric != second.metric and second.metric:
        notes.append(f"{first.metric} of {one.name} is beside {second.metric} of {other.name}")
    rows: list[ComparedRow] = []
    pairs_of_all: list[float] = []
    for key in _in_order(keyed[0], keyed[1]):
        row, differences = _row(
            keyed[0].get(key), keyed[1].get(key), axes.paired, first.higher_is_better
        )
        rows.append(row)
        if not row.group:
            pairs_of_all += differences
    notes += _told(one.name, other.name, rows)
    notes += _told_alone(one.name, other.name, keyed[0], keyed[1])
    return Comparison(
        one=one.name,
        other=other.name,
        metric=first.metric or second.metric,
        axes=axes.shown,
        rows=tuple(rows),
        overall=_overall(rows, pairs_of_all, first.higher_is_better),
        higher_is_better=first.higher_is_better,
        direction=first.direction,
        notes=tuple(dict.fromkeys(notes)),
    )


# --- which axes -----------------------------------------------------------------------


def _axes(one: SweepResults, other: SweepResults, by: Sequence[str] | None) -> _Axes:
    """The axes of rows and of pairs; an axis with one value in each sweep tells nothing apart."""
    values = [_values(sweep) for sweep in (one, other)]
    names = list(dict.fromkeys([*values[0], *values[1]]))
    shared = [name for name in names if name in values[0] and name in values[1]]
    if by is not None and (unknown := [name for name in by if name not in shared]):
        raise NotFoundError(
            f"no axis {', '.join(unknown)} in both {one.name} and {other.name}; "
            f"they share {', '.join(shared) or 'none'}"
        )
    over = {*one.spec.over, *other.spec.over}
    notes: list[str] = []
    fixed: set[str] = set()
    for name in shared:
        if name in over:
            # Fold 0 is no partner of fold 1, also where each sweep has one fold.
            continue
        texts = [_only_text(found[name]) for found in values]
        if None not in texts and texts[0] != texts[1] and (by is None or name not in by):
            fixed.add(name)
            notes.append(
                f"{plain_text(name)} is {texts[0]} in {one.name}, {texts[1]} in {other.name}"
            )
    for sweep, found, others in ((one, values[0], values[1]), (other, values[1], values[0])):
        for name in found:
            if name in others:
                continue
            text = _only_text(found[name])
            told = f"{sweep.name} alone has {plain_text(name)}"
            if text is not None:
                notes.append(f"{told}: {text}")
                continue
            values_count = len(found[name])
            notes.append(
                f"{told}, of {values_count} values: cells that differ in nothing else have no "
                "single partner"
            )
    paired = [name for name in shared if name not in fixed]
    shown = list(dict.fromkeys(by)) if by is not None else [n for n in paired if n not in over]
    return _Axes(tuple(shown), tuple(paired), tuple(notes))


def _values(sweep: SweepResults) -> dict[str, dict[AxisKey, Any]]:
    values: dict[str, dict[AxisKey, Any]] = {}
    matrix = [cell.cell for cell in sweep.cells if not cell.group]
    for point in matrix or [cell.cell for cell in sweep.cells]:
        for axis in point:
            values.setdefault(axis, {}).setdefault(axis_key(point, axis), point[axis])
    return values


def _only_text(values: dict[AxisKey, Any]) -> str | None:
    return axis_texts(list(values.values()))[0] if len(values) == 1 else None


def _present(sweep: SweepResults, axes: Sequence[str]) -> list[str]:
    present = axis_names(cell.cell for cell in sweep.cells)
    return [axis for axis in axes if axis in present]


# --- rows ------------------------------------------------------------------------------

_RowKey = tuple[str, tuple[AxisKey, ...]]


def _keyed(table: MergedTable, axes: Sequence[str]) -> dict[_RowKey, MergedRow]:
    return {
        (row.group, tuple(axis_key(row.axes, axis) for axis in axes)): row
        for row in (*table.rows, *table.references)
    }


def _in_order(one: Iterable[_RowKey], other: Iterable[_RowKey]) -> list[_RowKey]:
    """The rows of both: by rising values where both rise, else those of the first sweep first."""
    sides = [list(one), list(other)]
    keys = list(dict.fromkeys([*sides[0], *sides[1]]))
    ranks: list[dict[AxisKey, int]] = []
    for place in range(len(keys[0][1]) if keys else 0):
        orders = [list(dict.fromkeys(key[1][place] for key in side)) for side in sides]
        rising = [order == sorted(order, key=natural_axis_key) for order in orders]
        values = list(dict.fromkeys([*orders[0], *orders[1]]))
        if all(rising):
            values.sort(key=natural_axis_key)
        ranks.append({value: rank for rank, value in enumerate(values)})
    groups = {group: rank for rank, group in enumerate(dict.fromkeys(key[0] for key in keys))}
    return sorted(
        keys,
        key=lambda key: (
            key[0] != "",
            groups[key[0]],
            [rank[value] for rank, value in zip(ranks, key[1], strict=True)],
        ),
    )


def _row(
    one: MergedRow | None, other: MergedRow | None, axes: Sequence[str], higher: bool
) -> tuple[ComparedRow, list[float]]:
    """The row, and the differences of its pairs."""
    known = one or other
    assert known is not None, "a key comes from one of the two"
    partners = _by_point(one, axes), _by_point(other, axes)
    differences = [
        partners[1][point][0].value - cells[0].value
        for point, cells in partners[0].items()
        if len(cells) == 1 and len(partners[1].get(point, ())) == 1
    ]
    pairs = len(differences)
    sides = [
        _side(row, (row.n - pairs) if row is not None and pairs else 0) for row in (one, other)
    ]
    difference: float | None = None
    half: float | None = None
    if pairs:
        difference, std = mean_and_std(differences)
        half = half_width(std, pairs)
    elif sides[0].mean is not None and sides[1].mean is not None:
        difference = sides[1].mean - sides[0].mean
        half = welch(sides[0].std or 0.0, sides[0].n, sides[1].std or 0.0, sides[1].n)
    return ComparedRow(
        axes=known.axes,
        group=known.group,
        one=sides[0],
        other=sides[1],
        difference=difference,
        half_width=half,
        pairs=pairs,
        verdict=_verdict(difference, half, higher),
    ), differences


def _by_point(
    row: MergedRow | None, axes: Sequence[str]
) -> dict[tuple[AxisKey, ...], list[MeasuredCell]]:
    points: dict[tuple[AxisKey, ...], list[MeasuredCell]] = {}
    for cell in row.measured if row is not None else ():
        points.setdefault(tuple(axis_key(cell.cell, axis) for axis in axes), []).append(cell)
    return points


def _side(row: MergedRow | None, left_out: int) -> Side:
    if row is None:
        return Side()
    return Side(row.mean, row.std, row.n, row.expected, left_out)


def _verdict(difference: float | None, half: float | None, higher: bool) -> Verdict:
    if difference is None or half is None or abs(difference) <= half:
        return Verdict.UNCLEAR
    return Verdict.BETTER if (difference > 0) == higher else Verdict.WORSE


def _overall(
    rows: Iterable[ComparedRow], differences: Sequence[float], higher: bool
) -> ComparedRow | None:
    matrix = [row for row in rows if not row.group]
    if sum(row.pairs > 0 for row in matrix) < 2:
        return None
    mean, std = mean_and_std(differences)
    half = half_width(std, len(differences))
    return ComparedRow(
        axes={},
        group="",
        one=_sum_of(row.one for row in matrix),
        other=_sum_of(row.other for row in matrix),
        difference=mean,
        half_width=half,
        pairs=len(differences),
        verdict=_verdict(mean, half, higher),
    )


def _sum_of(sides: Iterable[Side]) -> Side:
    """The counts alone: a mean over unlike rows would say nothing."""
    sides = list(sides)
    return Side(
        n=sum(side.n for side in sides),
        expected=sum(side.expected for side in sides),
        left_out=sum(side.left_out for side in sides),
    )


# --- what is told ----------------------------------------------------------------------


def _told(one: str, other: str, rows: Iterable[ComparedRow]) -> list[str]:
    """How much has no partner."""
    rows = list(rows)
    notes = []
    for name, sides in ((one, [row.one for row in rows]), (other, [row.other for row in rows])):
        left_out = sum(side.left_out for side in sides)
        if left_out:
            notes.append(
                f"{left_out} {'value' if left_out == 1 else 'values'} of {name} "
                f"{'has' if left_out == 1 else 'have'} no partner, and "
                f"{'is' if left_out == 1 else 'are'} left out of the paired differences"
            )
    unpaired = [row for row in rows if row.difference is not None and not row.pairs]
    if unpaired:
        notes.append(
            f"{len(unpaired)} {'row has' if len(unpaired) == 1 else 'rows have'} no pair: "
            "the difference is of the means, its interval Welch's"
        )
    return notes


def _told_alone(
    one: str,
    other: str,
    of_one: dict[_RowKey, MergedRow],
    of_other: dict[_RowKey, MergedRow],
) -> list[str]:
    """The rows that one sweep alone has."""
    notes = []
    for name, rows, others in ((one, of_one, of_other), (other, of_other, of_one)):
        alone = [row for key, row in rows.items() if key not in others]
        if not alone:
            continue
        shown = [
            " ".join(filter(None, [plain_text(row.group), cell_text(row.axes)])) or "all"
            for row in alone[:ROWS_NAMED_MAX]
        ]
        more = f" and {len(alone) - ROWS_NAMED_MAX} more" if len(alone) > ROWS_NAMED_MAX else ""
        notes.append(f"{name} alone has {'; '.join(shown)}{more}")
    return notes
