"""Merges the results of a sweep's cells into one row per group.

Pure: the same cells give the same table, in whatever order they come. What is
missing stays visible with its reason; it is never averaged away.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from meshtrain.errors import NotFoundError
from meshtrain.results.axes import (
    ABSENT,
    AxisColumns,
    AxisKey,
    axis_names,
    natural_key,
    plain_value,
)
from meshtrain.results.direction import Direction, direction_of, words_of
from meshtrain.results.direction import higher_is_better as higher_is_better
from meshtrain.results.interval import CONFIDENCE, half_width
from meshtrain.results.metrics import Metrics, as_metric, resolve_metric
from meshtrain.spec.jobs import Better, JobSpec, ResultsSpec


class CellState(StrEnum):
    """How far a cell's job is, as the table tells it."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CellResult(msgspec.Struct, frozen=True):
    """One cell of a sweep, or one reference run, and what it measured."""

    job_id: str
    name: str
    cell: dict[str, Any]
    group: str = ""
    """The reference row that it fills; empty for a cell of the matrix."""
    state: str = CellState.WAITING
    metrics: dict[str, float] = {}
    reason: str = ""
    """Why it has no value: the failure, or what was wrong with its file."""
    absent: dict[str, str] = {}
    """Metrics that it has without a usable number, each with its reason."""
    index: int | None = None
    """Its place in the sweep; without it the values of the axes are sorted."""


class MeasuredCell(msgspec.Struct, frozen=True):
    """A cell that counts, with its value of the merged metric."""

    name: str
    cell: dict[str, Any]
    value: float


class MissingCell(msgspec.Struct, frozen=True):
    """A cell that doesn't count, and why."""

    name: str
    cell: dict[str, Any]
    state: str
    """The job's state; `no value` when it succeeded without a usable number."""
    reason: str


class MergedRow(msgspec.Struct, frozen=True):
    """The cells that agree on all shown axes."""

    axes: dict[str, Any]
    """Axis → value; an axis that its cells don't have isn't in it."""
    group: str
    """The reference row's name; empty for a row of the matrix."""
    mean: float | None
    std: float | None
    """Sample standard deviation (n - 1); None for fewer than two values."""
    n: int
    expected: int
    measured: tuple[MeasuredCell, ...] = ()
    missing: tuple[MissingCell, ...] = ()
    half_width: float | None = None
    """Half the confidence interval of the mean: see `interval`; None as for `std`."""


class MergedTable(msgspec.Struct, frozen=True):
    """The merged results of a sweep."""

    metric: str
    """The metric's full name; empty when there is none yet."""
    axes: tuple[str, ...]
    """The axes of the rows, in the sweep's order."""
    over: tuple[str, ...]
    """The axes that were averaged over."""
    rows: tuple[MergedRow, ...]
    references: tuple[MergedRow, ...]
    higher_is_better: bool
    best: int | None
    """Index of the row with the best mean; None while no row has one."""
    metrics: tuple[str, ...] = ()
    """All metrics that any cell has."""
    notes: tuple[str, ...] = ()
    """What a reader should know: an unknown axis, an ambiguous metric."""
    direction: str = ""
    """Which way is better and how that is known: `higher is better, as its name says`."""
    best_cell: MeasuredCell | None = None
    """The cell of the matrix with the best value; the first of equals."""
    confidence: float = CONFIDENCE
    """The probability that the rows' intervals are made for."""
    better: Better | None = None
    """What the job file says of its metric."""


NO_VALUE = "no value"
_BOOKKEEPING = frozenset(
    [
        *("epoch", "epochs", "step", "steps", "iteration", "iterations", "seed", "fold"),
        *("samples", "count", "n", "size", "bytes", "params", "parameters", "lr"),
        *("duration", "time", "runtime", "started", "ended", "s", "seconds", "minutes", "hours"),
    ]
)
"""Last words of names that count or time; taken as the default metric only for want of others."""


def cell_result(
    job: JobSpec, state: str, metrics: Metrics | None = None, *, reason: str = "", index: int
) -> CellResult:
    """The CellResult of a job. `index` is its place among the sweep's jobs."""
    metrics = metrics or Metrics()
    return CellResult(
        job_id=job.job_id,
        name=job.name,
        cell=job.cell,
        group=job.group,
        state=str(state),
        metrics=metrics.values,
        reason=reason or metrics.reason,
        absent=metrics.absent,
        index=index,
    )


def merge(
    cells: Sequence[CellResult],
    spec: ResultsSpec,
    *,
    by: Sequence[str] | None = None,
    metric: str | None = None,
    higher_better: bool | None = None,
) -> MergedTable:
    """Groups the cells by all axes but `spec.over` and merges one metric.

    `by` names the axes of the rows instead, and all others are averaged over.
    `metric` overrides `spec.metric`; without either, the first one that most
    cells have is taken. `higher_better` overrides what the job file and the name say.
    Raises NotFoundError when `by` names an axis that no cell has.
    """
    cells = in_sweep_order(cells)
    matrix_cells = [cell for cell in cells if not cell.group]
    axes = axis_names(cell.cell for cell in [*matrix_cells, *cells])
    shown, over, notes = _split_axes(axes, spec, by)
    name, why_no_metric, metrics = _choose_metric(cells, metric or spec.metric)
    if why_no_metric and any(cell.state == CellState.SUCCEEDED for cell in cells):
        notes.append(why_no_metric)
    rows = _rows(matrix_cells, shown, name, why_no_metric)
    direction = direction_of(name, spec)
    if higher_better is not None:
        direction = Direction(higher_better, "as was asked for")
    in_matrix = axis_names(cell.cell for cell in matrix_cells)
    return MergedTable(
        metric=name,
        axes=tuple(axis for axis in shown if axis in in_matrix) or tuple(shown),
        over=tuple(over),
        rows=rows,
        references=_references(cells, shown, name, why_no_metric),
        higher_is_better=direction.higher,
        best=_best(rows, direction.higher),
        metrics=metrics,
        notes=tuple(notes),
        direction=direction.text if name else "",
        best_cell=_best_cell(rows, direction.higher),
        better=spec.better,
    )


def in_sweep_order(cells: Sequence[CellResult]) -> list[CellResult]:
    """One result for each job, in the sweep's order, else in that of their names."""
    kept: dict[str, CellResult] = {}
    for cell in cells:
        other = kept.get(cell.job_id)
        if other is None or _preference(cell) > _preference(other):
            kept[cell.job_id] = cell
    places = {cell.index for cell in kept.values()}
    if None not in places and len(places) == len(kept):
        return sorted(kept.values(), key=_index)
    return sorted(kept.values(), key=_place)


def _index(cell: CellResult) -> int:
    return cell.index or 0


def _place(cell: CellResult) -> tuple[Any, ...]:
    return (cell.index is None, cell.index or 0, natural_key(cell.name), cell.job_id)


def _preference(cell: CellResult) -> tuple[bool, int, str]:
    return (cell.state == CellState.SUCCEEDED, len(cell.metrics), repr(cell))


def _split_axes(
    axes: list[str], spec: ResultsSpec, by: Sequence[str] | None
) -> tuple[list[str], list[str], list[str]]:
    if by is not None:
        unknown = [axis for axis in by if axis not in axes]
        if unknown and axes:
            raise NotFoundError(
                f"no axis {', '.join(unknown)} in this sweep; its axes are {', '.join(axes)}"
            )
        shown = list(dict.fromkeys(by))
        return shown, [axis for axis in axes if axis not in shown], []
    notes = [
        f"results.over names {axis}, which is no axis of this sweep"
        for axis in spec.over
        if axes and axis not in axes
    ]
    over = [axis for axis in axes if axis in spec.over]
    return [axis for axis in axes if axis not in over], over, notes


def _choose_metric(
    cells: Sequence[CellResult], wanted: str | None
) -> tuple[str, str, tuple[str, ...]]:
    """The metric's name, why it names nothing (or ""), and all names there are.

    The name is resolved once for all cells, so that a row can't mix two metrics.
    """
    names = dict.fromkeys(name for cell in cells for name in [*cell.metrics, *cell.absent] if name)
    if wanted:
        found = resolve_metric(names, wanted)
        return found.name or wanted, found.reason, tuple(names)
    counts = Counter(name for cell in cells for name in cell.metrics if name)
    if not counts:
        return "", "no metrics were written", tuple(names)
    order = {name: place for place, name in enumerate(names)}
    best = min(counts, key=lambda name: (is_bookkeeping(name), -counts[name], order[name]))
    return best, "", tuple(names)


def is_bookkeeping(name: str) -> bool:
    """Whether a metric's name says that it counts or times, and measures nothing."""
    words = words_of(name.rsplit(".", 1)[-1])
    return bool(words) and (words[-1] in _BOOKKEEPING or words[0] == "n")


def _rows(
    cells: Sequence[CellResult], axes: Sequence[str], metric: str, why_no_metric: str
) -> tuple[MergedRow, ...]:
    indexed = all(cell.index is not None for cell in cells)
    columns = AxisColumns([cell.cell for cell in cells])
    ranks: list[dict[AxisKey, int]] = []
    for axis in axes:
        keys = columns.ordered(axis, in_sweep_order=indexed)
        ranks.append({key: rank for rank, key in enumerate(keys)})
    grouped: dict[tuple[AxisKey, ...], list[CellResult]] = {}
    for cell, point in zip(cells, columns.points(axes), strict=True):
        grouped.setdefault(point, []).append(cell)
    ordered = sorted(
        grouped, key=lambda keys: [rank[key] for rank, key in zip(ranks, keys, strict=True)]
    )
    return tuple(_row(grouped[keys], axes, keys, metric, why_no_metric) for keys in ordered)


def _references(
    cells: Sequence[CellResult], axes: Sequence[str], metric: str, why_no_metric: str
) -> tuple[MergedRow, ...]:
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        if cell.group:
            groups.setdefault(cell.group, []).append(cell)
    return tuple(
        row for group in groups.values() for row in _rows(group, axes, metric, why_no_metric)
    )


def _row(
    cells: Sequence[CellResult],
    axes: Sequence[str],
    keys: Sequence[AxisKey],
    metric: str,
    why_no_metric: str,
) -> MergedRow:
    measured: list[MeasuredCell] = []
    missing: list[MissingCell] = []
    for cell in cells:
        value, reason = _value_of(cell, metric, why_no_metric)
        point = {axis: plain_value(scalar) for axis, scalar in cell.cell.items()}
        if value is None:
            state = NO_VALUE if cell.state == CellState.SUCCEEDED else str(cell.state)
            missing.append(MissingCell(cell.name, point, state, reason))
        else:
            measured.append(MeasuredCell(cell.name, point, value))
    mean, std = mean_and_std([cell.value for cell in measured])
    first = cells[0]
    return MergedRow(
        axes={
            axis: plain_value(first.cell[axis])
            for axis, key in zip(axes, keys, strict=True)
            if key != ABSENT
        },
        group=first.group,
        mean=mean,
        std=std,
        n=len(measured),
        expected=len(cells),
        measured=tuple(measured),
        missing=tuple(missing),
        half_width=half_width(std, len(measured)),
    )


def _value_of(cell: CellResult, metric: str, why_no_metric: str) -> tuple[float | None, str]:
    if cell.state != CellState.SUCCEEDED:
        return None, cell.reason or str(cell.state)
    if metric in cell.metrics and not why_no_metric:
        return as_metric(metric, cell.metrics[metric])
    if metric in cell.absent:
        return None, cell.absent[metric]
    if not cell.metrics and not cell.absent:
        return None, cell.reason or "no metrics were written"
    return None, why_no_metric or resolve_metric([*cell.metrics, *cell.absent], metric).reason or (
        f"no {metric} under that full name"
    )


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None for what too few values don't give.

    Both are exact sums rounded once, so that the order of the values can't
    matter and the mean can't leave their range.
    """
    if not values:
        return None, None
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, None
    try:
        return mean, statistics.stdev(values)
    except OverflowError:
        return mean, None


def _best(rows: Iterable[MergedRow], higher: bool) -> int | None:
    best: int | None = None
    best_mean = 0.0
    for index, row in enumerate(rows):
        if row.mean is None:
            continue
        if best is None or (row.mean > best_mean if higher else row.mean < best_mean):
            best, best_mean = index, row.mean
    return best


def _best_cell(rows: Iterable[MergedRow], higher: bool) -> MeasuredCell | None:
    cells = [cell for row in rows for cell in row.measured]
    if not cells:
        return None
    pick = max if higher else min
    return pick(cells, key=lambda cell: cell.value)


def rows_within_spread_of_best(table: MergedTable) -> int | None:
    """How many other rows have a mean within one std of the best row's; None if it has no std."""
    if table.best is None:
        return None
    best = table.rows[table.best]
    if best.mean is None or best.std is None:
        return None
    return sum(
        row is not best and row.mean is not None and abs(row.mean - best.mean) <= best.std
        for row in table.rows
    )
